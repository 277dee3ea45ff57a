"""Sweeps: what a grid's words mean, what is refused before anything starts, and what is kept of it."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest

import upright
from configurations import SHORT, as_words
from upright.cli.arguments import Sweep
from upright.cli.grid import MOST_POINTS
from upright.cli.main import main
from upright.cli.parsing import parse
from upright.errors import SettingError
from upright.settings.kinds import Categorical, Prioritised, QLearning, Uniform
from upright.settings.presets import PRESETS

TINY = [*as_words(**{**SHORT, "total_timesteps": 200}), "--seeds", "2"]


@pytest.fixture(autouse=True)
def in_an_empty_folder(monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)


def points(words: str) -> dict[str, Sweep]:
    return parse("sweep", Sweep, ["CartPole-v1", *words.split()])


def test_a_grid_is_the_product_of_its_values_and_keeps_everything_else() -> None:
    found = points("--learning-rate 1e-3 .002 --n-steps 1 5 --gamma 0.9 --seeds 7 --seed 3")
    assert {name: (point.config.learning_rate, point.config.n_steps) for name, point in found.items()} == {
        f"learning-rate={rate},n-steps={n}": (rate, n) for rate, n in itertools.product((0.001, 0.002), (1, 5))
    }
    assert {(point.config.gamma, point.seeds, point.seed, point.env) for point in found.values()} == {
        (0.9, 7, 3, "CartPole-v1")
    }
    assert list(points("--n_steps=1 --gamma 0.5 0.6")) == ["gamma=0.5", "gamma=0.6"]
    assert points("--gamma 0.5 0.6")["gamma=0.5"].seeds == 5


def test_every_kind_of_setting_can_be_swept() -> None:
    assert [point.config.net_arch for point in points("--net-arch 64,32 256").values()] == [(64, 32), (256,)]
    assert list(points("--net-arch 64,32 256")) == ["net-arch=64-32", "net-arch=256"]
    assert {name: point.config.dueling for name, point in points("--dueling true false").items()} == {
        "dueling=true": True,
        "dueling=false": False,
    }
    both = points("--loss.double true false")
    assert [point.config.loss.double for point in both.values()] == [True, False]
    assert list(both) == ["loss.double=true", "loss.double=false"]
    assert [bool(point.config.munchausen) for point in points("--munchausen true false").values()] == [True, False]
    assert [point.config.munchausen.clip for point in points("--munchausen --munchausen.clip -1 -0.5").values()] == [
        -1.0,
        -0.5,
    ]
    assert {name: point.config.max_grad_norm for name, point in points("--max-grad-norm None 5").items()} == {
        "max-grad-norm=none": None,
        "max-grad-norm=5.0": 5.0,
    }
    kinds = points("--loss q_learning categorical --replay uniform prioritised")
    assert [(type(p.config.loss), type(p.config.replay)) for p in kinds.values()] == [
        (QLearning, Uniform), (QLearning, Prioritised), (Categorical, Uniform), (Categorical, Prioritised),
    ]  # fmt: skip
    assert list(kinds)[1] == "loss=q_learning,replay=prioritised"
    presets = points("--preset double rainbow")
    assert [point.config for point in presets.values()] == [PRESETS["double"], PRESETS["rainbow"]]
    assert [point.preset for point in presets.values()] == ["double", "rainbow"]
    together = points("--env-kwargs a=1 b=2 --wrapper FlattenObservation NormalizeReward --device cpu cuda:1")
    assert list(together) == ["device=cpu", "device=cuda_1"]
    for point in together.values():
        assert point.config.env_kwargs == {"a": 1, "b": 2}
        assert point.config.wrapper == ("FlattenObservation", "NormalizeReward")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("CartPole-v1", "Nothing is swept: give a setting several values, as in --learning-rate 1e-3 2e-3."),
        ("CartPole-v1 --n-steps 3", "Nothing is swept"),
        ("CartPole-v1 --n-steps 1 5 1", "The grid has n-steps=1 twice: give each value once."),
        ("CartPole-v1 --gamma 0.9 .90", "The grid has gamma=0.9 twice"),
        ("CartPole-v1 --gamma 0.9 1.5", "gamma is 1.5, but it has to lie in [0, 1]."),
        ("CartPole-v1 --gamma 0.9 high", "could not convert string to float: 'high'"),
        ("CartPole-v1 --lr 1 2", "There is no option '--lr'. Did you mean '--learning-rate'?"),
        ("CartPole-v1 --preset default rainbw", "There is no preset 'rainbw'. Did you mean 'rainbow'?"),
        ("CartPole-v1 --munchausen --loss.double true false", "munchausen and loss.double cannot be combined"),
        ("CartPole-v1 --seed 1 2 --gamma 0 1", "There is no place for '2'"),
        ("CartPole-v1 --gamma 0 1 --seeds 0", "seeds is 0, but it has to lie in [1, 10000]."),
        ("CartPole-v1 --gamma 0 1 --jobs 0", "jobs is 0, but it has to be 1 or more."),
        ("CartPole-v1 --batch-size 64 30000", "batch_size (30,000) is above buffer_size (25,000)"),
        ("CartPole-v1 --buffer-size 1000 1000000000000", "The replay memory needs"),
        ("CartPole-v1 --engine native torch --loss implicit_quantile --loss.quantiles 65", "engine is native, which cannot"),
        ("CartPol-v1 --gamma 0 1", "There is no environment 'CartPol-v1'. Did you mean 'CartPole-v1'"),
        ("--gamma 0 1", "Missing from upright sweep"),
        ("--env CartPole-v1 --gamma 0 1", "The environment stands by itself, without --env: upright sweep CartPole-v1."),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_is_refused_before_anything_starts(words: str, says: str, capsys, tmp_path) -> None:
    assert main(["sweep", *words.split()]) == 2
    said = capsys.readouterr().err
    assert said.startswith("upright: ") and says in said and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_grid_beyond_all_use_is_refused() -> None:
    values = " ".join(str(n) for n in range(1, 12))
    assert MOST_POINTS < 11**3
    with pytest.raises(SettingError, match="The grid has 1,331 points, but it can have 1,000: give fewer values."):
        points(f"--n-steps {values} --batch-size {values} --train-freq {values}")


def test_help_is_the_sweeps_own(capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["sweep", "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "usage: upright sweep" in shown and "Seeds of each point" in shown and "--learning-rate" in shown


def test_a_sweep_is_an_experiment_at_each_point_the_best_first(capsys, tmp_path) -> None:
    words = ["sweep", "CartPole-v1", *TINY, "--net-arch", "8", "--n-steps", "1", "3"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "Training CartPole-v1 for 200 steps with 2 seeds at each of 2 points, " in printed
    assert re.search(r"n-steps=3 seed 1: [\d.]+, not solved\n", printed)
    assert printed.endswith("Sweep: runs/CartPole-v1/n-steps\n")
    folder = tmp_path / "runs" / "CartPole-v1" / "n-steps"
    kept = json.loads((folder / "sweep.json").read_text())
    assert (kept["env"], kept["sweep"], kept["swept"]) == ("CartPole-v1", "runs/CartPole-v1/n-steps", ["n-steps"])
    assert {point["point"] for point in kept["points"]} == {"n-steps=1", "n-steps=3"}
    middles = [point["interquartile_mean"]["value"] for point in kept["points"]]
    assert middles == sorted(middles, reverse=True)
    for point in kept["points"]:
        summary = json.loads((Path(point["experiment"]) / "summary.json").read_text())
        assert summary == {name: value for name, value in point.items() if name not in ("point", "experiment")}
        assert upright.load(Path(point["experiment"]) / "seed-1").config.n_steps == int(point["point"][-1])
    shown = [line.split()[:3] for line in printed.splitlines() if line.startswith("  n-steps=")]
    assert shown == [[point["point"], "2", f"{point['interquartile_mean']['value']:.2f}"] for point in kept["points"]]

    written = {path: path.stat().st_mtime_ns for path in folder.rglob("seed-*/**/*")}
    assert main([*words, "5", "--json", "--quiet"]) == 0  # one more value: only its point is trained
    result = json.loads(capsys.readouterr().out)
    assert {point["point"] for point in result["points"]} == {"n-steps=1", "n-steps=3", "n-steps=5"}
    assert result["failed"] == {} and result["sweep"] == "runs/CartPole-v1/n-steps"
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert main([*words, "--gamma", "0.5", "--quiet"]) == 0  # with another setting it is another sweep
    assert (tmp_path / "runs" / "CartPole-v1" / "n-steps-2" / "n-steps=1" / "seed-0" / "result.json").exists()
    assert main([*words, "--gamma", "0.7", "--quiet", "--out", str(folder)]) == 2
    assert "another environment or other settings" in capsys.readouterr().err


def test_a_point_whose_seeds_fail_has_no_place_in_the_table(capsys, tmp_path) -> None:
    words = [
        "faulty_environments:Breaks",
        "--env-kwargs",
        "fault=raises",
        f"until={tmp_path / 'until'}",
        "--gamma",
        "0",
        "1",
    ]
    assert main(["sweep", *words, "--seeds", "1", "--json", "--quiet", "--out", "s"]) == 1
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert result["points"] == [] and set(result["failed"]) == {"s/gamma=0.0/seed-0", "s/gamma=1.0/seed-0"}
    assert printed.err.endswith("upright: 2 seeds failed; the same command tries again.\n")
