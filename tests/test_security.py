"""Files that someone else made: nothing in them is executed, followed out of their folder, or taken memory for.

The fuzzers try a few cases each, and 10,000 each where UPRIGHT_FAULTS is "long" (make test-faults). A case is a number:
UPRIGHT_CASE=123 tries that one alone.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import hashlib
import json
import os
import pickle
import random
import resource
import shutil
import signal
import stat
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

import upright
from toy_environments import Masked
from upright import files
from upright.cli.arguments import Evaluate, Resume, Sweep, Train, Watch
from upright.cli.main import COMMANDS, main
from upright.errors import LONGEST_MESSAGE, RunError, SettingError, UprightError
from upright.loop import train
from upright.runs.run import Run
from upright.settings import presets
from upright.settings.config import Config
from upright.settings.kinds import KINDS

torch.set_num_threads(1)

LONG = os.environ.get("UPRIGHT_FAULTS") == "long"
SOURCE = Path(upright.__file__).parent
TINY = {
    "total_timesteps": 60, "learning_starts": 20, "batch_size": 4, "buffer_size": 40, "net_arch": (4,), "log_interval": 20,
    "checkpoint_every": 30, "eval_freq": 30, "n_eval_episodes": 1, "n_final_episodes": 2,
}  # fmt: skip
SECONDS = 60  # that a hostile file may take; a few tenths are usual
MEMORY = 3 * 2**30  # bytes of address space that one may take beyond what the process has


def cases(short: int) -> list[int]:
    """The numbers of a fuzzer's cases."""
    if "UPRIGHT_CASE" in os.environ:
        return [int(os.environ["UPRIGHT_CASE"])]
    return list(range(10_000 if LONG else short))


class Hangs(BaseException):
    """Raised by the alarm; no `except Exception` catches it."""


@contextlib.contextmanager
def bounded(seconds: float = SECONDS, memory: int = MEMORY) -> Iterator[None]:
    """End what takes too long, and refuse it too much memory."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if sys.platform == "linux" else None

    def hang(number: int, frame: object) -> None:
        raise Hangs

    before = signal.signal(signal.SIGALRM, hang)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    if pages is not None:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def check_sentence(error: BaseException) -> None:
    text = str(error)
    assert text and text.isprintable() and len(text) < LONGEST_MESSAGE + 10, repr(text)


# Runs to be copied and spoiled


def trained(folder: Path, source: Any, **settings: Any) -> Path:
    run = Run(source, Config(**{**TINY, **settings}), 0, folder)
    for _ in train(run):
        pass
    run.save()
    run.save_result({"steps": run.step})
    run.close()
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    return trained(tmp_path_factory.mktemp("plain") / "experiment" / "seed-0", "CartPole-v1")


@pytest.fixture(scope="module")
def masked(tmp_path_factory) -> Path:
    """Masks, priorities, several environments, episodes under way."""
    folder = tmp_path_factory.mktemp("masked") / "experiment" / "seed-0"
    return trained(folder, Masked, num_envs=2, replay=upright.Prioritised(), noisy=True, dueling=True)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)


def copied(run: Path, to: Path) -> Path:
    """A copy of the run's experiment; the copy of the run."""
    shutil.copytree(run.parent, to, symlinks=True)
    return to / run.name


def newest(run: Path) -> Path:
    return max((run / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))


def seal(path: Path, text: str) -> None:
    """Write JSON text with the digest that upright expects, as anyone can who reads this."""
    body = text.rstrip()
    digest = hashlib.sha256(body.encode("utf-8", "surrogatepass")).hexdigest()
    sealed = body[:-2] + f',\n "sha256": "{digest}"\n}}\n'
    path.write_bytes(sealed.encode("utf-8", "surrogatepass"))


def reseal(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    value = json.loads(path.read_text())
    value.pop("sha256", None)
    change(value)
    seal(path, json.dumps(value, indent=1))


def replace_tensors(run: Path, content: bytes) -> None:
    """Other contents for the newest checkpoint's state, and its manifest made to fit."""
    (newest(run) / "state.safetensors").write_bytes(content)
    named = {"size": len(content), "sha256": files.digest(content)}
    reseal(newest(run) / "manifest.json", lambda value: value.update(state=named))
    for step in (run / "checkpoints").glob("[0-9]*"):
        if step != newest(run):
            shutil.rmtree(step)


def replace_parameters(policy: Path, content: bytes) -> None:
    (policy / "policy.safetensors").write_bytes(content)
    named = {"size": len(content), "sha256": files.digest(content)}
    reseal(policy / "policy.json", lambda value: value.update(parameters=named))


def test_what_these_tests_seal_is_what_upright_writes(plain: Path, tmp_path) -> None:
    run = copied(plain, tmp_path / "experiment")
    for path in (newest(run) / "manifest.json", run / "policy" / "policy.json"):
        before = path.read_bytes()
        reseal(path, lambda value: None)
        assert path.read_bytes() == before


# The source


EXECUTING_MODULES = {
    "pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "runpy", "code", "codeop", "yaml",
    "ctypes", "cffi", "subprocess", "pty", "imp",
}  # fmt: skip
IMPORTING_MODULES = ("__init__.py", "environments/packages.py", "environments/sources.py", "environments/wrapping.py")


def executes(tree: ast.AST, module: str) -> Iterator[str]:
    """What in a module's syntax tree could execute, or unpickle, what it reads."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (each.name for each in names if each.name.split(".")[0] in EXECUTING_MODULES)
            case ast.ImportFrom(module=str(name), names=names):
                if name.split(".")[0] in EXECUTING_MODULES:
                    yield name
                yield from (
                    f"{name}.{each.name}"
                    for each in names
                    if (name.split(".")[0] in ("torch", "numpy") and each.name == "load")
                    or each.name == "import_module"
                )
            case ast.Name(id="eval" | "exec" | "compile" | "__import__" | "execfile" as name):
                yield name
            case ast.Attribute(value=ast.Name(id="torch" | "np" | "numpy" as home), attr="load" | "hub" as name):
                yield f"{home}.{name}"
            case ast.Attribute(value=ast.Name(id="builtins")) | ast.Attribute(attr="allow_pickle" | "weights_only"):
                yield ast.unparse(node)
            case ast.Attribute(
                value=ast.Name(id="os"), attr="system" | "popen" | "execv" | "execve" | "spawnv" as name
            ):
                yield f"os.{name}"
            # These import what the user names, or a file that is trusted; __init__.py the package's own modules.
            case ast.Attribute(attr="import_module") if module not in IMPORTING_MODULES:
                yield "import_module"
            case ast.keyword(arg="allow_pickle" | "weights_only" as name) | ast.Constant(value="allow_pickle" as name):
                yield str(name)


def test_nothing_in_the_source_executes_what_it_reads() -> None:
    """The workers' pickles go through pipes between processes of one run (Gymnasium's AsyncVectorEnv), never a disk."""
    paths = sorted(SOURCE.rglob("*.py"))
    assert len(paths) > 30
    named = {path.relative_to(SOURCE).as_posix(): ast.parse(path.read_text()) for path in paths}
    found = {name: list(executes(tree, name)) for name, tree in named.items()}
    found["dashboard/beside.py"].remove("subprocess")  # starts this Python with words that stand there
    assert {name: names for name, names in found.items() if names} == {}
    for line in (
        "import pickle", "from torch import load", "torch.load('x')", "np.load('x', allow_pickle=True)", "eval('1')",
        "from importlib import import_module", "import importlib; importlib.import_module('x')", "x(**{'allow_pickle': 1})",
        "exec('1')", "__import__('os').system('x')", "import builtins; builtins.eval('1')", "from cloudpickle import loads",
    ):  # fmt: skip
        assert list(executes(ast.parse(line), "line.py")), line
    for line in ("ast.literal_eval('1')", "network.eval()", "json.loads('1')", "re.compile('a')"):
        assert not list(executes(ast.parse(line), "line.py")), line


# Pickles


class Malicious:
    """Whoever unpickles it writes the marker."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.write_text, (self.marker, "executed")


