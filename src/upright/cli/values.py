"""The values of options as people write them: whole numbers, lists, switches, and the arguments of environments."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
import types
import typing
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import tyro

from upright.errors import SettingError
from upright.settings.config import Config
from upright.settings.kinds import KINDS, Munchausen

TRUTH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
NOTHING = ("none", "null")
OPTIONAL_NUMBERS = ({int, types.NoneType}, {float, types.NoneType})

Primitive = tyro.constructors.PrimitiveConstructorSpec[Any]


def switches(form: type) -> set[str]:
    """Return the names of a command's options that are on or off, those of a loss as loss.double."""
    parts: list[tuple[str, type]] = [("", form)]
    if any(field.name == "config" for field in dataclasses.fields(form)):
        parts += [("", Config), ("munchausen.", Munchausen)]
        parts += [(f"{setting}.", cls) for setting, kinds in KINDS.items() for cls in kinds.values()]
    return {
        prefix + name for prefix, cls in parts for name, annotation in typing.get_type_hints(cls).items()
        if annotation is bool
    }  # fmt: skip


def without_values(words: Sequence[str], names: set[str], values: Collection[str]) -> tuple[list[str], list[str]]:
    """Return the words with each switch on its own, and the switches that had a value.

    --dueling true becomes --dueling, and --dueling=no --no-dueling.
    names: of the switches · values: the words that, after a space, are a switch's value and no argument of their own
    """
    found: list[str] = []
    changed: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        option, equals, text = word.partition("=")
        name, on = switch_name(option)
        if name not in names:
            found.append(word)
        elif equals and text.lower() not in TRUTH:
            raise SettingError(not_a_switch_value(name, text))
        elif equals or (rest and rest[0].lower() in values):
            value = text if equals else rest.pop(0)
            found.append(_switch(name, TRUTH[value.lower()] == on))
            changed.append(found[-1])
        else:
            found.append(word)
    return found, changed


def switch_name(option: str) -> tuple[str, bool]:
    """Return the name behind --loss.no-double and whether that turns it on: ("loss.double", False)."""
    parent, dot, name = option.removeprefix("--").replace("-", "_").rpartition(".")
    on = not name.startswith("no_")
    return (f"{parent}{dot}{name.removeprefix('no_')}" if option.startswith("--") else "", on)


def not_a_switch_value(name: str, text: str) -> str:
    """Return the message about a value that is neither true nor false."""
    on, off = _switch(name, True), _switch(name, False)
    return f"{on} is a switch, and {text!r} is no value of it: give {on} or {off}."


def _switch(name: str, on: bool) -> str:
    parent, dot, last = name.replace("_", "-").rpartition(".")
    return f"--{parent}{dot}{'' if on else 'no-'}{last}"


def registry() -> tyro.constructors.ConstructorRegistry:
    """Teach tyro whole numbers as 1e5, lists as 64,64, none in any case, and `--env-kwargs key=value …`."""
    rules = tyro.constructors.ConstructorRegistry()

    @rules.primitive_rule
    def numbers(info: tyro.constructors.PrimitiveTypeInfo) -> Primitive | None:
        if info.type is int:
            return _one_word("INT", whole_number, lambda value: isinstance(value, int))
        options = typing.get_args(info.type)
        if info.type_origin in (typing.Union, types.UnionType) and set(options) in OPTIONAL_NUMBERS:
            whole = int in options
            return _one_word(
                "{None}|INT" if whole else "{None}|FLOAT",
                lambda text: None if text.lower() in NOTHING else (whole_number if whole else float)(text),
                lambda value: value is None or isinstance(value, options),
            )
        if info.type_origin is tuple and options == (int, ...):
            return tyro.constructors.PrimitiveConstructorSpec(
                nargs="*",
                metavar="[INT [INT ...]]",
                instance_from_str=whole_numbers,
                is_instance=lambda value: isinstance(value, tuple),
                str_from_instance=lambda value: [str(number) for number in value],
            )
        return None

    @rules.primitive_rule
    def env_kwargs(info: tyro.constructors.PrimitiveTypeInfo) -> Primitive | None:
        if info.type_origin is not Mapping:
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs="*",
            metavar="KEY=VALUE ...",
            instance_from_str=pairs,
            is_instance=lambda value: isinstance(value, Mapping),
            str_from_instance=lambda value: list(as_words(value)),
        )

    return rules


def _one_word(metavar: str, read: Any, is_instance: Any) -> Primitive:
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda words: read(words[0]),
        is_instance=is_instance,
        str_from_instance=lambda value: [str(value)],
    )


def whole_number(text: str) -> int:
    """Read 100000, 100_000 or 1e5; raises ValueError for what is no whole number."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        number = 0.5
    if not number.is_integer():
        raise ValueError(f"{text!r} is no whole number, such as 100000 or 1e5")
    return int(number)


def whole_numbers(words: Sequence[str]) -> tuple[int, ...]:
    """Read a list of them: 64 64, or 64,64, or [64, 64]."""
    return tuple(whole_number(word) for word in re.split(r"[\s,]+", " ".join(words).strip("[]() ,")) if word)


def pairs(words: Sequence[str]) -> dict[str, Any]:
    """Read key=value …, each value as JSON if it is JSON, else as a Python literal if it is one, else as text."""
    values: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not (key and equals):
            raise SettingError(
                f"--env-kwargs takes key=value, and {word!r} is none; write --env-kwargs is_slippery=false."
            )
        values[key] = _value(key, text)
    return values


def as_words(values: Mapping[str, Any]) -> Iterator[str]:
    """Write the words from which `pairs` reads these values."""
    for key, value in values.items():
        try:
            text = json.dumps(value)
            same = repr(json.loads(text)) == repr(value)
        except (TypeError, ValueError):
            same = False
        yield f"{key}={text if same else repr(value)}"


def _value(key: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the spelling of what may be text
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        if text.startswith(("{", "[", "(", "'", '"')):
            raise SettingError(
                f"--env-kwargs {key}={text} is neither JSON nor a Python literal: close each bracket and quote, and "
                f"put the word between quotes for the shell, as in --env-kwargs '{key}={{\"size\": [64, 64]}}'."
            ) from None
        return text
