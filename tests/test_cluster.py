"""A Ray cluster: seeds whose workers and nodes are killed come to the bits of their runs alone."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from run_digest import TINY, checkpoints, children, digests, finish, is_alive, start, times, wait_for
from upright.cluster import train_on_cluster
from upright.errors import MissingExtra, SettingError
from upright.experiment import experiment, plan
from upright.run import Run
from upright.seeds import Failed, Finished, Reported, outcome

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

CONFIG = TINY.override(total_timesteps=times(4_000, 20_000), checkpoint_every=200, eval_freq=0, buffer_size=1_000)


@contextlib.contextmanager
def cluster(nodes: int, cores: int, monkeypatch: Any) -> Iterator[Any]:
    """Ray's own cluster of several nodes on this machine: a head without cores, and nodes that have some."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    import ray
    from ray.cluster_utils import Cluster

    args = {"node_ip_address": "127.0.0.1", "include_dashboard": False, "object_store_memory": 80 * 2**20}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **args})
    try:
        for _ in range(nodes):
            made.add_node(num_cpus=cores, **args)
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def workers(made: Any, folder: Path) -> list[int]:
    """The processes of this cluster that train a seed in this folder."""
    raylets = [node.all_processes["raylet"][0].process.pid for node in made.worker_nodes]
    return [pid for raylet in raylets for pid in children(raylet) if f"ray::{str(folder)[:5]}" in title(pid)]


def title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def opened(folder: Path) -> dict[str, str]:
    run = Run.open(folder)
    try:
        return digests(run)
    finally:
        run.close()


def test_seeds_whose_workers_and_nodes_die_come_to_the_bits_of_each_alone(tmp_path, monkeypatch, tried) -> None:
    count, nodes = times(4, 40), times(2, 4)
    chance, killed, stop = random.Random(0), [], threading.Event()
    with cluster(nodes, 2, monkeypatch) as made:

        def kill() -> None:
            """A worker in the midst of training every few seconds, without a word or with one; and a node, once."""
            while not stop.wait(times(1, 2)):
                busy = workers(made, tmp_path)
                begun = [path for path in tmp_path.glob("together/seed-*") if checkpoints(path)]
                if busy and begun and len(killed) < times(3, 10_000):
                    how = chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
                    with contextlib.suppress(OSError):
                        os.kill(chance.choice(busy), how)
                        killed.append(how)
                if len(killed) == 2:
                    made.add_node(num_cpus=2, node_ip_address="127.0.0.1", object_store_memory=80 * 2**20)
                    made.remove_node(next(iter(made.worker_nodes)), allow_graceful=False)
                    killed.append("node")

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            tasks = plan("CartPole-v1", CONFIG, range(count), tmp_path / "together", elsewhere=True)
            events = list(train_on_cluster(tasks, made.address))
        finally:
            stop.set()
            killer.join()
    assert [event for event in events if isinstance(event, Failed)] == []
    finished = [event for event in events if isinstance(event, Finished)]
    assert sorted(event.task.seed for event in finished) == list(range(count))  # each once
    assert {event.task.seed for event in events if isinstance(event, Reported)} == set(range(count))
    assert len(killed) >= times(3, 40) and "node" in killed
    for event in finished:
        alone = finish(Run("CartPole-v1", CONFIG, event.task.seed, tmp_path / "alone" / f"seed-{event.task.seed}"))
        good = opened(Path(event.task.folder)) == alone
        assert tried("a worker or node of a cluster killed: the seed comes to the same bits", good), event.task.seed


def test_a_cluster_of_this_machine_is_its_own_and_stops_with_checkpoints(tmp_path) -> None:
    words = ["train", "CartPole-v1", "--total-timesteps", "100000000", "--checkpoint-every", "300", "--net-arch", "8"]
    words += ["--seeds", "2", "--cluster", "auto", "--json", "--out", tmp_path / "e"]
    process = start(*words)
    wait_for(lambda: any(checkpoints(path) for path in tmp_path.glob("e/seed-*")), process=process)
    below = descendants(process.pid)
    inodes = {link for pid in [process.pid, *below] for link in sockets(pid)}
    listening = [address for address, inode in listeners() if inode in inodes]
    assert len(listening) >= 3 and all(map(is_loopback, listening)), listening
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err and json.loads(out)["failed"] == {}
    assert "Stopped with 0 of 2 seeds finished; the same command goes on with the others." in err
    wait_for(lambda: not any(map(is_alive, below)), 30)
    stopped = [json.loads(path.read_text()) for path in tmp_path.glob("e/seed-*/result.json")]
    assert stopped and all(result["final_mean"] is None for result in stopped)
    for result in stopped:  # the steps since the last checkpoint are not lost
        assert checkpoints(Path(result["run"]))[-1] == result["steps"]


def descendants(pid: int) -> list[int]:
    return [each for child in children(pid) for each in (child, *descendants(child))]


def sockets(pid: int) -> Iterator[str]:
    for path in Path(f"/proc/{pid}/fd").glob("*"):
        with contextlib.suppress(OSError):
            yield os.readlink(path).removeprefix("socket:[").removesuffix("]")  # noqa: PTH115


def listeners() -> Iterator[tuple[str, str]]:
    """The address, as the kernel writes it, and the inode of each socket of TCP that listens."""
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A":
                yield words[1].rpartition(":")[0], words[9]


def is_loopback(address: str) -> bool:
    return address in ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000")


def test_a_seed_is_waited_for_while_a_lost_process_holds_it(tmp_path) -> None:
    config = TINY.override(total_timesteps=200)
    task = plan("CartPole-v1", config, [0], tmp_path / "e")[0]
    other = Run("CartPole-v1", config, 0, Path(task.folder))
    assert "is in use: another process trains there" in outcome(task)["failed"]
    ending = threading.Timer(0.5, lambda: other.discard())
    began = time.monotonic()
    ending.start()
    assert outcome(task, patience=60)["finished"]["steps"] == 200
    assert time.monotonic() - began >= 0.5
    ending.join()


def test_what_is_missing_or_cannot_be_is_one_sentence(tmp_path, monkeypatch) -> None:
    with pytest.raises(SettingError, match="jobs is for the cores of this machine"):
        next(experiment("CartPole-v1", TINY, [0], folder=tmp_path / "e", cluster="auto", jobs=2))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"Ray is not installed: pip install 'upright\[ray\]'"):
        next(experiment("CartPole-v1", TINY, [0], folder=tmp_path / "e", cluster="auto"))
