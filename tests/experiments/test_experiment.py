"""Experiments: seeds side by side, each to the bits of its run alone; what a killed seed, parent or terminal loses."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import upright
from configurations import TINY
from faulty_environments import Repeating
from run_digest import checkpoints, children, digests, finish, is_alive, start, wait_for
from toy_environments import Masked
from upright.cli.main import main
from upright.comparison import statistics
from upright.comparison.summary import summarise
from upright.errors import EnvironmentFault, RunError, SettingError
from upright.evaluation import GreedyEpisode, greedy_episodes
from upright.experiments import pool
from upright.experiments.panel import SeedsTerminal, table
from upright.experiments.seeds import Failed, Finished, Records, Reported, Task, Warned, attempt, finished, train_seed
from upright.experiments.training import at_once, experiment, plan
from upright.runs.control import ask
from upright.runs.folders import RunFolder
from upright.runs.run import Run
from upright.views.terminal import Display

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

BREAKS = "faulty_environments:Breaks"
CONFIG = TINY.override(total_timesteps=400, checkpoint_every=100)
# As words: small, and long enough that a signal meets it in the midst of training.
WORDS = [
    "CartPole-v1", "--total-timesteps", "8000", "--checkpoint-every", "300", "--learning-starts", "50", "--batch-size",
    "8", "--net-arch", "8", "--log-interval", "100",
]  # fmt: skip


@pytest.fixture(autouse=True)
def in_an_empty_folder(monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)


def alone(source: str, config: upright.Config, seed: int, folder: Path) -> dict[str, str]:
    """What a run comes to in this process, without an experiment."""
    return finish(Run(source, config, seed, folder / f"seed-{seed}"))


def opened(folder: Path) -> dict[str, str]:
    """What the run in a folder has come to."""
    run = Run.open(folder, trust=True)
    try:
        return digests(run)
    finally:
        run.close()


def test_seeds_side_by_side_come_to_the_bits_of_each_alone(tmp_path) -> None:
    events = list(experiment("CartPole-v1", CONFIG, range(3, 6), folder=tmp_path / "together", jobs=2, preset="mine"))
    results = [event.result for event in events if isinstance(event, Finished)]
    assert sorted(result["seed"] for result in results) == [3, 4, 5]
    assert all(
        result["steps"] == 400 and result["preset"] == "mine" and result["episodes"] == 100 for result in results
    )
    for seed in range(3, 6):
        folder = tmp_path / "together" / f"seed-{seed}"
        assert opened(folder) == alone("CartPole-v1", CONFIG, seed, tmp_path / "alone")
        assert json.loads((folder / "result.json").read_text()) in results
        reported = [event for event in events if isinstance(event, Reported) and event.task.seed == seed]
        assert [event.step for event in reported] == [100, 200, 300, 400]
        assert "rollout/exploration_rate" in reported[0].metrics
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "together").rglob("*")}
    again = list(experiment("CartPole-v1", CONFIG, range(3, 6), folder=tmp_path / "together"))
    assert [event.result for event in again] == sorted(results, key=lambda result: result["seed"])
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "together").rglob("*")} == before


@linux
@pytest.mark.parametrize("fault", ["killed once", "segfault once", "raises"])
def test_the_failure_of_one_seed_stops_no_other_and_the_next_call_mends_it(fault: str, tmp_path) -> None:
    until = tmp_path / "until"
    config = CONFIG.override(env_kwargs={"fault": fault, "until": str(until)})
    events = list(experiment(BREAKS, config, range(3), folder=tmp_path / "together", jobs=2))
    ended = [event for event in events if isinstance(event, Finished | Failed)]
    assert sorted(event.task.seed for event in ended) == [0, 1, 2]
    failed = [event for event in ended if isinstance(event, Failed)]
    if fault == "raises":
        assert len(failed) == 3
        assert all("ZeroDivisionError: division by zero" in event.reason for event in failed)
        until.touch()
    else:
        assert len(failed) == 1
        assert failed[0].reason == f"Its process ended with {'SIGKILL' if fault == 'killed once' else 'SIGSEGV'}."
    began = {event.task.seed: checkpoints(Path(event.task.folder)) for event in failed}
    again = list(experiment(BREAKS, config, range(3), folder=tmp_path / "together", jobs=2))
    assert sorted(event.task.seed for event in again if isinstance(event, Finished)) == [0, 1, 2]
    assert {event.task.seed for event in again if isinstance(event, Reported)} == set(began)
    if fault != "raises":  # after which the episode starts anew, as in a run alone
        for seed in range(3):
            folder = tmp_path / "together" / f"seed-{seed}"
            assert opened(folder) == alone(BREAKS, config, seed, tmp_path / "alone")


@linux
def test_a_parent_that_is_killed_leaves_no_process_and_nothing_is_lost(tmp_path) -> None:
    process = start("train", *WORDS, "--seeds", "3", "--jobs", "2", "--out", tmp_path / "together")
    wait_for(lambda: all(checkpoints(tmp_path / "together" / f"seed-{k}") for k in (0, 1)), process=process)
    processes = children(process.pid)
    assert len(processes) >= 2
    process.send_signal(signal.SIGKILL)
    process.communicate()
    wait_for(lambda: not any(map(is_alive, processes)), 15)
    assert not finished_seeds(tmp_path / "together")
    again = start("train", *WORDS, "--seeds", "3", "--json", "--out", tmp_path / "together")
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert json.loads(out)["seeds"] == [0, 1, 2] and json.loads(out)["failed"] == {}
    whole = start("train", *WORDS, "--seed", "1", "--out", tmp_path / "alone")
    assert whole.communicate(timeout=120) and whole.returncode == 0
    assert opened(tmp_path / "together" / "seed-1") == opened(tmp_path / "alone" / "seed-1")


@linux
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all_seeds_with_checkpoints_and_the_same_command_goes_on(number, tmp_path) -> None:
    words = ["train", *WORDS, "--seeds", "3", "--jobs", "2", "--json", "--out", tmp_path / "together"]
    process = start(*words)
    wait_for(lambda: all(checkpoints(tmp_path / "together" / f"seed-{k}") for k in (0, 1)), process=process)
    processes = children(process.pid)
    os.killpg(process.pid, number)  # as a terminal does: to the children too
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert "Traceback" not in err and "KeyboardInterrupt" not in err
    assert "Stopped with 0 of 3 seeds finished; the same command continues with the others.\n" in err
    assert json.loads(out) == {"failed": {}, "experiment": str(tmp_path / "together")}
    wait_for(lambda: not any(map(is_alive, processes)), 15)
    for seed in (0, 1):  # the steps since the last checkpoint are not lost
        folder = tmp_path / "together" / f"seed-{seed}"
        stopped = json.loads((folder / "result.json").read_text())
        assert stopped["final_mean"] is None and checkpoints(folder)[-1] == stopped["steps"]
    again = start(*words)
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0 and json.loads(out)["seeds"] == [0, 1, 2], err


@linux
def test_a_second_signal_waits_for_no_seed(tmp_path) -> None:
    """Of which one hangs in its environment, and would never stop by itself."""
    words = [
        "train",
        BREAKS,
        "--env-kwargs",
        "fault=hangs",
        f"until={tmp_path / 'until'}",
        "--seeds",
        "2",
        "--jobs",
        "2",
    ]
    process = start(*words, "--log-interval", "1", "--out", tmp_path / "together")
    records = tmp_path / "together" / "seed-0" / "metrics.jsonl"

    def hangs() -> bool:
        size = records.stat().st_size if records.exists() else 0
        time.sleep(0.3)
        return size > 0 and records.stat().st_size == size

    wait_for(hangs, process=process)
    processes = children(process.pid)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in err
    wait_for(lambda: not any(map(is_alive, processes)), 15)


def finished_seeds(folder: Path) -> list[Path]:
    return [
        path for path in folder.glob("seed-*/result.json") if json.loads(path.read_text())["final_mean"] is not None
    ]


def test_what_was_killed_before_its_first_checkpoint_begins_anew_and_nothing_else_is_removed(tmp_path) -> None:
    task = plan("CartPole-v1", CONFIG, [0], tmp_path / "experiment")[0]
    folder = Path(task.folder)
    (folder / "checkpoints" / "replay").mkdir(parents=True)
    (folder / "metrics.jsonl").write_text('{"step": 100}\n')
    assert train_seed(task).result["steps"] == 400
    assert opened(folder) == alone("CartPole-v1", CONFIG, 0, tmp_path / "alone")
    for name in ("policy", "thesis.txt"):
        task = plan("CartPole-v1", CONFIG, [1], tmp_path / "experiment")[0]
        (Path(task.folder) / name).mkdir(parents=True)
        with pytest.raises(RunError, match="already holds a run"):
            train_seed(task)
        (Path(task.folder) / name).rmdir()


def test_a_seed_that_another_process_trains_is_left_to_it(tmp_path) -> None:
    other = Run("CartPole-v1", CONFIG, 1, tmp_path / "together" / "seed-1")
    events = list(experiment("CartPole-v1", CONFIG, range(2), folder=tmp_path / "together"))
    ended = {event.task.seed: event for event in events if isinstance(event, Finished | Failed)}
    assert isinstance(ended[0], Finished) and isinstance(ended[1], Failed)
    assert "seed-1 is in use: another process trains there" in ended[1].reason
    other.close()


def test_a_seed_that_the_dashboard_stops_has_no_result_and_the_others_go_on(tmp_path) -> None:
    config = CONFIG.override(total_timesteps=10_000_000, checkpoint_every=10_000)  # which no seed comes to here
    events = experiment("CartPole-v1", config, [0, 1], folder=tmp_path / "e", jobs=2)
    asked, stopped = False, None
    for event in events:
        if stopped is not None and isinstance(event, Reported):
            assert event.task.seed == 1
            break
        if isinstance(event, Reported) and event.task.seed == 0 and not asked:
            asked = True
            ask(RunFolder(Path(event.task.folder)), "stop")
        if isinstance(event, Failed):
            stopped = event
    events.close()
    assert stopped.task.seed == 0
    steps = checkpoints(Path(stopped.task.folder))[-1]
    assert stopped.reason == f"It was stopped at step {steps:,}, with a checkpoint."
    assert finished(stopped.task) is None  # so the same command goes on with it


def test_a_longer_experiment_goes_on_from_the_shorter_one(tmp_path) -> None:
    """As `upright resume --total-timesteps` leaves it: one seed extended, and the settings of all."""
    list(experiment("CartPole-v1", CONFIG, range(2), folder=tmp_path / "together"))
    run = Run.open(tmp_path / "together" / "seed-0", total_timesteps=500)
    extended = finish(run)
    longer = CONFIG.override(total_timesteps=500)
    with pytest.raises(RunError, match="another environment or other settings"):
        experiment("CartPole-v1", CONFIG, range(2), folder=tmp_path / "together")
    events = list(experiment("CartPole-v1", longer, range(2), folder=tmp_path / "together"))
    results = [event.result for event in events if isinstance(event, Finished)]
    assert [result["steps"] for result in results] == [500, 500]
    assert opened(tmp_path / "together" / "seed-0") == extended


def test_a_checkpoint_with_other_settings_is_no_part_of_the_experiment(tmp_path) -> None:
    task = plan("CartPole-v1", CONFIG, [0], tmp_path / "experiment")[0]
    alone("CartPole-v1", CONFIG.override(gamma=0.5), 0, tmp_path / "experiment")
    with pytest.raises(RunError, match="seed-0 has other settings; choose another folder"):
        train_seed(task)
    (tmp_path / "experiment" / "seed-0").rename(tmp_path / "experiment" / "seed-7")
    alone("CartPole-v1", CONFIG.override(gamma=0.5), 1, tmp_path / "other")
    (tmp_path / "other" / "seed-1").rename(tmp_path / "other" / "seed-2")
    with pytest.raises(RunError, match="holds the run of another seed, 1"):
        train_seed(Task("CartPole-v1", CONFIG.override(gamma=0.5).to_dict(), 2, str(tmp_path / "other" / "seed-2")))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("CartPole-v1 --seeds 0", "seeds is 0, but it has to lie in [1, 10000]."),
        ("CartPole-v1 --seeds 2 --jobs 0", "jobs is 0, but it has to be 1 or more."),
        ("CartPole-v1 --jobs 2", "--jobs is for several seeds at once: give their number with --seeds."),
        ("CartPol-v1 --seeds 2", "There is no environment 'CartPol-v1'. Did you mean 'CartPole-v1'"),
        ("CartPole-v1 --seeds 2 --seed -1", "seed is -1, but it has to be a whole number, 0 or more."),
        ("CartPole-v1 --seeds 2 --engine native --device cuda", "engine is native, which cannot do this"),
        ("CartPole-v1 --seeds 2 --buffer-size 1000000000000", "The replay memory needs"),
        ("CartPole-v1 --seeds 2 --out /dev/null", "/dev/null is not a folder; choose another (--out)."),
        ("Pendulum-v1 --seeds 2", "is continuous, and the DQN family needs numbered actions: add --discretize 11"),
    ],
)
def test_what_could_not_work_is_refused_before_anything_is_written(words: str, says: str, capsys, tmp_path) -> None:
    assert main(["train", *words.split()]) == 2
    said = capsys.readouterr().err
    assert said.startswith("upright: ") and says in said and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_in_python_too(tmp_path) -> None:
    with pytest.raises(SettingError, match="cannot be made in another process: give a registered id, or a class"):
        experiment(lambda: Repeating(), folder=tmp_path)
    with pytest.raises(EnvironmentFault, match="There is no environment"):
        experiment("CartPol-v1", folder=tmp_path)
    with pytest.raises(SettingError, match="seed is 1.5"):
        experiment("CartPole-v1", seeds=[1.5], folder=tmp_path)
    with pytest.raises(SettingError, match=r"seeds is \[0, 1, 0\], but each has to stand there once."):
        experiment("CartPole-v1", seeds=[0, 1, 0], folder=tmp_path)
    assert [task.env for task in plan(Masked, CONFIG, [0], tmp_path)] == ["toy_environments:Masked"]
    assert not list(tmp_path.iterdir())


def test_seeds_share_the_cores_with_their_workers(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("upright.experiments.training.cores", lambda: 8)

    def at(jobs: int | None, count: int, **settings) -> int:
        return at_once(plan("CartPole-v1", CONFIG.override(**settings), range(count), tmp_path), jobs)

    assert [at(None, 20), at(None, 3), at(5, 20), at(12, 20)] == [8, 3, 5, 8]
    assert at(None, 20, num_envs=3, vectorization_mode="async") == 2
    assert at(None, 20, num_envs=9, vectorization_mode="async") == 1
    assert at(None, 20, num_envs=9) == 8


def test_a_seed_has_one_thread_and_its_parent_keeps_its_own(monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    with pool._for_a_child():
        assert all(os.environ[name] == "1" for name in pool.ONE_THREAD)
        assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert os.environ["OMP_NUM_THREADS"] == "5" and "MKL_NUM_THREADS" not in os.environ
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_records_are_read_once_each_while_the_file_grows_and_is_cut(tmp_path) -> None:
    task = Task("CartPole-v1", CONFIG.to_dict(), 0, str(tmp_path))
    records, path = Records(task), tmp_path / "metrics.jsonl"

    def new() -> list[tuple[int, dict[str, float]]]:
        return [(event.step, event.metrics) for event in records.new()]

    assert new() == []
    path.write_text('{"step": 3, "env": 0, "rollout/ep_rew": 1.0}\n{"step": 10, "a": 1.0}\n{"step": 20')
    assert new() == [(10, {"a": 1.0})]
    assert new() == []
    path.write_text('{"step": 10, "a": 1.0}\n')  # it was resumed from step 5, and does step 10 again
    assert new() == []
    with path.open("a") as file:
        file.write(
            '{"step": 20, "a": 2.0}\nno JSON\n[]\n{"step": 25, "a": "text"}\n{"step": NaN}\n{"step": 30, "b": 0}\n'
        )
    assert new() == [(20, {"a": 2.0}), (30, {"b": 0})]
    path.unlink()
    path.symlink_to("/dev/zero")
    assert new() == []


def result(seed: int, mean: float, threshold: float | None = 0.5) -> dict[str, object]:
    solved = None if threshold is None else mean >= threshold
    return {
        "env": "E", "preset": None, "seed": seed, "engine": "native", "steps": 10, "updates": 1, "seconds": 2.0,
        "final_mean": mean, "final_std": 0.0, "episodes": 100, "threshold": threshold, "solved": solved, "run": "r",
    }  # fmt: skip


def test_a_summary_is_computed_from_the_results_alone() -> None:
    means = [0.9, 0.1, 0.5, 0.7, 0.2, 0.6, 0.8, 0.4]
    summary = summarise([result(seed, mean) for seed, mean in enumerate(means)])
    assert summary.interquartile_mean.value == pytest.approx(np.mean([0.4, 0.5, 0.6, 0.7]))
    assert summary.mean.value == pytest.approx(np.mean(means))
    assert summary.median.value == pytest.approx(0.55)
    assert summary.worst.value == 0.1
    written = summary.to_dict()
    assert written["solved"] == {"seeds": 5, "share": 5 / 8, "interval": list(statistics.wilson_interval(5, 8))}
    assert written["seconds"] == {"total": 16.0, "mean": 2.0}
    for name, of in (("interquartile_mean", statistics.interquartile_mean), ("worst", np.min)):
        estimate = getattr(summary, name)
        assert (estimate.low, estimate.high) == statistics.bootstrap_interval(of, means)
        assert estimate.low <= estimate.value <= estimate.high
        assert written[name] == {"value": estimate.value, "interval": [estimate.low, estimate.high]}
        assert statistics.Estimate.from_dict(written[name]) == estimate
    shuffled = [result(seed, means[seed]) for seed in (3, 1, 7, 0, 2, 6, 5, 4)]
    assert summarise(shuffled) == summary
    without = summarise([result(seed, mean, None) for seed, mean in enumerate(means)])
    assert "solved" not in without.to_dict() and "threshold" not in without.to_dict()
    printed = Console(file=io.StringIO(), width=100)
    printed.print(table(summary))
    text = re.sub(" +", " ", printed.file.getvalue())
    assert "final policies of 8 seeds" in text and "worst seed 0.10" in text
    assert "solved (threshold 0.5) 5 of 8 seeds, 62% 31% to 86%" in text
    assert "2.0 a seed, 16.0 in all" in text


def test_a_result_that_is_not_of_these_settings_or_not_whole_counts_as_missing(tmp_path) -> None:
    list(experiment("CartPole-v1", CONFIG, [0], folder=tmp_path / "e"))
    task = plan("CartPole-v1", CONFIG, [0], tmp_path / "e")[0]
    path, good = tmp_path / "e" / "seed-0" / "result.json", finished(task)
    assert good == json.loads(path.read_text())
    for change in (
        {"steps": 399},
        {"seed": 1},
        {"final_mean": None},
        {"final_mean": "high"},
        {"seconds": None},
        {"threshold": "x"},
        {"solved": 1},
        {"episodes": 99},
    ):
        path.write_text(json.dumps({**good, **change}))
        assert finished(task) is None, change
    path.write_text("{")
    assert finished(task) is None
    path.write_text(json.dumps(good))
    assert finished(Task(task.env, {**task.config, "gamma": 0.5}, 0, task.folder)) is None


def test_a_seed_whose_final_evaluation_is_stopped_is_not_finished_and_the_next_try_evaluates_it(
    tmp_path, monkeypatch
) -> None:
    task = plan("CartPole-v1", CONFIG.override(n_final_episodes=5, eval_freq=0), [0], tmp_path / "e")[0]

    def stopped(*arguments: Any) -> Iterator[GreedyEpisode]:
        yield from itertools.islice(greedy_episodes(*arguments), 3)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("upright.runs.run.greedy_episodes", stopped)
        failed = "It was stopped at step 400, in its final evaluation, with a checkpoint."
        assert attempt(task) == {"failed": failed, "signal": signal.SIGINT}
    written = json.loads(task.place.result.read_text())
    assert written["episodes"] == 3 and written["final_mean"] > 0 and finished(task) is None
    result = attempt(task)["finished"]
    assert result["episodes"] == 5 and finished(task) == result


def test_seeds_without_a_final_evaluation_are_finished_and_have_no_score(capsys, tmp_path) -> None:
    words = ["train", *WORDS, "--total-timesteps", "200", "--n-final-episodes", "0", "--seeds", "2", "--out", "mine"]
    for _ in range(2):  # the second time, what is there is taken as it is
        assert main(words) == 0
        printed = capsys.readouterr()
        assert printed.out.count("trained, not evaluated") == 2 and printed.err == ""
        assert "The final policies were not evaluated (n_final_episodes is 0), so there are no scores" in printed.out
    assert main([*words, "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out) == {"failed": {}, "experiment": "mine"}
    assert not Path("mine/summary.json").exists()
    result = json.loads(Path("mine/seed-0/result.json").read_text())
    with pytest.raises(SettingError, match="Seed 0 has no score to summarise, because its final policy was not eval"):
        summarise([result])
    config = upright.Config.from_file(json.loads(Path("mine/config.json").read_text())["config"])
    task = plan("CartPole-v1", config, [0], Path("mine"))[0]
    for change in ({"steps": 199}, {"seed": 1}):
        Path("mine/seed-0/result.json").write_text(json.dumps({**result, **change}))
        assert finished(task) is None
    point = ["sweep", "CartPole-v1", *words[2:-1], "swept", "--gamma", "0.9", "0.99"]
    assert main(point) == 0 and "there are no scores" in capsys.readouterr().out
    assert not Path("swept/sweep.json").exists()


@pytest.mark.parametrize("count", [3, 30])
def test_the_panel_shows_every_seed(count: int, tmp_path) -> None:
    tasks = plan("CartPole-v1", CONFIG, range(count), tmp_path / "e")
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=60, color_system=None)
    shown = SeedsTerminal(console, tasks)
    shown.take(Reported(tasks[0], 200, {"rollout/ep_rew_mean": 42.0}))
    shown.take(Finished(tasks[1], result(1, 500.0)))
    shown.take(Failed(tasks[2], "Its process ended with SIGKILL."))
    shown.take(Warned(tasks[0], "mind the gap"))
    shown.take(Warned(tasks[2], "mind the gap"))
    shown.close()
    text = console.file.getvalue()
    last = text[text.rindex("╭") :]
    for seed in range(count):
        assert f"seed {seed}" in last
    assert "50%  return 42.0" in last and "500.00, solved" in last and "failed" in last
    assert "seed 2 failed: Its process ended with SIGKILL." in text
    assert text.count("mind the gap") == 1
    assert ("waits" in last) == (count > 3)
    shown = SeedsTerminal(console, tasks)
    shown.take(Reported(tasks[0], 400, {"rollout/ep_rew_mean": 43.0}))
    shown.close()
    assert "evaluating  return 43.0" in console.file.getvalue()


def test_without_a_terminal_there_is_a_line_for_each_seed_that_ends(tmp_path, monkeypatch) -> None:
    tasks = [task for name in "ab" for task in plan("CartPole-v1", CONFIG, range(2), tmp_path / name)]
    console = Console(file=io.StringIO(), width=240)
    shown = SeedsTerminal(console, tasks)
    shown.take(Reported(tasks[0], 200, {}))
    assert console.file.getvalue() == ""
    monkeypatch.setattr(Display, "SECONDS_BETWEEN_LINES", 0.0)
    shown.take(Reported(tasks[0], 300, {}))
    shown.take(Finished(tasks[3], result(1, 0.25)))
    shown.close()
    assert console.file.getvalue() == "0 of 4 seeds have ended, a seed 0 at step 300\nb seed 1: 0.25, not solved\n"


def test_the_command_prints_a_table_and_keeps_it_as_json(capsys, tmp_path) -> None:
    words = ["--total-timesteps", "200", "--learning-starts", "50", "--batch-size", "8", "--net-arch", "8"]
    assert main(["train", "CartPole-v1", *words, "--seeds", "2", "--seed", "4"]) == 0
    printed = capsys.readouterr().out
    assert "Training CartPole-v1 for 200 steps with 2 seeds, " in printed
    assert re.search(r"seed 4: [\d.]+, not solved\n", printed) and re.search(r"interquartile mean +[\d.]+ ", printed)
    assert printed.endswith("Experiment: runs/CartPole-v1/default\n")
    folder = tmp_path / "runs" / "CartPole-v1" / "default"
    results = [json.loads(path.read_text()) for path in folder.glob("seed-*/result.json")]
    assert json.loads((folder / "summary.json").read_text()) == summarise(results).to_dict()
    assert main(["train", "CartPole-v1", *words, "--seeds", "3", "--seed", "4", "--quiet"]) == 0  # in the same folder
    assert capsys.readouterr().out == ""
    assert sorted(path.name for path in folder.glob("seed-*")) == ["seed-4", "seed-5", "seed-6"]
    assert main(["train", "CartPole-v1", *words, "--seeds", "1", "--gamma", "0.5", "--quiet"]) == 0
    assert (tmp_path / "runs" / "CartPole-v1" / "default-2" / "seed-0" / "result.json").exists()
    refused = ["train", "CartPole-v1", *words, "--seeds", "1", "--gamma", "0.7", "--quiet", "--out", str(folder)]
    assert main(refused) == 2 and "another environment or other settings" in capsys.readouterr().err


def test_the_exit_status_says_that_a_seed_failed(capsys, tmp_path) -> None:
    words = ["train", BREAKS, "--env-kwargs", "fault=raises", f"until={tmp_path / 'until'}", "--json", "--seeds", "2"]
    assert main([*words, "--quiet", "--out", "e"]) == 1
    printed = capsys.readouterr()
    sentences = [line for line in printed.err.splitlines() if line.startswith("upright: ")]
    assert len(sentences) == 3 and sentences[-1] == "upright: 2 seeds failed; the same command tries again."
    assert any(line.startswith("upright: e/seed-1 failed: ") and "division by zero" in line for line in sentences)
    assert set(json.loads(printed.out)["failed"]) == {"0", "1"}
