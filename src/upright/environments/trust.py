"""Limits on what a file that somebody else may have written can ask for: no module is imported, no file opened."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import gymnasium

from upright.environments.packages import package_of
from upright.environments.sources import EnvironmentSource
from upright.errors import LONGEST_NAME, EnvironmentFault, SettingError
from upright.settings import arguments
from upright.settings.config import Config

LARGEST_ARGUMENTS = 10_000  # characters of JSON that a file that is not trusted may hand to an environment


def allowed_source(
    given: EnvironmentSource | None, named: EnvironmentSource | None, config: Config, trusted: bool
) -> EnvironmentSource:
    """The environment that the user gives, else the one that is named, by a file unless it is trusted.

    Raises EnvironmentFault when there is none, or when a file that is not trusted would have a module imported, or
    hands the environment a path or much else.
    """
    source = named if given is None else given
    if source is None:
        raise EnvironmentFault(
            "This policy was trained on an environment made by a Python callable, which no file can name; "
            "give it again: agent.evaluate(env=...), or --env module:Class."
        )
    names = [source] if given is None and isinstance(source, str) else []
    foreign = [name for name in names if _imports(name)] + [name for name in config.wrapper if _runs_code(name)]
    if trusted:
        return source
    if foreign:
        package = package_of(foreign[0])
        module = "that module" if package is None else f"the module {package.module}"
        raise EnvironmentFault(
            f"This policy's file names {foreign[0]!r}, and to use it is to run the code of {module}; "
            "if you trust the file, say so: --trust, or load(folder, trust=True)."
        )
    if given is not None and not isinstance(given, str):
        return source  # the user's own code, which knows what it opens
    paths = next(paths_in(config.env_kwargs), None)
    if paths is not None or len(json.dumps(arguments.encoded(config.env_kwargs))) > LARGEST_ARGUMENTS:
        what = f"the path {paths!r}" if paths is not None else f"more than {LARGEST_ARGUMENTS:,} characters"
        raise EnvironmentFault(
            f"This policy's file hands its environment {what} in env_kwargs; if you trust the file, say so: --trust, "
            "or load(folder, trust=True)."
        )
    return source


def needs_trust(source: EnvironmentSource, config: Config) -> bool:
    """True if the files of a run with this environment and these settings are used only by those who trust them."""
    try:
        allowed_source(None, source if isinstance(source, str) else "", config, trusted=False)
    except EnvironmentFault:
        return True
    return False


def check_settings_file(path: Path, config: Config, given: Collection[str]) -> None:
    """Raise SettingError where a file's settings would have a module imported, or hand the environment a path.

    given: the settings that the user gives besides the file, which need no trust
    """
    foreign = [name for name in config.wrapper if _runs_code(name)]
    if foreign and "wrapper" not in given:
        raise SettingError(
            f"{path} names the wrapper {foreign[0]!r}, and to use it is to run the code of that module; if you trust "
            "it, give it yourself, with --wrapper."
        )
    if config.start_from is not None and "start_from" not in given:
        raise SettingError(f"{path} begins with the policy in {config.start_from!r}; give that yourself, --start-from.")
    found = next(paths_in(config.env_kwargs), None)
    if found is not None and "env_kwargs" not in given:
        raise SettingError(
            f"{path} hands the environment the path {found!r}; if you trust it, give it yourself, with --env-kwargs."
        )


def _runs_code(name: str) -> bool:
    """True if to make an environment or a wrapper of that name imports a module, or calls with arguments."""
    return ":" in name or "(" in name


def _imports(name: str) -> bool:
    """True if to make the environment of that name imports a module.

    An id of a known package does, and what is found under the module's name may come from the folder of the file. So do
    the ids with which Gymnasium has shimmy make the environment that their arguments name.
    """
    known = package_of(name) is not None and name not in gymnasium.registry
    return _runs_code(name) or known or name.startswith(("GymV21Environment", "GymV26Environment"))


def paths_in(value: Any) -> Iterator[str]:
    """The texts in an environment's arguments that could lead it to a file of its own choice."""
    match value:
        case str():
            if value.startswith(".") or any(mark in value for mark in "/\\~"):
                yield value
        case Mapping():
            for key, each in value.items():
                yield from paths_in(key)
                yield from paths_in(each)
        case list() | tuple():
            for each in value:
                yield from paths_in(each)


def named_environment(value: Any) -> str | None:
    """The environment's name as a file has it. Raises ValueError for what is no name."""
    if value is None or (isinstance(value, str) and len(value) <= LONGEST_NAME):
        return value
    raise ValueError("its env is no environment's name")
