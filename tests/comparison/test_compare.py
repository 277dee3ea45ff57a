"""Experiments side by side: what is printed and drawn is what the files say, and no file stops it."""

from __future__ import annotations

import io
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from upright import Config
from upright.cli.main import main
from upright.comparison.compare import read_comparison
from upright.comparison.picture import draw
from upright.comparison.report import Report, report_on
from upright.comparison.statistics import (
    bootstrap_interval,
    improvement_interval,
    interquartile_mean,
    sample_efficiency,
    wilson_interval,
)
from upright.comparison.table import tables
from upright.runs.metrics import Episode, JsonLines, Progress
from upright.settings.config import FORMERLY

matplotlib.use("agg")

SETTINGS = Config(total_timesteps=1_000)
SCORES = [10.0, 30.0, 20.0, 25.0, 18.0]


def write_experiment(
    folder: Path, scores: list[float], env: str = "Env-v0", threshold: float | None = 20.0, evaluated: bool = True,
    **settings: Any,
) -> Path:  # fmt: skip
    """An experiment whose seed k is evaluated to half its final score at step 500 and all of it at step 1,000."""
    config = SETTINGS.override(**settings)
    for seed, score in enumerate(scores):
        run = folder / f"seed-{seed}"
        lines = JsonLines(run / "metrics.jsonl")
        for step, share in ((500, 0.5), (1_000, 1.0)):
            evaluation = {"eval/mean_reward": share * score} if evaluated else {}
            lines.write(
                Progress(
                    step, 1_000, tuple(Episode(step - 200 + 2 * k, 0, share * score, 1) for k in range(60)),
                    {"rollout/ep_rew_mean": score, "time/episodes": 0.12 * step, "time/time_elapsed": step / 100, **evaluation},
                )
            )  # fmt: skip
        lines.close()
        write_result(run, seed, score, threshold, config.total_timesteps)
    (folder / "config.json").write_text(json.dumps({"name": env, "config": config.to_dict()}))
    return folder


def write_result(
    run: Path, seed: int, score: float | None, threshold: float | None, steps: int, episodes: int = 100
) -> None:
    result = {
        "seed": seed, "steps": steps, "final_mean": score, "seconds": 3.5 + seed, "threshold": threshold,
        "episodes": episodes,
    }  # fmt: skip
    (run / "result.json").write_text(json.dumps(result))


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_what_an_older_experiment_could_not_name_is_as_it_was_then() -> None:
    write_experiment(Path("runs/now"), SCORES)
    old = write_experiment(Path("runs/old"), SCORES) / "config.json"
    written = json.loads(old.read_text())
    written["config"] = {name: value for name, value in written["config"].items() if name not in FORMERLY}
    old.write_text(json.dumps(written))
    (environment,) = compared("runs/now", "runs/old")["environments"]
    now = SETTINGS.to_dict()
    assert environment["differences"] == {name: {"now": now[name], "old": FORMERLY[name]} for name in FORMERLY}


def report(*folders: str | Path) -> Report:
    return report_on(read_comparison(map(Path, folders)))


def compared(*folders: str | Path) -> dict[str, Any]:
    return json.loads(json.dumps(report(*folders).to_dict(), allow_nan=False))


def printed(*folders: str | Path, width: int = 200) -> str:
    console = Console(file=io.StringIO(), width=width)
    for each in tables(report(*folders), width):
        console.print(each, highlight=False, soft_wrap=isinstance(each, str), markup=False)
    return console.file.getvalue()


# --- what it says ---


def test_it_says_what_the_statistics_of_the_results_are() -> None:
    write_experiment(Path("runs/Env-v0/mine"), SCORES)
    write_experiment(Path("runs/Env-v0/other"), [5.0, 40.0], n_steps=7)
    (group,) = compared("runs/Env-v0/mine", "runs/Env-v0/other")["environments"]
    mine, other = group["experiments"]
    assert (group["env"], group["threshold"], mine["experiment"], other["experiment"]) == (
        "Env-v0",
        20,
        "mine",
        "other",
    )
    for name, statistic in (("interquartile_mean", interquartile_mean), ("mean", np.mean), ("median", np.median), ("worst", np.min)):  # fmt: skip
        assert mine[name]["value"] == pytest.approx(statistic(np.array(SCORES), axis=0))
        assert mine[name]["interval"] == pytest.approx(bootstrap_interval(statistic, SCORES))
    assert mine["solved"]["seeds"] == 3 and mine["solved"]["interval"] == pytest.approx(wilson_interval(3, 5))
    assert mine["improvement"] is None
    assert other["improvement"]["value"] == 0.5
    assert other["improvement"]["interval"] == pytest.approx(improvement_interval([5.0, 40.0], SCORES))
    assert mine["seconds"]["mean"] == 5.5
    assert group["differences"] == {"n_steps": {"mine": SETTINGS.n_steps, "other": 7}}


