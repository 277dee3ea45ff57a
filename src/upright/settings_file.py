"""Settings out of a JSON file: `upright train --config`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from upright import storage
from upright.agent import paths_in
from upright.config import FORMERLY, Config
from upright.errors import SettingError, UprightError


def read_settings(path: Path, start: Config, given: Collection[str] = ()) -> Config:
    """The settings `start` with those in a file, which is what `Config.to_dict` gives or part of it.

    They may stand in it under "config", as in an experiment's config.json and a study's best.json.
    given: settings that the user gives beside the file. Raises RunError or SettingError; also where the file would have
    a module imported or hand the environment a path, and the user does not.
    """
    written = storage.read_json(path)
    values = written.get("config", written)
    if not isinstance(values, Mapping):
        raise SettingError(f"{path} holds no settings: write them by their names, as in config.json.")
    if "schema" in written:  # of a run or a study, which names all settings that there were at its time
        values = {**FORMERLY, **values}
    settings = start.to_dict()
    for name, value in values.items():
        current = settings.get(name)
        if isinstance(current, Mapping) and isinstance(value, Mapping) and name != "env_kwargs":
            kind = current.get("kind")  # another kind has other parts
            value = {**current, **value} if value.get("kind", kind) == kind else value
        settings[name] = value
    try:
        config = Config.from_dict(settings)
    except (TypeError, ValueError, AttributeError, RecursionError, UprightError) as error:
        raise SettingError(f"{path} cannot be used: {error}") from error
    foreign = [name for name in config.wrapper if ":" in name or "(" in name]
    if foreign and "wrapper" not in given:
        raise SettingError(
            f"{path} names the wrapper {foreign[0]!r}, and to use it is to run the code of that module; if you trust "
            "it, give it yourself, with --wrapper."
        )
    found = next(paths_in(config.env_kwargs), None)
    if found is not None and "env_kwargs" not in given:
        raise SettingError(
            f"{path} hands the environment the path {found!r}; if you trust it, give it yourself, with --env-kwargs."
        )
    return config
