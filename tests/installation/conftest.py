"""What is installed: the distributions that are built here, and an interpreter without PyTorch."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from interpreters import ROOT, Interpreter, hiding, install

# What a distribution is made from, as pyproject.toml has it.
SOURCES = ["CHANGELOG.md", "CMakeLists.txt", "LICENSE", "README.md", "native", "pyproject.toml", "src"]


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