def test_the_first_solve_is_an_evaluation_where_all_have_some_else_a_hundred_episodes() -> None:
    write_experiment(Path("runs/Env-v0/mine"), [10.0, 30.0, 20.0, 44.0, 18.0])
    about = compared("runs/Env-v0/mine")
    # 44 is evaluated to 22 at step 500, 30 and 20 reach the threshold of 20 at step 1,000 only, two seeds never.
    assert about["returns"] == "eval"
    assert about["environments"][0]["experiments"][0]["to_solve"] == {"seeds": 3, "steps": 1_000, "seconds": 10}
    write_experiment(Path("runs/Env-v0/half"), [19.0, 20.0])
    half = compared("runs/Env-v0/half")["environments"][0]["experiments"][0]
    assert half["to_solve"] == {"seeds": 1, "steps": None, "seconds": None}, "of half that never did there is no median"
    assert "— where half of them never came there" in printed("runs/Env-v0/half")
    write_experiment(Path("runs/Env-v0/silent"), [30.0], evaluated=False)
    about = compared("runs/Env-v0/mine", "runs/Env-v0/silent")
    assert about["returns"] == "train"
    # The mean of the last episodes is the score from the first record on, in which only 60 have ended.
    assert [each["to_solve"]["steps"] for each in about["environments"][0]["experiments"]] == [1_000, 1_000]
    assert "mean return of the last 100 episodes" in printed("runs/Env-v0/mine", "runs/Env-v0/silent")


def test_without_a_threshold_nothing_is_solved() -> None:
    write_experiment(Path("mine"), SCORES, threshold=None)
    (group,) = compared("mine")["environments"]
    assert group["threshold"] is None and group["experiments"][0]["to_solve"] is None
    assert "solved" not in group["experiments"][0] and "solve" not in printed("mine")


def test_a_folder_of_experiments_is_all_of_them_and_none_counts_twice() -> None:
    for env in ("One-v0", "Two-v0"):
        for name in ("a", "b"):
            write_experiment(Path("runs") / env / name, SCORES, env)
    assert [len(each["experiments"]) for each in compared("runs/One-v0")["environments"]] == [2]
    for folders in (["runs"], ["runs/One-v0/a", "runs/../runs/One-v0", "runs/Two-v0"]):
        groups = compared(*folders)["environments"]
        assert [[each["experiment"] for each in group["experiments"]] for group in groups] == [["a", "b"], ["a", "b"]]


def test_a_folder_of_experiments_holds_its_sweeps_and_a_study_only_where_it_is_named() -> None:
    write_experiment(Path("runs/One-v0/a"), SCORES, "One-v0")
    for point in ("gamma=0.5", "gamma=0.9"):
        write_experiment(Path("runs/One-v0/gamma") / point, SCORES, "One-v0")
    for trial in ("trial-0", "trial-1"):
        write_experiment(Path("runs/One-v0/tune") / trial, SCORES, "One-v0")
    Path("runs/One-v0/tune/study.json").write_text("{}")

    def names(folder: str) -> list[str]:
        return [each["experiment"] for each in compared(folder)["environments"][0]["experiments"]]

    for folder in ("runs", "runs/One-v0"):
        assert names(folder) == ["a", "gamma=0.5", "gamma=0.9"]
    assert names("runs/One-v0/gamma") == ["gamma=0.5", "gamma=0.9"]
    assert names("runs/One-v0/tune") == ["trial-0", "trial-1"] and names("runs/One-v0/tune/trial-1") == ["trial-1"]