def one_sentence_or_success(words: list[str], capsys) -> int:
    with bounded():
        status = main(words)
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert status in (0, 2), (status, said)
    if status == 2:
        sentences = [line for line in said.splitlines() if line.startswith("upright: ")]
        assert len(sentences) == 1 and said.splitlines()[-1] == sentences[0], said
    return status


def every_command(run: Path) -> Iterator[list[str]]:
    yield ["evaluate", str(run), "--episodes", "2"]
    yield ["evaluate", str(run / "policy"), "--episodes", "2"]
    yield ["evaluate", str(run / "best"), "--episodes", "2"]
    yield ["watch", str(run), "--episodes", "1"]
    yield ["resume", str(run), "--total-timesteps", "64", "--quiet"]
    yield ["train", "CartPole-v1", "--out", str(run.parent), "--quiet", "--total-timesteps", "60"]


def test_a_pickle_under_any_file_name_is_never_unpickled(plain: Path, tmp_path, capsys) -> None:
    marker = tmp_path / "marker"
    bomb = pickle.dumps(Malicious(marker))
    pickle.loads(bomb)
    assert marker.read_text() == "executed"  # it would work
    marker.unlink()
    names = sorted({path.relative_to(plain) for path in plain.rglob("*") if path.is_file()})
    assert {path.name for path in names} >= {
        "policy.json", "policy.safetensors", "manifest.json", "state.safetensors", "metrics.jsonl", "result.json", "lock",
    }  # fmt: skip
    more = [
        "../config.json",
        "policy/next.safetensors",
        "best/next.safetensors",
        "policy.json",
        "policy.pkl",
        "policy.pt",
    ]
    more += ["model.zip", "checkpoints/replay/0-9.safetensors", "checkpoints/90/manifest.json", "tensorboard/events"]
    statuses = set()
    for k, name in enumerate([*names, *map(Path, more)]):
        run = copied(plain, tmp_path / f"experiment{k}")
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(bomb)
        commands = list(every_command(run))
        if name.name not in ("lock", "config.json"):
            commands = commands[:-1]
        for words in commands:
            statuses.add(one_sentence_or_success(words, capsys))
            assert not marker.exists(), (name, words)
        shutil.rmtree(run.parent)
    assert statuses == {0, 2}


def test_a_run_of_nothing_but_pickles(plain: Path, tmp_path, capsys) -> None:
    run, marker = copied(plain, tmp_path / "experiment"), tmp_path / "marker"
    for path in [*run.parent.rglob("*")]:
        if path.is_file():
            path.write_bytes(pickle.dumps(Malicious(marker)))
    for words in [*every_command(run), ["plot", str(run), "--out", "a.png"], ["record", str(run), "--out", "a.gif"]]:
        assert one_sentence_or_success(words, capsys) == 2
    assert not marker.exists()


def test_a_module_in_a_downloaded_folder_stands_in_for_no_missing_one(
    plain: Path, tmp_path, monkeypatch, capsys
) -> None:
    """An environment of Gymnasium's whose package is missing, and a file of that package's name where one stands."""
    run = copied(plain, tmp_path / "experiment")
    (run / "a_missing_package.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')\n")
    monkeypatch.setitem(
        gymnasium.registry, "Missing-v0", gymnasium.envs.registration.EnvSpec("Missing-v0", "a_missing_package:Env")
    )
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each not in ("", ".")])
    monkeypatch.chdir(run)
    reseal(run / "policy" / "policy.json", lambda value: value.update(env="Missing-v0"))
    reseal(newest(run) / "manifest.json", lambda value: value.update(env="Missing-v0"))
    for words in (["evaluate", "."], ["resume", "."], ["train", "Missing-v0"]):
        assert main(words) == 2
        assert "needs the module 'a_missing_package', which cannot be imported here" in capsys.readouterr().err
    assert not (tmp_path / "marker").exists()
    assert main(["evaluate", ".", "--trust"]) == 2  # it holds no environment, but was looked for here
    assert (tmp_path / "marker").exists()


