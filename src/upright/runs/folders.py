"""Where runs are kept: names, and what an experiment's config.json says."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import upright
from upright import files
from upright.environments.sources import EnvironmentSource, describe, portable_name
from upright.errors import RunError, SettingError
from upright.runs.control import MARKER, REQUEST
from upright.settings.config import Config

RUN_SCHEMA = 1
# What a run writes before its first checkpoint.
UNBEGUN = ("metrics.jsonl", "checkpoints", "tensorboard", MARKER, REQUEST)


def remove_run(folder: Path) -> None:
    """The folder of a run, and of its experiment if that holds no other run."""
    shutil.rmtree(folder)
    if {each.name for each in folder.parent.iterdir()} <= {"config.json"}:
        (folder.parent / "config.json").unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # another process may begin its run there
            folder.parent.rmdir()


def seed_folder(experiment: Path, seed: int) -> Path:
    """Where an experiment keeps the run with this seed."""
    return experiment / f"seed-{seed}"


def new_folder(root: Path, source: EnvironmentSource, config: Config, preset: str, seed: int) -> Path:
    """A free folder root/<env>/<preset>[-k]/seed-<seed>, in the experiment with these very settings if there is one."""
    experiments = _folders(root, source, preset, {"": config})
    return next(folder for folder in (seed_folder(each, seed) for each in experiments) if not is_taken(folder))


def experiment_folder(root: Path, source: EnvironmentSource, config: Config, preset: str) -> Path:
    """The folder root/<env>/<preset>[-k] of the experiment with these very settings, or a free one."""
    return next(_folders(root, source, preset, {"": config}))


def sweep_folder(root: Path, source: EnvironmentSource, name: str, configs: Mapping[str, Config]) -> Path:
    """The folder root/<env>/<name>[-k] of which each point holds the experiment with these very settings, or none."""
    return next(_folders(root, source, name, configs))


def _folders(root: Path, source: EnvironmentSource, name: str, configs: Mapping[str, Config]) -> Iterator[Path]:
    """The folders in which each of these is the experiment with these settings, or is not there."""
    for folder in numbered_folders(root, source, name):
        others = (
            (folder / each).exists() and not is_same(folder / each / "config.json", source, config)
            for each, config in configs.items()
        )
        if not any(others):
            yield folder


def numbered_folders(root: Path, source: EnvironmentSource, name: str) -> Iterator[Path]:
    """root/<env>/<name>, root/<env>/<name>-2 and so on."""
    within = root / environment_name(source)
    return (within / (name if k == 1 else f"{name}-{k}") for k in itertools.count(1))


def environment_name(source: EnvironmentSource) -> str:
    """The environment's name as that of a folder."""
    return re.sub(r"[^\w.-]+", "_", describe(source))


def is_taken(folder: Path) -> bool:
    """Whether there is anything but the lock of a process that came no further."""
    return folder.exists() and (not folder.is_dir() or any(path.name != "lock" for path in folder.iterdir()))


def has_checkpoint(folder: Path) -> bool:
    """Whether a run there has come to a checkpoint, be it whole or not."""
    return any((folder / "checkpoints").glob("*/manifest.json"))


def clear_unbegun(folder: Path) -> None:
    """Empty the folder of a run that was killed before its first checkpoint and policy, unless it is in use."""
    held = files.lock(folder)
    try:
        paths = [path for path in folder.iterdir() if path.name != "lock"]
        if not has_checkpoint(folder) and all(path.name in UNBEGUN or path.name.startswith(".") for path in paths):
            for path in paths:
                files.remove(path)
    finally:
        held.release()


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
    files.write(experiment / "config.json", text.encode())


def write_result(folder: Path, result: Mapping[str, Any]) -> None:
    """Write the run's result.json."""
    files.write(folder / "result.json", json.dumps(result, indent=2).encode())


def is_same(path: Path, source: EnvironmentSource, config: Config) -> bool:
    """Whether a config.json describes the same environment and settings, by whichever version of upright."""
    try:
        written = files.read_json(path)
    except RunError:
        return False
    ours = describe_run(source, config)
    return {**written, "upright": None} == {**ours, "upright": None}
