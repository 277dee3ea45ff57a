"""Settings out of a JSON file, for `--config`: what is in it counts, the command line counts more, and no code runs."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from upright import Categorical, Config, Munchausen, QLearning, Quantile
from upright.cli.arguments import Sweep, Train, Tune
from upright.cli.main import main
from upright.cli.parsing import parse
from upright.errors import SettingError, UprightError
from upright.settings import presets
from upright.settings.config import FORMERLY
from upright.settings.file import read_settings


@pytest.fixture(autouse=True)
def in_an_empty_folder(monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)


def write(values: Any, name: str = "mine.json") -> Path:
    Path(name).write_text(json.dumps(values))
    return Path(name)


def parsed(words: str) -> Train:
    return parse("train", Train, ["CartPole-v1", *words.split()])


@pytest.mark.parametrize("name", presets.PRESETS)
@pytest.mark.parametrize("within", [False, True])
def test_all_settings_come_back_whatever_they_started_from(name: str, within: bool) -> None:
    config = presets.preset(name)
    path = write({"schema": 1, "config": config.to_dict()} if within else config.to_dict())
    for start in ("default", "c51", "rainbow"):
        assert read_settings(path, presets.preset(start)) == config
        assert parsed(f"--preset {start} --config mine.json").config == config


def test_a_description_is_of_its_time_and_mere_settings_are_not() -> None:
    then = {name: value for name, value in Config().to_dict().items() if name not in FORMERLY}
    of_its_time = read_settings(write({"schema": 1, "config": then}), Config())
    assert of_its_time == Config().override(**FORMERLY) != Config()
    assert read_settings(write(then), Config()) == Config()


def test_some_settings_leave_the_others_as_they_are() -> None:
    path = write({"n_steps": 7, "loss": {"double": True}, "munchausen": None})
    start = Config(munchausen=Munchausen())
    assert read_settings(path, start) == replace(
        start, n_steps=7, munchausen=None, loss=replace(start.loss, double=True)
    )
    path = write({"munchausen": {"alpha": 0.25}, "env_kwargs": {"a": 1}})
    start = Config(munchausen=Munchausen(alpha=0.5, temperature=0.1), env_kwargs={"b": 2})
    found = read_settings(path, start)
    assert found.munchausen == Munchausen(alpha=0.25, temperature=0.1) and found.env_kwargs == {"a": 1}
    path = write({"loss": {"kind": "categorical", "atoms": 7}})
    assert read_settings(path, Config(loss=QLearning(error="squared"))).loss == Categorical(atoms=7), (
        "of another kind, all"
    )


def test_the_command_line_counts_more() -> None:
    write({"n_steps": 7, "gamma": 0.5, "munchausen": None, "loss": {"kind": "categorical", "atoms": 7}})
    config = parsed("--config mine.json --gamma 0.75 --loss.atoms 9").config
    assert (config.n_steps, config.gamma, config.munchausen, config.loss.atoms) == (7, 0.75, None, 9)
    config = parsed("--loss quantile --munchausen --config=mine.json").config
    assert config.n_steps == 7 and config.loss == Quantile() and config.munchausen == Munchausen()
    points = parse("sweep", Sweep, ["CartPole-v1", "--config", "mine.json", "--gamma", "0.25", "0.75"])
    assert [(each.config.gamma, each.config.n_steps) for each in points.values()] == [(0.25, 7), (0.75, 7)]
    tuned = parse("tune", Tune, ["CartPole-v1", "--config", "mine.json", "--loss.no-double", "--no-dueling"])
    assert tuned.config.n_steps == 7 and set(tuned.given) == {"config", "loss.double", "dueling"}


def test_the_experiment_is_called_after_the_file_or_its_folder() -> None:
    Path("runs/CartPole-v1/other").mkdir(parents=True)
    write({"n_steps": 7}, "runs/CartPole-v1/other/config.json")
    write({"n_steps": 7}, "best.json")
    assert parsed("--preset per").name == "per"
    assert parsed("--config best.json").name == "best"
    assert parsed("--config runs/CartPole-v1/other/config.json").name == "other"


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([1], "mine.json is damaged: it holds no object."),
        ({"config": 5}, "mine.json holds no settings"),
        ({"lr": 1e-3}, "mine.json cannot be used: There is no setting 'lr'. Did you mean 'learning_rate'?"),
        ({"learning_rate": -1}, "mine.json cannot be used: learning_rate is -1"),
        ({"loss": {"kind": "quantil"}}, "mine.json cannot be used: loss is 'quantil'"),
        ({"loss": {"atoms": 7}}, "mine.json cannot be used: There is no setting 'atoms'"),
        ({"loss": "quantile"}, "mine.json cannot be used: loss is"),
        ({"wrapper": ["os:system"]}, "mine.json names the wrapper 'os:system', and to use it is to run the code of that module"),
        ({"wrapper": ["TimeLimit(max_episode_steps=3)"]}, "if you trust it, give it yourself, with --wrapper."),
        ({"env_kwargs": {"xml_file": "/etc/passwd"}}, "mine.json hands the environment the path '/etc/passwd'"),
        ({"env_kwargs": {"a": {"$dict": [["/etc/passwd", 1]]}}}, "mine.json hands the environment the path '/etc/passwd'"),
        ({"env_kwargs": {"a": {"$dict": [[[1], 2]]}}}, "mine.json cannot be used"),
        ({"env_kwargs": {"a": {"$float": "much"}}}, "mine.json cannot be used"),
        ({"start_from": "elsewhere"}, "mine.json begins with the policy in 'elsewhere'; give that yourself, --start-from."),
    ],
)  # fmt: skip
def test_what_is_no_settings_or_runs_code_is_one_sentence(values: Any, says: str, capsys, tmp_path) -> None:
    write(values)
    for command in ("train", "tune"):
        assert main([command, "CartPole-v1", "--config", "mine.json"]) == 2
        said = capsys.readouterr().err
        assert said.startswith("upright: ") and says in said and said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mine.json"]


def test_what_the_user_gives_too_is_the_users() -> None:
    write({"wrapper": ["os:system"], "env_kwargs": {"file": "/etc/passwd"}})
    config = parsed("--config mine.json --wrapper FlattenObservation --env-kwargs a=1").config
    assert config.wrapper == ("FlattenObservation",) and config.env_kwargs == {"a": 1}
    write({"wrapper": ["FlattenObservation"], "env_kwargs": {"is_slippery": False}})
    config = parsed("--config mine.json").config
    assert config.wrapper == ("FlattenObservation",) and config.env_kwargs == {"is_slippery": False}


def test_a_missing_file_and_a_link_are_one_sentence(capsys, tmp_path) -> None:
    write({"n_steps": 7}).rename("elsewhere.json")
    assert main(["train", "CartPole-v1", "--config", "mine.json"]) == 2
    assert capsys.readouterr().err == "upright: mine.json is missing.\n"
    Path("mine.json").symlink_to("elsewhere.json")
    assert main(["train", "CartPole-v1", "--config", "mine.json"]) == 2
    assert capsys.readouterr().err == "upright: mine.json is a link.\n"


@pytest.mark.parametrize("case", range(100))
def test_any_values_are_settings_or_a_sentence(case: int) -> None:
    chance = random.Random(case)
    settings: Any = chance.choice(list(presets.PRESETS.values())).to_dict()
    junk = [
        None,
        True,
        -1,
        0,
        1e308,
        2**70,
        "",
        "x",
        "\x1b",
        [],
        [[]],
        {},
        {"kind": "quantile"},
        {"kind": []},
        "/x",
        [1, "a"],
    ]
    for _ in range(chance.randint(1, 3)):
        name = chance.choice([*settings, "unknown"])
        if isinstance(settings.get(name), dict) and chance.random() < 0.5:
            settings[name][chance.choice([*settings[name], "unknown"])] = chance.choice(junk)
        else:
            settings[name] = chance.choice(junk)
    try:
        assert isinstance(read_settings(write(settings), Config()), Config)
    except UprightError as error:
        assert isinstance(error, SettingError) and str(error).isprintable() and "mine.json" in str(error)
