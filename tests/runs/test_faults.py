"""Faults, each made to happen: what must hold afterwards is in the names of the tests and in docs/resume.md."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import upright
from configurations import TINY
from faulty_environments import Breaks, Corridor, Mutating, Repeating, Unrepeatable
from run_digest import (
    LONG,
    Disk,
    abandon,
    checkpoints,
    children,
    digests,
    environment,
    finish,
    is_alive,
    start,
    times,
    wait_for,
)
from upright import files, machine
from upright.agent import Agent
from upright.cli.main import main
from upright.errors import Diverged, EnvironmentFault, RunError, UprightError
from upright.learners import make_learner
from upright.learners.problem import Problem
from upright.loop import train
from upright.replay import Batch, Columns
from upright.runs.checkpoint import Checkpoints
from upright.runs.folders import seed_folder
from upright.runs.run import Run
from upright.settings.kinds import Prioritised

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
posix = pytest.mark.skipif(os.name != "posix", reason="signals and shells of POSIX")

# --- a crash in the midst of a save


@linux
def test_whenever_the_disk_crashes_the_newest_whole_checkpoint_loads(tmp_path, monkeypatch, tried) -> None:
    """At each write, fsync and rename: with what was not synced lost, with it kept, and with a part of it."""
    config = TINY.override(checkpoint_every=100, total_timesteps=times(400, 600), num_envs=2, replay=Prioritised())
    folder = seed_folder(tmp_path / "disk" / "run", 0)
    (tmp_path / "disk").mkdir()
    disk, chance = Disk(tmp_path / "disk"), random.Random(0)
    left: list[tuple[str, int | None, Path]] = []
    saved: list[int | None] = [None]

    def crash(number: int, what: str) -> None:
        for how in ("lost", "kept", "mixed"):
            to = tmp_path / f"{number}-{how}"
            disk.leave(to, how, chance)
            left.append((f"{how} at operation {number}, {what}", saved[0], to))

    with disk.watch(monkeypatch, crash):
        run = Run(Repeating, config, 0, folder)
        save = run.disk._checkpoints.save

        def noted(step: int, *rest) -> None:
            save(step, *rest)
            saved[0] = step

        run.disk._checkpoints.save = noted
        whole = finish(run)
    assert len(left) > 300
    worse = []
    for number, (what, step, to) in enumerate(left):
        place = next(iter(to.glob("run/seed-0")), to / "nothing")
        try:
            found: int | None = int(Checkpoints(place, 1).newest().about["step"])
        except RunError:
            found = None
        good = found == step or (found is not None and found > (step or 0))
        if good and found is not None and number % times(40, 1) == 0:
            good = finish(Run.open(place, source=Repeating)) == whole
        if not tried("crash at a write, fsync or rename of a checkpoint", good):
            worse.append((what, step, found))
        shutil.rmtree(to, ignore_errors=True)
    assert not worse, worse[:5]


@linux
def test_whenever_the_disk_crashes_a_whole_policy_loads(tmp_path, monkeypatch, tried) -> None:
    """And when it crashes again, in the save that comes after."""
    agents = [upright.DQN("CartPole-v1", seed=seed, net_arch=(4,)).agent for seed in range(4)]
    asked = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    answers = [agent.q_values(asked).tobytes() for agent in agents]
    chance = random.Random(0)

    def crashes(place: Path, saves: list[Agent], name: str) -> list[tuple[int, Path]]:
        disk, left, done = Disk(place), [], [0]

        def crash(number: int, what: str) -> None:
            for how in ("lost", "kept", "mixed"):
                to = tmp_path / f"{name}-{number}-{how}"
                disk.leave(to, how, chance)
                left.append((done[0], to))

        with disk.watch(monkeypatch, crash):
            for agent in saves:
                agent.save(place / "policy")
                done[0] += 1
        return left

    def holds(to: Path, of: set[bytes]) -> bool:
        try:
            return upright.load(to / "policy").q_values(asked).tobytes() in of
        except RunError:
            return False

    (tmp_path / "disk").mkdir()
    for done, to in crashes(tmp_path / "disk", agents[:3], "first"):
        if done == 0:
            continue
        good = holds(to, set(answers[done - 1 : done + 1]))
        assert tried("crash at a write, fsync or rename of a policy", good), to
        if LONG or chance.random() < 0.1:
            first = {answers[done - 1], answers[min(done, 2)]}
            for again, left in crashes(to, agents[3:], to.name):
                good = holds(left, first | {answers[3]}) if not left.name.endswith("-lost") or again else True
                assert tried("crash in a policy's save after such a crash", good), left


# --- signals

SLOW = """
import sys, time
from upright import files
tensors = files.tensors
def slow(arrays):
    if "column" not in arrays and "run/step" in arrays and int(arrays["run/step"]) > 500:
        print("saving", flush=True)
        time.sleep(1.0)
        print("saved", flush=True)
    return tensors(arrays)