# Names that would run something


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"env": "a_module_here:Env"}, "to use it is to run the code of that module"),
        ({"env": "os:system"}, "to use it is to run the code of that module"),
        ({"env": "FlappyBird-v0"}, "to use it is to run the code of the module flappy_bird_gymnasium"),
        ({"env": "gym:CartPole-v1"}, "to use it is to run the code of that module"),
        ({"env": "GymV26Environment-v0", "env_kwargs": {"env_id": "a_module_here:Env"}}, "to use it is to run the code of"),
        ({"wrapper": ["a_module_here:Wrapper"]}, "to use it is to run the code of that module"),
        ({"wrapper": ["TimeLimit(max_episode_steps=3)"]}, "to use it is to run the code of that module"),
        ({"env_kwargs": {"xml_file": "/dev/zero"}}, "hands its environment the path '/dev/zero'"),
        ({"env_kwargs": {"xml_file": "../../secret.xml"}}, "hands its environment the path '../../secret.xml'"),
        ({"env_kwargs": {"a": [{"b": "~root"}]}}, "hands its environment the path '~root'"),
        ({"env_kwargs": {"desc": ["F" * 20_000]}}, "hands its environment more than 10,000 characters"),
        ({"env_kwargs": {"render_mode": []}}, "CartPole-v1"),
        ({"env_kwargs": {"max_episode_steps": 3}}, "holds 'max_episode_steps', which is a setting"),
        ({"env_kwargs": {"id": "a"}}, "holds 'id', which is the environment itself"),
        ({"env": ["CartPole-v1"]}, "its env is no environment's name"),
        ({"env": {"CartPole-v1": 1}}, "its env is no environment's name"),
        ({"env": "x" * 2_000_000}, "its env is no environment's name"),
        ({"env": "x" * 999}, "There is no environment"),
        ({"env": "CartPole-v1\x1b[2J\n"}, "There is no environment"),
        ({"env": None}, "no file can name"),
    ],
)  # fmt: skip
def test_what_a_file_names_is_used_only_as_far_as_it_is_trusted(
    settings, says, plain: Path, tmp_path, capsys, monkeypatch
) -> None:
    for name in ("a_module_here", "flappy_bird_gymnasium"):
        (tmp_path / f"{name}.py").write_text("open('marker', 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    run = copied(plain, tmp_path / "experiment")

    def change(value: dict[str, Any]) -> None:
        value.update({name: each for name, each in settings.items() if name == "env"})
        value["config"].update({name: each for name, each in settings.items() if name != "env"})

    for path in (run / "policy" / "policy.json", *run.glob("checkpoints/*/manifest.json")):
        reseal(path, change)
    for words in (["evaluate", str(run), "--episodes", "1"], ["resume", str(run), "--total-timesteps", "61"]):
        with bounded():
            assert main(words) == 2
        said = capsys.readouterr()
        assert says in said.err and "\x1b" not in said.err + said.out and said.err.count("\n") == 1
        assert not (tmp_path / "marker").exists()


def test_a_file_starts_no_thousands_of_processes(plain: Path, tmp_path, capsys, monkeypatch) -> None:
    run = copied(plain, tmp_path / "experiment")
    for path in run.glob("checkpoints/*/manifest.json"):
        reseal(path, lambda value: value["config"].update(num_envs=4096, vectorization_mode="async"))
    monkeypatch.setattr("upright.runs.run.make_vector", lambda *words: pytest.fail("they were started"))
    assert main(["resume", str(run)]) == 2
    assert (
        "has 4,096 environments; if you trust its files to start that many, say so: --trust" in capsys.readouterr().err
    )


# JSON with the right digest


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def deep_space(levels: int) -> Any:
    value: Any = {"type": "Discrete", "n": 2, "start": 0}
    for _ in range(levels):
        value = {"type": "Tuple", "spaces": [value]}
    return value


BOX = {"type": "Box", "shape": [4], "dtype": "float32", "low": "-1.0", "high": "1.0"}
HOSTILE_POLICIES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "deep": lambda value: value["config"].update(env_kwargs={"a": deep(900)}),
    "huge text": lambda value: value.update(schema="x" * 10_000_000),
    "huge name": lambda value: value["config"].update({"x" * 10_000_000: 1}),
    "huge number": lambda value: value["config"].update(gamma=10**400),
    "huge whole number": lambda value: value["config"].update(total_timesteps=10**400),
    "many layers": lambda value: value["config"].update(net_arch=[1] * 100_000),
    "wide layers": lambda value: value["config"].update(net_arch=[65536, 65536]),
    "wide layers of another kind": lambda value: value["config"].update(net_arch=[65536, 65536], engine="torch"),
    "orthogonal": lambda value: value["config"].update(net_arch=[65536, 65536], initialisation="orthogonal"),
    "many cosines": lambda value: value["config"].update(loss={"kind": "implicit_quantile", "cosines": 4096}),
    "huge box": lambda value: value.update(observation_space={**BOX, "shape": [2**40]}),
    "huge image": lambda value: value.update(
        observation_space={**BOX, "shape": [2**16, 2**16, 3], "dtype": "uint8", "low": "0", "high": "255"}
    ),
    "empty huge box": lambda value: value.update(observation_space={**BOX, "shape": [0, 2**62]}),
    "negative box": lambda value: value.update(observation_space={**BOX, "shape": [-4]}),
    "box of objects": lambda value: value.update(observation_space={**BOX, "dtype": "O"}),
    "box of long texts": lambda value: value.update(observation_space={**BOX, "dtype": "U1000000000"}),
    "box of text shapes": lambda value: value.update(observation_space={**BOX, "shape": ["x", 10**12]}),
    "bounds crossed": lambda value: value.update(observation_space={**BOX, "low": "2.0"}),
    "bounds without end": lambda value: value.update(observation_space={**BOX, "low": "1" * 1_000_000}),
    "deep space": lambda value: value.update(observation_space=deep_space(150)),
    "wide space": lambda value: value.update(observation_space={"type": "Tuple", "spaces": [BOX] * 20_000}),
    "huge one-hot": lambda value: value.update(observation_space={"type": "Discrete", "n": 2**62, "start": 0}),
    "huge bits": lambda value: value.update(observation_space={"type": "MultiBinary", "n": 2**40}),
    "huge nvec": lambda value: value.update(
        action_space={"type": "MultiDiscrete", "nvec": [2**62] * 4, "start": [0] * 4, "dtype": "int64"}
    ),
    "many nvec": lambda value: value.update(
        action_space={"type": "MultiDiscrete", "nvec": [1] * 1000, "start": [0] * 1000, "dtype": "int64"}
    ),
    "many actions": lambda value: value.update(action_space={"type": "Discrete", "n": 2**62, "start": 0}),
    "no actions": lambda value: value.update(action_space={"type": "Discrete", "n": 0, "start": 0}),
    "unknown space": lambda value: value.update(action_space={"type": "Sequence"}),
    "space of a list": lambda value: value.update(action_space=[1]),
    "no parameters": lambda value: value.pop("parameters"),
    "parameters of a size": lambda value: value.update(parameters={"size": 10**18, "sha256": "0" * 64}),
    "a network of its own": lambda value: value.update(own_network=True),
    "a device": lambda value: value.update(schema={"device": "meta"}),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_POLICIES)
