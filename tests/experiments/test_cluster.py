"""A Ray cluster: seeds whose workers and nodes are killed come to the bits of their runs alone."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from configurations import TINY
from ray_clusters import add_node, cluster
from run_digest import LONG, checkpoints, children, digests, finish, is_alive, start, times, wait_for
from upright.errors import MissingExtra, RunError, SettingError
from upright.experiments import cluster as tasks_of_ray
from upright.experiments.cluster import train_on_cluster
from upright.experiments.mirror import Mirror
from upright.experiments.seeds import Failed, Finished, Reported, Task, attempt
from upright.experiments.training import experiment, plan
from upright.files import lock
from upright.messages import first_line
from upright.runs.run import Run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

# By what is done in between, and not by a clock, so that a slow machine gets there too.
BETWEEN_KILLS = 50  # records, each of 100 steps
CONFIG = TINY.override(total_timesteps=times(8_000, 5_000), checkpoint_every=200, eval_freq=0, buffer_size=1_000)


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
    chance, killed, events, since = random.Random(0), [], [], 0
    with cluster(nodes, monkeypatch) as made:
        tasks = plan("CartPole-v1", CONFIG, range(count), tmp_path / "together", elsewhere=True)
        for event in train_on_cluster(tasks, made.address):
            events.append(event)
            since += isinstance(event, Reported)
            if since < BETWEEN_KILLS or len(killed) == times(4, 1_000):
                continue
            since = 0
            if not killed:  # first a node
                made.remove_node(next(iter(made.worker_nodes)), allow_graceful=False)
                killed.append("node")
                if LONG:
                    add_node(made)
            elif busy := workers(made, tmp_path):  # then workers, without a word or with one
                how = signal.SIGTERM if len(killed) % 3 == 2 else signal.SIGKILL
                with contextlib.suppress(OSError):  # it has ended by itself
                    os.kill(chance.choice(busy), how)
                    killed.append(how.name)
    assert [event for event in events if isinstance(event, Failed)] == []
    finished = [event for event in events if isinstance(event, Finished)]
    assert sorted(event.task.seed for event in finished) == list(range(count))  # each once
    assert {event.task.seed for event in events if isinstance(event, Reported)} == set(range(count))
    assert killed[0] == "node" and len(killed) >= times(2, 20), killed
    for event in finished:
        alone = finish(Run("CartPole-v1", CONFIG, event.task.seed, tmp_path / "alone" / f"seed-{event.task.seed}"))
        good = opened(Path(event.task.folder)) == alone
        assert tried("a worker or node of a cluster killed: the seed comes to the same bits", good), event.task.seed
    print(f"{count} seeds on {nodes} nodes, killed: {', '.join(killed)}")


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("/runs/CartPole-v1/default/seed-0", "CartPole-v1/default/seed-0"),
        ("/runs/CartPole-v1/n-steps/n-steps=3/seed-0", "CartPole-v1/n-steps/n-steps=3/seed-0"),
        ("/somewhere/mine/seed-0", "CartPole-v1/somewhere/mine/seed-0"),
    ],
)
def test_seeds_of_different_environments_never_share_a_url(folder: str, expected: str) -> None:
    task = Task("CartPole-v1", CONFIG.to_dict(), 0, folder)
    assert tasks_of_ray.url("s3://bucket/", task) == f"s3://bucket/{expected}"


def test_machines_without_a_common_folder_keep_their_seeds_at_a_url(tmp_path) -> None:
    """As the task of a worker that is killed, and of the one after it, each in a folder of its own."""
    config = TINY.override(total_timesteps=600, checkpoint_every=150, eval_freq=0)
    storage = (tmp_path / "storage").as_uri()
    task = plan("CartPole-v1", config, [3], tmp_path / "CartPole-v1" / "together", elsewhere=True)[0]
    there = tmp_path / "storage" / "CartPole-v1" / "together" / "seed-3"
    worker = multiprocessing.get_context("spawn").Process(target=killed_after_two_checkpoints, args=(task, storage))
    worker.start()
    worker.join(60)
    assert worker.exitcode == -signal.SIGKILL
    assert checkpoints(there) == [150, 300] and not (there / "result.json").exists()
    message = tasks_of_ray._train_on_worker(task, storage)
    assert message["warnings"] == [] and message["finished"]["run"] == task.folder
    mirror = Mirror(Path(task.folder), tasks_of_ray.url(storage, task))
    mirror.pull()
    assert json.loads((there / "result.json").read_text()) == message["finished"]
    assert checkpoints(there) == [450, 600]  # what was pruned is gone there, too
    assert files(there) == files(Path(task.folder))
    assert opened(Path(task.folder)) == finish(Run("CartPole-v1", config, 3, tmp_path / "alone" / "seed-3"))
    again = tasks_of_ray._train_on_worker(task, storage)
    assert again["finished"] == message["finished"]  # taken as it is


def killed_after_two_checkpoints(task: Any, storage: str) -> None:
    push = Mirror.push

    def killing(mirror: Mirror) -> None:
        push(mirror)
        if len(checkpoints(mirror.folder)) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    Mirror.push = killing
    tasks_of_ray._train_on_worker(task, storage)


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_mirror_removes_nothing_that_another_put_there_and_never_leaves_its_folder(tmp_path, monkeypatch) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "b").mkdir(parents=True)
    mirror = Mirror(here, there.as_uri())
    mirror.pull()
    assert files(here) == set()
    for name in ("a", "lock", ".half", "b/c"):
        (here / name).write_text(name)
    mirror.push()
    assert files(there) == {"a", "b/c"}
    (there / "another's").write_text("d")
    (here / "a").unlink()
    (here / "b" / "c").write_text("longer")
    mirror.push()
    assert files(there) == {"b/c", "another's"} and (there / "b" / "c").read_text() == "longer"
    other = Mirror(tmp_path / "other", there.as_uri())
    other.pull("b/c")
    other.pull("missing")
    assert files(tmp_path / "other") == {"b/c"}
    with pytest.raises(RunError, match="nosuch://x cannot be used as storage"):
        Mirror(here, "nosuch://x")
    monkeypatch.setattr(mirror._there, "find", lambda root: [f"{root}/../../outside"])
    with pytest.raises(RunError, match="which is outside of it"):
        mirror.pull()


def test_a_mirror_tries_again_while_it_has_patience_and_says_what_any_storage_raises(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("upright.experiments.mirror.SECONDS_BETWEEN_TRIES", 0.01)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "a").write_text("a")
    mirror, failures = Mirror(tmp_path / "here", (tmp_path / "there").as_uri()), [3]
    put = mirror._there.put_file

    def hiccup(*arguments: str) -> None:
        failures[0] -= 1
        if failures[0] >= 0:
            raise NoCredentials("Unable to locate credentials\nand more")
        put(*arguments)

    monkeypatch.setattr(mirror._there, "put_file", hiccup)
    with pytest.raises(RunError, match=r"there cannot be written: Unable to locate credentials$"):
        mirror.push()
    mirror.push(patience=60)
    assert failures == [-1] and files(tmp_path / "there") == {"a"}


class NoCredentials(Exception):
    """As botocore raises, which knows nothing of OSError."""


def test_what_killed_processes_left_on_a_machine_is_removed_and_nothing_else(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    old = time.time() - 2 * tasks_of_ray.PATIENCE
    for name in ("left", "held", "young", "unlocked"):
        folder = tmp_path / f"{tasks_of_ray.OWN_FOLDER}{name}"
        folder.mkdir()
        if name != "unlocked":
            (folder / "lock").touch()
        if name == "held":
            held = lock(folder)
        if name != "young":
            os.utime(folder, (old, old))
    with tasks_of_ray._own_folder() as own:
        names = {path.name.removeprefix(tasks_of_ray.OWN_FOLDER) for path in tmp_path.iterdir()} - {"left"}
        assert own.is_dir() and names == {"held", "young", "unlocked", own.name.removeprefix(tasks_of_ray.OWN_FOLDER)}
        assert not (tmp_path / f"{tasks_of_ray.OWN_FOLDER}left").exists()
    assert not own.exists()
    held.release()


class RayOfThisProcess:
    """What `train_on_cluster` asks of Ray, done at once and here: for what a real cluster does not do on demand."""

    def __init__(self) -> None:
        self.exceptions = tasks_of_ray._imported().exceptions
        self._results: list[Any] = []

    def remote(self, function: Any) -> Any:
        self._function = function
        return self

    def options(self, **_: Any) -> Any:
        def done(*arguments: Any) -> int:
            self._results.append(self._function(*arguments))
            return len(self._results) - 1

        return SimpleNamespace(remote=done)

    def wait(self, running: Any, **_: Any) -> Any:
        return running, []

    def get(self, ended: int) -> Any:
        if isinstance(self._results[ended], Exception):
            raise self._results[ended]
        return self._results[ended]


@pytest.fixture
def here_and_now(monkeypatch) -> None:
    monkeypatch.setattr(tasks_of_ray, "connected", lambda address: contextlib.nullcontext(RayOfThisProcess()))


@pytest.mark.parametrize("change", ["settings", "environment", "env_kwargs"])
def test_a_url_that_holds_another_experiment_is_refused_before_anything_is_trained(
    change: str, tmp_path, here_and_now
) -> None:
    config, storage = TINY.override(total_timesteps=200), (tmp_path / "storage").as_uri()

    def trained(machine: str, env: str, config: Any) -> list[Any]:
        tasks = plan(env, config, [0], tmp_path / machine / "CartPole-v1" / "default", elsewhere=True)
        return [event for event in train_on_cluster(tasks, "here", storage) if isinstance(event, Finished)]

    first = trained("one", "CartPole-v1", config)
    (again,) = trained("two", "CartPole-v1", config)  # the same goes on, from anywhere
    assert again.result["seconds"] == first[0].result["seconds"]
    if change == "environment":  # whose folder at the URL is its own
        assert trained("three", "CartPole-v0", config)[0].result["env"] == "CartPole-v0"
        return
    other = {"gamma": 0.5} if change == "settings" else {"env_kwargs": {"sutton_barto_reward": True}}
    with pytest.raises(RunError, match="CartPole-v1/default holds an experiment with another environment or other"):
        trained("three", "CartPole-v1", config.override(**other))
    assert not (tmp_path / "three").exists()


def test_a_url_that_takes_nothing_is_refused_before_anything_is_trained(tmp_path, monkeypatch, here_and_now) -> None:
    monkeypatch.setattr(tasks_of_ray, "SECONDS_TO_ANSWER", 0.0)
    tasks = plan("CartPole-v1", TINY, [0], tmp_path / "e", elsewhere=True)
    with pytest.raises(RunError, match="file:///proc/nowhere/CartPole-v1/.*/e cannot be written: "):
        next(train_on_cluster(tasks, "here", "file:///proc/nowhere"))
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize("others", [0, 1])
def test_what_cannot_be_brought_here_fails_that_seed_alone_and_the_same_again_brings_it(
    others: int, tmp_path, monkeypatch, here_and_now
) -> None:
    pull, seeds, storage = Mirror._pull, range(others + 1), (tmp_path / "there").as_uri()
    broken = tmp_path / "here" / "e" / f"seed-{others}"

    def faulty(mirror: Mirror, name: str | None) -> None:
        if name == "metrics.jsonl" or mirror.folder == broken:
            raise OSError("Connection reset by peer")
        pull(mirror, name)

    def ended() -> dict[int, Any]:
        tasks = plan("CartPole-v1", TINY, seeds, broken.parent, elsewhere=True)
        events = train_on_cluster(tasks, "here", storage)
        return {event.task.seed: event for event in events if isinstance(event, Finished | Failed)}

    with monkeypatch.context() as faults:
        faults.setattr(Mirror, "_pull", faulty)
        faults.setattr(tasks_of_ray, "SECONDS_BETWEEN_PULLS", -1.0)
        faults.setattr(tasks_of_ray, "SECONDS_TO_ANSWER", 0.0)
        first = ended()
    assert [isinstance(first[seed], Finished) for seed in seeds] == [True] * others + [False]
    assert f"seed-{others} cannot be read: Connection reset by peer" in first[others].reason
    assert all(isinstance(event, Finished) for event in ended().values()) and (broken / "result.json").exists()


@pytest.mark.parametrize("signalled", [None, signal.SIGTERM])
def test_a_result_that_cannot_be_delivered_is_not_called_one(signalled, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tasks_of_ray, "PATIENCE", 0.0)
    (task,) = plan("CartPole-v1", TINY, [0], tmp_path / "e", elsewhere=True)
    comes_to = {"finished": {}} if signalled is None else {"failed": "It was stopped.", "signal": signalled}
    monkeypatch.setattr(tasks_of_ray, "attempt", lambda task, sinks: comes_to)
    monkeypatch.setattr(Mirror, "_push", lambda mirror: (_ for _ in ()).throw(OSError("Slow down")))
    message = tasks_of_ray._train_apart(task, (tmp_path / "there").as_uri())
    why = "It came to its end." if signalled is None else "It was stopped."
    assert message["failed"].startswith(f"{why} file:///") and message["failed"].endswith("be written: Slow down")
    assert message["signal"] == signalled  # so that it goes on elsewhere


def test_what_a_task_raised_is_named(tmp_path, monkeypatch, here_and_now) -> None:
    ray = tasks_of_ray._imported()
    tasks = plan("CartPole-v1", TINY, [0], tmp_path / "e", elsewhere=True)
    raised = ray.exceptions.RayTaskError("_train", "a traceback", ValueError("what happened"), "title", 7, "10.0.0.2")
    monkeypatch.setattr(tasks_of_ray, "_train_on_worker", lambda task, storage: raised)
    (event,) = train_on_cluster(tasks, "here")
    assert isinstance(event, Failed) and event.reason == "ValueError: what happened"


def test_a_process_may_start_one_cluster_after_the_other_and_is_as_it_was() -> None:
    tasks_of_ray._imported()
    from ray._private import ray_constants
    from ray._raylet import AuthenticationTokenLoader

    tasks_of_ray._set_token("1" * 64)
    AuthenticationTokenLoader.instance().get_raw_token()  # so that Ray remembers it
    tokens = set()
    for _ in range(2):
        with tasks_of_ray.connected("local") as ray:
            tokens.add(os.environ["RAY_AUTH_TOKEN"])
            assert ray.get(ray.remote(first_line).remote(RunError("there"))) == "there"
        assert os.environ["RAY_AUTH_TOKEN"] == "1" * 64 and ray_constants.ENABLE_RAY_CLUSTER
    assert len(tokens) == 2
    tasks_of_ray._set_token(None)


def test_where_ray_was_imported_without_tokens_that_is_said(monkeypatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    script = "import ray; from upright.experiments.cluster import connected; connected('local').__enter__()"
    process = start(script=script)
    assert (
        "RunError: Ray was imported before it was told to ask for tokens: set RAY_AUTH_MODE=token"
        in process.communicate()[1]
    )


def test_a_cluster_that_does_not_start_is_one_sentence(monkeypatch) -> None:
    ray = tasks_of_ray._imported()

    def late(*_: Any, **__: Any) -> None:
        raise Exception("The current node timed out during startup.\nAnd more.")

    def nobody(*_: Any, **__: Any) -> None:
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(ray, "init", nobody)
    monkeypatch.setattr(tasks_of_ray, "_start", late)
    for address in ("auto", "local"):
        with (
            pytest.raises(
                RunError, match=f"cluster at {address} cannot be used: The current node timed out during star"
            ),
            tasks_of_ray.connected(address),
        ):
            pass


def test_a_cluster_of_this_machine_is_its_own_and_stops_with_checkpoints(tmp_path) -> None:
    words = ["train", "CartPole-v1", "--total-timesteps", "100000000", "--checkpoint-every", "300", "--net-arch", "8"]
    words += ["--seeds", "2", "--cluster", "local", "--json", "--out", tmp_path / "e"]
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
    assert "Stopped with 0 of 2 seeds finished; the same command continues with the others." in err
    wait_for(lambda: not any(map(is_alive, below)), 30)
    stopped = [json.loads(path.read_text()) for path in tmp_path.glob("e/seed-*/result.json")]
    assert stopped and all(result["final_mean"] is None for result in stopped)
    for result in stopped:  # the steps since the last checkpoint are not lost
        assert checkpoints(Path(result["run"]))[-1] == result["steps"]


@pytest.mark.parametrize("command", ["train", "tune --trials 1"])
def test_a_cluster_keeps_its_seeds_at_a_url(command: str, tmp_path) -> None:
    words = [
        *command.split(),
        "CartPole-v1",
        "--total-timesteps",
        "400",
        "--batch-size",
        "8",
        "--learning-starts",
        "50",
    ]
    words += ["--seeds", "2", "--cluster", "local", "--storage-url", (tmp_path / "there").as_uri()]
    out, err = start(*words, "--out", tmp_path / "here").communicate(timeout=120)
    results = sorted(path.relative_to(tmp_path / "here") for path in tmp_path.glob("here/**/result.json"))
    assert len(results) == 2, out + err
    for result in results:
        here, there = tmp_path / "here" / result.parent, next(tmp_path.glob(f"there/**/{result.parent}"))
        assert files(here) <= files(there)  # a trial lets go of its checkpoints here
        assert (here / "result.json").read_bytes() == (there / "result.json").read_bytes()
        if command == "train":
            run = Run.open(here)
            alone = Run("CartPole-v1", run.config, run.seed, tmp_path / "alone" / result.parent)
            run.close()
            assert opened(here) == finish(alone)


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
    assert "is in use: another process trains there" in attempt(task)["failed"]
    ending = threading.Timer(0.5, lambda: other.discard())
    began = time.monotonic()
    ending.start()
    assert attempt(task, patience=60)["finished"]["steps"] == 200
    assert time.monotonic() - began >= 0.5
    ending.join()


def test_what_is_missing_or_cannot_be_is_one_sentence(tmp_path, monkeypatch) -> None:
    with pytest.raises(SettingError, match="jobs is for the cores of this machine"):
        next(experiment("CartPole-v1", TINY, [0], folder=tmp_path / "e", cluster="auto", jobs=2))
    with pytest.raises(SettingError, match="storage_url is where a cluster keeps its seeds"):
        next(experiment("CartPole-v1", TINY, [0], folder=tmp_path / "e", storage_url="s3://bucket"))
    for address in ("127.0.0.1:1", "nowhere", "nowhere:port"):
        with pytest.raises(RunError, match=f"No Ray cluster answers at {address} .*: give its host:port, or auto."):
            next(experiment("CartPole-v1", TINY, [0], folder=tmp_path / "e", cluster=address))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"Ray is not installed: pip install 'upright\[ray\]'"):
        next(experiment("CartPole-v1", TINY, [0], folder=tmp_path / "e", cluster="auto"))
