import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parent.parent / "examples"
NOTEBOOK = EXAMPLES / "tutorial.ipynb"


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def pictures(notebook):
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    return [output for output in outputs if "image/png" in output.get("data", {})]


def said(cell):
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def run(*words, cwd):
    """Run Python with those words; its standard output, once it has ended well."""
    ended = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_notebook_ends_with_a_solved_cartpole(tmp_path):
    shutil.copy(NOTEBOOK, tmp_path)
    notebook = nbformat.read(tmp_path / NOTEBOOK.name, as_version=4)
    for cell in code_cells(notebook):
        cell.outputs = []
    client = NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    inline = {**os.environ, "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    client.execute(env=inline)  # raises CellExecutionError where a cell does

    assert not [each for cell in code_cells(notebook) for each in cell.outputs if each.output_type == "error"]
    assert len(pictures(notebook)) >= 2
    last = said(code_cells(notebook)[-1])
    assert ", solved (threshold 475)" in last
    assert {path.name for path in tmp_path.iterdir()} == {NOTEBOOK.name}, "it leaves nothing behind"


def test_the_notebook_is_kept_as_a_reader_wants_it():
    """Executed once, in order, without errors, with its pictures, small, and with no trace of the machine."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [each for cell in cells for each in cell.outputs if each.output_type == "error"]
    assert not [each for cell in cells for each in cell.outputs if each.get("name") == "stderr"]
    assert len(pictures(notebook)) >= 2
    assert ", solved (threshold 475)" in said(cells[-1])
    assert all(cell.metadata == {} for cell in notebook.cells)
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < 600_000
    assert not any(path in text for path in ("/home/", "/root/", "/tmp/", "/Users/", str(EXAMPLES.parent)))


def test_an_environment_of_ones_own_is_learned_to_the_optimum(tmp_path):
    assert len((EXAMPLES / "custom_env.py").read_text().splitlines()) < 40
    assert "Mean return -9." in run(EXAMPLES / "custom_env.py", cwd=tmp_path)


def test_an_environment_of_ones_own_trains_from_the_command_line(tmp_path):
    words = ["train", "custom_env:Corridor", "--total-timesteps", 5_000, "--out", tmp_path / "run", "--json"]
    printed = run(Path(sys.executable).with_name("upright"), *words, cwd=EXAMPLES)
    assert json.loads(printed.splitlines()[-1])["final_mean"] == -9.0


def test_rainbow_is_composed_trained_and_evaluated(tmp_path):
    printed = run(EXAMPLES / "compose.py", "--total-timesteps", 2_000, cwd=tmp_path)
    refused, *_, final = printed.splitlines()
    assert refused.startswith("Refused: munchausen and loss.double cannot be combined")
    assert final.startswith("Final policy: ") and "over 100 greedy episodes" in final