def test_experiments_of_one_name_keep_apart_and_an_environment_is_its_arguments_too() -> None:
    write_experiment(Path("first/mine"), SCORES)
    write_experiment(Path("second/mine"), SCORES)
    write_experiment(Path("second/easy"), SCORES, env_kwargs={"is_slippery": False})
    groups = compared("first", "second")["environments"]
    assert [group["env"] for group in groups] == ["Env-v0", 'Env-v0 {"is_slippery": false}']
    assert [each["experiment"] for each in groups[0]["experiments"]] == ["mine", "second/mine"]


# --- together ---


def test_environments_are_put_together_in_units_of_their_thresholds() -> None:
    write_experiment(Path("runs/One/mine"), [10.0, 20.0, 30.0], "One", 20.0)
    write_experiment(Path("runs/One/other"), [5.0, 20.0], "One", 20.0)
    write_experiment(Path("runs/Two/mine"), [-150.0, -100.0], "Two", -100.0)
    write_experiment(Path("runs/Two/other"), [-300.0, -50.0], "Two", -100.0)
    write_experiment(Path("runs/Three/mine"), [1.0], "Three", 1.0)
    together = compared("runs/One", "runs/Two", "runs/Three")["together"]
    assert together["environments"] == ["One", "Two"]
    mine, other = together["experiments"]
    scores = [[0.5, 1, 1.5], [0.5, 1]]
    assert mine["interquartile_mean"]["value"] == pytest.approx(interquartile_mean(scores))
    assert mine["interquartile_mean"]["interval"] == pytest.approx(bootstrap_interval(interquartile_mean, scores))
    assert (mine["seeds"], mine["solved"]["seeds"], other["solved"]["seeds"]) == (5, 3, 2)
    assert other["improvement"]["value"] == pytest.approx(np.mean([1.5 / 6, 2 / 4]))
    assert "together: One, Two" in printed("runs") and "1 + (return − threshold) / |threshold|" in printed("runs")


def test_what_cannot_be_put_together_is_said() -> None:
    write_experiment(Path("runs/One/mine"), SCORES, "One")
    assert compared("runs")["together"] is None
    write_experiment(Path("runs/Two/mine"), SCORES, "Two", threshold=0.0)
    together = compared("runs")["together"]
    assert "interquartile_mean" not in together["experiments"][0]
    assert "cannot be put into one unit" in printed("runs")
    write_experiment(Path("runs/Two/other"), SCORES, "Two")
    assert compared("runs")["together"]["experiments"] == [] and "Not together: fewer than two" in printed("runs")


# --- what is not finished, or damaged ---


def test_seeds_that_cannot_count_are_left_out_with_the_reason(tmp_path) -> None:
    folder = write_experiment(tmp_path / "mine", [*SCORES, *range(9)])
    (folder / "seed-5" / "result.json").unlink()
    write_result(folder / "seed-6", 6, None, 20.0, 700)
    write_result(folder / "seed-7", 7, 2.0, 20.0, 999)
    (folder / "seed-8" / "result.json").write_text('{"final_mean": NaN}')
    (folder / "seed-9" / "result.json").write_text('{"seed": 9, "steps": 1000, "final_mean": "5"}')
    with open(folder / "seed-10" / "metrics.jsonl", "a") as file:
        file.write("{\n")
    (folder / "seed-11" / "metrics.jsonl").unlink()
    (folder / "seed-11" / "result.json").unlink()
    write_result(folder / "seed-13", 13, 2.0, 20.0, 1_000, episodes=40)
    (folder / "seed-12").rename(tmp_path / "elsewhere")
    (folder / "seed-12").symlink_to(tmp_path / "elsewhere")
    (group,) = compared(folder)["environments"]
    assert group["experiments"][0]["seeds"] == [0, 1, 2, 3, 4]
    assert group["experiments"][0]["left_out"] == {
        "seed-5": f"it has no result yet, at step 1,000: it is being trained, or was killed (upright resume {folder}/seed-5)",
        "seed-6": f"it was stopped before its end (upright resume {folder}/seed-6)",
        "seed-7": f"it ended after 999 of 1,000 steps (upright resume {folder}/seed-7)",
        "seed-8": f"{folder}/seed-8/result.json is damaged: NaN is no JSON.",
        "seed-9": f"{folder}/seed-9/result.json is damaged: it holds no number as final_mean",
        "seed-10": f"{folder}/seed-10/metrics.jsonl is damaged in line 123, which is no record; remove that line.",
        "seed-11": "it holds no run yet",
        "seed-12": f"{folder}/seed-12 is a link, which is not followed out of a run's folder; remove it.",
        "seed-13": f"its final evaluation was stopped after 40 of 100 episodes (upright resume {folder}/seed-13)",
    }
    assert "Left out: mine, seed-11: it holds no run yet\n" in printed(folder)