files.tensors = slow
from upright.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
FOREVER = ["--total-timesteps", "100000000", "--learning-starts", "100", "--net-arch", "8", "--checkpoint-every", "300"]


@linux
@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_a_run_with_a_checkpoint(number, mode, tmp_path, tried) -> None:
    for attempt in range(times(1, 10)):
        folder = tmp_path / str(attempt) / "seed-0"
        words = ["train", "CartPole-v1", "--json", *FOREVER, "--num-envs", "2", "--vectorization-mode", mode]
        process = start(*words, "--out", folder.parent)
        wait_for(lambda f=folder: checkpoints(f), process=process)
        workers = children(process.pid)
        assert len(workers) >= (2 if mode == "async" else 0)
        began = time.monotonic()
        # As a terminal and most supervisors do, to the workers too.
        os.killpg(process.pid, number)
        out, err = process.communicate(timeout=120)
        took = time.monotonic() - began
        assert process.returncode == 128 + number, err
        assert "Traceback" not in err and "KeyboardInterrupt" not in err
        result = json.loads(out.splitlines()[-1])
        assert checkpoints(folder)[-1] == result["steps"]
        assert f"Stopped at step {result['steps']:,}; resume with: upright resume {folder}" in err
        time.sleep(0 if not any(map(is_alive, workers)) else 2)
        assert not any(map(is_alive, workers))
        run = Run.open(folder)
        run.close()
        assert tried(
            "SIGTERM or SIGINT: a checkpoint within 10 s, no child after 2 s", run.step == result["steps"] and took < 10
        )


@linux
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_save_and_the_old_checkpoint_is_whole(number, tmp_path, tried) -> None:
    folder = tmp_path / "seed-0"
    process = start("train", "CartPole-v1", "--quiet", *FOREVER, "--out", tmp_path, script=SLOW)
    assert process.stdout.readline() == "saving\n"
    process.send_signal(number)
    time.sleep(0.1)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 128 + number, err
    assert "Traceback" not in err and "saved" not in out
    assert checkpoints(folder) == [300]
    run = Run.open(folder)
    run.close()
    assert tried("a second signal during the save: the old checkpoint is whole", run.step == 300)


