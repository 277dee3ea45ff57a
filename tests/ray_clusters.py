"""Ray's own cluster of several nodes on this machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

NODE = {"node_ip_address": "127.0.0.1", "include_dashboard": False, "object_store_memory": 80 * 2**20}


@contextlib.contextmanager
def cluster(nodes: int, monkeypatch: Any) -> Iterator[Any]:
    """Ray's own cluster of several nodes on this machine: a head without cores, and nodes that have some."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    import ray
    from ray._private import ray_constants
    from ray.cluster_utils import Cluster

    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", False)  # so that it listens to this machine alone
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **NODE})
    try:
        for _ in range(nodes):
            add_node(made)
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def add_node(made: Any) -> None:
    """A node of two cores, which has 30 seconds to start; a busy machine may need some more."""
    for _ in range(10):
        with contextlib.suppress(Exception):
            made.add_node(num_cpus=2, **NODE)
            return
    raise AssertionError("no node has started")
