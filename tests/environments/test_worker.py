"""Workers under each of Python's ways to start a process: they learn the same bits, and end with the one that trains."""

from __future__ import annotations

import json
import multiprocessing
import signal
import subprocess
import sys

import pytest

from run_digest import is_alive, wait_for

SCRIPT = """
import hashlib, json, multiprocessing, os, signal, sys
from upright import Config, Run, train

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    config = Config(
        total_timesteps=200, learning_starts=50, batch_size=8, net_arch=(8,), num_envs=2, vectorization_mode="async"
    )
    run = Run("CartPole-v1", config)
    for progress in train(run):
        pass
    arrays = b"".join(array.tobytes() for name, array in sorted(run.state().items()))
    workers = [process.pid for process in run.vector._async.processes]
    print(json.dumps({"digest": hashlib.sha256(arrays).hexdigest(), "workers": workers}), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[str, dict]:
    """What the script printed under each start method."""
    script = tmp_path_factory.mktemp("script") / "script.py"
    script.write_text(SCRIPT)
    found = {}
    for method in multiprocessing.get_all_start_methods():
        with subprocess.Popen([sys.executable, script, method], stdout=subprocess.PIPE, text=True) as process:
            found[method] = json.loads(process.stdout.readline())
        assert process.returncode == -signal.SIGKILL
    return found


def test_every_start_method_learns_the_same_bits(trained) -> None:
    assert len(trained) > 1 and len({about["digest"] for about in trained.values()}) == 1


def test_workers_end_with_the_process_that_trains_though_it_is_killed(trained) -> None:
    workers = [worker for about in trained.values() for worker in about["workers"]]
    assert len(workers) == 2 * len(trained)
    wait_for(lambda: not any(map(is_alive, workers)))


UNGUARDED = {
    "workers": "upright.DQN('CartPole-v1', num_envs=2, vectorization_mode='async').learn(300)",
    "experiment": "print([event.reason for event in upright.experiment('CartPole-v1', seeds=[0], folder='runs')])",
}


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
@pytest.mark.parametrize("kind", UNGUARDED)
def test_a_script_without_a_guard_is_told_of_it_in_a_sentence(kind: str, method: str, tmp_path) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip("this system has no fork server")
    (tmp_path / "script.py").write_text(
        f"import multiprocessing, upright\nmultiprocessing.set_start_method({method!r}, force=True)\n{UNGUARDED[kind]}\n"
    )
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    last = (done.stdout if kind == "experiment" else done.stderr).strip().splitlines()[-1]
    assert 'a script that trains needs `if __name__ == "__main__":`' in last
    assert "freeze_support" not in done.stderr, "the processes say nothing of their own"