# --- damaged files


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The folder of a run with two checkpoints and a policy."""
    folder = seed_folder(tmp_path_factory.mktemp("trained"), 0)
    run = Run("CartPole-v1", TINY.override(total_timesteps=300), 0, folder)
    finish(run)
    run.save()
    return folder


def damages(content: bytes, chance: random.Random) -> list[tuple[str, bytes | None]]:
    found: list[tuple[str, bytes | None]] = [("missing", None), ("empty", b"")]
    found += [("truncated", content[: len(content) * percent // 100]) for percent in range(0, 100, times(5, 1))]
    for _ in range(times(60, 1_000)):
        place = chance.randrange(len(content))
        flipped = bytearray(content)
        flipped[place] ^= 1 << chance.randrange(8)
        found.append(("bit flipped", bytes(flipped)))
    return found


@pytest.mark.parametrize("which", ["manifest.json", "state.safetensors", "segment"])
def test_any_damage_of_a_checkpoint_is_found_and_the_older_one_taken(
    which: str, trained, tmp_path, caplog, tried
) -> None:
    shutil.copytree(trained, tmp_path / "seed-0")
    folder = tmp_path / "seed-0"
    path = folder / "checkpoints" / "300" / which
    if which == "segment":
        path = next((folder / "checkpoints" / "replay").glob("*-300.safetensors"), None) or max(
            (folder / "checkpoints" / "replay").iterdir(), key=lambda each: int(each.stem.split("-")[1])
        )
    content, chance = path.read_bytes(), random.Random(which)
    for kind, damaged in damages(content, chance):
        caplog.clear()
        path.unlink(missing_ok=True)
        if damaged is not None:
            path.write_bytes(damaged)
        found = Checkpoints(folder, 1).newest().about["step"]
        said = [record.getMessage() for record in caplog.records]
        good = (
            found == 150
            and len(said) == 1
            and said[0].startswith("Checkpoint 300 cannot be used")
            and str(path) in said[0]
        )
        assert tried(f"{which} {kind}: found, named, the older one taken", good), (kind, found, said)
    path.write_bytes(content)
    assert Checkpoints(folder, 1).newest().about["step"] == 300


def test_a_run_goes_on_from_the_older_checkpoint_to_the_same_end(trained, tmp_path, caplog) -> None:
    whole = Run.open(trained)
    whole.close()
    for which in ("300/manifest.json", "300/state.safetensors"):
        folder = tmp_path / which.replace("/", " ") / "seed-0"
        shutil.copytree(trained, folder)
        path = folder / "checkpoints" / which
        path.write_bytes(path.read_bytes()[:-9])
        run = Run.open(folder)
        assert run.step == 150 and f"Checkpoint 300 cannot be used: {path} is damaged" in caplog.text
        assert finish(run) == digests(whole)
        assert checkpoints(folder) == [150, 300]
    for path in (tmp_path / "300 manifest.json" / "seed-0" / "checkpoints").glob("*/state.safetensors"):
        path.unlink()
    with pytest.raises(RunError, match=r"No checkpoint in .* is whole: .*300/state.safetensors is missing\."):
        Run.open(tmp_path / "300 manifest.json" / "seed-0")


@pytest.mark.parametrize("which", ["policy.json", "policy.safetensors"])
def test_any_damage_of_a_policy_is_found_and_named(which: str, trained, tmp_path, tried) -> None:
    shutil.copytree(trained / "policy", tmp_path / "policy")
    path = tmp_path / "policy" / which
    content = path.read_bytes()
    for kind, damaged in damages(content, random.Random(which)):
        path.unlink(missing_ok=True)
        if damaged is not None:
            path.write_bytes(damaged)
        with pytest.raises(RunError) as refused:
            upright.load(tmp_path / "policy")
        assert tried(f"{which} {kind}: found and named", which in str(refused.value) and "\n" not in str(refused.value))
    path.write_bytes(content)
    upright.load(tmp_path / "policy")


def test_a_number_too_large_in_a_sealed_file_is_damage_of_that_file(tmp_path) -> None:
    path = tmp_path / "policy.json"
    path.write_text('{"elapsed": 2e345, "sha256": ""}')
    with pytest.raises(RunError, match=r"policy\.json is damaged: its digest does not fit"):
        files.read_sealed(path)


# --- a full disk


def fill(folder: Path) -> Path:
    """A file that leaves no room, made of ever smaller parts."""
    filler = folder / "filler"
    with open(filler, "wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1 << 8, 1):
            try:
                while file.write(b"x" * size) == size:
                    pass
            except OSError as error:
                assert error.errno == errno.ENOSPC
    return filler


@linux
def test_a_full_file_system_stops_nothing_and_costs_nothing(tmp_path, caplog, tried) -> None:
    whole = finish(Run("CartPole-v1", TINY, 0, seed_folder(tmp_path / "whole", 0)))
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("may not mount a file system")
    try:
        folder = seed_folder(small / "run", 0)
        run = Run("CartPole-v1", TINY, 0, folder)
        training = train(run)
        while next(training).step < 200:
            pass
        filler = fill(small)
        caplog.clear()
        while next(training).step < 500:
            pass
        assert "No checkpoint at step 300" in caplog.text and "No checkpoint at step 450" in caplog.text
        assert "metrics.jsonl cannot be written: No space left on device; training continues" in caplog.text
        assert "Training continues." in caplog.text
        assert checkpoints(folder) == [150]
        assert {path.name for path in (folder / "checkpoints").iterdir()} == {"150", "replay"}, "no half of one is left"
        assert int(Checkpoints(folder, 1).newest().about["step"]) == 150
        with pytest.raises(RunError, match="policy.* cannot be written: No space left on device"):
            run.save()
        shutil.copytree(folder, tmp_path / "copied" / "seed-0")
        assert tried(
            "a full disk: the last good checkpoint leads to the same end",
            finish(Run.open(tmp_path / "copied" / "seed-0")) == whole,
        )
        filler.unlink()
        for _ in training:
            pass
        ours = digests(run)
        run.close()
        # The evaluation at 400 was no better, or was not kept: all else is as if there had been room.
        ignored = ("best", "run/best")
        same = {k: v for k, v in ours.items() if k not in ignored} == {
            k: v for k, v in whole.items() if k not in ignored
        }
        assert tried("a full disk that has room again: nothing is missing", same)
        assert checkpoints(folder) == [150, 600]
    finally:
        subprocess.run(["umount", "-l", small], check=True)


@pytest.mark.parametrize("fails", ["write", "fsync", "replace"])
def test_a_disk_that_fails_at_any_operation_stops_nothing(fails: str, tmp_path, monkeypatch, caplog, tried) -> None:
    """Every file of the run in turn: checkpoint, best policy, and last the final one."""
    for error in (errno.ENOSPC, errno.EIO):
        folder = seed_folder(tmp_path / f"{fails} {error}", 0)
        run = Run("CartPole-v1", TINY, 0, folder)
        training = train(run)
        while next(training).step < 200:
            pass

        def refuse(*given, error=error, **options):
            raise OSError(error, os.strerror(error))

        caplog.clear()
        with monkeypatch.context() as patch:
            patch.setattr(
                *((files, "open") if fails == "write" else (os, fails)),
                refuse,
                **({"raising": False} if fails == "write" else {}),
            )
            while next(training).step < 500:
                pass
            assert caplog.text.count("No checkpoint at step") == 2 and os.strerror(error) in caplog.text
        assert int(Checkpoints(folder, 1).newest().about["step"]) == 150
        for _ in training:
            pass
        run.close()
        assert tried(f"{fails} fails: training goes on, the last checkpoint stays", checkpoints(folder) == [150, 600])


@posix
def test_a_file_size_limit_stops_nothing(tmp_path, tried) -> None:
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, 6_000))
    words = ["--total-timesteps", "3000", "--checkpoint-every", "500", "--net-arch", "16", "--learning-starts", "100"]
    process = start("train", "CartPole-v1", "--json", *words, "--out", tmp_path, preexec_fn=limit)
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in err
    assert "No checkpoint at step 3,000" in err and "File too large; training continues" in err
    result = json.loads(out.splitlines()[-1]) if process.returncode == 0 else {"steps": 3000}
    assert tried("a limit on the size of files: trained to the end", result["steps"] == 3000)


# --- folders


@linux
def test_a_folder_that_may_only_be_read_is_refused_before_the_first_step(tmp_path, trained) -> None:
    place = tmp_path / "read-only"
    shutil.copytree(trained.parent, place)
    mounted = os.geteuid() == 0
    if mounted:
        bind = subprocess.run(["mount", "--bind", place, place], capture_output=True).returncode
        if bind or subprocess.run(["mount", "-o", "remount,ro,bind", place], capture_output=True).returncode:
            pytest.skip("may not mount a file system")
    else:
        for path in (*place.rglob("*"), place):
            path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        for begin in (
            lambda: Run("CartPole-v1", TINY, 5, place / "new" / "seed-5"),
            lambda: Run("CartPole-v1", TINY.override(total_timesteps=300), 5, place / "seed-5"),
            lambda: Run.open(place / "seed-0", total_timesteps=900),
        ):
            with pytest.raises(RunError, match="cannot be (made|written): (Read-only file system|Permission denied)"):
                begin()
        assert upright.load(place / "seed-0").predict(np.zeros(4, np.float32))[0] in (0, 1)
    finally:
        if mounted:
            subprocess.run(["umount", "-l", place], check=True)
        else:
            for path in (place, *place.rglob("*")):
                path.chmod(0o755)


@posix
def test_two_trainers_on_one_folder_and_a_lock_that_was_left(tmp_path, tried) -> None:
    folder = seed_folder(tmp_path, 0)
    first = Run("CartPole-v1", TINY, 0, folder)
    for progress in train(first):
        if progress.step == 200:
            break
    for words in (["resume", str(folder)], ["train", "CartPole-v1", "--out", str(tmp_path)]):
        done = start(*words)
        _, err = done.communicate(timeout=120)
        assert done.returncode == 2 and (
            "is in use: another process trains there" in err or "already holds a run" in err or "other settings" in err
        )
    with pytest.raises(RunError, match="is in use: another process trains there; wait for it or stop it"):
        Run.open(folder)
    # Its lock is its file's name alone, once the process is gone.
    abandon(first)
    (folder / "lock").write_text("4711\n")
    run = Run.open(folder)
    assert tried("a second trainer is refused, a stale lock is recovered", run.step == 150)
    run.close()


def test_a_run_may_be_closed_in_another_thread_than_it_was_made_in(tmp_path) -> None:
    run = Run("CartPole-v1", TINY, 0, seed_folder(tmp_path, 0))
    closing = threading.Thread(target=run.close)
    closing.start()
    closing.join()
    files.lock(seed_folder(tmp_path, 0)).release()


# --- environments

BROKEN = {
    "raises": "step 3: step() raised ZeroDivisionError: division by zero",
    "nan": "step 3: the observation is nan at entry 1 of 3",
    "shape": "step 3: the observation has shape (5,), not (3,)",
    "dtype": "step 3: the observation has dtype <U1, not float32",
    "reward none": "step 3: the reward is None, not a number",
    "reward infinite": "step 3: the reward is inf",
    "four values": "step() returned 4 values, not (observation, reward, terminated, truncated, info)",
    "reset": "step 0: reset() raised KeyError: 'position'",
}


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("fault", BROKEN)
def test_an_environments_fault_is_named_stores_nothing_and_is_resumed_from_when_mended(
    fault, mode, tmp_path, tried
) -> None:
    mended = tmp_path / "mended"
    config = TINY.override(
        env_kwargs={"fault": fault, "until": str(mended)}, num_envs=2, vectorization_mode=mode, eval_freq=0, n_steps=1
    )
    folder = seed_folder(tmp_path / "run", 0)
    run = Run(Breaks, config, 0, folder)
    with pytest.raises(
        EnvironmentFault,
        match=rf"Breaks \(environment [01]\), episode \d+, .*{re.escape(BROKEN[fault])}.*; fix the environment\.",
    ):
        list(train(run))
    run.close()
    assert checkpoints(folder)[-1] == run.step == run.replay.ring.pushed
    stored = run.replay.ring.rows(0, min(run.step, 250))
    assert all(np.isfinite(array).all() for array in stored.values())
    healthy = Run(Repeating, config.override(env_kwargs={}), 0)
    for _ in train(healthy):
        pass
    healthy.close()
    if run.step <= 40:  # nothing was learned yet that could have led elsewhere
        np.testing.assert_array_equal(stored["obs"][: run.step], healthy_rows(config, run.step))
    mended.touch()
    again = Run.open(folder, source=Breaks, trust=True)
    assert again.step == run.step
    finish(again)
    assert tried("an environment's fault: named, nothing stored, resumed when mended", again.step >= 600)


def healthy_rows(config, count: int) -> np.ndarray:
    run = Run(Repeating, config.override(env_kwargs={}, total_timesteps=max(count, 51)), 0)
    list(train(run))
    run.close()
    return run.replay.ring.rows(0, count)["obs"]


def test_an_observation_outside_its_space_is_a_fault_that_is_resumed_from(tmp_path, tried) -> None:
    mended, folder = tmp_path / "mended", seed_folder(tmp_path / "run", 0)
    run = Run(Corridor, TINY.override(env_kwargs={"until": str(mended)}, eval_freq=0), 0, folder)
    with pytest.raises(EnvironmentFault, match=r"Corridor \(environment 0\), episode 0, step 40: .*5"):
        list(train(run))
    run.close()
    assert run.step == 39 == checkpoints(folder)[-1]
    mended.touch()
    assert tried("an observation outside its space", finish(Run.open(folder, source=Corridor, trust=True)) is not None)


def test_a_fault_in_an_evaluation_is_resumed_from_too(tmp_path, monkeypatch) -> None:
    folder = seed_folder(tmp_path, 0)
    run = Run("CartPole-v1", TINY, 0, folder)

    def broken(*words):
        raise EnvironmentFault("CartPole-v1 (evaluation), episode 0, step 3: it fell.")

    with monkeypatch.context() as patch:
        patch.setattr(Run, "evaluate", broken)
        with pytest.raises(EnvironmentFault, match="it fell"):
            list(train(run))
    run.close()
    assert checkpoints(folder) == [150, 200]
    again = Run.open(folder)
    assert again.step == 200
    finish(again)


def test_a_constructor_that_raises_leaves_nothing(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["train", "faulty_environments:Breaks", "--env-kwargs", "fault=constructor", f"until={tmp_path}/mended"]
    assert main(words) == 2
    assert "Breaks raised RuntimeError when it was made" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_observation_that_its_environment_changes_later_stays_as_it_was(tmp_path, tried) -> None:
    for settings in ({}, {"num_envs": 2}, {"num_envs": 2, "vectorization_mode": "async"}, {"n_steps": 1}):
        config = TINY.override(**settings, eval_freq=0)
        left, right = (finish(Run(env, config, 0)) for env in (Repeating, Mutating))
        assert tried("an environment mutates the observation that it returned", left == right)


# --- workers

WORKERS = TINY.override(num_envs=2, vectorization_mode="async", worker_timeout=1.0, worker_replacements=2, eval_freq=0)
LOST = {"killed": "died (SIGKILL)", "segfault": "died (SIGSEGV)", "hangs": "did not answer step within 1 seconds"}


@posix
@pytest.mark.parametrize("fault", LOST)
def test_a_lost_worker_is_replaced_and_nothing_is_lost_with_it(fault, tmp_path, caplog, tried) -> None:
    whole = finish(Run(Repeating, WORKERS, 0))
    for attempt in range(times(1, 10)):
        kwargs = {"fault": f"{fault} once", "until": str(tmp_path / f"happened {attempt}"), "at": 1 + attempt % 8}
        caplog.clear()
        run = Run(Breaks, WORKERS.override(env_kwargs=kwargs), 0)
        ours = finish(run)
        assert LOST[fault] in caplog.text and "the workers are replaced (1 of 2 times)" in caplog.text
        assert (tmp_path / f"happened {attempt}").exists()
        assert tried(f"a worker {fault}: replaced, the run as if nothing had been", ours == whole)


@posix
@pytest.mark.parametrize("fault", LOST)
def test_a_worker_lost_each_time_ends_the_run_with_a_checkpoint(fault, tmp_path, tried) -> None:
    mended = tmp_path / "mended"
    config = WORKERS.override(env_kwargs={"fault": fault, "until": str(mended)})
    folder = seed_folder(tmp_path / "run", 0)
    run = Run(Breaks, config, 0, folder)
    with pytest.raises(EnvironmentFault, match=re.escape(LOST[fault]) + ", after 2 replacements; run it with"):
        list(train(run))
    run.close()
    assert not any(process.is_alive() for process in run.vector._async.processes)
    assert checkpoints(folder)[-1] == run.step
    mended.touch()
    again = Run.open(folder, source=Breaks, trust=True)
    finish(again)
    assert tried(f"a worker {fault} each time: a clear error, resumed when mended", again.step >= 600)


class UnrepeatableThatDies(Unrepeatable):
    def step(self, action):
        if self.time == 4 and self.end > 10:
            os._exit(7)
        return super().step(action)


@posix
def test_a_worker_lost_from_what_does_not_repeat_itself_is_said_recorded_and_no_endless_loop(tmp_path, caplog) -> None:
    folder = seed_folder(tmp_path, 0)
    run = Run(UnrepeatableThatDies, WORKERS, 0, folder)
    with pytest.raises(EnvironmentFault, match=r"died \(exit status 7\), after 2 replacements"):
        list(train(run))
    run.close()
    assert "does not repeat itself: the running episodes of environments" in caplog.text
    assert '"resume/episode_lost": true' in (folder / "metrics.jsonl").read_text()


@posix
def test_a_worker_lost_in_the_first_step_after_resume_is_replaced_too(tmp_path, caplog) -> None:
    config = WORKERS.override(total_timesteps=300)
    whole = finish(Run(Repeating, config, 0, seed_folder(tmp_path / "whole", 0)))
    folder = seed_folder(tmp_path / "parts", 0)
    run = Run(Repeating, config, 0, folder)
    for progress in train(run):
        if progress.step == 200:
            break
    abandon(run)
    run = Run.open(folder, source=Repeating)
    os.kill(run.vector._async.processes[1].pid, signal.SIGKILL)
    assert finish(run) == whole
    assert "worker 1 died (SIGKILL)" in caplog.text and "does not repeat itself" not in caplog.text


@posix
def test_closing_ends_all_workers_though_one_is_dead() -> None:
    run = Run(Repeating, WORKERS, 0)
    processes = run.vector._async.processes
    os.kill(processes[0].pid, signal.SIGKILL)
    processes[0].join()
    run.close()
    assert not any(process.is_alive() for process in processes)


@linux
def test_no_worker_outlives_a_parent_that_was_killed(tmp_path, tried) -> None:
    shared = set(Path("/dev/shm").iterdir())
    for attempt in range(times(1, 20)):
        folder = tmp_path / str(attempt) / "seed-0"
        words = ["train", "CartPole-v1", "--quiet", *FOREVER, "--num-envs", "8", "--vectorization-mode", "async"]
        process = start(*words, "--out", folder.parent)
        wait_for(lambda f=folder: checkpoints(f), process=process)
        workers = children(process.pid)
        assert len(workers) >= 8
        process.kill()
        process.communicate()
        began = time.monotonic()
        wait_for(lambda w=workers: not any(map(is_alive, w)))
        took = time.monotonic() - began
        run = Run.open(folder)
        run.close()
        left = [path for path in set(Path("/dev/shm").iterdir()) - shared if "pym" in path.name]
        assert tried("the parent of 8 workers is killed: no orphan after 5 s", took < 5 and not left), (took, left)


# --- what is no number


@pytest.mark.parametrize("engine", ["native", "torch"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_no_update_is_made_with_what_is_no_number(engine, optimizer, tried) -> None:
    config = TINY.override(engine=engine, optimizer=optimizer, munchausen=None, max_grad_norm=None)
    random_numbers = np.random.default_rng(0)
    obs = random_numbers.normal(size=(2, 8, 3)).astype(np.float32)
    for bad in (np.nan, np.inf, 1e30):  # a loss that is nan, inf, and a gradient that is inf
        learner = make_learner(config, Problem((3,), False, 2), 0)
        columns = Columns(obs[0], np.zeros(8, np.int64), np.zeros(8), np.full(8, 0.9), obs[1])
        learner.update(Batch(columns, np.arange(8), None), 0.01)
        before = learner.state()
        spoilt = columns._replace(reward=np.where(np.arange(8) == 3, bad, 0.0))
        with pytest.raises(
            Diverged, match=r"(The loss|The gradient's norm) is .*, so nothing more can be learned: lower"
        ):
            learner.update(Batch(spoilt, np.arange(8), None), 0.01)
        after = learner.state()
        same = all(before[name].tobytes() == after[name].tobytes() for name in before)
        assert tried("a loss or gradient that is no number: no step with it", same)


def test_a_run_that_diverges_keeps_the_checkpoint_from_before(tmp_path, capsys, tried) -> None:
    for engine in ("native", "torch"):
        words = [
            "train",
            "faulty_environments:Exploding",
            "--out",
            str(tmp_path / engine),
            "--quiet",
            "--engine",
            engine,
        ]
        words += [
            "--checkpoint-every",
            "50",
            "--learning-starts",
            "60",
            "--batch-size",
            "16",
            "--net-arch",
            "8",
            "--n-steps",
            "1",
        ]
        assert main(words) == 2
        said = capsys.readouterr().err
        assert re.search(
            r"is (inf|nan), so nothing more can be learned: lower learning_rate, .* The checkpoint of step \d+ stays in",
            said,
        )
        run = Run.open(tmp_path / engine / "seed-0", source=Repeating)
        run.close()
        good = all(np.isfinite(value).all() for value in run.agent.learner.parameters().values())
        assert tried("a run that diverges: the last checkpoint is good", good and run.step >= 200)


def test_parameters_that_are_no_numbers_never_reach_a_checkpoint(tmp_path) -> None:
    folder = seed_folder(tmp_path, 0)
    run = Run("CartPole-v1", TINY, 0, folder)
    training = train(run)
    while next(training).step < 200:
        pass
    parameters = run.agent.learner.parameters()
    run.agent.learner.load_parameters({name: np.full_like(value, np.inf) for name, value in parameters.items()})
    with pytest.raises(Diverged, match="A parameter is inf"):
        run.checkpoint()
    run.close()
    assert checkpoints(folder) == [150]


# --- memory


def test_a_memory_that_does_not_fit_is_refused_at_once(tmp_path, monkeypatch, tried) -> None:
    began = time.monotonic()
    with pytest.raises(
        UprightError,
        match=r"The replay memory needs [\d.]+ GiB, and [\d.]+ [GM]iB are available here: lower buffer_size",
    ):
        Run("CartPole-v1", TINY.override(buffer_size=10**12), 0, tmp_path / "seed-0")
    took = time.monotonic() - began
    assert list(tmp_path.iterdir()) == []
    group = tmp_path / "group"
    (group / "below").mkdir(parents=True)
    (group / "memory.max").write_text("52428800\n")
    (group / "memory.current").write_text("41943040\n")
    (group / "memory.stat").write_text("anon 31457280\ninactive_file 10485760\n")
    monkeypatch.setattr(
        machine,
        "_control_groups",
        lambda: iter([(group / "below", "memory.max", "memory.current"), (group, "memory.max", "memory.current")]),
    )
    assert machine.available_bytes() == 20 * 2**20
    with pytest.raises(UprightError, match=r"needs [\d.]+ MiB, and 20\.0 MiB are available here"):
        Run("CartPole-v1", TINY.override(buffer_size=500_000), 0)
    assert tried("a buffer larger than memory: refused in under 2 s", took < 2)


@linux
def test_the_limit_of_a_real_control_group_is_respected(tried) -> None:
    root = next(
        (each for each in (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")) if (each / "cgroup.procs").exists()),
        None,
    )
    limit = {"memory": "memory.limit_in_bytes"}.get(root.name if root else "", "memory.max")
    group = (root or Path("/")) / f"upright-test-{os.getpid()}" / "below"
    try:
        group.mkdir(parents=True)
        (group.parent / limit).write_text(str(300 * 2**20))
    except OSError:
        shutil.rmtree(group.parent, ignore_errors=True)
        pytest.skip("may not make a control group")
    script = (
        "import os, sys; open(sys.argv[1], 'w').write(str(os.getpid()))\n"
        "from upright.machine import available_bytes; print(available_bytes())"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", script, group / "cgroup.procs"], capture_output=True, text=True, env=environment()
        )
        assert done.returncode == 0, done.stderr
        assert tried("a real control group's limit is respected", 0 < int(done.stdout) < 300 * 2**20), done.stdout
    finally:
        wait_for(lambda: _removed(group))
        wait_for(lambda: _removed(group.parent))


def _removed(group: Path) -> bool:
    try:
        group.rmdir()
    except OSError:
        return False
    return True


SOAK = """
import gc, os, sys
from pathlib import Path
from configurations import TINY
from upright.runs.run import Run
from upright.loop import train

