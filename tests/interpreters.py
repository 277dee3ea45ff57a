"""Interpreters with upright: this one, which finds no module that is hidden from it, and environments of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent


@dataclass(frozen=True)
class Interpreter:
    """A Python that finds upright. environment: the variables that differ from this process's, None for absent ones."""

    python: Path | str
    environment: dict[str, str | None] = field(default_factory=dict)

    def run(self, *words: str, folder: Path, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        """Run `python words` in a folder; `prefix` goes before it."""
        return subprocess.run(
            [*prefix, str(self.python), *words],
            cwd=folder, env=self.variables, capture_output=True, text=True, timeout=600, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def upright(self, *words: str, folder: Path, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        """Run `upright words` in a folder."""
        return self.run("-m", "upright", *words, folder=folder, prefix=prefix)

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables of its processes."""
        return {name: value for name, value in {**os.environ, **self.environment}.items() if value is not None}


HIDING = """
import sys

class Hiding:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, *rest):
        return None if name in {names} else self.finder.find_spec(name, *rest)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = map(Hiding, sys.meta_path)
"""


def hiding(folder: Path, *modules: str) -> Interpreter:
    """This interpreter, whose processes, with those that they start, find no such modules."""
    (folder / "sitecustomize.py").write_text(HIDING.format(names=modules))
    return Interpreter(sys.executable, {"PYTHONPATH": os.pathsep.join([str(folder), str(TESTS)])})


def install(folder: Path, *words: str, **variables: str | None) -> Interpreter:
    """A new environment with what `pip install words` brings, in the versions of constraints.txt."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    constraints = str(ROOT / "constraints.txt")
    made = Interpreter(
        folder / "bin" / "python",
        {"PIP_CONSTRAINT": constraints, "PIP_BUILD_CONSTRAINT": constraints, "PYTHONPATH": str(TESTS), **variables},
    )
    done = made.run("-m", "pip", "install", "--quiet", *words, folder=folder)
    assert done.returncode == 0, done.stderr
    return made
