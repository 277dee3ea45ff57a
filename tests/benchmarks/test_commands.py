"""The commands of benchmarks/, as the documents and the modules themselves give them, run from the repository's root."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXTS = [
    ROOT / "Makefile",
    *(path for folder in (".", "docs", "benchmarks") for path in (ROOT / folder).glob("*.md")),
    *(ROOT / "benchmarks").glob("*/*.py"),
]
COMMANDS = sorted(
    {command for path in TEXTS for command in re.findall(r"python -m (benchmarks\.[\w.]+)", path.read_text())}
)


def test_every_module_with_a_command_of_its_own_documents_it():
    own = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "benchmarks").rglob("*.py")
        if '__name__ == "__main__"' in path.read_text()
    }
    assert own == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_documented_command_explains_itself(command):
    words = [sys.executable, "-m", command, "--help"]
    shown = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert f"python -m {command} " in shown
