"""Options as people write them: whole numbers, lists, switches with a value, none, and the arguments of environments."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upright import Config
from upright.cli.arguments import Evaluate, Sweep, Train
from upright.cli.main import main
from upright.cli.parsing import parse
from upright.cli.values import as_words, pairs
from upright.errors import SettingError


def settings(*words: str) -> Config:
    return parse("train", Train, ["CartPole-v1", *words]).config


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        ("--total-timesteps 1e5", "total_timesteps", 100_000),
        ("--total-timesteps 1.2e3", "total_timesteps", 1_200),
        ("--total-timesteps 100_000", "total_timesteps", 100_000),
        ("--total_timesteps=3.0", "total_timesteps", 3),
        ("--discretize 1e1", "discretize", 10),
        ("--preset dqn --discretize none", "discretize", None),
        ("--preset double --max-grad-norm null", "max_grad_norm", None),
        ("--max-grad-norm 1e1", "max_grad_norm", 10.0),
        ("--net-arch 64,32", "net_arch", (64, 32)),
        ("--net-arch=64,32", "net_arch", (64, 32)),
        ("--net_arch 64 32", "net_arch", (64, 32)),
        ("--net-arch 64, 32", "net_arch", (64, 32)),
        ("--net-arch [64,32]", "net_arch", (64, 32)),
        ("--net-arch 1e2", "net_arch", (100,)),
        ("--net-arch", "net_arch", ()),
    ],
)
def test_numbers_and_lists_are_understood(words: str, name: str, value: Any) -> None:
    found = getattr(settings(*words.split()), name)
    assert found == value and type(found) is type(value)


def test_a_nested_whole_number_and_one_of_the_command_are_understood() -> None:
    words = ["CartPole-v1", "--loss", "categorical", "--loss.atoms", "1e1", "--seeds", "2e1", "--seed", "1_0"]
    arguments = parse("train", Train, words)
    assert (arguments.config.loss.atoms, arguments.seeds, arguments.seed) == (10, 20, 10)
    assert parse("evaluate", Evaluate, ["run", "--episodes", "1e3"]).episodes == 1000


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--total-timesteps 1.5", "Error parsing --total-timesteps: '1.5' is no whole number, such as 100000 or 1e5."),
        ("--total-timesteps 1M", "'1M' is no whole number"),
        ("--total-timesteps nan", "'nan' is no whole number"),
        ("--total-timesteps 1e400", "'1e400' is no whole number"),
        ("--discretize 1.5", "Error parsing --discretize: '1.5' is no whole number"),
        ("--max-grad-norm high", "Error parsing --max-grad-norm: could not convert string to float: 'high'."),
        ("--net-arch 64,x", "Error parsing --net-arch: 'x' is no whole number"),
        ("--net-arch 64,6.5", "Error parsing --net-arch: '6.5' is no whole number"),
        ("--seeds few", "Error parsing --seeds: 'few' is no whole number"),
        ("--dueling maybe", "--dueling is a switch, and 'maybe' is no value of it: give --dueling or --no-dueling."),
        ("--dueling=2", "--dueling is a switch, and '2' is no value of it: give --dueling or --no-dueling."),
        ("--loss.no-double=2", "--loss.double is a switch, and '2' is no value of it: give --loss.double or --loss.no-double."),
        ("--double yes", "There is no option '--double'. Did you mean '--loss.double'?"),
        ("--env-id CartPole-v1", "The environment stands by itself"),
        ("--env-kwargs config={'a':", "--env-kwargs config={'a': is neither JSON nor a Python literal: close each bracket"),
        ("--env-kwargs shape=(64,", "--env-kwargs shape=(64, is neither JSON nor a Python literal"),
        ("--env-kwargs name='x", "--env-kwargs name='x is neither JSON nor a Python literal"),
    ],
)  # fmt: skip
def test_what_cannot_be_understood_is_one_sentence(words: str, says: str, capsys) -> None:
    assert main(["train", "CartPole-v1", *words.split()]) == 2
    said = capsys.readouterr().err
    assert said.startswith("upright: ") and says in said and said.count("\n") == 1


@pytest.mark.parametrize("value", ["True", "true", "yes", "on", "1", "False", "no", "OFF", "0"])
@pytest.mark.parametrize("joined", [False, True])
def test_a_switch_may_have_a_value(value: str, joined: bool) -> None:
    def words(option: str) -> list[str]:
        return [f"{option}={value}"] if joined else [option, value]

    on = value.lower() in ("true", "yes", "on", "1")
    options = ["--dueling", "--no-noisy", "--layer_norm", "--munchausen", "--quiet"]
    arguments = parse("train", Train, ["CartPole-v1", *(word for option in options for word in words(option))])
    config = arguments.config
    assert (config.dueling, config.layer_norm, config.munchausen is not None, arguments.quiet) == (on, on, on, on)
    assert config.noisy is not on


def test_a_nested_switch_may_have_a_value() -> None:
    assert settings("--loss", "quantile", "--loss.double", "True").loss.double
    assert not settings("--loss.double=no", "--gamma", "0.5").loss.double
    assert settings("--loss.no-double", "false").loss.double


def test_a_switch_with_a_value_is_answered_with_the_one_without(capsys) -> None:
    settings("--dueling", "True", "--layer-norm", "--loss.double=no")
    said = "upright: A switch takes no value; this is understood as --dueling --loss.no-double.\n"
    assert capsys.readouterr().err == said
    parse("train", Train, ["CartPole-v1", "--dueling", "True", "--quiet"])
    parse("sweep", Sweep, ["CartPole-v1", "--dueling", "true", "false"])
    settings("--dueling", "--no-layer-norm")
    assert capsys.readouterr().err == ""


def test_a_switch_before_the_folder_of_a_run_takes_no_value() -> None:
    arguments = parse("evaluate", Evaluate, ["--json", "1"])
    assert arguments.json and str(arguments.run) == "1"
    assert not parse("evaluate", Evaluate, ["--json", "false", "1"]).json


def test_a_sweep_takes_them_too() -> None:
    words = ["CartPole-v1", "--net-arch", "64,32", "1e2", "--dueling", "yes", "false", "--n-steps", "1e0"]
    points = parse("sweep", Sweep, words)
    assert list(points) == [
        "net-arch=64-32,dueling=true", "net-arch=64-32,dueling=false", "net-arch=100,dueling=true",
        "net-arch=100,dueling=false",
    ]  # fmt: skip
    assert [each.config.n_steps for each in points.values()] == [1] * 4


HIGHWAY = """config={'observation': {'type': 'GrayscaleObservation', 'observation_shape': (128, 64), 'stack_size': 4,
 'weights': [0.2989, 0.587, 0.114]}}"""


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("a=3", 3),
        ("a=true", True),
        ("a=True", True),
        ("a=null", None),
        ("a=None", None),
        ("a=8x8", "8x8"),
        ("a=none of these", "none of these"),
        ("a=x=y", "x=y"),
        ("a=", ""),
        ('a="3"', "3"),
        ("a='3'", "3"),
        ("a=(64, 64)", (64, 64)),
        ("a=[64, 64]", [64, 64]),
        ("a={1: (2, 3)}", {1: (2, 3)}),
        ('a={"1": null}', {"1": None}),
        (HIGHWAY.replace("config", "a"), {"observation": {"type": "GrayscaleObservation", "observation_shape": (128, 64), "stack_size": 4, "weights": [0.2989, 0.587, 0.114]}}),
    ],
)  # fmt: skip
def test_an_argument_of_an_environment_is_json_or_python_or_text(word: str, value: Any) -> None:
    found = settings("--env-kwargs", word).env_kwargs
    assert found == {"a": value} and type(found["a"]) is type(value)


plain = st.none() | st.booleans() | st.integers(-1000, 1000) | st.floats(allow_nan=False) | st.text(max_size=5)


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=3).filter(lambda key: "=" not in key),
        st.recursive(
            plain,
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.tuples(inner, inner)
                | st.dictionaries(st.integers() | st.text(max_size=3), inner, max_size=3)
            ),
            max_leaves=6,
        ).filter(lambda value: "inf" not in repr(value)),
        max_size=3,
    )
)
def test_the_words_of_arguments_give_the_same_arguments(values: dict[str, Any]) -> None:
    assert repr(pairs(list(as_words(values)))) == repr(values)


def test_a_pair_without_a_value_is_refused() -> None:
    for word in ("size", "=3"):
        with pytest.raises(SettingError, match="--env-kwargs takes key=value"):
            pairs([word])


def test_the_package_of_the_command_line_is_the_command_itself() -> None:
    done = [
        subprocess.run([sys.executable, "-m", module, "train", "--lr", "3"], capture_output=True, text=True)
        for module in ("upright", "upright.cli")
    ]
    assert done[0].returncode == done[1].returncode == 2 and done[0].stderr == done[1].stderr != ""
