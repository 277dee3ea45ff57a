"""The command line: what it prints, what it keeps, how it refuses, and that Ctrl-C loses nothing."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import upright
from configurations import SHORT, as_words
from engines import AUTO, ENGINES
from upright.cli.main import main
from upright.settings.kinds import KINDS
from upright.settings.presets import PRESETS

torch.set_num_threads(1)

TINY = as_words(**SHORT)
ENGINE = "torch" if importlib.util.find_spec("upright._native") is None else "native"
TESTS = str(Path(__file__).parent.parent)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def command(*words: str, **options) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([TESTS, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, **options.pop("env", {})}
    return subprocess.run(
        [sys.executable, "-m", "upright", *words], capture_output=True, text=True, env=environment, **options
    )


@pytest.mark.parametrize("engine", ["auto", *ENGINES])
def test_train_ends_with_one_json_object(engine: str, tmp_path) -> None:
    words = [] if engine == "auto" else ["--engine", engine]
    done = command("train", "CartPole-v1", "--json", "--seed", "3", *TINY, *words)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert len(lines) == 1
    result = json.loads(lines[0])
    assert set(result) >= {
        "env", "preset", "seed", "engine", "steps", "updates", "seconds", "final_mean", "final_std", "episodes",
        "threshold", "solved", "run",
    }  # fmt: skip
    assert (result["env"], result["preset"], result["seed"]) == ("CartPole-v1", "default", 3)
    assert result["engine"] == (AUTO if engine == "auto" else engine)
    assert (result["steps"], result["updates"], result["episodes"], result["threshold"]) == (300, 125, 100, 475.0)
    assert result["solved"] == (result["final_mean"] >= 475)
    folder = tmp_path / result["run"]
    assert folder == tmp_path / "runs" / "CartPole-v1" / "default" / "seed-3"
    assert json.loads((folder / "result.json").read_text()) == result
    assert "The replay memory of 25,000 transitions takes" in done.stderr
    again = command("evaluate", result["run"], "--json")
    evaluated = json.loads(again.stdout.splitlines()[-1])
    for name in ("env", "final_mean", "final_std", "episodes", "threshold", "solved"):
        assert evaluated[name] == result[name]


def test_train_tells_people_what_happens(capsys) -> None:
    assert main(["train", "CliffWalking-v1", *TINY, "--max-episode-steps", "40"]) == 0
    printed = capsys.readouterr().out
    assert re.search(
        f"engine {AUTO} on cpu" + (", (avx512|avx2|neon|portable)\\.\\n" if AUTO == "native" else ""), printed
    )
    assert re.search(r"step 300/300 +return -[\d.]+ +length 40 +ε 0.01 +loss .*steps/s", printed)
    assert re.search(r"Final policy: .* over 100 greedy episodes", printed)
    assert re.search(r"Run: runs/CliffWalking-v1/default/seed-0\n$", printed)
    assert main(["train", "CartPole-v1", *TINY, "--quiet"]) == 0
    assert capsys.readouterr().out == ""


def test_every_preset_and_kind_starts_from_its_own_settings(capsys) -> None:
    for name in PRESETS:
        with pytest.raises(SystemExit) as stop:
            main(["train", "--preset", name, "--help"])
        assert stop.value.code == 0
        shown = re.sub(r"[\s│]+", " ", capsys.readouterr().out)
        assert f"(default: {PRESETS[name].batch_size})" in shown
    run = ["train", "CartPole-v1", *TINY, "--quiet", "--out", "mixed", "--preset", "rainbow", "--no-dueling"]
    assert main([*run, "--loss", "quantile", "--loss.quantiles", "7", "--replay", "uniform", "--munchausen"]) == 0
    config = upright.load("mixed/seed-0").config
    assert config.loss == upright.Quantile(quantiles=7)
    assert (config.replay, config.munchausen, config.dueling) == (upright.Uniform(), upright.Munchausen(), False)
    assert (config.noisy, config.n_steps) == (True, 3)


def test_environment_arguments_and_wrappers(capsys) -> None:
    words = ["--env-kwargs", "is_slippery=false", "map_name=8x8", "--wrapper", "minigrid.wrappers:NoDeath"]
    assert main(["train", "FrozenLake-v1", *TINY, "--quiet", *words[:3]]) == 0
    config = upright.load("runs/FrozenLake-v1/default/seed-0").config
    assert config.env_kwargs == {"is_slippery": False, "map_name": "8x8"}
    words = ["--wrapper", "minigrid.wrappers:ImgObsWrapper", "--num-envs", "2", "--vectorization-mode", "async"]
    assert main(["train", "minigrid:MiniGrid-Empty-5x5-v0", *TINY, "--quiet", *words]) == 0
    evaluation = ["evaluate", "runs/minigrid_MiniGrid-Empty-5x5-v0/default/seed-0", "--episodes", "2"]
    assert main(evaluation) == 2
    assert (
        "names 'minigrid:MiniGrid-Empty-5x5-v0', and to use it is to run the code of that module"
        in capsys.readouterr().err
    )
    assert main([*evaluation, "--trust"]) == 0
    assert "over 2 greedy episodes" in capsys.readouterr().out
    assert main(["train", "Pendulum-v1", "--discretize", "5", *TINY, "--quiet"]) == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("", None),
        ("trian", "There is no command 'trian'. Did you mean 'train'?"),
        ("train", "Missing from upright train"),
        ("train CartPol-v1", "There is no environment 'CartPol-v1'. Did you mean 'CartPole-v1'"),
        ("train LunarLander-v2", "There is no environment 'LunarLander-v2' any more: LunarLander-v3 succeeds it."),
        ("train CartPole-v9", "There is no environment 'CartPole-v9' yet: CartPole-v1 is the newest."),
        ("train ALE/Pong-v5", "pip install ale-py (spelled out, it is ale_py:ALE/Pong-v5)"),
        ("train no_such_module:Env", "needs the module 'no_such_module', which cannot be imported here"),
        ("train Pendulum-v1", "is continuous, and the DQN family needs numbered actions: add --discretize 11"),
        ("train CartPole-v1 --discretize 3", "CartPole-v1 has Discrete(2); leave it out"),
        ("train CartPole-v1 --lr 1e-3", "There is no option '--lr'. Did you mean '--learning-rate'?"),
        ("train CartPole-v1 --lr=1e-3", "There is no option '--lr=1e-3'. Did you mean '--learning-rate'?"),
        ("train CartPole-v1 --verbose 1", "There is no option '--verbose': learn(progress_bar=True) shows a panel"),
        ("train CartPole-v1 --tensorboard-log=logs", "There is no option '--tensorboard-log=logs': the metrics are in"),
        ("train CartPole-v1 --learning-rat 1", "Did you mean '--learning-rate'"),
        ("train CartPole-v1 --double", "Did you mean '--loss.double'?"),
        ("train CartPole-v1 --num-atoms 7", "with these settings: choose --loss categorical, then --loss.atoms."),
        ("train CartPole-v1 --loss.atoms 7", "with these settings: choose --loss categorical, then --loss.atoms."),
        ("train CartPole-v1 --munchausen.alpha 1", "choose --munchausen, then --munchausen.alpha."),
        ("train --env CartPole-v1", "The environment stands by itself, without --env: upright train CartPole-v1."),
        ("train CartPole-v1 stray", "There is no place for 'stray'"),
        ("train CartPole-v1 --gamma 1.5", "gamma is 1.5, but it has to lie in [0, 1]."),
        ("train CartPole-v1 --gamma high", "Error parsing --gamma: could not convert string to float: 'high'."),
        ("train CartPole-v1 --gamma", "Missing value for argument '--gamma'"),
        ("train CartPole-v1 --optimizer lion", "invalid choice 'lion' for argument '--optimizer'"),
        ("train CartPole-v1 --preset rainbw", "There is no preset 'rainbw'. Did you mean 'rainbow'?"),
        ("train CartPole-v1 --loss c51", f"loss is 'c51', but it has to be one of {', '.join(KINDS['loss'])}"),
        ("train CartPole-v1 --loss", "argument --loss: expected one argument."),
        ("train CartPole-v1 --munchausen --loss.double", "munchausen and loss.double cannot be combined"),
        ("train CartPole-v1 --seed -1", "seed is -1, but it has to be a whole number, 0 or more."),
        ("train CartPole-v1 --batch-size 30000", "batch_size (30,000) is above buffer_size (25,000)"),
        ("train CartPole-v1 --buffer-size 1000000000000", "The replay memory needs"),
        ("train CartPole-v1 --env-kwargs size", "--env-kwargs takes key=value, and 'size' is none"),
        ("train CartPole-v1 --env-kwargs size=3", "CartPole-v1 takes no argument 'size' when it is made; it takes sutton_barto_reward, render_mode."),
        ("train CartPole-v1 --wrapper Flaten", "There is no wrapper 'Flaten' in gymnasium.wrappers."),
        ("train CartPole-v1 --device tpu9", "device is 'tpu9', which PyTorch cannot use here"),
        ("train CartPole-v1 --engine jax", "invalid choice 'jax' for argument '--engine'"),
        ("train CartPole-v1 --engine native --loss implicit_quantile --loss.quantiles 65", "engine is native, which cannot do this: "),
        ("train CartPole-v1 --engine native --device cuda", "; choose --engine torch or auto."),
        ("train toy_environments:Image --engine native", "engine is native, which cannot do this: "),
        ("train CartPole-v1 --out file/below", "file/below/seed-0 cannot be made: Not a directory"),
        ("train toy_environments:Faulty --env-kwargs fault=nan", "Faulty (environment 0), episode 0, step 3: the observation is nan"),
        ("train toy_environments:Faulty --env-kwargs fault=reset", "step 0: reset() raised KeyError"),
        ("train toy_environments:Faulty --env-kwargs fault=constructor", "raised RuntimeError when it was made"),
        ("evaluate nowhere", "There is no policy in nowhere"),
        ("evaluate nowhere --episodes 0", "There is no policy in nowhere"),
        ("evaluate", "Missing from upright evaluate"),
        ("watch nowhere", "There is no policy in nowhere"),
        ("envs NoSuchThing", "There is no environment 'NoSuchThing'."),
    ],
)  # fmt: skip
def test_a_mistake_gives_one_sentence_and_status_2(words: str, says: str | None, capsys, tmp_path) -> None:
    (tmp_path / "file").write_text("mine")
    status = main(words.split())
    printed = capsys.readouterr()
    if says is None:
        assert status == 0 and "upright train" in printed.out
        return
    assert status == 2
    assert printed.err.startswith("upright: ") and says in printed.err
    assert printed.err.count("\n") == 1 and "Traceback" not in printed.err
    left = sorted(path.name for path in tmp_path.iterdir())
    # A fault after the first step keeps what was learned until then; nothing else leaves anything.
    assert left == (["file", "runs"] if "step 3" in says else ["file"])


def test_a_fault_while_training_keeps_what_was_learned(capsys) -> None:
    assert main(["train", "toy_environments:Faulty", "--env-kwargs", "fault=raises", "--out", "kept"]) == 2
    said = capsys.readouterr().err
    assert "step 3: step() raised ZeroDivisionError" in said
    assert "What was learned in 2 steps is saved in kept/seed-0." in said
    assert upright.load("kept/seed-0").predict([0.0, 0.0, 0.0, 0.0])[0] in (0, 1)


def test_a_folder_that_holds_another_run_is_refused(capsys) -> None:
    run = ["train", "CartPole-v1", *TINY, "--quiet", "--out", "mine"]
    assert main(run) == 0
    before = {path: path.read_bytes() for path in Path("mine").rglob("*") if path.is_file()}
    assert main(run) == 2
    assert (
        "mine/seed-0 already holds a run: resume it (upright resume, or upright.Run.open in Python), or choose another seed"
        in capsys.readouterr().err
    )
    assert main([*run, "--seed", "1", "--gamma", "0.5"]) == 2
    assert "holds an experiment with another environment or other settings" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in Path("mine").rglob("*") if path.is_file()} == before
    assert main([*run, "--seed", "1"]) == 0


def test_without_out_a_run_finds_a_folder_of_its_own() -> None:
    for seed, expected in ((0, "default/seed-0"), (1, "default/seed-1"), (0, "default-2/seed-0")):
        assert main(["train", "CartPole-v1", *TINY, "--quiet", "--seed", str(seed)]) == 0
        assert (Path("runs/CartPole-v1") / expected / "policy" / "policy.json").exists()


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_ctrl_c_ends_a_run_cleanly_with_what_was_learned(mode: str) -> None:
    words = ["train", "CartPole-v1", "--json", "--total-timesteps", "10000000", "--learning-starts", "100"]
    process = subprocess.Popen(
        [sys.executable, "-m", "upright", *words, "--num-envs", "2", "--vectorization-mode", mode],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    metrics = Path("runs/CartPole-v1/default/seed-0/metrics.jsonl")
    while not (metrics.exists() and metrics.stat().st_size):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err and "KeyboardInterrupt" not in err
    result = json.loads(out.splitlines()[-1])
    assert result["steps"] >= 500 and result["updates"] > 0 and result["final_mean"] is None
    assert re.search(r"Stopped at step [\d,]+; resume with: upright resume runs/CartPole-v1/default/seed-0\n", err)
    assert len(upright.load(result["run"]).evaluate(3).returns) == 3


def test_a_mistake_in_an_evaluation_gives_one_sentence(capsys) -> None:
    assert main(["train", "CartPole-v1", *TINY, "--quiet"]) == 0
    run = "runs/CartPole-v1/default/seed-0"
    for words, says in (
        (["--episodes", "0"], "episodes is 0, but it has to be a whole number, 1 or more."),
        (["--seed", "-1"], "seed is -1, but it has to be a whole number, 0 or more."),
        (["--env", "Acrobot-v1"], "Acrobot-v1 does not fit this policy"),
        (["--env", "CartPol-v1"], "There is no environment 'CartPol-v1'."),
    ):
        assert main(["evaluate", run, *words]) == 2
        assert says in capsys.readouterr().err


def test_a_reader_that_has_had_enough_is_no_fault() -> None:
    script = (
        f"{sys.executable} -m upright train --help | head -1; {sys.executable} -m upright envs Frozen --json | head -1"
    )
    done = subprocess.run(script, shell=True, capture_output=True, text=True)
    assert "Traceback" not in done.stderr and done.stdout.startswith("usage: upright train")


def test_a_console_without_greek_letters_is_no_fault() -> None:
    done = command("train", "--help", env={"PYTHONIOENCODING": "cp1252"}, encoding="cp1252")
    assert done.returncode == 0 and "Traceback" not in done.stderr and "Probability ? of a random action" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_final_evaluation_that_is_stopped_keeps_the_episodes_that_have_ended(number: int, capsys) -> None:
    Path("wait").touch()
    words = [*TINY, "--n-final-episodes", "5", "--n-eval-envs", "1", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "upright", "train", "faulty_environments:Waits", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": TESTS},
    )  # fmt: skip
    said = []
    for line in process.stderr:  # which ends with the process, if it does not come to this line
        said.append(line)
        if line == "The environment waits.\n":
            break
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, said
    assert "Traceback" not in err
    run = "runs/faulty_environments_Waits/default/seed-0"
    assert (
        "Stopped in the final evaluation: 2.00 ± 0.82 over 3 greedy episodes, success rate 67% (the environment names "
        f"no threshold); for all 5 episodes: upright resume {run} --trust\n" in err
    )
    result = json.loads(out)
    assert (result["steps"], result["final_mean"], result["episodes"]) == (300, 2.0, 3)
    assert result["success_rate"] == pytest.approx(2 / 3)
    assert json.loads((Path(run) / "result.json").read_text()) == result
    assert upright.load(run, trust=True).evaluate(5).returns.tolist() == [1, 2, 3, 4, 5]
    Path("wait").unlink()
    assert main(["resume", run, "--trust", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["steps"], result["final_mean"], result["episodes"]) == (300, 3.0, 5)


def test_a_final_evaluation_shows_how_far_it_is(monkeypatch, capsys) -> None:
    monkeypatch.setattr("upright.views.terminal.Display.SECONDS_BETWEEN_LINES", 0.0)
    words = [
        "train",
        "toy_environments:Scripted",
        "--env-kwargs",
        "episodes=[[[1.0, 2.0], true], [[6.0], true]]",
        *TINY,
    ]
    words += ["--n-final-episodes", "4", "--n-eval-envs", "1"]
    assert main(words) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("evaluating")]
    assert said == [
        "evaluating the final policy: 0 of 4 episodes",
        "evaluating the final policy: 1 of 4 episodes, mean return 3.00",
        "evaluating the final policy: 2 of 4 episodes, mean return 4.50",
        "evaluating the final policy: 3 of 4 episodes, mean return 4.00",
        "evaluating the final policy: 4 of 4 episodes, mean return 4.50",
    ]
    assert main([*words, "--quiet", "--out", "quiet"]) == 0
    assert capsys.readouterr().out == ""


def test_a_run_without_a_final_evaluation_is_finished(capsys) -> None:
    assert main(["train", "CartPole-v1", *TINY, "--n-final-episodes", "0"]) == 0
    assert "Final policy: not evaluated (n_final_episodes is 0)." in capsys.readouterr().out
    assert main(["resume", "runs/CartPole-v1/default/seed-0", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["steps"], result["final_mean"], result["episodes"], result["solved"]) == (300, None, 0, None)
    assert main(["evaluate", "runs/CartPole-v1/default/seed-0", "--episodes", "2"]) == 0


def test_ctrl_c_in_the_final_evaluation_keeps_the_run(monkeypatch, capsys) -> None:
    def interrupted(*words):
        raise KeyboardInterrupt

    monkeypatch.setattr("upright.runs.run.greedy_episodes", interrupted)
    assert main(["train", "CartPole-v1", *TINY, "--json"]) == 130
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert result["steps"] == 300 and result["final_mean"] is None and "resume with: upright resume" in printed.err
    assert json.loads((Path(result["run"]) / "result.json").read_text()) == result


def test_a_worker_that_dies_is_named_and_what_was_learned_is_kept(capsys) -> None:
    words = ["--num-envs", "2", "--vectorization-mode", "async", "--env-kwargs", "fault=dies"]
    assert main(["train", "toy_environments:Faulty", *TINY, "--out", "kept", *words]) == 2
    said = capsys.readouterr().err
    assert (
        "toy_environments:Faulty: worker 0 died (exit status 3), after 3 replacements; run it with --vectorization-mode sync "
        "to see why." in said
    )
    assert "What was learned in 4 steps is saved in kept/seed-0." in said


def test_tensorboard_gets_sb3s_tags() -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    words = ["--tensorboard", "--eval-freq", "100", "--n-eval-episodes", "2", "--log-interval", "100", "--quiet"]
    assert main(["train", "CartPole-v1", *TINY, *words]) == 0
    events = EventAccumulator("runs/CartPole-v1/default/seed-0/tensorboard")
    events.Reload()
    # The new summary format stores scalars as tensors.
    tags = set(events.Tags()["tensors"]) | set(events.Tags()["scalars"])
    assert tags >= {
        "rollout/ep_rew_mean", "rollout/ep_len_mean", "rollout/exploration_rate", "train/loss", "train/learning_rate",
        "train/n_updates", "time/fps", "time/total_timesteps", "eval/mean_reward", "eval/mean_ep_length",
    }  # fmt: skip
    assert [event.step for event in events.Tensors("time/total_timesteps")] == [100, 200, 300]


def test_a_missing_extra_answers_with_the_line_that_installs_it(monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.summary", None)
    assert main(["train", "CartPole-v1", *TINY, "--tensorboard"]) == 2
    assert capsys.readouterr().err == "upright: TensorBoard is not installed: pip install 'upright[tensorboard]'\n"
    assert list(tmp_path.iterdir()) == []


def test_watch_renders_in_a_window_or_says_why_not(monkeypatch, capsys) -> None:
    assert main(["train", "CartPole-v1", *TINY, "--quiet"]) == 0
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    run = "runs/CartPole-v1/default/seed-0"
    if sys.platform == "linux":
        assert main(["watch", run]) == 2
        assert "There is no display to watch CartPole-v1 on" in capsys.readouterr().err
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")  # SDL's own window without a screen
    assert main(["watch", run, "--episodes", "2"]) == 0
    watched = re.findall(r"return (\d+) in (\d+) steps", capsys.readouterr().out)
    evaluated = upright.load(run).evaluate(2)
    assert [int(steps) for _, steps in watched] == evaluated.lengths.tolist()


def test_envs_lists_verdicts_and_json(capsys) -> None:
    assert main(["envs", "cart", "--json"]) == 0
    entries = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {entry["id"]: entry["trains"] for entry in entries if "/" not in entry["id"]} == {
        "CartPole-v0": True, "CartPole-v1": True,
    }  # fmt: skip
    assert main(["envs", "Pendulum-v1"]) == 0
    assert "trains with --discretize 11" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "status"),
    [("--help", 0), ("train --help", 0), ("--version", 0), ("train CartPole-v1 --lr 3", 2), ("evaluate nowhere", 2),
     ("envs FrozenLake", 0), ("train CartPol-v1", 2)],
)  # fmt: skip
def test_help_envs_and_mistakes_import_no_torch(words: str, status: int) -> None:
    script = (
        "import sys; from upright.cli.main import main\n"
        f"try: status = main({words.split()!r})\n"
        "except SystemExit as stop: status = stop.code or 0\n"
        "assert 'torch' not in sys.modules\n"
        f"assert status == {status}, status\n"
        f"assert {words.startswith('envs') or words.startswith('train CartPol-') or words.startswith('evaluate')} or 'gymnasium' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_importing_upright_imports_nothing_heavy() -> None:
    script = "import sys, upright; assert not {'torch', 'numpy', 'gymnasium'} & set(sys.modules); upright.DQN; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_help_shows_every_setting_with_its_default(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    shown = capsys.readouterr().out
    import dataclasses

    for field in dataclasses.fields(upright.Config):
        assert f"--{field.name.replace('_', '-')}" in shown
    assert re.sub(r"[\s│]+", " ", shown).count("(default: ") > 40
