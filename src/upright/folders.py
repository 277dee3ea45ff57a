"""Where runs are kept: names, and what an experiment's config.json says."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import upright
from upright import storage
from upright.config import Config
from upright.errors import RunError, SettingError
from upright.sources import EnvironmentSource, describe, portable_name

RUN_SCHEMA = 1


def remove_run(folder: Path) -> None:
    """The folder of a run, and of its experiment if that holds no other run."""
    shutil.rmtree(folder)
    if {each.name for each in folder.parent.iterdir()} <= {"config.json"}:
        shutil.rmtree(folder.parent)


def seed_folder(experiment: Path, seed: int) -> Path:
    """Where an experiment keeps the run with this seed."""
    return experiment / f"seed-{seed}"


def new_folder(root: Path, source: EnvironmentSource, config: Config, preset: str, seed: int) -> Path:
    """A free folder root/<env>/<preset>[-k]/seed-<seed>, in the experiment with these very settings if there is one."""
    name = re.sub(r"[^\w.-]+", "_", describe(source))
    k = 1
    while True:
        experiment = root / name / (preset if k == 1 else f"{preset}-{k}")
        folder = seed_folder(experiment, seed)
        if not experiment.exists():
            return folder
        if is_same(experiment / "config.json", source, config) and not is_taken(folder):
            return folder
        k += 1


def is_taken(folder: Path) -> bool:
    """Whether there is anything but the lock of a process that came no further."""
    return folder.exists() and (not folder.is_dir() or any(path.name != "lock" for path in folder.iterdir()))


def describe_run(source: EnvironmentSource, config: Config) -> dict[str, Any]:
    """The environment and every setting as JSON values."""
    description = {
        "schema": RUN_SCHEMA,
        "upright": upright.__version__,
        "env": portable_name(source),
        "name": describe(source),
        "config": config.to_dict(),
    }
    try:
        return dict(json.loads(json.dumps(description, allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise SettingError(f"A setting cannot be written to config.json: {error}.") from error


def write_description(experiment: Path, source: EnvironmentSource, config: Config) -> None:
    """Write the experiment's config.json."""
    text = json.dumps(describe_run(source, config), indent=2, ensure_ascii=False) + "\n"
    storage.write(experiment / "config.json", text.encode())


def is_same(path: Path, source: EnvironmentSource, config: Config) -> bool:
    """Whether a config.json describes the same environment and settings, by whichever version of upright."""
    try:
        written = storage.read_json(path)
    except RunError:
        return False
    ours = describe_run(source, config)
    return {**written, "upright": None} == {**ours, "upright": None}
