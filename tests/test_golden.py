"""Golden files: what earlier versions wrote can still be loaded, resumed and compared. See golden/make.py."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from safetensors.numpy import load_file

import toy_environments
import upright
from engines import ENGINES
from golden.make import WRITERS, make
from run_digest import TESTS, digests, finish, lines
from toy_environments import Masked
from upright import Config, Run, files
from upright.cli.main import main
from upright.dashboard.catalogue import Catalogue
from upright.dashboard.player import Wish
from upright.dashboard.playing import play
from upright.errors import EnvironmentFault, UprightError
from upright.settings.config import FORMERLY
from upright.settings.file import read_settings
from upright.settings.presets import PRESETS

GOLDEN = TESTS / "golden"
POLICIES = sorted(path.parent.name for path in GOLDEN.glob("policies-2/*/policy.json"))


@pytest.fixture(autouse=True)
def beside_copies(monkeypatch, tmp_path) -> None:
    """Stand in a folder with copies of the golden files, as the commands that wrote them did."""
    for folder in GOLDEN.glob("*-*"):
        shutil.copytree(folder, tmp_path / folder.name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "environments", toy_environments)  # its name when the files were written


def read(path: str | Path) -> Any:
    return json.loads(Path(path).read_text())


def contents(folder: str) -> dict[Path, bytes]:
    """What is in a folder, but for locks."""
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file() and path.name != "lock"}


def printed(capsys, *words: str) -> dict[str, Any]:
    """The object that a command prints on its last line."""
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def check_that_no_module_is_named(folder: str) -> None:
    """No file may name a module of the package, whose place is internal."""
    for path, content in contents(folder).items():
        assert not re.search(rb"\bupright\.[a-z_]", content), path


def assert_close(found: np.ndarray, expected: np.ndarray, name: str) -> None:
    """Equal but for float32 rounding, which differs between engines and instruction sets and adds up over updates."""
    atol = 1e-5 * np.abs(expected).max(initial=0.0)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=atol, err_msg=name)


def test_every_schema_has_its_files_and_they_can_be_written(tmp_path) -> None:
    """A schema that is new has none yet: python tests/golden/make.py writes them."""
    make(tmp_path / "made")
    for name in WRITERS:
        made, kept = ({path.name for path in (folder / name).iterdir()} for folder in (tmp_path / "made", GOLDEN))
        assert made == kept


# --- checkpoints


def test_a_checkpoint_of_schema_1_is_loaded_and_resumed() -> None:
    run = Run.open("checkpoint-1/seed-0")
    expected = read("checkpoint-1/expected.json")
    assert (run.step, run.updates, run.episodes.count) == (expected["step"], expected["updates"], expected["episodes"])
    assert digests(run)["column obs"] == expected["observations"]
    q = run.agent.q_values(np.array(expected["asked"], np.float32))
    np.testing.assert_allclose(q, expected["answered"], rtol=1e-5)
    finish(run)
    assert run.step == run.config.total_timesteps > expected["step"]


def test_a_stopped_run_ends_as_the_one_that_was_never_stopped(caplog) -> None:
    """Masks, n steps, 2 environments, prioritised replay; noisy, dueling, categorical: all that a checkpoint holds."""
    run = Run.open("resume-1/stopped/seed-0", source=Masked)
    assert run.step == 160
    finish(run)
    warnings = [text for text in caplog.messages if not text.startswith(("Only actions that", "Returns from"))]
    assert not warnings, "no episode was lost, and no checkpoint"
    folders = Path("resume-1/stopped/seed-0"), Path("resume-1/whole/seed-0")
    found, expected = (load_file(folder / "checkpoints" / "240" / "state.safetensors") for folder in folders)
    added = found.keys() - expected.keys()
    new = ("learner/metrics/", "episodes/successes")
    assert expected.keys() <= found.keys() and all(name.startswith(new) for name in added)
    del expected["learner/metrics/mean_q"]  # then it was also of the actions that a mask forbids
    for name, array in expected.items():
        if (name.startswith("learner/") and array.dtype.kind == "f") or name == "replay/masses":
            assert_close(found[name], array, name)
        else:  # environments, actions, counts and generators, which no rounding may reach
            np.testing.assert_array_equal(found[name], array, err_msg=name)
            assert found[name].dtype == array.dtype
    found, expected = (
        {path.name: path.read_bytes() for path in folder.glob("checkpoints/replay/*")} for folder in folders
    )
    assert found == expected, "the same transitions in the same segments"
    found, expected = map(lines, folders)
    measures = {name for line in found for name in line if name.startswith("train/")}
    later = measures - {name for line in expected for name in line} | {"train/mean_q"}
    for line in (*found, *expected):
        for name in later & line.keys():
            del line[name]
    assert found == [pytest.approx(line, rel=1e-4) for line in expected]
    found, expected = (load_file(folder / "best" / "policy.safetensors") for folder in folders)
    for name, array in expected.items():
        assert_close(found[name], array, name)


def test_the_command_line_resumes_a_stopped_run_that_is_trusted(capsys) -> None:
    assert main(["resume", "resume-1/stopped/seed-0"]) == 2
    assert "environments:Masked" in capsys.readouterr().err
    result = printed(capsys, "resume", "resume-1/stopped/seed-0", "--trust", "--quiet")
    assert (result["steps"], result["updates"], result["episodes"]) == (240, 100, 100)


def test_another_schema_is_refused_by_its_number() -> None:
    for manifest in Path("checkpoint-1/seed-0/checkpoints").glob("*/manifest.json"):
        about = files.read_sealed(manifest)
        files.write_sealed(manifest, {**about, "schema": 7})
    with pytest.raises(UprightError, match="is of schema 7, and this version of upright reads schema 1"):
        Run.open("checkpoint-1/seed-0")


# --- policies


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_of_schema_2_gives_the_same_q_values(name: str, engine) -> None:
    agent = upright.load(f"policies-2/{name}", engine=engine)
    expected = read("policies-2/expected.json")[name]
    observations = agent.observation_space.from_jsonable(expected["asked"])
    for observation, answered in zip(observations, expected["answered"], strict=True):
        np.testing.assert_allclose(agent.q_values(observation), answered, rtol=1e-5, atol=1e-6)
        action, _ = agent.predict(observation)
        assert agent.action_space.contains(action)
        np.testing.assert_array_equal(action, agent.actions.decode(int(np.argmax(answered))))


def test_there_is_a_policy_of_each_loss() -> None:
    expected = read("policies-2/expected.json")
    assert sorted(expected) == POLICIES
    configs = [Config.from_file(read(f"policies-2/{name}/policy.json")["config"]).to_dict() for name in POLICIES]
    kinds = {config["loss"]["kind"] for config in configs}
    assert kinds == {"q_learning", "categorical", "quantile", "implicit_quantile"}
    assert any(config["munchausen"] for config in configs)


@pytest.mark.parametrize("name", [name for name in POLICIES if name != "spaces"])
def test_a_policy_is_evaluated(name: str, capsys) -> None:
    found = printed(capsys, "evaluate", f"policies-2/{name}", "--episodes", "2")
    assert found["env"] == "CartPole-v1" and found["episodes"] == 2 and found["final_mean"] > 0


def test_a_policy_without_the_name_of_its_environment_asks_for_it() -> None:
    with pytest.raises(EnvironmentFault, match="give it again"):
        upright.load("policies-2/spaces").evaluate(1)


# --- an experiment

# The default has changed since: what it was then.
FORMER = ("--action-masks", "info", "--no-exploration-after-learning-starts", "--no-scale-integers")


def test_the_same_command_finds_an_experiment_finished(capsys) -> None:
    before = contents("experiment-1")
    summary = read("experiment-1/summary.json")
    found = printed(capsys, *read("experiment-1/command.json"), *FORMER, "--quiet")
    assert found["failed"] == {} and found["experiment"] == "experiment-1"
    for name in ("env", "steps", "seeds", "final_means", "threshold", "seconds"):
        assert found[name] == summary[name]
    after = contents("experiment-1")
    changed = {path.name for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert changed <= {"summary.json"}, "nothing was trained again"


@pytest.mark.parametrize("seed", [0, 1])
def test_a_finished_run_is_evaluated_to_its_result(seed: int, capsys) -> None:
    folder = f"experiment-1/seed-{seed}"
    result = read(f"{folder}/result.json")
    found = printed(capsys, "evaluate", folder)
    # An episode has 100 steps at most, so that one of 100 that took another turn by rounding changes the mean by 1.
    assert found["final_mean"] == pytest.approx(result["final_mean"], abs=1.0)
    assert (found["episodes"], found["threshold"]) == (result["episodes"], result["threshold"])
    upright.load(f"{folder}/best").evaluate(1)


def test_a_finished_run_is_extended(capsys) -> None:
    folder = Path("experiment-1/seed-0")
    before = (folder / "metrics.jsonl").read_bytes()
    result = printed(capsys, "resume", str(folder), "--total-timesteps", "200", "--quiet")
    assert (result["steps"], result["seed"]) == (200, 0)
    assert result == read(folder / "result.json")
    assert (folder / "metrics.jsonl").read_bytes().startswith(before)
    assert read("experiment-1/config.json")["config"]["total_timesteps"] == 200
    check_that_no_module_is_named("experiment-1")


def test_experiments_and_studies_are_compared_and_drawn(capsys) -> None:
    compared = printed(capsys, "compare", "experiment-1", "study-1")
    assert compared["returns"] == "eval"
    (group,) = compared["environments"]
    found = {each["experiment"]: each for each in group["experiments"]}
    assert found["experiment-1"]["final_means"] == read("experiment-1/summary.json")["final_means"]
    assert found["experiment-1"]["left_out"] == {}
    assert [found[name]["seeds"] for name in ("trial-0", "trial-1", "trial-2")] == [[0], [0], []]
    assert "it has no result yet, at step 120" in found["trial-2"]["left_out"]["seed-0"]
    assert group["threshold"] == 475 and "learning_rate" in group["differences"]
    assert main(["plot", "experiment-1", "checkpoint-1", "--out", "picture.png"]) == 0
    assert "CartPole-v1, experiment-1: seed-0, seed-1" in capsys.readouterr().out
    assert Path("picture.png").stat().st_size > 10_000


def test_the_dashboard_finds_and_plays_every_run() -> None:
    catalogue = Catalogue(Path.cwd())
    catalogue.refresh()
    found = {(run.configuration, run.seed): run for run in catalogue.runs.values()}
    assert {name: run.state for name, run in found.items()} == {
        ("checkpoint-1", 0): "stopped",
        ("experiment-1", 0): "finished",
        ("experiment-1", 1): "finished",
        ("resume-1/stopped", 0): "stopped",
        ("resume-1/whole", 0): "finished",
        ("study-1/trial-0", 0): "finished",
        ("study-1/trial-1", 0): "finished",
        ("study-1/trial-2", 0): "stopped",
    }
    for run in found.values():
        row = run.row()
        assert not row["damaged"] and row["step"] > 0 and row["total"] >= row["step"]
        for moment in run.moments():
            shown, _ = play(Wish(run.folder, moment["moment"], 0, trust=True))
            assert shown["chosen"], (run.configuration, moment)
    moments = {name: [each["moment"] for each in run.moments()] for name, run in found.items()}
    assert moments["experiment-1", 0] == ["step-160", "best", "policy"]
    assert moments["resume-1/stopped", 0] == ["step-160", "best"]
    assert found["experiment-1", 1].row()["final"] == read("experiment-1/seed-1/result.json")["final_mean"]


@pytest.mark.parametrize("path", ["experiment-1/config.json", "study-1/best.json", "study-1/trial-2/config.json"])
def test_settings_are_read_from_what_was_written_beside_runs(path: str) -> None:
    config = read_settings(Path(path), PRESETS["rainbow"])
    assert config == Config.from_file(read(path)["config"])
    assert config.to_dict() == {**Config().to_dict(), **FORMERLY, **read(path)["config"]}


# --- a study


def test_the_same_command_continues_a_study(capsys) -> None:
    """It takes up the trial of the process that was killed, from its checkpoint, and begins one more."""
    before = contents("study-1")
    found = printed(capsys, *read("study-1/command.json"), *FORMER, "--trials", "4", "--quiet")
    stored = optuna.load_study(study_name="CartPole-v1", storage=f"sqlite:///{Path('study-1/study.db').absolute()}")
    assert [(trial.state, trial.user_attrs["folder"]) for trial in stored.trials] == [
        (TrialState.COMPLETE, "trial-0"),
        (TrialState.COMPLETE, "trial-1"),
        (TrialState.FAIL, "trial-2"),
        (TrialState.COMPLETE, "trial-2"),
        (TrialState.COMPLETE, "trial-4"),
    ]
    assert stored.trials[3].params == stored.trials[2].params
    assert found["best"] == read("study-1/best.json")
    assert found["best"]["summary"]["interquartile_mean"]["value"] == max(trial.value or 0 for trial in stored.trials)
    after = contents("study-1")
    finished = [path for path in before if path.parts[1] in ("trial-0", "trial-1", "study.json", "space.json")]
    assert all(after[path] == before[path] for path in finished)
    manifest = next(path for path in before if path.name == "manifest.json")
    size = json.loads(before[manifest])["metrics"]["size"]
    taken_up = Path("study-1/trial-2/seed-0/metrics.jsonl")
    assert 0 < size < len(before[taken_up]) and after[taken_up][:size] == before[taken_up][:size], "not begun again"
    for trial in ("trial-2", "trial-4"):
        assert read(f"study-1/{trial}/seed-0/result.json")["steps"] == 160
    check_that_no_module_is_named("study-1")
