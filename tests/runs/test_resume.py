"""Exact resume: a run that was stopped and taken up again is, to the bit, the run that was never stopped."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from configurations import LOSSES, REPLAYS, TINY
from faulty_environments import Repeating, Succeeding, Unrepeatable
from run_digest import (
    TESTS,
    abandon,
    checkpoints,
    digests,
    environment,
    finish,
    lines,
    start,
    times,
    wait_for,
)
from toy_environments import Masked, Noisy
from upright.cli.main import main
from upright.errors import RunError
from upright.loop import train
from upright.runs.folders import seed_folder
from upright.runs.run import Run
from upright.settings.kinds import Categorical, Prioritised, QLearning

VARIANTS = {
    "native": ("CartPole-v1", {"engine": "native"}),
    "torch": ("CartPole-v1", {"engine": "torch"}),
    "prioritised, 8 environments": (Repeating, {"replay": Prioritised(), "num_envs": 8}),
    "prioritised, torch": (Noisy, {"replay": Prioritised(), "engine": "torch", "num_envs": 2}),
    "masks, C51": (Masked, {"loss": Categorical(), "num_envs": 3}),
    "noisy, dueling": (Repeating, {"noisy": True, "dueling": True, "optimizer": "rmsprop"}),
    "noisy, torch": (Repeating, {"noisy": True, "engine": "torch", "tau": 0.1}),
    **{name: (Repeating, {"loss": loss}) for name, loss in LOSSES.items()},
    **{name: (Repeating, {"replay": replay}) for name, replay in REPLAYS.items()},
    "workers": (Repeating, {"num_envs": 3, "vectorization_mode": "async"}),
    "8 workers, prioritised": (Masked, {"num_envs": 8, "vectorization_mode": "async", "replay": Prioritised()}),
    "success": (Succeeding, {"num_envs": 2}),
    "images of bits": ("FrozenLake-v1", {"n_steps": 5, "loss": QLearning(double=True), "munchausen": None}),
}


def leave_at(run: Run, step: int) -> None:
    """Train to a report at or after a step, and let the run go as a killed process does."""
    for progress in train(run):
        if progress.step >= step:
            break
    abandon(run)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_resumed_run_is_the_run_that_was_never_stopped(variant: str, tmp_path) -> None:
    env, settings = VARIANTS[variant]
    config = TINY.override(**settings)
    whole = finish(Run(env, config, 1, seed_folder(tmp_path / "whole", 1)))
    folder = seed_folder(tmp_path / "parts", 1)
    run = Run(env, config, 1, folder)
    for step in (200, 300, 500):  # killed after each of these
        leave_at(run, step)
        run = Run.open(folder, source=env)
        assert run.step < step + 8 and run.step == checkpoints(folder)[-1]
    assert finish(run) == whole
    assert finish(Run.open(folder, source=env)) == whole, "and what is on the disk is that run"
    assert (folder / "best" / "policy.json").exists()
    episodes = [line for line in lines(folder) if "rollout/ep_rew" in line]
    records = [line["step"] for line in lines(folder) if "train/n_updates" in line]
    assert records == sorted(set(records)) and records[-1] == run.step
    assert len(episodes) == run.episodes.count, "no episode is missing or there twice"


def test_every_step_is_one_to_resume_from(tmp_path) -> None:
    config = TINY.override(
        total_timesteps=times(80, 120),
        checkpoint_every=times(8, 2),
        keep_checkpoints=1_000,
        replay=Prioritised(),
        num_envs=2,
    )
    folder = seed_folder(tmp_path / "run", 0)
    whole = finish(Run(Repeating, config, 0, folder))
    steps = checkpoints(folder)
    assert steps == list(range(times(8, 2), times(80, 120) + 1, times(8, 2)))
    for step in random.Random(0).sample(steps[:-1], times(3, 50)):
        copy = tmp_path / f"from-{step}"
        shutil.copytree(folder.parent, copy)
        for later in steps:
            if later > step:
                shutil.rmtree(copy / "seed-0" / "checkpoints" / str(later))
        run = Run.open(copy / "seed-0", source=Repeating)
        assert run.step == step
        # How many checkpoints there were is not of the run; all that it learned is.
        assert finish(run) == whole


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_run_stopped_by_the_flag_has_a_checkpoint_at_that_step(mode: str, tmp_path) -> None:
    config = TINY.override(num_envs=2, vectorization_mode=mode)
    whole = finish(Run(Repeating, config, 0, seed_folder(tmp_path / "whole", 0)))
    folder = seed_folder(tmp_path / "parts", 0)
    run = Run(Repeating, config, 0, folder)
    act, calls = run.agent.act, []

    def stopping(*words):
        calls.append(1)
        run.stopping = len(calls) == 117
        return act(*words)

    run.agent.act = stopping
    assert [progress.step for progress in train(run)] == [100, 200]
    assert run.step == 234 and not run.interrupted
    run.checkpoint()
    abandon(run)
    resumed = Run.open(folder, source=Repeating)
    assert resumed.step == 234
    assert finish(resumed) == whole


def test_the_last_k_checkpoints_are_kept_and_cost_what_changed(tmp_path) -> None:
    config = TINY.override(checkpoint_every=50, keep_checkpoints=3, buffer_size=1_000, net_arch=(4,))
    folder = seed_folder(tmp_path, 0)
    run = Run(Repeating, config, 0, folder)
    for progress in train(run):
        if progress.step == 500:
            break
    assert checkpoints(folder) == [400, 450, 500]
    replay = folder / "checkpoints" / "replay"
    before = {path.name: path.stat().st_ino for path in replay.iterdir()}
    list(train(run))
    after = {path.name: path.stat().st_ino for path in replay.iterdir()}
    run.close()
    assert checkpoints(folder) == [500, 550, 600]
    assert before.items() <= after.items(), "what was written once is not written again"
    assert len(after) == len(before) + 2
    newest = json.loads((folder / "checkpoints" / "600" / "manifest.json").read_text())
    assert {each["name"] for each in newest["segments"]} <= after.keys()
    assert max(path.stat().st_size for path in replay.iterdir()) < 60 * (2 * 3 * 4 + 3 * 8) + 600


def test_old_segments_go_when_the_ring_has_gone_over_them(tmp_path) -> None:
    config = TINY.override(checkpoint_every=50, buffer_size=100, keep_checkpoints=1, batch_size=4)
    folder = seed_folder(tmp_path, 0)
    finish(Run(Repeating, config, 0, folder))
    stored = sum(
        int(name.stem.split("-")[1]) - int(name.stem.split("-")[0])
        for name in (folder / "checkpoints" / "replay").iterdir()
    )
    assert 100 <= stored <= 150


def test_a_finished_run_is_extended_and_nothing_else_of_it_changes(tmp_path, capsys) -> None:
    config = TINY.override(learning_rate_schedule="constant", exploration_fraction=0.0)
    longer = config.override(total_timesteps=900)
    whole = finish(Run("CartPole-v1", longer, 0, seed_folder(tmp_path / "whole", 0)))
    folder = seed_folder(tmp_path / "parts", 0)
    finish(Run("CartPole-v1", config, 0, folder))
    for words, says in (
        (["--gamma", "0.5"], "A resumed run keeps its settings: '--gamma' cannot change; only --total-timesteps can."),
        (["--loss.double"], "A resumed run keeps its settings: '--loss.double' cannot change"),
        (["--buffer-size=9"], "'--buffer-size=9' cannot change"),
        (["--seed", "3"], "There is no option '--seed'"),
        (["--total-timesteps", "0"], "total_timesteps is 0"),
    ):
        assert main(["resume", str(folder), *words]) == 2
        assert says in capsys.readouterr().err
    abandon(Run.open(folder, total_timesteps=900))  # killed before it took a step
    run = Run.open(folder)
    assert run.config.total_timesteps == 900 and run.step == 600
    assert json.loads((folder.parent / "config.json").read_text())["config"]["total_timesteps"] == 900
    extended = finish(run)
    # The record at what was the end is the one thing that tells: its time of reporting is the same here, 600.
    assert extended == whole


def test_a_command_line_resumes_what_a_command_line_began(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--total-timesteps", "400", "--learning-starts", "50", "--net-arch", "8", "--checkpoint-every", "100"]
    assert main(["train", "CartPole-v1", "--json", "--quiet", *words]) == 0
    first = json.loads(capsys.readouterr().out)
    assert main(["resume", first["run"], "--json", "--total-timesteps", "600"]) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert (result["steps"], result["run"], result["seed"]) == (600, first["run"], 0)
    assert "Training CartPole-v1 for 600 steps from step 400" in printed.err
    assert json.loads((Path(result["run"]) / "result.json").read_text()) == result


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_an_environment_that_does_not_repeat_itself_is_found_out(mode: str, tmp_path, caplog) -> None:
    config = TINY.override(num_envs=3, vectorization_mode=mode, checkpoint_every=100)
    folder = seed_folder(tmp_path, 0)
    leave_at(Run(Unrepeatable, config, 0, folder), 300)
    caplog.clear()
    run = Run.open(folder, source=Unrepeatable)
    step = run.step
    running = [0, 1, 2]  # each was in mid-episode, or had just begun one that its seed does not decide
    said = f"Unrepeatable does not repeat itself: the running episodes of environments {', '.join(map(str, running))} begin again at step {step:,}"
    assert said in caplog.text
    finish(run)
    lost = [line for line in lines(folder) if "resume/episode_lost" in line]
    assert lost == [{"step": step, "env": i, "resume/episode_lost": True} for i in running]
    stored = run.replay.ring.rows(run.replay.ring.pushed - len(run.replay), run.replay.ring.pushed)
    assert all(np.isfinite(array).all() for name, array in stored.items() if "mask" not in name)
    assert run.step >= 600


def test_one_that_repeats_itself_only_sometimes_is_found_out_too(tmp_path, caplog) -> None:
    """While the lost episodes begin anew the others are taken again, and then it is they that differ."""
    config = TINY.override(num_envs=4, env_kwargs={"sometimes": True}, checkpoint_every=100)
    for seed in range(times(3, 40)):
        folder = seed_folder(tmp_path, seed)
        leave_at(Run(Unrepeatable, config, seed, folder), 300)
        run = Run.open(folder, source=Unrepeatable)
        for i, each in enumerate(run.vector.environments):
            np.testing.assert_array_equal(run.obs[i], each.unwrapped.place)
            assert len(list(run.vector.playing)[i].actions) == each.unwrapped.time
        finish(run)


def test_only_what_the_user_trusts_is_imported_again(tmp_path, capsys) -> None:
    folder = seed_folder(tmp_path, 0)
    leave_at(Run(Repeating, TINY, 0, folder), 200)
    assert main(["resume", str(folder)]) == 2
    assert (
        "names 'faulty_environments:Repeating', and to use it is to run the code of that module"
        in capsys.readouterr().err
    )
    assert main(["resume", str(folder), "--trust", "--quiet"]) == 0


def test_a_folder_without_a_checkpoint_is_refused_and_left_alone(tmp_path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("mine")
    with pytest.raises(
        RunError, match="There is no checkpoint in .* to resume from: remove that folder and train anew"
    ):
        Run.open(tmp_path / "letters")
    assert [path.name for path in (tmp_path / "letters").iterdir()] == ["dear.txt"]
    with pytest.raises(RunError, match="is not the folder of a run"):
        Run.open(tmp_path / "nowhere")


# --- kill -9

KILLED = {
    "native": ["CartPole-v1", "--engine", "native"],
    "8 environments, prioritised": ["Acrobot-v1", "--replay", "prioritised", "--num-envs", "8"],
    "3 workers": ["CartPole-v1", "--num-envs", "3", "--vectorization-mode", "async"],
    "torch": ["CartPole-v1", "--engine", "torch", "--noisy"],
}
KILL_WORDS = [
    "--total-timesteps", "1200", "--learning-starts", "100", "--batch-size", "8", "--net-arch", "16",
    "--buffer-size", "700", "--checkpoint-every", "40", "--eval-freq", "500", "--n-eval-episodes", "1",
    "--max-episode-steps", "200", "--quiet",
]  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("share", range(2))
def test_kill_9_at_any_moment_changes_nothing(share: int, tmp_path, tried) -> None:
    chance = random.Random(share)
    references: dict[str, dict[str, str]] = {}
    failed = []
    count = times(1, 50)
    for number in range(count):
        variant = list(KILLED)[(2 * number + share) % len(KILLED)]
        words = [*KILLED[variant], *KILL_WORDS]
        if variant not in references:
            out = tmp_path / f"whole {len(references)}"
            assert main(["train", *words, "--out", str(out)]) == 0
            references[variant] = digests_of(out / "seed-0")
        out = tmp_path / f"killed {number}"
        folder, kills = out / "seed-0", 0
        process = start("train", *words, "--out", out)
        wait_for(lambda folder=folder: checkpoints(folder), process=process)
        while True:
            try:
                process.wait(chance.uniform(0.0, 0.5) if kills < 2 else 600)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.communicate()
                kills += 1
            else:
                said = process.communicate()
                assert process.returncode == 0, said
                break
            process = start("resume", folder, "--quiet")
            if kills < 2 and chance.random() < 0.7:  # some of it in the run, some in its start
                wait_for(lambda p=process, f=folder: p.poll() is not None or is_open(f, p))
        survived = tried(
            "kill -9 at a random moment, and again, then resume", digests_of(folder) == references[variant]
        )
        if not survived:
            ours = digests_of(folder)
            failed.append((variant, number, [name for name in ours if ours[name] != references[variant][name]]))
        shutil.rmtree(out)
    assert not failed


def is_open(folder: Path, process: subprocess.Popen[str]) -> bool:
    """Whether a resumed process has the run open."""
    try:
        return any((folder / "metrics.jsonl").samefile(each) for each in Path(f"/proc/{process.pid}/fd").iterdir())
    except OSError:
        return False


def digests_of(folder: Path) -> dict[str, str]:
    run = Run.open(folder)
    run.close()
    return digests(run)


# --- memory

MEASURE = """
import gc, sys
from pathlib import Path
from faulty_environments import Repeating
from configurations import TINY
from upright.runs.run import Run
from upright.loop import train

