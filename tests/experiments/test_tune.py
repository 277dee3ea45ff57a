"""The search for settings: what it draws, prunes and keeps; what a killed, stopped or second process does to a study."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from configurations import SHORT, as_words
from ray_clusters import cluster
from run_digest import children, is_alive, start, wait_for
from upright import Config
from upright.cli.main import main
from upright.cli.tuning import EVALUATIONS
from upright.errors import RunError
from upright.experiments.cluster import train_on_cluster
from upright.experiments.search_space import (
    SPACE,
    Choice,
    Range,
    check_space,
    draw,
    narrowed,
    read_space,
    space_to_dict,
)
from upright.experiments.seeds import Event, Failed, Finished, Reported, Task, train_seed
from upright.experiments.training import train_tasks
from upright.experiments.tune import JUDGED_TRIALS, Study, TrialBegan, TrialEnded, run_trials
from upright.runs.folders import seed_folder
from upright.settings import presets
from upright.settings.kinds import KINDS

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

CONFIG = Config(**{**SHORT, "total_timesteps": 1_000, "eval_freq": 200, "net_arch": (4,)})
LOSSES = ", ".join(KINDS["loss"])
TINY_SPACE = {"learning_rate": Range(1e-4, 1e-1, log=True), "n_steps": Choice((1, 3))}
# As words: small; the second, long enough that a signal meets it in the midst of training.
SMALL = ["CartPole-v1", *as_words(**{**SHORT, "net_arch": (4,)})]
LONGER = [
    *SMALL,
    "--total-timesteps",
    "6000",
    "--checkpoint-every",
    "300",
    "--buffer-size",
    "1000",
    "--log-interval",
    "100",
]


@pytest.fixture(autouse=True)
def in_an_empty_folder(monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def study(folder: str | Path = "study", space=TINY_SPACE, config: Config = CONFIG, seeds=(0, 1, 2)) -> Study:
    return Study("CartPole-v1", config, space, seeds, Path(folder))


def stored(folder: str | Path = "study") -> optuna.Study:
    return optuna.load_study(study_name="CartPole-v1", storage=f"sqlite:///{Path(folder).absolute()}/study.db")


class Trainer:
    """Trains nothing: each seed reports, and comes to, what the settings are worth by a formula."""

    def __init__(self, worth: Callable[[dict[str, Any], int], float], fails: Sequence[int] = ()) -> None:
        self.worth, self.fails = worth, fails
        self.configs: list[dict[str, Any]] = []
        self.open, self.steps = 0, 0

    def __call__(self, tasks: Sequence[Task]) -> Generator[Event]:
        self.configs.append(dict(tasks[0].config))
        trial = len(self.configs) - 1
        self.open += 1
        try:
            for step in range(200, 1_001, 200):
                for task in tasks:
                    self.steps += 1
                    yield Reported(task, step, {"eval/mean_reward": self.worth(dict(task.config), task.seed)})
            for task in tasks:
                if trial in self.fails:
                    yield Failed(task, "it diverged")
                mean = self.worth(dict(task.config), task.seed)
                yield Finished(task, {
                    "env": task.env, "seed": task.seed, "steps": 1_000, "final_mean": mean, "seconds": 1.0,
                    "threshold": None, "solved": None,
                })  # fmt: skip
        finally:
            self.open -= 1


def by_learning_rate(config: dict[str, Any], seed: int) -> float:
    return -1_000 * abs(config["learning_rate"] - 0.01) + seed


def ended(events: Sequence[Any]) -> list[TrialEnded]:
    return [event for event in events if isinstance(event, TrialEnded)]


# --- the space ---


def draws(space, config: Config, count: int) -> list[tuple[dict[str, Any], Config]]:
    made = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    found = []
    for _ in range(count):
        trial = made.ask()
        drawn = draw(trial, space, config)
        found.append((dict(trial.params), drawn))
        made.tell(trial, 0.0)
    return found


@pytest.mark.parametrize("name", presets.PRESETS)
def test_whatever_is_drawn_from_the_table_is_a_configuration(name: str) -> None:
    base = presets.preset(name).override(buffer_size=10_000, batch_size=32)
    check_space(SPACE, base)
    for params, config in draws(SPACE, base, 40):
        values = config.to_dict()
        for setting, value in params.items():
            root, dot, part = setting.partition(".")
            is_ = values[root][part] if dot else values[root]
            if root == "munchausen" and not dot:
                assert (is_ is not None) == value
            elif not dot and root in ("loss", "replay"):
                assert is_["kind"] == value
            else:
                assert is_ == (json.loads(value) if isinstance(value, str) and value.startswith("[") else value)
        # What there is not is not drawn, and all that there is is.
        assert ("munchausen.alpha" in params) == params["munchausen"] == ("loss.double" not in params)
        assert ("loss.quantiles" in params) == (params["loss"] == "quantile") == ("loss.error" not in params)
        untouched = {each.name for each in dataclasses.fields(Config)} - {each.partition(".")[0] for each in SPACE}
        assert all(getattr(config, each) == getattr(base, each) for each in untouched)


def test_draws_stay_in_the_space_and_reach_its_ends() -> None:
    space = {
        "n_steps": Choice((1, 5)),
        "target_update_interval": Range(3, 5),
        "learning_rate": Range(1e-3, 1e-2, log=True),
    }
    configs = [config for _, config in draws(space, CONFIG, 100)]
    assert {config.n_steps for config in configs} == {1, 5}
    assert {config.target_update_interval for config in configs} == {3, 4, 5}
    assert all(1e-3 <= config.learning_rate <= 1e-2 for config in configs)
    below = sum(config.learning_rate < 10**-2.5 for config in configs)
    assert 30 < below < 70, "evenly in the logarithm"


def test_what_is_given_is_not_searched_nor_what_then_there_is_not() -> None:
    assert set(SPACE) - set(narrowed(SPACE, ["learning_rate", "seed"], Config())) == {"learning_rate"}
    gone = set(SPACE) - set(narrowed(SPACE, ["munchausen"], Config()))
    assert gone == {"munchausen", "munchausen.alpha", "munchausen.temperature"}
    categorical = Config().override(loss="categorical")
    assert set(SPACE) - set(narrowed(SPACE, ["loss"], categorical)) == {"loss", "loss.error", "loss.quantiles"}


def test_the_documentation_tells_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "experiments.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    for name, each in SPACE.items():
        root, _, part = name.partition(".")
        row = next(
            line for line in rows if f"`{name}`" in line or (line.startswith(f"| `{root}`") and f"`{part}`" in line)
        )
        for value in each.ends():
            text = (
                " ".join(map(str, value))
                if isinstance(value, list)
                else f"{value:,}"
                if isinstance(value, int)
                else str(value)
            )
            assert isinstance(value, bool) or re.search(rf"\b{re.escape(text)}\b", row), (name, value)


def test_a_space_goes_through_json(tmp_path) -> None:
    (tmp_path / "space.json").write_text(json.dumps(space_to_dict(SPACE)))
    assert read_space(tmp_path / "space.json") == SPACE


def test_a_range_of_whole_numbers_may_be_written_as_1e3(tmp_path) -> None:
    written = {
        "target_update_interval": {"low": 5e1, "high": 1e3, "log": True},
        "gamma": {"low": 0.0, "high": 1.0},
        "loss": ["quantile"],
        "loss.quantiles": {"low": 1, "high": 1e2},
        "batch_size": [3.2e1, 64],
    }
    (tmp_path / "space.json").write_text(json.dumps(written))
    space = read_space(tmp_path / "space.json")
    check_space(space, Config())
    ends = [type(end) for name in ("target_update_interval", "loss.quantiles", "gamma") for end in space[name].ends()]
    assert ends == [int, int, int, int, float, float]
    for _, config in draws(space, Config(), 20):  # any other number than a whole one would be refused
        assert 50 <= config.target_update_interval <= 1000 and 1 <= config.loss.quantiles <= 100
        assert type(config.batch_size) is int and config.batch_size in (32, 64)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"n_steps": {"low": 1, "high": 2.5}}, "n_steps is 2.5, but it has to be a whole number."),
        ({}, "space.json has no setting to search."),
        ({"gamma": []}, "gamma in space.json has to be a list of values, as in [1, 3, 5]"),
        ({"gamma": 0.9}, "gamma in space.json has to be a list of values"),
        ({"gamma": [[0.9, 1.0]]}, "gamma in space.json has to be a list of values"),
        ({"gamma": {"low": 0.9}}, "gamma in space.json has to be a list of values"),
        ({"gamma": {"low": 0.9, "high": 0.8}}, "gamma in space.json goes from 0.9 to 0.8: low has to be at most high"),
        ({"learning_rate": {"low": 0, "high": 0.1, "log": True}}, "low has to be at most high, and above 0 where log is true"),
        ({"learning_rate": {"low": 0.1, "high": 0.2, "log": 1}}, "log is true or false."),
        ({"learning_rate": {"low": 0.1, "high": 0.2, "step": 1}}, "learning_rate in space.json has to be a list"),
        ({"learning_rate": {"low": -1, "high": 0.1}}, "learning_rate is -1.0, but it has to"),
        ({"lerning_rate": [0.1]}, "lerning_rate"),
        ({"net_arch": [[64], [0]]}, "net_arch"),
        ({"n_steps": [1, "three"]}, "n_steps is 'three'"),
        ({"loss": ["quantil"]}, f"loss is 'quantil', but it has to be one of {LOSSES}"),
        ({"loss": [3]}, f"loss is 3 in the space, but it has to be one of {LOSSES}"),
        ({"munchausen": ["on"]}, "munchausen is 'on' in the space, but it has to be true or false."),
        ({"loss.atoms": [51]}, "loss.atoms is to be searched, but no loss that is searched has atoms."),
        ({"gamma.x": [51]}, "gamma.x"),
        ({"munchausen": [True], "munchausen.alpha": [2.0]}, "alpha is 2.0"),
        ({"total_timesteps": [1_000, 2_000]}, "total_timesteps cannot be searched"),
        ({"eval_freq": [10]}, "eval_freq cannot be searched"),
    ],
)  # fmt: skip
def test_what_cannot_be_searched_is_refused(values: dict[str, Any], says: str, tmp_path, capsys) -> None:
    Path("space.json").write_text(json.dumps(values))
    assert main(["tune", "CartPole-v1", "--space", "space.json"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("upright: ") and says in said and said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["space.json"]


def test_values_that_only_go_together_are_a_space() -> None:
    """The default's memory holds no batch of 30,000; what is drawn beside it does."""
    space = {"batch_size": Choice((30_000,)), "buffer_size": Choice((100_000,)), "max_grad_value": Choice((1.0,))}
    check_space(space, Config())
    ((params, config),) = draws(space, Config(), 1)
    assert (
        params == {"batch_size": 30_000, "buffer_size": 100_000, "max_grad_value": 1.0} and config.batch_size == 30_000
    )