def test_a_hostile_policy_is_refused_before_it_takes_memory(name: str, plain: Path, tmp_path) -> None:
    policy = copied(plain, tmp_path / "experiment") / "policy"
    reseal(policy / "policy.json", HOSTILE_POLICIES[name])
    with bounded(memory=2**30), pytest.raises(RunError) as caught:
        upright.load(policy)
    check_sentence(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        '{\n "a": NaN\n}', '{\n "a": 1,\n "a": 2\n}', '{\n "a": Infinity\n}', "[" * 100_000 + "]" * 100_000,
        '{\n "a": ' + "[" * 100_000 + "]" * 100_000 + "\n}", '{\n "a": ' + "9" * 1_000_000 + "\n}", '{\n "a": "\\ud800"\n}',
        "", "null", "[]", "\ufeff{}", '{\n "a": "\x00"\n}', '{\n "a": ' + "[[],[],[]]," * 2_000_000 + "1\n}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("is_sealed", [False, True])
def test_hostile_json_is_refused(text: str, is_sealed: bool, plain: Path, tmp_path) -> None:
    run = copied(plain, tmp_path / "experiment")
    for path in (run / "policy" / "policy.json", *run.glob("checkpoints/*/manifest.json")):
        if is_sealed and len(text) > 2:
            seal(path, text)
        else:
            path.write_text(text)
    for read in (upright.load, Run.open):
        with bounded(memory=2**30), pytest.raises(RunError) as caught:
            read(run)
        check_sentence(caught.value)


def test_a_large_json_is_refused_unread(tmp_path) -> None:
    path = tmp_path / "policy.json"
    with path.open("wb") as file:
        file.truncate(2**40)  # a sparse file, which takes no room in an archive either
    before = time.perf_counter()
    with bounded(memory=2**30), pytest.raises(RunError, match=r"has 1,099,511,627,776 bytes, more than the 33,554,432"):
        upright.load(tmp_path)
    assert time.perf_counter() - before < 5


@pytest.mark.parametrize("name", ["policy.safetensors", "state.safetensors"])
def test_sparse_tensors_are_refused_unread(name: str, plain: Path, tmp_path) -> None:
    run = copied(plain, tmp_path / "experiment")
    path = next(iter([*run.glob(f"policy/{name}"), *newest(run).glob(name)]))
    with path.open("r+b") as file:
        file.truncate(2**40)
    part = "parameters" if name.startswith("policy") else "state"
    reseal(next(path.parent.glob("*.json")), lambda value: value[part].update(size=2**40))
    shutil.rmtree(min((run / "checkpoints").glob("[0-9]*"), key=lambda each: int(each.name)))
    with bounded(memory=2**30), pytest.raises(RunError, match="more than the"):
        (upright.load if name.startswith("policy") else Run.open)(run)


HOSTILE_RUNS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "wide layers": lambda value: value["config"].update(net_arch=[65536, 65536]),
    "many layers": lambda value: value["config"].update(net_arch=[1] * 100_000),
    "huge memory": lambda value: value["config"].update(buffer_size=10**15),
    "huger memory": lambda value: value["config"].update(buffer_size=10**18),
    "negative step": lambda value: value.update(step=-30),
    "another step": lambda value: value.update(step=10**17),
    "no seed": lambda value: value.update(seed=-1),
    "text seed": lambda value: value.update(seed="0"),
    "huge metrics": lambda value: value.update(metrics={"size": 10**400, "sha256": 1}),
    "negative metrics": lambda value: value["metrics"].update(size=-1),
    "no metrics": lambda value: value.update(metrics=[]),
    "endless": lambda value: value.update(elapsed="inf"),
    "no state": lambda value: value.update(state=None),
    "state elsewhere": lambda value: value["state"].update(size=-1),
    "no segments": lambda value: value.update(segments=[]),
    "segments of text": lambda value: value.update(segments="abc"),
    "a segment again and again": lambda value: value.update(segments=value["segments"] * 10_000),
    "a segment from inf": lambda value: value["segments"][0].update(first="inf"),
    "a segment backwards": lambda value: value["segments"][0].update(first=9, end=2, name="9-2.safetensors"),
    "a segment of floats": lambda value: value["segments"][0].update(first=0.0),
    "a segment elsewhere": lambda value: value["segments"][0].update(name="../../../secret"),
    "a segment at the root": lambda value: value["segments"][0].update(name="/etc/passwd"),
    "a segment of NUL": lambda value: value["segments"][0].update(name="0-30.safetensors\x00"),
    "a segment of length": lambda value: value["segments"][0].update(name="x" * 100_000),
    "a segment of more": lambda value: value["segments"][0].update(path="/etc/passwd"),
    "meta": lambda value: value["config"].update(device="meta", engine="torch"),
    "no device": lambda value: value["config"].update(device="cuda:99", engine="torch"),
    "a network of its own": lambda value: value.update(own_network=True),
    "a config of a list": lambda value: value.update(config=[1]),
    "a config of text": lambda value: value.update(config="abc"),
    "deep": lambda value: value["config"].update(env_kwargs={"a": deep(900)}),
    "many environments": lambda value: value["config"].update(num_envs=4096),
    "other environments": lambda value: value["config"].update(num_envs=3),
    "another environment": lambda value: value.update(env="Acrobot-v1"),
}  # fmt: skip


