"""The words of `upright sweep` as those of each point of its grid."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Sequence
from typing import Any

from upright.errors import SettingError
from upright.settings.config import Config

SETTINGS = {each.name for each in dataclasses.fields(Config)} | {"preset"}
TOGETHER = ("env_kwargs", "wrapper")  # settings whose words are one value
MOST_POINTS = 1_000


def expand(words: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """The settings that have several values, and the words of each point, in which every setting has one of them."""
    groups: list[list[str]] = [[]]
    for word in words:
        if re.match(r"--?[A-Za-z]", word):
            groups.append(word.split("=", 1) if word.startswith("--") else [word])
        else:
            groups[-1].append(word)
    alternatives = [groups[0:1], *(_alternatives(option, values) for option, *values in groups[1:])]
    count = math.prod(map(len, alternatives))
    if count > MOST_POINTS:
        raise SettingError(f"The grid has {count:,} points, but it can have {MOST_POINTS:,}: give fewer values.")
    swept = [_setting(group[0]) for group, each in zip(groups, alternatives, strict=True) if len(each) > 1]
    return swept, [list(itertools.chain(*point)) for point in itertools.product(*alternatives)]


def _setting(option: str) -> str:
    return option.lstrip("-").replace("-", "_")


def _alternatives(option: str, values: list[str]) -> list[list[str]]:
    """Return the words of each value of one option of a sweep."""
    setting = _setting(option)
    if setting.partition(".")[0] not in SETTINGS or setting in TOGETHER or not values:
        return [[option, *values]]
    return [[option, value] for value in values]


def point_name(swept: Sequence[str], arguments: Any) -> str:
    """Return what differs at a point as the name of a folder: learning-rate=0.001,n-steps=5."""
    return ",".join(f"{setting.replace('_', '-')}={_text(_value(setting, arguments))}" for setting in swept)


def _value(setting: str, arguments: Any) -> Any:
    first, *rest = setting.split(".")
    value = getattr(arguments, first) if not rest and hasattr(arguments, first) else getattr(arguments.config, first)
    for name in rest:
        value = getattr(value, name)
    return value


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return "-".join(map(_text, value))
    return re.sub(r"[^\w.+-]", "_", str(value).lower() if value is None or isinstance(value, bool) else str(value))