def test_an_experiment_without_final_evaluations_has_no_scores(tmp_path) -> None:
    folder = write_experiment(tmp_path / "mine", [1.0], n_final_episodes=0)
    write_result(folder / "seed-0", 0, None, None, 1_000, episodes=0)
    (group,) = compared(folder)["environments"]
    assert group["experiments"][0]["left_out"] == {
        "seed-0": "it has no score, because its settings ask for no final evaluation (n_final_episodes is 0)"
    }


def test_nothing_finished_and_no_settings_are_no_reason_to_fail(tmp_path) -> None:
    folder = write_experiment(tmp_path / "Env-v3" / "mine", [1.0])
    other = write_experiment(tmp_path / "Env-v3" / "other", [3.0], "Env-v3")
    (folder / "seed-0" / "result.json").unlink()
    (folder / "config.json").write_text('{"config": {"learning_rate": -1}}')
    about = compared(folder, other)
    (group,) = about["environments"]
    assert group["env"] == "Env-v3", "of a damaged config.json the folder's name is taken"
    assert group["experiments"][0]["seeds"] == [] and set(group["experiments"][0]["left_out"]) == {
        "config.json",
        "seed-0",
    }
    assert group["experiments"][1]["improvement"] is None
    assert "learning_rate" in printed(folder, other)
    draw(read_comparison([folder, other])).canvas.draw()
    draw(read_comparison([folder])).canvas.draw()


def test_a_run_may_be_cut_anywhere(tmp_path) -> None:
    folder = write_experiment(tmp_path / "mine", SCORES[:2])
    for name in ("metrics.jsonl", "result.json"):
        path = folder / "seed-1" / name
        content = path.read_bytes()
        for size in range(0, len(content), 61 if name == "metrics.jsonl" else 1):
            path.write_bytes(content[:size])
            (experiment,) = read_comparison([folder]).groups["Env-v0"]
            assert "seed-0" in experiment.seeds and ("seed-1" in experiment.seeds) != ("seed-1" in experiment.left_out)
        path.write_bytes(content)


@pytest.mark.parametrize("case", range(40))
def test_no_bytes_stop_it(case: int, tmp_path, capsys) -> None:
    folder = write_experiment(tmp_path / "mine", SCORES[:2])
    chance = random.Random(case)
    path = folder / chance.choice(["config.json", "seed-0/result.json", "seed-0/metrics.jsonl"])
    content = bytearray(path.read_bytes())
    hostile = [b"NaN", b"1" * 400, b'"\x1b[2J"', b"null", b"[" * 5_000, b"-1e308", b"true", b"{}", b"\xff\x00"]
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(content))
        content[at : at + chance.randint(0, 5)] = chance.choice(hostile)
    path.write_bytes(bytes(content))
    assert main(["compare", str(folder)]) == 0
    said = capsys.readouterr()
    assert said.err == "" and "mine" in said.out and "\x1b" not in said.out


def test_it_reads_while_a_run_is_written(tmp_path) -> None:
    words = ["train", "CartPole-v1", "--total-timesteps", "6000", "--net-arch", "16", "--log-interval", "20", "--quiet"]
    write = subprocess.Popen([sys.executable, "-m", "upright", *words, "--out", "mine"])
    seen = set()
    while write.poll() is None:
        if Path("mine/seed-0").exists():
            (experiment,) = compared("mine")["environments"][0]["experiments"]
            seen.add(tuple(experiment["left_out"].get("seed-0", "").split(",")[:1]))
    assert write.returncode == 0
    assert ("it has no result yet",) in seen
    assert compared("mine")["environments"][0]["experiments"][0]["seeds"] == [0]