def refuse(run: Path, memory: int = 2**30, source: Any = None) -> str:
    """Opening the run's newest checkpoint is refused in one sentence, which is returned."""
    for step in (run / "checkpoints").glob("[0-9]*"):
        if step != newest(run):
            shutil.rmtree(step)
    with bounded(memory=memory), pytest.raises(UprightError) as caught:
        Run.open(run, source=source)
    check_sentence(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", HOSTILE_RUNS)
def test_a_hostile_run_is_refused_before_it_takes_memory(name: str, plain: Path, tmp_path) -> None:
    run = copied(plain, tmp_path / "experiment")
    reseal(newest(run) / "manifest.json", HOSTILE_RUNS[name])
    refuse(run)


# States that no run can be in

State = dict[str, np.ndarray]
WORDS = np.zeros(6, np.uint64)
HOSTILE_STATES: dict[str, Callable[[State], Any]] = {
    "action beyond": lambda state: state["playing/actions"].fill(5),
    "action below": lambda state: state["playing/actions"].fill(-1),
    "actions of floats": lambda state: state.update({"playing/actions": state["playing/actions"] + 0.5}),
    "more actions": lambda state: state.update({"playing/actions": np.zeros(1_000_000, np.int64)}),
    "negative length": lambda state: state["playing/length"].__imul__(-1),
    "lengths that wrap": lambda state: state.update({"playing/length": state["playing/length"] + 2**62}),
    "more episodes": lambda state: state.update({"playing/episode": np.zeros(100, np.int64)}),
    "fewer episodes": lambda state: state.update({"playing/episode": np.zeros(0, np.int64)}),
    "negative episode": lambda state: state["playing/episode"].fill(-5),
    "negative step": lambda state: state.update({"run/step": np.array(-1)}),
    "another step": lambda state: state.update({"run/step": np.array(10**6)}),
    "infinite step": lambda state: state.update({"run/step": np.array(np.inf)}),
    "steps": lambda state: state.update({"run/step": np.zeros(1000, np.int64)}),
    "random words that stand still": lambda state: state.update({"run/random": WORDS}),
    "random words of the replay": lambda state: state.update({"replay/random": WORDS}),
    "random words of the learner": lambda state: state.update({"learner/random": WORDS}),
    "random words too large": lambda state: state["run/random"].fill(2**64 - 1),
    "random words of floats": lambda state: state.update({"run/random": np.full(6, np.inf)}),
    "too few random words": lambda state: state.update({"run/random": WORDS[:5]}),
    "observations of bytes": lambda state: state.update({"run/obs": state["run/obs"].astype(np.uint8)}),
    "observations of another shape": lambda state: state.update({"run/obs": np.zeros((2, 7), np.float32)}),
    "no observations": lambda state: state.pop("run/obs"),
    "no masks": lambda state: state.pop("run/mask"),
    "masks of another shape": lambda state: state.update({"run/mask": np.ones((2, 9), bool)}),
    "masks of bytes": lambda state: state.update({"run/mask": state["run/mask"].astype(np.uint8)}),
    "negative pushed": lambda state: state.update({"replay/pushed": np.array(-1)}),
    "huge pushed": lambda state: state.update({"replay/pushed": np.array(2**63 - 1)}),
    "more pushed": lambda state: state.update({"replay/pushed": np.array(state["replay/pushed"] + 40)}),
    "negative priorities": lambda state: state["replay/masses"].__imul__(-1),
    "no priorities": lambda state: state["replay/masses"].fill(0),
    "priorities that are no numbers": lambda state: state["replay/masses"].fill(np.nan),
    "priorities that sum to infinity": lambda state: state["replay/masses"].fill(1e308),
    "fewer priorities": lambda state: state.update({"replay/masses": state["replay/masses"][:3]}),
    "no largest priority": lambda state: state.update({"replay/largest": np.array(np.nan)}),
    "negative largest priority": lambda state: state.update({"replay/largest": np.array(-3.0)}),
    "waiting in no environment": lambda state: state["nstep/env"].fill(7),
    "waiting in an environment beyond all": lambda state: state["nstep/env"].fill(2**61),
    "waiting before the first environment": lambda state: state["nstep/env"].fill(-1),
    "waiting for ever": lambda state: state.update(
        {name: np.repeat(state[name], 10, axis=0) for name in state if name.startswith("nstep/")}
    ),
    "waiting observations of another shape": lambda state: state.update({"nstep/obs": state["nstep/obs"][:, :1]}),
    "waiting actions beyond": lambda state: state["nstep/action"].fill(10**9),
    "waiting rewards that are no numbers": lambda state: state["nstep/reward"].fill(np.nan),
    "waiting without masks": lambda state: state.pop("nstep/mask"),
    "repeating actions beyond": lambda state: state["repeats/action"].fill(10**9),
    "repeating for less than nothing": lambda state: state["repeats/left"].fill(-1),
    "repeating in fewer environments": lambda state: state.update({"repeats/left": state["repeats/left"][:1]}),
    "nothing repeating": lambda state: [state.pop(name) for name in list(state) if name.startswith("repeats/")],
    "returns of another shape": lambda state: state.update({"episodes/reward": np.zeros(9)}),
    "lengths of another shape": lambda state: state.update({"episodes/length": np.array(0)}),
    "episodes of another shape": lambda state: state.update({"episodes/recent": np.zeros((3, 3))}),
    "episodes at infinity": lambda state: state.update({"episodes/new": np.full((1, 4), np.inf)}),
    "negative count": lambda state: state.update({"episodes/count": np.array(-1)}),
    "parameters of another shape": lambda state: state.update({"learner/online/advantage.2.weight": np.zeros((1, 1), "f4")}),
    "no parameters": lambda state: [state.pop(name) for name in list(state) if name.startswith("learner/online/")],
    "no targets": lambda state: [state.pop(name) for name in list(state) if name.startswith("learner/target/")],
    "more parameters": lambda state: state.update({"learner/online/other": np.zeros(3, np.float32)}),
    "negative updates": lambda state: state.update({"learner/optimizer/step": np.array(-1)}),
    "nothing": lambda state: state.clear(),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_STATES)
def test_a_state_that_no_run_can_be_in_is_refused(name: str, masked: Path, tmp_path) -> None:
    run = copied(masked, tmp_path / "experiment")
    state = {key: array.copy() for key, array in load((newest(run) / "state.safetensors").read_bytes()).items()}
    assert len(state["nstep/env"]) and len(state["playing/actions"])
    HOSTILE_STATES[name](state)
    replace_tensors(run, save(state))
    assert "does not fit its run" in refuse(run, source=Masked)


def replace_rows(run: Path, change: Callable[[State], Any]) -> None:
    """Change the newest checkpoint's rows, each segment's digest made to fit."""
    named = json.loads((newest(run) / "manifest.json").read_text())["segments"]
    for each in named:
        path = run / "checkpoints" / "replay" / each["name"]
        rows = {key: array.copy() for key, array in load(path.read_bytes()).items()}
        change(rows)
        content = save(rows)
        path.write_bytes(content)
        each.update(size=len(content), sha256=files.digest(content))
    reseal(newest(run) / "manifest.json", lambda value: value.update(segments=named))


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows["action"].fill(10**9),  # an index into C++'s arrays
        lambda rows: rows["action"].fill(-1),
        lambda rows: rows.pop("reward"),
        lambda rows: rows.update(obs=rows["obs"][:, :2].copy()),
        lambda rows: rows.update(obs=rows["obs"].astype(np.float64)),
        lambda rows: rows.update(more=rows["obs"]),
        lambda rows: rows.update({name: array[:1].copy() for name, array in rows.items()}),
        lambda rows: rows.update({name: np.zeros((), array.dtype) for name, array in rows.items()}),
        lambda rows: rows.update(more=np.zeros(50_000_000, np.uint8)),
        lambda rows: rows.clear(),
    ],
)
def test_rows_that_no_memory_holds_are_refused(change, masked: Path, tmp_path) -> None:
    run = copied(masked, tmp_path / "experiment")
    replace_rows(run, change)
    assert "does not fit" in refuse(run, source=Masked)


# safetensors that lie


