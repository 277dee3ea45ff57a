"""From the command line's words to the dataclasses of `upright.cli.arguments`; mistakes become one sentence."""

import argparse
import contextlib
import dataclasses
import io
import re
import sys
from pathlib import Path
from typing import Any

import tyro

from upright.cli.arguments import Resume, Sweep, Train, Tune
from upright.cli.grid import expand, point_name
from upright.cli.values import TRUTH, not_a_switch_value, registry, switch_name, switches, without_values
from upright.errors import SettingError, did_you_mean
from upright.settings.config import Config
from upright.settings.foreign_names import FOREIGN_NAMES, INSTEAD
from upright.settings.kinds import KINDS, Munchausen
from upright.settings.presets import preset

ENVIRONMENT = ("--env", "--env-id", "--env-name", "--task")  # as other libraries' scripts call it


def parse(command: str, form: type, words: list[str]) -> Any:
    """The command's arguments as its dataclass; of a sweep, those of each of its points by the point's name."""
    if form is not Sweep:
        return _parse(command, form, words)
    swept, grid = expand(words)
    points: dict[str, Sweep] = {}
    for each in grid:
        point = _parse(command, form, each)
        name = point_name(swept, point)
        if name in points:
            raise SettingError(f"The grid has {name} twice: give each value once.")
        points[name] = point
    if not swept:
        raise SettingError("Nothing is swept: give a setting several values, as in --learning-rate 1e-3 2e-3.")
    return points


def _parse(command: str, form: type, words: list[str]) -> Any:
    """Tyro's own words about a mistake become one sentence."""
    # What follows a switch in other commands may be the folder of a run, whatever its name.
    values = tuple(TRUTH) if issubclass(form, Train) else ("true", "false")
    words, changed = without_values(words, switches(form), values)
    if changed and form is not Sweep and "--quiet" not in words:
        print(f"upright: A switch takes no value; this is understood as {' '.join(changed)}.", file=sys.stderr)
    default: Any = {"default": _chosen(form, words)} if issubclass(form, Train) else {}
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            parsed, unknown = tyro.cli(
                form,
                prog=f"upright {command}",
                args=words,
                return_unknown_args=True,
                registry=registry(),
                config=(tyro.conf.AvoidSubcommands,),
                **default,
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise SettingError(_one_sentence(printed.getvalue())) from None
    if unknown:
        raise SettingError(_unknown_word(unknown[0], form, words))
    return parsed


def _chosen(form: type[Train], words: list[str]) -> Any:
    """Return the settings to start from: the preset, with the kinds of loss, replay and Munchausen asked for."""
    if any(word.partition("=")[0].replace("_", "-") in ENVIRONMENT for word in words):
        command = form.__name__.lower()
        raise SettingError(f"The environment stands by itself, without --env: upright {command} CartPole-v1.")
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("--preset", "--loss", "--replay", "--config"):
        peek.add_argument(name)
    peek.add_argument("--munchausen", action=argparse.BooleanOptionalAction)
    try:
        chosen, _ = peek.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise SettingError(f"{error}.") from error
    asked = {name: getattr(chosen, name) for name in ("loss", "replay", "munchausen")}
    config = preset(chosen.preset or "default")
    if chosen.config is not None:
        from upright.environments.trust import check_settings_file
        from upright.settings.file import read_settings

        path = Path(chosen.config)
        config = read_settings(path, config)
        check_settings_file(path, config, _given(words))
    config = config.override(**{name: value for name, value in asked.items() if value is not None})
    start = form(
        env=tyro.MISSING,
        config=config,
        preset=chosen.preset or "default",
        loss=_kind_name("loss", config.loss),
        replay=_kind_name("replay", config.replay),
        munchausen=config.munchausen is not None,
    )
    return dataclasses.replace(start, given=_given(words)) if isinstance(start, Tune) else start


def _given(words: list[str]) -> tuple[str, ...]:
    """The settings that these words give, those of a loss as loss.double."""
    options = [word.partition("=")[0].lstrip("-").replace("-", "_") for word in words if word.startswith("--")]
    return tuple(".".join(part.removeprefix("no_") for part in option.split(".")) for option in options)


def _kind_name(setting: str, value: Any) -> str:
    return next(name for name, cls in KINDS[setting].items() if isinstance(value, cls))


def _one_sentence(printed: str) -> str:
    """The first paragraph of tyro's report below its title, which stands in the frame or above a rule."""
    framed = "│" in printed
    lines = [line.strip(" │") for line in printed.splitlines() if not line.startswith(("╭", "╰"))]
    paragraphs: list[list[str]] = [[]]
    for line in lines:
        if line and set(line) <= {"─", "-"}:
            paragraphs.append([])
        else:
            paragraphs[-1].append(line)
    words = " ".join(paragraphs[0] if framed or len(paragraphs) == 1 else paragraphs[1]).split()
    text = re.sub(r"\s+([.,])", r"\1", " ".join(words))
    return text if text.endswith(".") else f"{text}."


def _unknown_word(word: str, form: type, words: list[str]) -> str:
    if not word.startswith("-"):
        before, _ = switch_name(words[words.index(word) - 1]) if words.index(word) else ("", True)
        if before in switches(form):
            return not_a_switch_value(before, word)
        return f"There is no place for {word!r}: put options first in the form --name value."
    name = word.lstrip("-").partition("=")[0].replace("-", "_").removeprefix("no_")
    known = [each.name for each in dataclasses.fields(form) if each.name not in ("settings", "given")]
    if form is Resume and name.partition(".")[0] in [each.name for each in dataclasses.fields(Config)]:
        return f"A resumed run keeps its settings: {word!r} cannot change; only --total-timesteps can. Train a new run."
    if issubclass(form, Train):
        if name in INSTEAD and name not in known:
            return f"There is no option {word!r}: {INSTEAD[name]}."
        known += [each.name for each in dataclasses.fields(Config)]
        name = FOREIGN_NAMES.get(name, name)
        config = _chosen(form, words).config
        homes: dict[str, dict[str, type]] = {**KINDS, "munchausen": {"": Munchausen}}
        for part, kinds in homes.items():
            value = getattr(config, part)
            known += [f"{part}.{each.name}" for each in dataclasses.fields(value)] if value is not None else []
            home = [
                f"--{part} {each}".strip()
                for each, cls in kinds.items()
                if name in [f"{part}.{field.name}" for field in dataclasses.fields(cls)]
            ]
            if home and name not in known:
                return f"There is no option {word!r} with these settings: choose {home[0]}, then {_option(name)}."
    if name in known:
        return f"There is no option {word!r}. Did you mean {_option(name)!r}?"
    hint = did_you_mean(_option(name), dict.fromkeys(_option(each) for each in known))
    return f"There is no option {word!r}.{hint}"


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
