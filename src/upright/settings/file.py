"""Settings out of a JSON file: `upright train --config`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from upright import files
from upright.errors import SettingError, UprightError
from upright.settings.config import FORMERLY, Config


def read_settings(path: Path, start: Config) -> Config:
    """Return the settings `start` with those in a file, which is what `Config.to_dict` gives or part of it.

    They may be under the key "config", as in an experiment's config.json and a study's best.json. Raises RunError for a
    file that cannot be read, and SettingError for settings that cannot be used.
    """
    written = files.read_json(path)
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
    return config