def measure():
    gc.collect()
    status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
    return int(status["VmRSS"].split()[0]), int(status["Threads"]), len(os.listdir("/proc/self/fd"))

steps = int(sys.argv[1])
config = TINY.override(total_timesteps=steps, buffer_size=5_000, eval_freq=steps // 10, log_interval=500,
    checkpoint_every=min(25_000, steps // 8), train_freq=8, net_arch=(16,))
run = Run("CartPole-v1", config, 0, Path(sys.argv[2]))
first = None
for progress in train(run):
    if first is None and progress.step >= max(10_000, steps // 10):
        first = measure()
print(*first, *measure())
run.close()
"""


@linux
def test_a_long_run_takes_no_more_memory_threads_or_files(tmp_path, tried) -> None:
    """With the default period of checkpoints: CPython keeps the file names that pathlib meets in a table, which doubles
    once, by half a megabyte, after some ten thousand of them."""
    steps = times(20_000, 1_000_000)
    done = subprocess.run(
        [sys.executable, "-c", SOAK, str(steps), tmp_path / "seed-0"], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, done.stderr
    memory, threads, files, memory_now, threads_now, files_now = map(int, done.stdout.split()[-6:])
    print(f"resident memory {memory:,} kB, then {memory_now:,} kB: {memory_now / memory - 1:+.2%}")
    assert (threads, files) == (threads_now, files_now)
    assert tried(f"{steps:,} steps: memory grows by less than 1 %", memory_now < 1.01 * memory), (memory, memory_now)
