"""What needs no PyTorch works without it, and what needs it asks for it in one sentence and does nothing else."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import urllib.request
from pathlib import Path

import pytest

import upright
from engines import HAS_NATIVE
from interpreters import Interpreter, hiding
from upright.loop import train
from upright.runs.run import Run

pytestmark = pytest.mark.skipif(not HAS_NATIVE, reason="upright was installed without a C++ compiler")
parametrize_torchless = pytest.mark.parametrize(
    "torchless", ["hidden", pytest.param("absent", marks=pytest.mark.slow)], indirect=True, scope="session"
)

QUICK = ["--total-timesteps", "300", "--learning-starts", "50", "--batch-size", "8", "--net-arch", "8"]
RUN = "runs/CartPole-v1/default/seed-0"
IMAGE = "toy_environments:Image"
INSTALL = "and it is not installed: pip install 'upright[torch]'"
MANY_FRACTIONS = ["--loss", "implicit_quantile", "--loss.quantiles", "65"]


def contents(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*"))}


@pytest.fixture(scope="session")
def folder(torchless, tmp_path_factory) -> Path:
    """A folder with a run, which was trained without PyTorch."""
    folder = tmp_path_factory.mktemp("trained")
    done = torchless.upright("train", "CartPole-v1", *QUICK, "--checkpoint-every", "100", folder=folder)
    assert done.returncode == 0, done.stderr
    assert "engine native on cpu" in done.stdout
    return folder


@parametrize_torchless
def test_it_is_not_there(torchless, tmp_path) -> None:
    script = "import importlib.util; assert importlib.util.find_spec('torch') is None; import torch"
    assert "ModuleNotFoundError" in torchless.run("-c", script, folder=tmp_path).stderr


@parametrize_torchless
@pytest.mark.parametrize(
    "words",
    [
        ["envs", "CartPole"],
        ["evaluate", RUN, "--episodes", "2"],
        ["resume", RUN, "--total-timesteps", "400"],
        ["plot", RUN, "-o", "curve.png"],
        ["record", RUN, "-o", "episode.webp"],
        ["sweep", "CartPole-v1", *QUICK, "--learning-rate", "1e-3", "2e-3", "--seeds", "1"],
        ["tune", "CartPole-v1", *QUICK, "--trials", "1", "--seeds", "1"],
        ["train", "CartPole-v1", *QUICK, "--seeds", "2", "--cluster", "local", "--out", "runs/CartPole-v1/cluster"],
        ["compare", "runs/CartPole-v1/default", "-o", "compare.png"],
    ],
    ids=lambda words: words[0] if "--cluster" not in words else "cluster",
)
def test_a_command_works(torchless, folder, words: list[str]) -> None:
    done = torchless.upright(*words, folder=folder)
    assert (done.returncode, done.stderr) == (0, "")


@parametrize_torchless
def test_the_dashboard_shows_an_agent(torchless, folder) -> None:
    process = subprocess.Popen(
        [str(torchless.python), "-m", "upright", "dashboard", "--port", "0"],
        cwd=folder, env=torchless.variables, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        link = process.stdout.readline().removeprefix("Dashboard: ").strip()
        with urllib.request.build_opener(urllib.request.HTTPCookieProcessor()).open(link, timeout=60) as page:
            assert page.status == 200 and b"upright" in page.read()
    finally:
        process.terminate()
        process.communicate(timeout=60)


@parametrize_torchless
@pytest.mark.parametrize("preset", ["default", "c51", "qrdqn", "iqn"])
def test_the_dashboard_plays_an_episode_with_its_distributions(torchless, tmp_path, preset: str) -> None:
    done = torchless.upright("train", "CartPole-v1", "--preset", preset, *QUICK, "--out", preset, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    script = (
        "from pathlib import Path; from upright.dashboard.player import Wish; from upright.dashboard.playing import play\n"
        f"shown, pictures = play(Wish(Path('{preset}/seed-0'), 'policy', 0, False))\n"
        "assert len(shown['q']) == len(pictures) > 0\n"
        f"assert (shown['distribution'] is None) == ({preset!r} == 'default')"
    )
    done = torchless.run("-c", script, folder=tmp_path)
    assert done.returncode == 0, done.stderr


@parametrize_torchless
@pytest.mark.parametrize(
    ("words", "because"),
    [
        (["train", IMAGE, *QUICK], "the observations are images"),
        (["train", IMAGE, *QUICK, "--seeds", "2"], "the observations are images"),
        (["train", "CartPole-v1", *QUICK, *MANY_FRACTIONS], "loss has more than 64 quantiles"),
        (["train", "CartPole-v1", *QUICK, "--device", "cuda"], "device is cuda"),
        (["train", "CartPole-v1", *QUICK, "--engine", "torch"], "engine is torch"),
        (["sweep", "CartPole-v1", *QUICK, "--engine", "torch", "--n-steps", "1", "2"], "engine is torch"),
        (["tune", "CartPole-v1", *QUICK, "--engine", "torch", "--trials", "1"], "engine is torch"),
    ],
)
def test_a_run_that_needs_it_is_refused(torchless, tmp_path, words: list[str], because: str) -> None:
    done = torchless.upright(*words, folder=tmp_path)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith(f"upright: PyTorch is needed, because {because}") and line.endswith(INSTALL)
    assert contents(tmp_path) == {}


@parametrize_torchless
@pytest.mark.parametrize(
    ("expression", "answer"),
    [
        ("DQN('CartPole-v1', network=dict)", f"PyTorch is needed, because the network is your own, {INSTALL}"),
        ("losses", "PyTorch is not installed: pip install 'upright[torch]'"),
        ("Network", "PyTorch is not installed: pip install 'upright[torch]'"),
    ],
)
def test_what_needs_it_in_python_asks_for_it(torchless, tmp_path, expression: str, answer: str) -> None:
    done = torchless.run("-c", f"import upright; upright.{expression}", folder=tmp_path)
    assert done.stderr.endswith(f"MissingExtra: {answer}\n")


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
@parametrize_torchless
def test_a_policy_and_a_run_that_need_it_are_refused(torchless, tmp_path) -> None:
    path = tmp_path / "runs" / "Image" / "default" / "seed-0"
    run = Run(IMAGE, upright.Config(total_timesteps=60, learning_starts=20, checkpoint_every=20), folder=path)
    list(train(run))
    run.save()
    run.close()
    before = contents(tmp_path)
    sentence = f"PyTorch is needed, because the observations are images, {INSTALL}"
    for words in (["evaluate"], ["resume", "--total-timesteps", "100"], ["record", "-o", "episode.webp"], ["watch"]):
        done = torchless.upright(words[0], str(path), "--trust", *words[1:], folder=tmp_path)
        assert (done.returncode, done.stderr) == (2, f"upright: {sentence}\n")
    for moment in ("policy", f"step-{run.checkpointed}"):
        script = (
            "from pathlib import Path; from upright.dashboard.player import Wish; from upright.dashboard.playing import play\n"
            f"play(Wish(Path({str(path)!r}), {moment!r}, 0, True))"
        )
        done = torchless.run("-c", script, folder=tmp_path)
        assert done.stderr.endswith(f"MissingExtra: {sentence}\n")
    assert contents(tmp_path) == before


def test_where_nothing_can_compute_both_ways_out_are_offered(tmp_path_factory, tmp_path) -> None:
    bare: Interpreter = hiding(tmp_path_factory.mktemp("bare"), "torch", "upright._native")
    done = bare.upright("train", "CartPole-v1", *QUICK, folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "upright: upright was installed without a C++ compiler, and PyTorch is not installed either: get a compiler "
        "(apt install g++, xcode-select --install or conda install gxx) and install upright again, or "
        "pip install 'upright[torch]'\n"
    )
    assert contents(tmp_path) == {}
    done = bare.upright("train", IMAGE, *QUICK, folder=tmp_path)  # a compiler would not help
    assert done.stderr == f"upright: PyTorch is needed, because the observations are images, {INSTALL}\n"


@parametrize_torchless
def test_what_is_written_without_it_is_read_with_it(torchless, folder) -> None:
    summary = json.loads((folder / RUN / "result.json").read_text())
    assert summary["engine"] == "native"
    loaded = upright.load(folder / RUN, engine="torch")
    assert loaded.evaluate(episodes=1).mean > 0