@pytest.mark.parametrize("values", [{"batch_size": [64, 30_000]}, {"net_arch": [[4] * 300]}, {"layer_norm": [True]}])
def test_a_value_that_no_draw_can_have_is_refused(values: dict[str, Any], capsys, tmp_path) -> None:
    Path("space.json").write_text(json.dumps(values))
    assert main(["tune", "CartPole-v1", "--space", "space.json", "--net-arch", "--dashboard"]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("upright: ") and next(iter(values)) in said.err and said.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["space.json"]


# --- trials ---


def test_it_finds_what_is_better_and_keeps_it() -> None:
    trainer = Trainer(by_learning_rate)
    events = list(run_trials(study(), 14, trainer))
    scores = {event.number: event.score for event in ended(events) if event.score is not None}
    best = json.loads(Path("study/best.json").read_text())
    assert max(scores, key=scores.__getitem__) == best["trial"] == stored().best_trial.number
    assert best["summary"]["interquartile_mean"]["value"] == scores[best["trial"]] == stored().best_value
    assert best["config"] == trainer.configs[best["trial"]]
    assert 0.001 < best["config"]["learning_rate"] < 0.02
    assert [event.number for event in events if isinstance(event, TrialBegan)] == list(range(14))
    # Its score is that of the middle of the seeds, of which it has all.
    assert best["summary"]["seeds"] == [0, 1, 2]
    assert trainer.open == 0


def test_trials_below_the_median_are_pruned_early() -> None:
    trainer = Trainer(by_learning_rate)
    events = ended(list(run_trials(study(), 14, trainer)))
    pruned = [event for event in events if event.score is None]
    assert pruned and all(event.why.startswith("pruned at step ") for event in pruned)
    trials = stored().trials
    assert [each.number for each in trials if each.state == TrialState.PRUNED] == [event.number for event in pruned]
    finished = [each.value for each in trials[: trials.index(trials[pruned[0].number])]]
    assert len(finished) >= JUDGED_TRIALS
    for event in pruned:
        (step, value), *_ = sorted(trials[event.number].intermediate_values.items(), reverse=True)
        assert step == 200, "all seeds were evaluated to the same each time, so a fifth of the steps shows it"
        assert f"with {value:.4g}" in event.why and trials[event.number].user_attrs["why"] == event.why
    assert trainer.steps == 3 * (5 * (14 - len(pruned)) + len(pruned)), "and the rest was never trained"
    # What is reported is the interquartile mean over the seeds, here of three in the middle.
    complete = next(each for each in trials if each.state == TrialState.COMPLETE)
    assert complete.intermediate_values == pytest.approx(dict.fromkeys(range(200, 1_001, 200), complete.value))


def test_a_study_has_so_many_trials_however_often_it_is_called() -> None:
    assert len(ended(list(run_trials(study(), 4, Trainer(by_learning_rate))))) == 4
    best = Path("study/best.json").read_bytes()
    Path("study/best.json").write_text("{}")
    assert list(run_trials(study(), 4, Trainer(by_learning_rate))) == []
    assert Path("study/best.json").read_bytes() == best
    more = ended(list(run_trials(study(), 6, Trainer(by_learning_rate))))
    assert [event.number for event in more] == [4, 5]
    drawn = [tuple(each.params.values()) for each in stored().trials]
    assert len(set(drawn)) == 6, "going on does not draw the same again"
    list(run_trials(study("again"), 6, Trainer(by_learning_rate)))
    assert [tuple(each.params.values()) for each in stored("again").trials] == drawn


def test_a_trial_that_is_broken_off_is_taken_up_again() -> None:
    trainer = Trainer(by_learning_rate)
    events = run_trials(study(), 3, trainer)
    seen = [next(events) for _ in range(5)]
    assert isinstance(seen[0], TrialBegan) and isinstance(seen[4], Reported)
    events.close()
    assert trainer.open == 0
    failed, waiting = stored().trials
    assert (failed.state, waiting.state) == (TrialState.FAIL, TrialState.WAITING)
    again = ended(list(run_trials(study(), 3, trainer)))
    assert len(again) == 3 and trainer.configs[0] == trainer.configs[1]
    assert stored().trials[1].params == failed.params
    assert sorted(path.name for path in Path("study").glob("trial-*")) == ["trial-0", "trial-2", "trial-3"]
    list(run_trials(study(), 4, trainer))
    assert [each.state for each in stored().trials].count(TrialState.COMPLETE) == 4


def test_an_error_of_the_trainer_leaves_the_trial_to_be_taken_up_again() -> None:
    def unreachable(tasks: Sequence[Task]) -> Generator[Event]:
        raise RunError("There is no cluster.")
        yield

    with pytest.raises(RunError, match="There is no cluster"):
        list(run_trials(study(), 2, unreachable))
    assert len(ended(list(run_trials(study(), 2, Trainer(by_learning_rate))))) == 2


def test_a_seed_that_fails_fails_its_trial_and_no_other() -> None:
    trainer = Trainer(by_learning_rate, fails=[0, 2])
    events = ended(list(run_trials(study(), 4, trainer)))
    assert [event.why for event in events] == ["seed-0 failed: it diverged", "", "seed-0 failed: it diverged", ""]
    assert [each.state for each in stored().trials].count(TrialState.FAIL) == 2
    assert list(run_trials(study(), 4, trainer)) == [], "they are not tried for ever"


def test_what_cannot_be_combined_is_no_trial_of_training() -> None:
    space = {"amsgrad": Choice((True,)), "optimizer": Choice(("rmsprop", "adam"))}
    check_space(space, CONFIG)
    trainer = Trainer(lambda config, seed: 1.0)
    list(run_trials(study(space=space), 8, trainer))
    trials = stored().trials
    refused = [each for each in trials if each.state == TrialState.PRUNED]
    assert refused and len(refused) + len(trainer.configs) == len(trials) == 8
    assert all("amsgrad needs Adam's second moment" in each.user_attrs["why"] for each in refused)


def test_what_needs_too_much_memory_fails_alone() -> None:
    space = {"buffer_size": Choice((1_000, 10**13))}
    trainer = Trainer(lambda config, seed: 1.0)
    events = ended(list(run_trials(study(space=space), 8, trainer)))
    failed = [event for event in events if event.score is None]
    assert failed and len(events) == 8 and all("The replay memory needs" in event.why for event in failed)


def test_another_study_is_refused_and_nothing_is_lost() -> None:
    list(run_trials(study(), 1, Trainer(by_learning_rate)))
    for other in (
        study(seeds=(0, 1)),
        study(config=CONFIG.override(gamma=0.5)),
        study(space={"n_steps": Choice((1, 2))}),
    ):
        with pytest.raises(RunError, match="study holds another study; choose another folder"):
            list(run_trials(other, 1, Trainer(by_learning_rate)))
    assert len(stored().trials) == 1


@pytest.mark.parametrize("damage", ["garbage", "empty", "a link"])
def test_a_damaged_database_is_one_sentence(damage: str) -> None:
    list(run_trials(study(), 1, Trainer(by_learning_rate)))
    path = Path("study/study.db")
    if damage == "garbage":
        path.write_bytes(b"no database" * 100)
    elif damage == "empty":
        path.write_bytes(b"")  # SQLite's empty database: the study begins anew, in the folders that are there
        before = Path("study/trial-0/config.json").read_bytes()
        assert len(ended(list(run_trials(study(), 1, Trainer(by_learning_rate))))) == 1
        assert stored().trials[0].user_attrs["folder"] == "trial-1", "and takes none of theirs"
        assert Path("study/trial-0/config.json").read_bytes() == before
        return
    else:
        path.rename("elsewhere.db")
        path.symlink_to(Path("elsewhere.db").absolute())
    with pytest.raises(RunError, match=r"study\.db (cannot be used: .+; what was trained stays in study\.|is a link)"):
        list(run_trials(study(), 2, Trainer(by_learning_rate)))


def test_without_optuna_a_sentence_says_what_to_install(monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main(["tune", *SMALL]) == 2
    assert capsys.readouterr().err == "upright: Optuna is not installed: pip install 'upright[tune]'\n"
    assert not list(tmp_path.iterdir())


# --- the command, with real runs ---


def test_the_best_trial_is_what_train_then_takes(capsys) -> None:
    assert main(["tune", *SMALL, "--trials", "3", "--seeds", "2", "--seed", "5", "--gamma", "0.9", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    folder = Path("runs/CartPole-v1/tune")
    best = json.loads((folder / "best.json").read_text())
    assert said["best"] == best and said["study"] == str(folder)
    assert said["command"] == f"upright train CartPole-v1 --config {folder}/best.json --seeds 20 --seed 1000"
    assert best["summary"]["seeds"] == [5, 6]
    trials = stored(folder).get_trials(states=(TrialState.COMPLETE,))
    assert len(trials) == 3 and all(set(each.params) & {"gamma", "net_arch", "batch_size"} == set() for each in trials)
    assert all(each.user_attrs["summary"]["interquartile_mean"]["value"] == each.value for each in trials)
    for each in trials:
        runs = folder / f"trial-{each.number}"
        means = [json.loads((seed_folder(runs, seed) / "result.json").read_text())["final_mean"] for seed in (5, 6)]
        assert each.value == pytest.approx(sum(means) / 2) and not list(runs.glob("seed-*/checkpoints"))
        assert sorted(each.intermediate_values) == list(range(30, 301, 30)), f"{EVALUATIONS} evaluations"
    assert main(["train", "CartPole-v1", "--config", f"{folder}/best.json", "--seed", "5", "--quiet"]) == 0
    again = Path("runs/CartPole-v1/best")
    assert json.loads((again / "config.json").read_text())["config"] == best["config"]
    policy = Path("seed-5/policy/policy.safetensors")
    assert (again / policy).read_bytes() == (folder / best["experiment"] / policy).read_bytes()
    assert main(["compare", str(folder), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["environments"][0]["experiments"]) == 3


@linux
def test_a_study_that_is_killed_goes_on_to_the_same_bits(tmp_path) -> None:
    words = ["tune", *LONGER, "--trials", "2", "--seeds", "2", "--out", "study", "--learning-rate", "1e-3"]
    process = start(*words)
    seeds = [Path("study/trial-0") / f"seed-{seed}" for seed in (0, 1)]
    wait_for(lambda: all(any((seed / "checkpoints").glob("*/manifest.json")) for seed in seeds), process=process)
    processes = children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    again = start(*words, "--json")  # while the seeds of the first still write their checkpoints, or not
    _out, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    assert not any(map(is_alive, processes))
    states = [each.state for each in stored().trials]
    assert states == [TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE]
    assert stored().trials[0].params == stored().trials[1].params
    assert sorted(path.name for path in Path("study").glob("trial-*")) == ["trial-0", "trial-2"]
    config = json.loads(Path("study/trial-0/config.json").read_text())["config"]
    task = Task("CartPole-v1", config, 1, str(tmp_path / "alone" / "seed-1"))
    assert train_seed(task).result["final_mean"] == json.loads((seeds[1] / "result.json").read_text())["final_mean"]
    policies = [folder / "policy" / "policy.safetensors" for folder in (seeds[1], Path(task.folder))]
    assert policies[0].read_bytes() == policies[1].read_bytes()


@linux
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_study_that_is_stopped_says_so_and_leaves_no_process(number) -> None:
    words = ["tune", *LONGER, "--trials", "1", "--seeds", "2", "--out", "study"]
    process = start(*words)
    wait_for(lambda: any(Path("study/trial-0/seed-0/checkpoints").glob("*/manifest.json")), process=process)
    processes = children(process.pid)
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number and "Traceback" not in err, err
    assert "Stopped; the same command continues." in out and "No trial has come to its end." in out
    wait_for(lambda: not any(map(is_alive, processes)), 15)
    assert [each.state for each in stored().trials] == [TrialState.FAIL, TrialState.WAITING]


def test_ctrl_c_while_the_cluster_starts_is_heard(monkeypatch, capsys) -> None:
    @contextlib.contextmanager
    def starting(address: str) -> Generator[None]:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)
        yield

    monkeypatch.setattr("upright.cli.tuning.connected", starting)
    assert main(["tune", *SMALL, "--trials", "1", "--cluster", "local", "--out", "study"]) == 130
    assert "Stopped; the same command continues." in capsys.readouterr().out


def test_trials_write_event_files_and_are_seen_in_the_browser_where_that_is_asked_for(capsys) -> None:
    words = ["tune", *SMALL, "--trials", "1", "--seeds", "1", "--out", "study", "--tensorboard", "--dashboard"]
    assert main(words) == 0
    assert list(Path("study/trial-0/seed-0/tensorboard").glob("events.out.tfevents.*"))
    assert re.search(r"http://127\.0\.0\.1:\d+/\?token=", capsys.readouterr().out)


@linux
def test_a_cluster_comes_to_the_same(monkeypatch) -> None:
    config = CONFIG.override(total_timesteps=300, eval_freq=100)

    def scores(folder: str, trainer: Any, **where: Any) -> list[float | None]:
        searched = Study("CartPole-v1", config, TINY_SPACE, (0, 1), Path(folder).absolute(), **where)
        return [event.score for event in run_trials(searched, 2, trainer) if isinstance(event, TrialEnded)]

    alone = scores("alone", train_tasks)
    with cluster(1, monkeypatch) as made:
        assert scores("study", lambda tasks: train_on_cluster(tasks, made.address), elsewhere=True) == alone
    assert [each.params for each in stored().trials] == [each.params for each in stored("alone").trials]
    assert stored().trials[0].intermediate_values == stored("alone").trials[0].intermediate_values


@linux
def test_two_processes_share_a_study() -> None:
    words = ["tune", *SMALL, "--trials", "5", "--seeds", "1", "--out", "study"]
    processes = [start(*words), start(*words)]
    for process in processes:
        _out, err = process.communicate(timeout=300)
        assert process.returncode == 0 and "Traceback" not in err, err
    trials = stored().trials
    assert len(trials) == 5 and {each.state for each in trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert sorted(path.name for path in Path("study").glob("trial-*")) == [f"trial-{number}" for number in range(5)]
    assert len({json.dumps(each.params, sort_keys=True) for each in trials}) == 5


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("tune CartPole-v1 --trials 0", "trials is 0, but it has to be 1 or more."),
        ("tune CartPole-v1 --seeds 0", "seeds is 0, but it has to lie in [1, 10000]."),
        ("tune CartPole-v1 --seed -1", "seed is -1, but it has to be a whole number, 0 or more."),
        ("tune CartPole-v1 --n-final-episodes 0", "n_final_episodes is 0, but a study chooses by the final evaluat"),
        ("tune CartPole-v1 --jobs 0", "jobs is 0, but it has to be 1 or more."),
        ("tune CartPole-v1 --jobs 2 --cluster auto", "give one of them."),
        ("tune CartPole-v1 --cluster 127.0.0.1:1", "No Ray cluster answers at 127.0.0.1:1"),
        ("tune CartPole-v1 --storage-url memory://x", "give the address of one with cluster, too."),
        ("tune CartPol-v1 --dashboard", "There is no environment 'CartPol-v1'. Did you mean 'CartPole-v1'"),
        ("tune CartPole-v1 --space nowhere.json", "nowhere.json is missing."),
        ("tune CartPole-v1 --space list.json", "list.json is damaged: it holds no object."),
        ("tune CartPole-v1 --space one.json --gamma 0.5", "There is nothing left to search"),
        ("tune CartPole-v1 --trails 5", "There is no option '--trails'. Did you mean '--trials'"),
        ("tune CartPole-v1 --lr 5", "There is no option '--lr'. Did you mean '--learning-rate'?"),
        ("tune --env CartPole-v1", "The environment stands by itself, without --env: upright tune CartPole-v1."),
        ("tune CartPole-v1 --out one.json", "one.json"),
        ("tune", "Missing from upright tune"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_and_leaves_nothing(words: str, says: str, capsys, tmp_path) -> None:
    Path("list.json").write_text("[]")
    Path("one.json").write_text('{"gamma": [0.9, 0.99]}')
    assert main(words.split()) == 2
    said = capsys.readouterr()
    assert said.err.startswith("upright: ") and says in said.err and said.err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["list.json", "one.json"]
