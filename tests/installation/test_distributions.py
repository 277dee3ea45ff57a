"""The wheel and the source distribution: what they hold, and that each trains in an environment of its own."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from interpreters import Interpreter, install

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler"),
]
needs_x86_64_linux = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="is about the instruction sets of x86-64, in ELF"
)

COMPILERS = ("c++", "g++", "clang++", "cc", "gcc", "clang", "cmake", "ninja")
LARGEST_WHEEL = 2_000_000
LARGEST_INSTALLATION = 120 * 2**20
TRAIN = ["train", "CartPole-v1", "--total-timesteps", "2000", "--engine", "native"]
QEMU = shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static")
# An instruction that is encoded with VEX or EVEX, which is how AVX and what follows it are; a function's first line.
AVX = re.compile(r"^\s+[0-9a-f]+:\s+v(?!err|erw)[a-z0-9]+\s")
FUNCTION = re.compile(r"^[0-9a-f]+ <(.*)>:$")


@pytest.fixture(scope="session")
def from_wheel(wheel, tmp_path_factory) -> Interpreter:
    """What `pip install` makes of the wheel on a machine that has no compiler."""
    folder = tmp_path_factory.mktemp("wheel")
    path = str(folder / "venv" / "bin")
    assert not any(shutil.which(name, path=path) for name in COMPILERS)
    return install(folder / "venv", str(wheel), PATH=path, CXX=None, CC=None)


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def trained(interpreter: Interpreter, folder: Path, *prefix: str) -> str:
    done = interpreter.upright(*TRAIN, folder=folder, prefix=prefix)
    assert done.returncode == 0, done.stderr
    assert interpreter.run("-c", "import torch", folder=folder).returncode == 1
    return done.stdout


def test_the_wheel_is_small_and_holds_one_extension(wheel) -> None:
    assert wheel.stat().st_size <= LARGEST_WHEEL
    names = zipfile.ZipFile(wheel).namelist()
    assert len([name for name in names if Path(name).match("upright/_native*.so")]) == 1
    assert {"upright/py.typed", "upright/_native.pyi", "upright/dashboard/static/index.html"} <= set(names)


def test_the_wheel_trains_where_there_is_no_compiler(from_wheel, tmp_path) -> None:
    assert "engine native on cpu" in trained(from_wheel, tmp_path)


def test_an_installation_is_a_tenth_of_one_with_torch(from_wheel, tmp_path) -> None:
    [packages] = Path(from_wheel.python).parents[1].glob("lib/python*/site-packages")
    of_pip = ("pip", "setuptools", "pkg_resources", "_distutils_hack")
    sizes = {path.name: size(path) if path.is_dir() else path.stat().st_size for path in packages.iterdir()}
    assert sum(size for name, size in sizes.items() if not name.startswith(of_pip)) <= LARGEST_INSTALLATION, sizes


def test_the_source_distribution_trains_where_there_is_a_compiler(sdist, tmp_path) -> None:
    made = install(tmp_path / "venv", str(sdist), SKBUILD_CMAKE_DEFINE="UPRIGHT_STRICT=ON")
    assert "engine native on cpu" in trained(made, tmp_path)


def test_the_source_distribution_installs_without_a_compiler_and_offers_both_ways_out(sdist, tmp_path) -> None:
    nowhere = str(tmp_path / "c++")
    made = install(tmp_path / "venv", str(sdist), CXX=nowhere, SKBUILD_CMAKE_DEFINE=None)
    done = made.upright(*TRAIN[:-2], folder=tmp_path)
    assert done.returncode == 2
    assert re.search(
        r"get a compiler \(.*\) and install upright again, or pip install 'upright\[torch\]'$", done.stderr
    )
    assert not (tmp_path / "runs").exists()


@needs_x86_64_linux
@pytest.mark.skipif(QEMU is None, reason="there is no QEMU here: apt-get install qemu-user")
def test_the_wheel_trains_on_a_processor_without_avx(from_wheel, tmp_path) -> None:
    # Intel's of 2008, with the SSE4.2 that NumPy asks for.
    assert "engine native on cpu, portable" in trained(from_wheel, tmp_path, QEMU, "-cpu", "Nehalem")


@needs_x86_64_linux
@pytest.mark.skipif(shutil.which("objdump") is None, reason="there is no objdump here: apt-get install binutils")
def test_only_the_kernels_of_an_instruction_set_use_it(source, tmp_path) -> None:
    # As a build type of its own, of which nanobind does not strip the names.
    nanobind = subprocess.check_output([sys.executable, "-m", "nanobind", "--cmake_dir"], text=True).strip()
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    configure = [
        "cmake", "-S", str(source), "-B", str(tmp_path), "-G", "Ninja", "--log-level=WARNING",
        "-DCMAKE_BUILD_TYPE=Named", "-DCMAKE_CXX_FLAGS_NAMED=-O3 -DNDEBUG", f"-Dnanobind_DIR={nanobind}",
        f"-DPython_EXECUTABLE={sys.executable}",
    ]  # fmt: skip
    for command in (configure, ["cmake", "--build", str(tmp_path)]):
        subprocess.run(command, env={**os.environ, "PATH": path}, check=True, stdout=subprocess.DEVNULL)
    [extension] = tmp_path.glob("_native*.so")
    code = subprocess.check_output(["objdump", "-d", "-C", "--no-show-raw-insn", str(extension)], text=True)
    using, function = set(), ""
    for line in code.splitlines():
        if found := FUNCTION.match(line):
            function = found[1]
        elif AVX.match(line):
            using.add(function)
    assert using
    assert {name for name in using if not re.search(r"\bupright::avx(2|512)::", name)} == set()