def now(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)) * 1024

def reset():
    Path("/proc/self/clear_refs").write_text("5")

doing, folder, width, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
config = TINY.override(env_kwargs={"width": width}, buffer_size=count, total_timesteps=count + 50, eval_freq=0,
    learning_starts=10**9, checkpoint_every=10**9, net_arch=(4,), replay="prioritised")
if doing == "save":
    run = Run(Repeating, config, 0, folder)
    for _ in train(run): pass
    run.disk.checkpointed = None
    run.checkpoint()     # what is allocated once is there now
    for path in (folder / "checkpoints").rglob("*.safetensors"): path.unlink()
    run.disk._checkpoints._segments = []
    run.disk.checkpointed = None
    before = now("VmRSS"); reset()
    run.checkpoint()
else:
    warm = Run(Repeating, config.override(buffer_size=10, total_timesteps=20, batch_size=4), 0, None)
    for _ in train(warm): pass
    warm.close()
    before = now("VmRSS")   # a run with all but its transitions
    del warm
    gc.collect(); reset()
    run = Run.open(folder, source=Repeating)
peak = now("VmHWM")
columns = sum(column.nbytes for column in run.replay.ring.columns if column is not None)
assert len(run.replay) == count
run.close()
print(before, peak, columns)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_saving_and_loading_take_a_tenth_of_the_buffer_beside_it(tmp_path, tried) -> None:
    width = 40_000
    count = times(800, 1_000)  # of 320 kB each: 256 MB, or 320 MB
    for doing in ("save", "load"):
        script = [sys.executable, "-c", MEASURE, doing, tmp_path / "run" / "seed-0", str(width), str(count)]
        done = subprocess.run(script, capture_output=True, text=True, env=environment(), cwd=TESTS)
        assert done.returncode == 0, done.stderr
        before, peak, columns = map(int, done.stdout.split()[-3:])
        beside = (peak - before - (columns if doing == "load" else 0)) / columns
        print(f"{doing}: {beside:.3f} of {columns:,} bytes beside the buffer")
        assert tried(f"peak memory of {doing} at most 1.1 times the buffer", beside <= 0.1), (doing, beside)