def lying(header: Any, data: bytes = b"\0" * 16, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def one(dtype: Any = "F32", shape: Any = (4,), offsets: Any = (0, 16)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


LYING = {
    "empty": b"", "short": b"\0" * 7, "header beyond the file": lying({"a": one()}, length=10**6),
    "header of 2^63": lying({"a": one()}, length=2**63), "header of 2^64 - 1": lying({"a": one()}, length=2**64 - 1),
    "header of 90 MB": lying(b"{" + b" " * 90_000_000 + b"}"), "no header": lying({}, b"", 0),
    "overlap": lying({"a": one(), "b": one()}), "gap": lying({"a": one(shape=[1], offsets=[12, 16])}),
    "backwards": lying({"a": one(offsets=[16, 0])}), "beyond": lying({"a": one(offsets=[0, 10**12])}),
    "negative": lying({"a": one(offsets=[-16, 0])}), "huge shape": lying({"a": one(shape=[2**40])}),
    "shape that wraps": lying({"a": one(shape=[2**32, 2**32])}), "shape that wraps to fit": lying({"a": one(shape=[2**62, 4, 4])}),
    "negative shape": lying({"a": one(shape=[-4])}), "nothing of huge": lying({"a": one(shape=[0, 2**63 - 1], offsets=[0, 0])}, b""),
    "deep shape": lying({"a": one(shape=[1] * 100, offsets=[0, 4])}, b"\0" * 4), "unknown dtype": lying({"a": one("F99")}),
    "dtype of objects": lying({"a": one("O")}), "bfloat16": lying({"a": one("BF16", [8])}), "8-bit floats": lying({"a": one("F8_E4M3", [16])}),
    "twice": lying(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}'),
    "not UTF-8": lying(b'{"\xff":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'), "no JSON": lying(b"{'a'}"), "a list": lying([one()]),
    "deep": lying(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "metadata of numbers": lying({"__metadata__": {"a": 1}, "a": one()}),
    "neither true nor false": lying({"a": one("BOOL", [16])}, b"\x07" * 16), "more data": lying({"a": one()}, b"\0" * 17),
    "many names": lying({f"{k}": one(shape=[0], offsets=[0, 0]) for k in range(200_000)}, b""),
}  # fmt: skip


@pytest.mark.parametrize("name", LYING)
def test_safetensors_that_lie_are_refused(name: str, plain: Path, tmp_path) -> None:
    run = copied(plain, tmp_path / "experiment")
    replace_parameters(run / "policy", LYING[name])
    replace_tensors(run, LYING[name])
    for read in (upright.load, Run.open):
        with bounded(20, memory=2**30), pytest.raises(RunError) as caught:
            read(run)
        check_sentence(caught.value)


# Links


def snapshot(folder: Path) -> dict[Path, Any]:
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def link_out(run: Path, name: Path, outside: Path) -> None:
    """Put a link in the place of a file or folder of the run, to what stood there, moved outside."""
    target = outside / "-".join(name.parts)
    target.parent.mkdir(exist_ok=True)
    shutil.move(run / name, target)
    (run / name).symlink_to(target)


def test_no_link_in_a_run_is_followed_out_of_it(plain: Path, tmp_path, capsys) -> None:
    """Whole or not, what a link leads to is neither changed nor removed; and it is not read, where the run needs it."""
    names = sorted(path.relative_to(plain) for path in plain.rglob("*"))
    assert len(names) > 12
    needed = {newest(plain).relative_to(plain), newest(plain).relative_to(plain) / "manifest.json"}
    for k, name in enumerate(names):
        run = copied(plain, tmp_path / f"experiment{k}")
        outside = tmp_path / f"outside{k}"
        link_out(run, name, outside)
        before = snapshot(outside)
        for words in every_command(run):
            status = one_sentence_or_success(words, capsys)
            if words[0] == "resume" and (len(name.parts) == 1):
                assert status == 2, name
            if words[1] == str(run) and name.parts[0] == "policy" and words[0] != "resume":
                assert status == 2, (name, words)
            assert snapshot(outside) == before, (name, words)
        assert name not in needed or status == 2
        shutil.rmtree(run.parent)


@pytest.mark.parametrize("name", ["30", "90", "93", "replay/62-64.safetensors", "64"])
def test_checkpoints_are_neither_written_nor_pruned_through_links(name: str, plain: Path, tmp_path, capsys) -> None:
    run, outside = copied(plain, tmp_path / "experiment"), tmp_path / "outside"
    outside.mkdir()
    for each in ("manifest.json", "state.safetensors", "precious"):
        (outside / each).write_text("mine")
    place = run / "checkpoints" / name
    if place.exists():
        shutil.rmtree(place)
    place.symlink_to(outside)
    before = snapshot(outside)
    for steps in ("64", "96"):
        one_sentence_or_success(["resume", str(run), "--total-timesteps", steps], capsys)
        assert snapshot(outside) == before
    assert any(path.is_dir() and not path.is_symlink() for path in (run / "checkpoints").glob("[0-9]*"))


def test_a_new_run_writes_through_no_link(tmp_path, capsys) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("mine")
    (outside / "config.json").write_text("{}")
    before = snapshot(outside)
    words = ["train", "CartPole-v1", "--total-timesteps", "20", "--quiet", "--out"]
    # The lock is emptied when it is taken.
    (tmp_path / "a/seed-0").mkdir(parents=True)
    (tmp_path / "a/seed-0/lock").symlink_to(outside / "precious")
    assert one_sentence_or_success([*words, "a"], capsys) == 2
    (tmp_path / "b/seed-0").mkdir(parents=True)
    os.link(outside / "precious", tmp_path / "b/seed-0/lock")
    assert one_sentence_or_success([*words, "b"], capsys) == 2
    (tmp_path / "c").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "c/seed-0").symlink_to(tmp_path / "empty")
    assert one_sentence_or_success([*words, "c"], capsys) == 2
    assert list((tmp_path / "empty").iterdir()) == []
    (tmp_path / "d").mkdir()
    (tmp_path / "d/config.json").symlink_to(outside / "config.json")
    assert one_sentence_or_success([*words, "d"], capsys) == 2
    (tmp_path / "e").mkdir()
    (tmp_path / "e/config.json").symlink_to("/dev/zero")
    assert one_sentence_or_success([*words, "e"], capsys) == 2
    assert snapshot(outside) == before


def test_a_temporary_file_is_not_written_through_a_link(plain: Path, tmp_path, monkeypatch) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    folder = tmp_path / "policy"
    folder.mkdir()
    with monkeypatch.context() as guessed:
        guessed.setattr(files.secrets, "token_hex", lambda count: "guessed")
        (folder / ".policy.json.guessed").symlink_to(victim)
        with pytest.raises(RunError, match="policy.json cannot be written: File exists"):
            upright.load(plain).save(folder)
    upright.load(plain).save(folder)
    assert victim.read_text() == "mine" and sorted(path.name for path in folder.iterdir()) == [
        "policy.json", "policy.safetensors",
    ]  # fmt: skip
    assert stat.S_ISREG((folder / "policy.json").lstat().st_mode)


@pytest.mark.parametrize("kind", ["hard link", "pipe", "folder"])
def test_metrics_that_are_not_the_runs_own_file_are_refused(kind: str, plain: Path, tmp_path) -> None:
    run = copied(plain, tmp_path / "experiment")
    path, elsewhere = run / "metrics.jsonl", tmp_path / "elsewhere"
    shutil.move(path, elsewhere)
    before = elsewhere.read_bytes()
    match kind:
        case "hard link":
            os.link(elsewhere, path)
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
    with bounded(10), pytest.raises(RunError) as caught:
        Run.open(run)
    check_sentence(caught.value)
    assert elsewhere.read_bytes() == before


@pytest.mark.parametrize(
    "name", ["policy/policy.json", "policy/policy.safetensors", "checkpoints/60/manifest.json", "lock"]
)
def test_a_pipe_or_a_folder_under_a_files_name_is_refused(name: str, plain: Path, tmp_path, capsys) -> None:
    for make in (os.mkfifo, os.mkdir):
        run = copied(plain, tmp_path / make.__name__)
        (run / name).unlink()
        make(run / name)
        for words in every_command(run):
            one_sentence_or_success(words, capsys)


def test_a_resumed_run_that_fails_at_step_0_is_not_removed(tmp_path, capsys, monkeypatch) -> None:
    run = Run("CartPole-v1", Config(**TINY), 0, tmp_path / "experiment/seed-0")
    run.checkpoint()
    run.close()
    (tmp_path / "experiment/seed-0/notes.txt").write_text("mine")
    monkeypatch.setattr("upright.loop.exploration_rate", lambda *words: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["resume", "experiment/seed-0"])
    assert (tmp_path / "experiment/seed-0/notes.txt").read_text() == "mine"


def test_what_is_no_file_is_refused_by_its_name(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in (".", "pipe"):
        for read in (files.read, files.read_json, files.read_tensors, files.size_and_digest):
            with bounded(), pytest.raises(RunError, match="is not a regular file"):
                read(tmp_path / name)


@pytest.mark.parametrize(
    "line",
    [
        b'{"step": NaN, "env": 0, "rollout/ep_rew": 1}', b'{"step": 1e999, "rollout/ep_rew": 1}', b"[" * 100_000, b"\xff", b"null",
        b'{"step": 1, "rollout/ep_rew": ' + b"9" * 4000 + b"}", b'{"step": "1", "rollout/ep_rew": [1]}', b"\x80\x04\x95",
        b'{"step": -1e308, "env": 0, "rollout/ep_rew": 1e308}',
    ],
)  # fmt: skip
def test_hostile_metrics_are_drawn_or_refused(line: bytes, plain: Path, tmp_path, capsys) -> None:
    run = copied(plain, tmp_path / "experiment")
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(line + b"\n")
    one_sentence_or_success(["plot", str(run), "--out", "curve.svg", "--returns", "train"], capsys)


def test_metrics_are_drawn_through_no_link(plain: Path, tmp_path, capsys) -> None:
    run = copied(plain, tmp_path / "experiment")
    link_out(run, Path("metrics.jsonl"), tmp_path / "outside")
    assert one_sentence_or_success(["plot", str(run), "--out", "curve.svg"], capsys) == 2
    (run / "metrics.jsonl").unlink()
    with (run / "metrics.jsonl").open("wb") as file:
        file.truncate(2**40)
    assert one_sentence_or_success(["plot", str(run), "--out", "curve.svg"], capsys) == 2


# Fuzzing


VALUES: list[Any] = [
    None, True, False, -1, 0, 1, 2, 3, 7, 255, 2**31, 2**62, 2**63 - 1, 2**63, 10**30, -(10**30), 10**400, 0.5, -0.5, 1e-300,
    1e308, -1e308, float("nan"), float("inf"), "1e999", "", "x", "a" * 100_000, "../../../etc/passwd", "/etc/passwd", "\x00",
    "\ud800", "\x1b[2J", "é", "Box", "Dict", "float64", "O", "async", "torch", "meta", "cuda:7", "CartPole-v1", "Taxi-v3",
    "os:system", [], {}, [[]], [1] * 1000, [65536, 65536], [{}], {"a": {}}, {"type": "Box"}, {"kind": "categorical"}, 4096,
]  # fmt: skip
ARRAYS: list[Callable[[np.ndarray], np.ndarray]] = [
    lambda array: np.zeros_like(array),
    lambda array: -array if array.dtype.kind in "if" else array,
    lambda array: np.full_like(array, np.iinfo(array.dtype).max if array.dtype.kind in "iu" else 1),
    lambda array: np.full_like(array, np.iinfo(array.dtype).min if array.dtype.kind in "iu" else 0),
    lambda array: np.full_like(array, np.nan) if array.dtype.kind == "f" else array,
    lambda array: np.full_like(array, np.inf) if array.dtype.kind == "f" else array,
    lambda array: np.full_like(array, 1e30) if array.dtype.kind == "f" else array,
    lambda array: array.astype(np.float64), lambda array: array.astype(np.float32), lambda array: array.astype(np.uint8),
    lambda array: array.astype(np.int64), lambda array: array.astype(bool), lambda array: array.astype(np.complex64),
    lambda array: array[None], lambda array: array.reshape(-1), lambda array: array[:0] if array.ndim else array[None][:0],
    lambda array: array[:-1] if array.ndim else array, lambda array: np.repeat(array[None], 3, axis=0),
    lambda array: np.concatenate([array, array]) if array.ndim else array, lambda array: np.zeros((), array.dtype),
    lambda array: np.zeros((0,), array.dtype), lambda array: array + array.dtype.type(1) if array.dtype.kind != "b" else ~array,
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in a JSON value something stands, down to the tenth level."""
    yield path
    if len(path) < 10:
        for key, inner in (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        ):
            yield from places(inner, (*path, key))


def change_json(value: dict[str, Any], draw: random.Random) -> str:
    """Change one place of a JSON object; what was done."""
    *path, key = draw.choice([each for each in places(value) if each])
    home: Any = value
    for step in path:
        home = home[step]
    match draw.randrange(6):
        case 0:
            del home[key]
            return f"without {path} {key}"
        case 1 if isinstance(home, dict):
            home[str(draw.choice(VALUES))[:1000]] = draw.choice(VALUES)
            return f"more in {path}"
        case 2 if isinstance(home[key], (int, float)):
            home[key] = draw.choice([-home[key], home[key] + 1, home[key] * 1000, home[key] / 3, str(home[key])])
        case 3:
            home[key] = deep(draw.choice([3, 30, 300]))
        case _:
            home[key] = draw.choice(VALUES)
    return f"{path} {key} is {str(home[key])[:80]}"


def change_tensors(content: bytes, draw: random.Random) -> tuple[bytes, str]:
    arrays = load(content)
    name = draw.choice(sorted(arrays))
    match draw.randrange(6):
        case 0:
            del arrays[name]
        case 1:
            arrays[name + "x"] = arrays[name]
        case 2:
            array = arrays[name].copy()
            if array.size:
                flat = array.reshape(-1).view(np.uint8)
                flat[draw.randrange(len(flat))] = draw.randrange(256)
            arrays[name] = array
        case _:
            with np.errstate(all="ignore"):
                arrays[name] = np.asarray(draw.choice(ARRAYS)(arrays[name]))
    return save({key: np.ascontiguousarray(array) if array.ndim else array for key, array in arrays.items()}), name


def change_bytes(content: bytes, draw: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(draw.choice([1, 1, 1, 4, 20])):
        at = draw.randrange(max(1, min(len(data), draw.choice([16, 200, 10**9]))))
        match draw.randrange(6):
            case 0 if data:
                data[at % len(data)] ^= 1 << draw.randrange(8)
            case 1:
                del data[at : at + draw.choice([1, 8, 100])]
            case 2:
                data[at:at] = draw.randbytes(draw.choice([1, 8, 100]))
            case 3:
                data[at:at] = draw.choice(
                    [b"\0" * 8, b"\xff" * 8, b"9" * 30, b"[" * 50, b'"', b"NaN", b"-", b"e999", b"{}"]
                )
            case 4:
                del data[at:]
            case _ if data:
                data[at % len(data)] = draw.randrange(256)
    return bytes(data)


def spoil(run: Path, draw: random.Random) -> str:
    """Change one thing about a run; what was done."""
    step, policy = newest(run), run / "policy"
    manifest = step / "manifest.json"
    segments = json.loads(manifest.read_text())["segments"]
    written = [manifest, step / "state.safetensors", policy / "policy.json", policy / "policy.safetensors"]
    written += [run / "checkpoints" / "replay" / each["name"] for each in segments]
    path = draw.choice(written)
    is_sealed, is_structured = draw.random() < 0.7, draw.random() < 0.6
    what = f"{path.relative_to(run)}: sealed {is_sealed}: "
    if path.suffix == ".json":
        value = json.loads(path.read_text())
        value.pop("sha256")
        if is_structured:
            what += change_json(value, draw)
            text = json.dumps(value, indent=1).replace('"1e999"', "1e999")
        else:
            what += "bytes"
            text = change_bytes(json.dumps(value, indent=1).encode(), draw).decode("utf-8", "replace")
        if is_sealed:
            seal(path, text)
        else:
            path.write_bytes(text.encode("utf-8", "surrogatepass"))
        return what
    content = path.read_bytes()
    if is_structured:
        content, name = change_tensors(content, draw)
        what += name
    else:
        content = change_bytes(content, draw)
        what += "bytes"
    path.write_bytes(content)
    named = {"size": len(content), "sha256": files.digest(content)}
    if is_sealed and path.name == "policy.safetensors":
        reseal(policy / "policy.json", lambda value: value.update(parameters=named))
    elif is_sealed and path.name == "state.safetensors":
        reseal(manifest, lambda value: value.update(state=named))
    elif is_sealed:
        reseal(manifest, lambda value: value["segments"][written.index(path) - 4].update(named))
    return what


def load_and_predict(run: Path, source: Any) -> None:
    agent = upright.load(run)
    agent.where_to_act(source)
    space = agent.observation_space
    space.seed(0)
    with contextlib.suppress(ValueError):  # bounds that no sample fits in
        agent.predict(space.sample())


def open_and_go_on(run: Path, source: Any, may_train: bool) -> None:
    opened = Run.open(run, source=source)
    try:
        if may_train:
            opened.extend(opened.step + 6)
            for _ in train(opened):
                pass
            opened.save()
    finally:
        opened.close()


@pytest.mark.filterwarnings("ignore")
def test_spoiled_runs_and_policies_give_named_errors(plain: Path, masked: Path, tmp_path, tried) -> None:
    tries = {"refused": 0, "opened": 0}
    for case in cases(120):
        draw = random.Random(case)
        original, source = draw.choice([(plain, None), (masked, Masked)])
        run = copied(original, tmp_path / "experiment")
        what = spoil(run, draw)
        is_json = ".json" in what
        for read in (
            lambda run=run, source=source: load_and_predict(run, source),
            lambda run=run, source=source, is_json=is_json: open_and_go_on(run, source, not is_json),
        ):
            try:
                with bounded():
                    read()
                tries["opened"] += 1
                tried("a run or policy spoiled: opened", True)
            except UprightError as error:
                check_sentence(error)
                tries["refused"] += 1
                tried("a run or policy spoiled: refused in a sentence", True)
            except BaseException as error:
                tried("a run or policy spoiled: refused in a sentence", False)
                print(traceback.format_exc()[-6000:])
                pytest.fail(f"case {case}, {what}: {error!r}")
        shutil.rmtree(tmp_path / "experiment")
    assert "UPRIGHT_CASE" in os.environ or (tries["opened"] and tries["refused"])


def test_any_settings_give_a_config_or_a_setting_error(tried) -> None:
    tries = {"refused": 0, "made": 0}
    for case in cases(400):
        draw = random.Random(case)
        settings: Any = draw.choice(list(presets.PRESETS.values())).to_dict()
        for _ in range(draw.choice([1, 1, 2, 5])):
            change_json(settings, draw)
        if draw.random() < 0.02:
            settings = draw.choice(VALUES)
        try:
            with bounded():
                config = Config.from_dict(settings)
            tries["made"] += 1
            tried("any settings: a config or a sentence", True)
        except SettingError as error:
            check_sentence(error)
            tries["refused"] += 1
            tried("any settings: a config or a sentence", True)
            continue
        except BaseException as error:
            tried("any settings: a config or a sentence", False)
            print(traceback.format_exc()[-6000:])
            pytest.fail(f"case {case}, {str(settings)[:2000]}: {error!r}")
        assert Config.from_dict(config.to_dict()) == config or config.env_kwargs
    assert "UPRIGHT_CASE" in os.environ or (tries["made"] and tries["refused"])


# Nothing that a shell cannot hand over: no NUL, and bytes that are no UTF-8 as Python's surrogates.
JUNK = [
    "", "-", "--", "---", "x", "é", "\udcff", "[/bold]", "[red]", "{}", "%s", "%(prog)s", "\x1b[2J", "a b", "a\nb", "=", "--=", "'",
    '"', "$(id)", "`id`", "../..", "/", "/dev/null", "/proc/self/mem", ".", "~", "x" * 5000, "/" + "x" * 300, "-1", "0", "1", "2.5",
    "1e999", "nan", "inf", "-inf", "1" * 400, "9" * 5000, "None", "none", "True", "false", "[1,2]", "(1,)", "0x10", "1_000", "٣",
    "CartPole-v1", "Pendulum-v1", "CartPole-v9", "os:system", ":", "a:", ":a", "a.b:c", "FlattenObservation", "FlattenObservation(",
    "TimeLimit(max_episode_steps=3)", "a=" + "[" * 10_000, 'a={"b":NaN}', "a=1", "65536", "4096", "--help", "-h", "--version", "@file",
]  # fmt: skip


def some_words(draw: random.Random) -> list[str]:
    command = draw.choice([*COMMANDS, "train", "train", "train", draw.choice(JUNK)])
    names = [each.name for form in (Train, Sweep, Resume, Evaluate, Watch, Config) for each in dataclasses.fields(form)]
    for kinds in KINDS.values():
        names += [f"{part}.{each.name}" for part in KINDS for cls in kinds.values() for each in dataclasses.fields(cls)]
    names += ["munchausen.alpha", "no-munchausen", "no-noisy", "lr"]
    values = [*JUNK, *presets.PRESETS, *(name for kinds in KINDS.values() for name in kinds)]
    words = [command]
    if command in ("train", "sweep") and draw.random() < 0.8:
        words.append("CartPole-v1")
    for _ in range(draw.randrange(6)):
        if draw.random() < 0.8:
            name = "--" + draw.choice(names).replace("_", draw.choice("--_"))
            value = (
                draw.choice(values)
                if draw.random() < 0.6
                else str(draw.choice([0, 1, 2, 3, 0.5, 1e-3, 100, -1, 2**40, 2**70]))
            )
            words += [f"{name}={value}"] if draw.random() < 0.3 else [name, value] if draw.random() < 0.8 else [name]
        else:
            words.append(draw.choice(values))
    return words


class Trained(UprightError):
    """Stands for a run, which the fuzzer need not train."""


@pytest.mark.filterwarnings("ignore")
def test_any_command_line_gives_help_a_result_or_one_sentence(monkeypatch, capsys, tmp_path, tried) -> None:
    def stop(*words: Any, **named: Any) -> Any:
        raise Trained("It would train.")

    monkeypatch.setattr("upright.runs.run.Run.__init__", stop)
    monkeypatch.setattr("upright.environments.registry.inspect", stop)
    statuses: dict[Any, int] = {}
    for case in cases(60):
        words = some_words(random.Random(case))
        try:
            with bounded():
                status = main(words)
        except SystemExit as ended:  # of --help
            status = ended.code or 0
        except BaseException as error:
            tried("any command line: help, a result or a sentence", False)
            print(traceback.format_exc()[-6000:])
            pytest.fail(f"case {case}, {str(words)[:2000]}: {error!r}")
        said = capsys.readouterr().err
        assert status in (0, 2), (case, words, status, said)
        assert "Traceback" not in said and "\x1b" not in said, (case, words, said)
        if status == 2:
            assert said.startswith("upright: ") and said.count("\n") == 1, (case, words, said)
            status = "train" if "It would train." in said else 2
        statuses[status] = statuses.get(status, 0) + 1
        tried("any command line: help, a result or a sentence", True)
    assert "UPRIGHT_CASE" in os.environ or set(statuses) >= {2, "train"}
    assert not list(tmp_path.rglob("*"))  # and nothing is left behind