def test_it_only_reads(tmp_path) -> None:
    folder = write_experiment(tmp_path / "runs" / "mine", SCORES)
    (folder / "seed-1" / "result.json").unlink()

    def state() -> dict[str, Any]:
        return {
            str(path): (path.stat().st_mtime_ns, path.is_dir() or path.read_bytes()) for path in tmp_path.rglob("*")
        }

    before = state()
    assert main(["compare", str(folder), "--json"]) == 0
    assert state() == before


# --- the command ---


def test_the_picture_shows_the_numbers() -> None:
    write_experiment(Path("runs/Env-v0/mine"), SCORES)
    write_experiment(Path("runs/Env-v0/_o$t^{"), [5.0, 40.0])
    figure = draw(read_comparison([Path("runs/Env-v0/mine"), Path("runs/Env-v0/_o$t^{")]))
    figure.canvas.draw()
    lines = {line.get_gid(): line.get_xydata() for axes in figure.axes for line in axes.lines if line.get_gid()}
    table = np.array([[0.5 * score, score] for score in SCORES])
    np.testing.assert_allclose(lines["curve/mine"], np.transpose([[500, 1_000], sample_efficiency(table).value]))
    profile = lines["profile/mine"]
    for place, share in profile:
        assert share == pytest.approx(np.mean([score > place for score in SCORES]))
    assert profile[0, 1] == 1 and profile[-1, 1] == 0
    assert lines["interval/mine"][:, 0].tolist() == list(bootstrap_interval(interquartile_mean, SCORES))
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [
        "mine, 5 seeds", " _o$t^{, 2 seeds", "threshold, 20"
    ]  # fmt: skip


def test_pictures_are_whole_and_the_same_each_time() -> None:
    write_experiment(Path("mine"), SCORES)
    for suffix in ("png", "svg", "pdf"):
        assert main(["compare", "mine", "-o", f"c.{suffix}"]) == 0
        first = Path(f"c.{suffix}").read_bytes()
        assert main(["compare", "mine", "--out", f"c.{suffix}"]) == 0
        assert Path(f"c.{suffix}").read_bytes() == first
    Image.open("c.png").verify()
    assert sorted(path.name for path in Path().iterdir()) == ["c.pdf", "c.png", "c.svg", "mine"]


def test_json_is_the_last_line_and_the_table_says_the_same(capsys) -> None:
    write_experiment(Path("mine"), SCORES)
    assert main(["compare", "mine", "--json", "-o", "c.svg"]) == 0
    assert json.loads(capsys.readouterr().out) == compared("mine")
    assert main(["compare", "mine"]) == 0
    said = capsys.readouterr().out
    low, high = bootstrap_interval(interquartile_mean, SCORES)
    assert f"21 [{low:.4g}, {high:.4g}]" in said and "3 [23%, 88%]" in said


def test_a_narrow_terminal_gets_more_tables() -> None:
    for name in "abcdef":
        write_experiment(Path("runs") / name, SCORES)
    said = printed("runs", width=80)
    assert max(map(len, said.splitlines()[:-1])) <= 80
    assert said.count("interquartile mean") == 3 and printed("runs", width=200).count("interquartile mean") == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("compare", "There is nothing to compare: give folders of experiments"),
        ("compare nowhere", "nowhere is not a folder; give that of an experiment"),
        ("compare studies", "There are only trials of studies in studies; give the folder of a study or of a trial."),
        ("compare mine/seed-0", "There is no experiment in mine/seed-0: no folder seed-* in it"),
        ("compare mine -o c.bmp", "c.bmp must end in .png, .svg, .pdf."),
        ("compare mine -o mine/config.json/c.png", "mine/config.json/c.png cannot be written: "),
        ("compare mine --returns eval", "There is no option '--returns'."),
    ],
)
def test_a_mistake_gives_one_sentence_and_leaves_nothing(words: str, says: str, capsys) -> None:
    write_experiment(Path("mine"), [1.0])
    write_experiment(Path("studies/tune/trial-0"), [1.0])
    Path("studies/tune/study.json").write_text("{}")
    assert main(words.split()) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("upright: ") and says in said.err and said.err.count("\n") == 1
    assert sorted(path.name for path in Path().iterdir()) == ["mine", "studies"]
