"""Interpreters for what is installed: this one without PyTorch and, in the slow tier, environments of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
# What a distribution is made from, as pyproject.toml has it.
SOURCES = ["CHANGELOG.md", "CMakeLists.txt", "LICENSE", "README.md", "native", "pyproject.toml", "src"]


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


@pytest.fixture(scope="session")
def source(tmp_path_factory) -> Path:
    """A copy of the sources, without what was built among them."""
    folder = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("_native*.so", "__pycache__"))
        else:
            shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="session")
def wheel(source) -> Path:
    """The wheel that is built here."""
    script = "from scikit_build_core.build import build_wheel; build_wheel('dist')"
    subprocess.run([sys.executable, "-c", script], cwd=source, check=True, stdout=subprocess.DEVNULL)
    [made] = (source / "dist").glob("*.whl")
    return made


@pytest.fixture(scope="session")
def sdist(source) -> Path:
    """The source distribution that is built here."""
    script = "from scikit_build_core.build import build_sdist; build_sdist('dist')"
    subprocess.run([sys.executable, "-c", script], cwd=source, check=True, stdout=subprocess.DEVNULL)
    [made] = (source / "dist").glob("*.tar.gz")
    return made


@pytest.fixture(scope="session")
def torchless(request, tmp_path_factory) -> Interpreter:
    """An interpreter without PyTorch: for "hidden" this one, which is kept from finding it, for "absent" a fresh one."""
    folder = tmp_path_factory.mktemp("torchless")
    if request.param == "hidden":
        return hiding(folder, "torch")
    wheel = request.getfixturevalue("wheel")
    return install(folder / "venv", f"{wheel}[dashboard,plot,ray,tune,video]")
