"""env_kwargs through files: exactly as they were, or refused before anything is trained."""

from __future__ import annotations

import json
import math
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import upright
from configurations import SHORT
from toy_environments import Noisy
from upright.environments.trust import paths_in
from upright.errors import SettingError
from upright.settings.arguments import checked, decoded, encoded
from upright.settings.config import Config

plain = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5))
keys = st.one_of(st.text(max_size=5), st.integers(), st.sampled_from(["$tuple", "$dict", "$float"]), st.tuples(plain))
values = st.recursive(
    plain,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.lists(inner, max_size=3).map(tuple), st.dictionaries(keys, inner, max_size=3)
    ),
    max_leaves=8,
)


def same(one: Any, other: Any) -> bool:
    """Equal, and of the same types, all the way down: True is not 1, and a list no tuple."""
    if type(one) is not type(other):
        return False
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return same(list(one), list(other)) and same(list(one.values()), list(other.values()))
    return one == other or one != one


@given(arguments=st.dictionaries(st.text(max_size=5), values, max_size=3))
def test_arguments_survive_json_exactly(arguments: dict[str, Any]) -> None:
    config = Config(env_kwargs=arguments)
    assert same(config.env_kwargs, arguments)
    written = json.dumps(config.to_dict(), allow_nan=False)
    read = Config.from_dict(json.loads(written))
    assert same(read.env_kwargs, arguments)
    assert Config.from_dict(read.to_dict()) == config


def test_lists_and_text_keys_are_written_as_they_always_were() -> None:
    arguments = {"size": [3, 4], "inner": {"name": "a", "deep": [{"x": None}]}, "rate": 0.5}
    assert encoded(arguments) == arguments == decoded(arguments)
    assert encoded({"a": (1, {2: math.inf})}) == {"a": {"$tuple": [1, {"$dict": [[2, {"$float": "inf"}]]}]}}


def test_numbers_of_numpy_become_pythons() -> None:
    assert same(checked({"n": np.int64(3), "x": np.float32(0.5), "on": np.True_}), {"n": 3, "x": 0.5, "on": True})


class Thing:
    pass


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (np.arange(3.0), "numpy.ndarray"),
        (threading.Lock(), "_thread.lock"),
        (Thing(), "Thing"),
        (Thing, "type"),
        ({1, 2}, "set"),
        (b"raw", "bytes"),
        (len, "builtin_function_or_method"),
        (1j, "complex"),
    ],
)
def test_what_no_file_can_hold_is_refused_with_its_key_and_the_way_out(value: Any, named: str) -> None:
    for arguments, where in (
        ({"prices": value}, r"env_kwargs\['prices'\]"),
        ({"deep": [{"prices": value}]}, r"env_kwargs\['deep'\]\[0\]\['prices'\]"),
    ):
        with pytest.raises(SettingError, match=rf"^{where} is a .*{named}, .* lambda: MyEnv\(…\), with this argument"):
            upright.DQN(Noisy, env_kwargs=arguments, **SHORT)


def test_an_argument_that_holds_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(SettingError, match="env_kwargs"):
        Config(env_kwargs={"endless": endless})


def test_arguments_do_not_change_with_their_makers() -> None:
    arguments: dict[str, Any] = {"deep": {"size": [1]}}
    config = Config(env_kwargs=arguments)
    arguments["deep"]["size"].append(2)
    assert config.env_kwargs == {"deep": {"size": [1]}}


def test_a_run_and_a_policy_keep_them(tmp_path) -> None:
    class Table(Noisy):
        def __init__(self, table: dict[int, float], size: tuple[int, int]) -> None:
            super().__init__()
            assert type(size) is tuple and set(table) == {0, 1}

    arguments = {"table": {0: 1.0, 1: 2.0}, "size": (3, 3)}
    agent = upright.DQN(Table, env_kwargs=arguments, folder=tmp_path, **SHORT).learn(100)
    agent.close()
    kept = upright.load(tmp_path / "seed-0")
    assert same(dict(kept.config.env_kwargs), arguments)
    kept.evaluate(1, env=Table)
    run = upright.Run.open(tmp_path / "seed-0", 150, source=Table)
    assert same(dict(run.config.env_kwargs), arguments)
    run.close()


def test_a_path_that_is_a_key_is_seen() -> None:
    assert list(paths_in({"a": {"/etc/passwd": 1}, ("x", "~/y"): 2})) == ["/etc/passwd", "~/y"]
