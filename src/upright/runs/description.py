"""The content of an experiment's config.json, and of a run's result.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import upright
from upright import files
from upright.environments.sources import EnvironmentSource, describe, portable_name
from upright.errors import UprightError
from upright.files import is_number
from upright.settings.config import Config

RUN_SCHEMA = 1


def describe_run(source: EnvironmentSource, config: Config) -> dict[str, Any]:
    """Return the environment and every setting as JSON values."""
    return {
        "schema": RUN_SCHEMA,
        "upright": upright.__version__,
        "env": portable_name(source),
        "name": describe(source),
        "config": config.to_dict(),
    }


def write_description(path: Path, source: EnvironmentSource, config: Config) -> None:
    """Write an experiment's config.json."""
    text = json.dumps(describe_run(source, config), indent=2, ensure_ascii=False) + "\n"
    files.write(path, text.encode())


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Write a run's result.json."""
    files.write(path, json.dumps(result, indent=2).encode())


def is_complete(result: Mapping[str, Any], config: Config) -> bool:
    """True if these values of a result.json are of a run that trained and was evaluated as its settings ask for."""
    asked = {"steps": config.total_timesteps, "episodes": config.n_final_episodes}
    return all(is_number(result.get(name)) and result[name] >= least for name, least in asked.items())


def is_same(path: Path, source: EnvironmentSource, config: Config) -> bool:
    """True if a config.json describes this environment and these settings, whichever version of upright wrote it."""
    return is_same_description(path, describe_run(source, config))


def is_same_description(path: Path, ours: Mapping[str, Any]) -> bool:
    """True if a file holds this description, in which settings that are newer than the file are as they were then."""
    try:
        written = files.read_json(path)
        settings = Config.from_file(written["config"]).to_dict()
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, UprightError):
        return False
    return {**written, "upright": None, "config": settings} == {**ours, "upright": None}


def planned_steps(path: Path, otherwise: int) -> int:
    """Return the total_timesteps of an experiment by its config.json, or `otherwise` where it has none yet."""
    try:
        return Config.from_file(files.read_json(path)["config"]).total_timesteps
    except (KeyError, TypeError, UprightError):
        return otherwise
