"""What can be given as an environment, and the sentence for everything else."""

from __future__ import annotations

import functools
import logging
import os
import sys
import types
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

import upright
from toy_environments import Noisy
from upright.environments import packages
from upright.environments.environment import make_environment
from upright.environments.registry import inspect, registered
from upright.environments.sources import describe, make, portable_name, unknown_environment
from upright.errors import EnvironmentFault, MissingExtra, SettingError, UprightError
from upright.settings.config import Config

REGISTERING = """
import gymnasium
import toy_environments

def register():
    gymnasium.register({id!r}, toy_environments.Noisy, max_episode_steps=9)
"""


@pytest.fixture(autouse=True)
def a_registry_without_packages(monkeypatch) -> Iterator[None]:
    others = {name: spec for name, spec in gymnasium.registry.items() if packages.package_of(name) is None}
    monkeypatch.setattr(gymnasium.envs.registration, "registry", others)
    monkeypatch.setattr(gymnasium, "registry", gymnasium.envs.registration.registry)
    imported = set(sys.modules)
    yield
    for name in set(sys.modules) - imported:
        if packages.package_with(name):
            del sys.modules[name]  # another test that imports it needs what it registered here


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install a stand-in for a known package, whose module registers one id."""

    def install(package: packages.Package, id: str) -> None:
        top, *inner = package.module.split(".")
        folder = tmp_path / top
        folder.mkdir()
        (folder / "__init__.py").write_text("")
        path = folder / f"{inner[0] if inner else '__init__'}.py"
        register = REGISTERING.format(id=id)
        path.write_text(
            register.replace("register()", f"{package.function}()") if package.function else f"{register}\nregister()"
        )
        monkeypatch.syspath_prepend(tmp_path)
        for name in [name for name in sys.modules if name.partition(".")[0] == top]:
            monkeypatch.delitem(sys.modules, name)

    yield install
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


IDS = {
    "ale-py": "ALE/Pong-v5", "minigrid": "BabyAI-GoTo-v0", "minatar": "MinAtar/Breakout-v1", "highway-env": "highway-fast-v0",
    "flappy-bird-gymnasium": "FlappyBird-v0", "mo-gymnasium": "mo-lunar-lander-v3", "vizdoom": "VizdoomBasic-v1",
    "miniworld": "MiniWorld-Hallway-v0", "gymnasium-robotics": "FetchReach-v4", "popgym": "popgym-RepeatFirstEasy-v0",
    "tetris-gymnasium": "tetris_gymnasium/Tetris", "gymnasium-2048": "gymnasium_2048/TwentyFortyEight-v0",
    "gymnasium-search-race": "gymnasium_search_race/SearchRaceDiscrete-v3", "gym-anytrading": "stocks-v0",
    "gym-trading-env": "TradingEnv", "gym-simplegrid": "SimpleGrid-4x4-v0", "gym-pusht": "gym_pusht/PushT-v0",
    "matrix-mdp-gym": "matrix_mdp/MatrixMDP-v0", "nasim": "TinyGenPO-v0", "panda-gym": "PandaReach-v3",
    "pybullet-envs-gymnasium": "HopperBulletEnv-v0", "jssenv": "jss-v1",
    "gymnasium-snake-game": "Snake-v1",
    "gymnasium-sudoku": "sudoku-v0",
    "sliding-puzzles": "SlidingPuzzles-v0",
    "pickomino-env": "Pickomino-v0",
    "numberlink": "NumberLinkRGB-v0",
    "tile-match-gym": "TileMatch-v0",
    "pgtg": "pgtg-safety_2x2-v0",
    "memory-gym": "MortarMayhem-Grid-v0",
    "mazegym": "Maze5x5Fixed-v0",
    "buffalo-gym": "Buffalo-v0",
    "or-gymnasium": "Knapsack-v0",
    "gym-mtsim": "forex-hedge-v0",
    "gym-sailing": "SailboatDiscrete-v0",
    "gym-saturation": "Vampire-v0",
    "gym-electric-motor": "Finite-CC-PMSM-v0",
    "bluesky-gym": "DescentEnv-v0",
    "jsbgym": "C172-HeadingControlTask-Shaping.STANDARD-NoFG-v0",
    "pyflyt": "PyFlyt/QuadX-Hover-v4",
    "carl-bench": "carl/CARLCartPole-v0",
    "random-walk-env": "random_walk_env/RandomWalk-v0",
    "kaist-or-gym": "kaist-or/TrafficControlEnv-v0",
    "'shimmy[bsuite]'": "bsuite/catch-v0",
    "'shimmy[dm-control]'": "dm_control/cartpole-balance-v0",
}  # fmt: skip


@pytest.mark.parametrize("package", packages.PACKAGES, ids=lambda package: package.distribution)
def test_an_id_of_a_known_package_works_as_typed_and_spelled_out(package, installed) -> None:
    id = IDS[package.distribution]
    installed(package, id)
    env = make(id)
    assert isinstance(env.unwrapped, Noisy) and env.spec.max_episode_steps == 9
    del gymnasium.registry[id]
    for name in [name for name in sys.modules if name.partition(".")[0] == package.module.partition(".")[0]]:
        del sys.modules[name]
    assert isinstance(make(f"{package.module}:{id}").unwrapped, Noisy)


@pytest.mark.parametrize(
    ("id", "distribution"),
    [
        *((id, distribution) for distribution, id in IDS.items()),
        ("PongNoFrameskip-v4", "ale-py"), ("MontezumaRevenge-v0", "ale-py"), ("MiniGrid-Empty-5x5-v0", "minigrid"),
        ("merge-generic-v1", "highway-env"), ("deep-sea-treasure-v0", "mo-gymnasium"),
    ],
)  # fmt: skip
def test_each_id_is_its_packages_alone(id: str, distribution: str) -> None:
    assert packages.package_of(id).distribution == distribution


def test_no_id_of_gymnasium_is_a_packages() -> None:
    own = [name for name, spec in gymnasium.registry.items() if str(spec.entry_point).startswith("gymnasium.")]
    assert len(own) > 40
    assert [name for name in own if packages.package_of(name)] == []


def test_an_id_whose_package_is_missing_names_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "flappy_bird_gymnasium", None)
    for source in ("FlappyBird-v0", "flappy_bird_gymnasium:FlappyBird-v0"):
        with pytest.raises(EnvironmentFault) as refusal:
            make(source)
        assert str(refusal.value) == (
            "FlappyBird-v0 needs the package flappy-bird-gymnasium, which is not installed: pip install "
            "flappy-bird-gymnasium (spelled out, it is flappy_bird_gymnasium:FlappyBird-v0)."
        )


def test_an_id_that_its_package_does_not_have_names_the_nearest(installed) -> None:
    installed(packages.package_of("MiniGrid-Empty-5x5-v0"), "MiniGrid-Empty-5x5-v0")
    for source in ("MiniGrid-Emty-5x5-v0", "minigrid:MiniGrid-Emty-5x5-v0"):
        with pytest.raises(EnvironmentFault, match="Did you mean 'MiniGrid-Empty-5x5-v0'"):
            make(source)


def test_a_missing_module_of_an_installed_package_is_named() -> None:
    with pytest.raises(EnvironmentFault, match=r"needs the module 'minigrid\.nothing'"):
        make("minigrid.nothing:Env")


def test_a_package_that_is_too_old_for_setuptools_says_which_one_it_needs(monkeypatch, tmp_path) -> None:
    (tmp_path / "older_than_setuptools.py").write_text("import pkg_resources")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "pkg_resources", None)
    with pytest.raises(EnvironmentFault, match="needs pkg_resources, .*: pip install 'setuptools<82'"):
        make("older_than_setuptools:Env")


def test_the_registry_lists_a_known_package_that_its_filter_names(installed) -> None:
    installed(packages.package_of("highway-fast-v0"), "highway-fast-v0")
    assert registered("highway") == []
    assert (
        registered("highway_env") == registered("highway-env") == registered("highway-fast-v0") == ["highway-fast-v0"]
    )
    assert inspect("highway-fast-v0").trains


def test_a_specification_is_an_environment() -> None:
    spec = gymnasium.spec("CartPole-v1")
    assert (describe(spec), portable_name(spec)) == ("CartPole-v1", "CartPole-v1")
    assert make(spec).spec.max_episode_steps == 500
    own = EnvSpec("Own-v0", entry_point=Noisy, kwargs={"length": 4}, max_episode_steps=3)
    assert portable_name(own) is None
    assert make(own).unwrapped.length == 4
    with pytest.raises(EnvironmentFault, match="Own-v0 takes no argument 'lenght' when it is made; it takes length"):
        make(own, Config(env_kwargs={"lenght": 3}))


# Things that are none


class Plain:
    """Everything that an environment has, but not its class."""

    observation_space, action_space = spaces.Box(-1, 1, (2,)), spaces.Discrete(2)


class Blind(gymnasium.Env):
    action_space = spaces.Discrete(2)


class Idle(gymnasium.Env):
    observation_space = spaces.Box(-1, 1, (2,))
    action_space = None


class Vague(Idle):
    action_space = spaces.Discrete


class Wrapping(gymnasium.Wrapper):
    pass


class Quits(Noisy):
    def __init__(self) -> None:
        sys.exit("no licence")


class AECEnv:
    """Has the name of PettingZoo's."""

    possible_agents = ("white", "black")


class Chess(AECEnv):
    pass


class MultiAgentEnv(gymnasium.Env):
    """Has the name of RLlib's."""


async def later() -> None: ...


def one_by_one():
    yield Noisy()


NONE = [
    (None, "The environment is None: give an id"),
    (3, "3 is an int, not an environment"),
    (True, "True is a bool, not an environment"),
    (b"CartPole-v1", "is a bytes, not an environment"),
    (["CartPole-v1"], "is a list, not an environment"),
    ({"id": "CartPole-v1"}, "is a dict, not an environment"),
    ("", "The environment's name is '': give an id"),
    ("  ", "The environment's name is '  ': give an id"),
    ("Cart Pole v1", "There is no environment 'Cart Pole v1'. Did you mean 'CartPole-v1'"),
    ("CartPole-v1 ", "Did you mean 'CartPole-v1'"),
    ("a/b/c", "There is no environment 'a/b/c'"),
    ("my_env.py", "'my_env.py' is a file: from its folder, name the module and the class in it, as in my_env:MyEnv."),
    ("./envs/mine.py:Maze", "as in mine:Maze."),
    (".mine:Maze", "names its module relative to another"),
    ("a:b:c", "needs the module 'a:b'"),
    (":", "The environment's name is ':': give an id"),
    ("gymnasium.wrappers:TimeLimit", "gymnasium.wrappers:TimeLimit is a wrapper"),
    (os, "os is a module, not an environment: name its class, as in os:MyEnv"),
    (spaces.Discrete(2), "Discrete(2) is a space, not an environment"),
    (spaces.Discrete, "Discrete is a class of spaces, not of environments"),
    (Plain, "Plain is a class that is not derived from gymnasium.Env: derive it, class Plain(gymnasium.Env)."),
    (Plain(), "is a Plain, not an environment"),
    (int, "int is a class that is not derived from gymnasium.Env"),
    (Blind, "Blind has no observation_space: set it in the constructor"),
    (Idle, "Idle has no action_space: set it in the constructor"),
    (Vague, "as its action_space: set it in the constructor to a space"),
    (gymnasium.Env, "Env has no observation_space"),
    (Wrapping, "Wrapping is a wrapper: give the environment, and the wrapper by its name"),
    (gymnasium.wrappers.TimeLimit, "TimeLimit is a wrapper"),
    (gymnasium.vector.SyncVectorEnv, "SyncVectorEnv is a class of vectors of environments"),
    (functools.partial(gymnasium.make_vec, "CartPole-v1"), "made a vector of environments"),
    (gymnasium.make, "make needs id when it is made"),
    (later, "later is an async function"),
    (one_by_one, "one_by_one is a generator"),
    (lambda: None, "made None, not a gymnasium.Env: let it return the environment."),
    (lambda: "CartPole-v1", "made a str, not a gymnasium.Env"),
    (lambda size: Noisy(size), "needs size when it is made: --env-kwargs size=…"),
    (lambda size: Noisy(size), "for what cannot be written as text, a function that makes the environment (lambda: …)"),
    (Quits, "Quits raised SystemExit when it was made: no licence"),
    (Chess, "Chess is an environment of several agents, and the DQN family trains one"),
    (Chess(), "Chess is an environment of several agents"),
    (lambda: Chess(), "is an environment of several agents"),
    (MultiAgentEnv, "MultiAgentEnv is an environment of several agents"),
    (types.ModuleType("pettingzoo.classic.tictactoe_v3"), "is an environment of several agents"),
    ("pettingzoo.classic:tictactoe_v3", "a gymnasium.Env in which the others are part of the environment"),
    (EnvSpec("Nothing-v0"), "Nothing-v0 registered but entry_point is not specified"),
]


@pytest.mark.parametrize(("source", "says"), NONE, ids=[str(says)[:40] for _, says in NONE])
def test_what_is_no_environment_is_refused_in_a_sentence(source, says: str) -> None:
    for give in (make, upright.DQN) if source is not None else (make,):
        with pytest.raises(UprightError) as refusal:
            give(source)
        assert says in str(refusal.value)


def test_an_instance_is_refused() -> None:
    for env in (Noisy(), gymnasium.make("CartPole-v1")):
        with pytest.raises(
            EnvironmentFault, match="is an environment, of which training, evaluation and every worker need"
        ):
            make(env)
    vector = gymnasium.make_vec("CartPole-v1", 2)
    with pytest.raises(EnvironmentFault, match="is a vector of environments: give an id"):
        make(vector)
    vector.close()


def test_a_wrapper_that_makes_its_own_environment_is_one() -> None:
    class Whole(gymnasium.Wrapper):
        def __init__(self, length: int = 3) -> None:
            super().__init__(Noisy(length))

    assert make(Whole, Config(env_kwargs={"length": 5})).unwrapped.length == 5


# Arguments


def refused(source, env_kwargs) -> str:
    with pytest.raises(EnvironmentFault) as refusal:
        make(source, Config(env_kwargs=env_kwargs))
    return str(refusal.value)


def test_arguments_that_a_constructor_lacks_name_those_it_has() -> None:
    for source in (Noisy, "toy_environments:Noisy"):
        said = refused(source, {"lenght": 3})
        assert said.endswith(
            "Noisy takes no argument 'lenght' when it is made; it takes length. Did you mean 'length'?"
        )
    assert (
        "CartPole-v1 takes no argument 'suton_barto_reward' when it is made; it takes sutton_barto_reward, render_mode."
        in (refused("CartPole-v1", {"suton_barto_reward": True}))
    )
    assert "it takes none." in refused(lambda: Noisy(), {"length": 3})
    assert "is a setting, not one of env_kwargs" in refused(Noisy, {"num_envs": 3})


def test_arguments_that_gymnasium_takes_for_itself_name_the_setting() -> None:
    said = refused("CartPole-v1", {"max_episode_steps": 200})
    assert said == (
        "env_kwargs of CartPole-v1 holds 'max_episode_steps', which is a setting: --max-episode-steps 200 "
        "(max_episode_steps=200 in Python)."
    )
    assert "leave it out" in refused("CartPole-v1", {"id": "CartPole-v0"})
    assert "leave it out" in refused(gymnasium.spec("CartPole-v1"), {"disable_env_checker": True})


def test_a_class_that_takes_such_an_argument_gets_it() -> None:
    class Limited(Noisy):
        def __init__(self, max_episode_steps: int, id: str) -> None:
            super().__init__(max_episode_steps)
            self.id = id

    env = make(Limited, Config(env_kwargs={"max_episode_steps": 12, "id": "mine"}))
    assert (env.unwrapped.length, env.unwrapped.id) == (12, "mine")


def test_an_error_within_the_constructor_is_its_own() -> None:
    def build(size: int = 3):
        return Noisy(size) + 1

    assert "raised TypeError when it was made with env_kwargs {'size': 4}: unsupported operand" in refused(
        build, {"size": 4}
    )


# Wrappers that gather statistics


@pytest.mark.parametrize("name", ["NormalizeObservation", "NormalizeReward"])
@pytest.mark.parametrize("by_name", [True, False])
def test_a_wrapper_that_gathers_statistics_is_named(name: str, by_name: bool) -> None:
    notices: list[str] = []
    if by_name:
        make("CartPole-v1", Config(wrapper=(name,)), notify=notices.append)
    else:
        make(lambda: getattr(gymnasium.wrappers, name)(gymnasium.make("CartPole-v1")), notify=notices.append)
    assert notices == [
        f"{name} gathers statistics, which begin from nothing in every environment, evaluation's included, and are not in "
        "the saved policy: scale by fixed numbers instead, as TransformObservation can."
    ]


def test_other_wrappers_are_not_named() -> None:
    notices: list[str] = []
    make("CartPole-v1", Config(wrapper=("RecordEpisodeStatistics", "ClipReward(min_reward=-1)")), notify=notices.append)
    assert notices == []


def test_a_wrapper_of_vectors_names_that_of_one_environment() -> None:
    with pytest.raises(
        SettingError, match="is one of vectors, and wrapper names those of one environment: NormalizeReward"
    ):
        make("CartPole-v1", Config(wrapper=("gymnasium.wrappers.vector:NormalizeReward",)))


# The old package gym; what it is converted to is in tests/installation/test_old_gym.py, where it is installed


@pytest.fixture
def old(monkeypatch):
    """The little of gym that is needed for a class of it, without shimmy: `Old`, and the package's spaces."""
    gym, old_spaces = types.ModuleType("gym"), types.ModuleType("gym.spaces")
    define = lambda module, name, *bases, **members: type(name, bases, {"__module__": module, **members})
    gym.Env = define("gym.core", "Env", metadata={}, spec=None)
    gym.spaces = old_spaces
    for name in ("Discrete", "Box", "MultiDiscrete", "MultiBinary", "Tuple", "Dict", "Text", "Graph"):
        setattr(old_spaces, name, define(f"gym.spaces.{name.lower()}", name))
    monkeypatch.setitem(sys.modules, "gym", gym)
    monkeypatch.setitem(sys.modules, "gym.spaces", old_spaces)
    monkeypatch.setitem(sys.modules, "shimmy", None)
    gym.registered = define("somewhere", "Old", gym.Env)
    return gym


def space(old, name: str, **members):
    made = getattr(old.spaces, name)()
    vars(made).update(members)
    return made


def test_an_environment_of_the_old_gym_says_how_it_trains(old) -> None:
    Old = old.registered  # noqa: N806
    gymnasium.register("Old-v0", Old)
    for source in (Old, lambda: Old(), "Old-v0"):
        with pytest.raises(
            MissingExtra, match=r"of the old package gym: write `import gymnasium as gym`.*upright\[gym\]"
        ):
            make(source)
    with pytest.raises(EnvironmentFault, match="Old is an environment, of which training"):
        make(Old())


def test_an_id_of_the_old_gym_without_it_names_both_ways(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "gym", None)
    with pytest.raises(
        EnvironmentFault, match=r"needs the old package gym, .* pip install gym==0\.26\.2 'upright\[gym\]'"
    ):
        make("gym:CartPole-v1")


def test_an_id_that_only_the_old_gym_has_is_named_with_it(old) -> None:
    old.envs = types.SimpleNamespace(registry={"Ancient-v0": types.SimpleNamespace(entry_point="ancient:Env")})
    assert unknown_environment("Ancient-v0").endswith("but the old package gym has it: gym:Ancient-v0.")


def test_old_spaces_of_an_environment_of_today_are_converted(old) -> None:
    box = space(old, "Box", low=np.zeros(2, np.float32), high=np.ones(2, np.float32), shape=(2,), dtype=np.float32)
    parts = {
        "box": box,
        "discrete": space(old, "Discrete", n=3, start=-1),
        "many": space(old, "MultiDiscrete", nvec=np.array([2, 3])),
        "bits": space(old, "MultiBinary", n=4),
        "pair": space(old, "Tuple", spaces=(box, space(old, "Discrete", n=2))),
        "text": space(old, "Text", max_length=5, min_length=1, characters="ab"),
    }

    class Today(Noisy):
        def __init__(self) -> None:
            super().__init__()
            self.observation_space, self.action_space = space(old, "Dict", spaces=parts), parts["discrete"]

    env = make(Today)
    assert env.action_space == spaces.Discrete(3, start=-1)
    converted = spaces.Box(0, 1, (2,), np.float32)
    assert env.observation_space == spaces.Dict(
        {
            "box": converted, "discrete": spaces.Discrete(3, start=-1), "many": spaces.MultiDiscrete([2, 3]),
            "bits": spaces.MultiBinary(4), "pair": spaces.Tuple((converted, spaces.Discrete(2))),
            "text": spaces.Text(5, min_length=1, charset="ab"),
        }
    )  # fmt: skip
    parts["graph"] = space(old, "Graph")
    with pytest.raises(UprightError, match="of the old package gym is not supported"):
        make(Today)


def test_gym_as_a_name_of_gymnasium_is_gymnasium(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "gym", gymnasium)
    assert isinstance(make(Noisy).unwrapped, Noisy)
    assert isinstance(make("gym:CartPole-v1").unwrapped, gymnasium.Env)


# --- small differences from Gymnasium's interface


class NoOptions(Noisy):
    def reset(self, seed: int | None = None) -> Any:  # type: ignore[override]
        return super().reset(seed=seed)


class NoArguments(Noisy):
    def reset(self) -> Any:  # type: ignore[override]
        self.time = 0
        return self.np_random.normal(size=3).astype(np.float32), {}


@pytest.mark.parametrize("source", [NoOptions, NoArguments])
@pytest.mark.parametrize("registered", [False, True])
def test_an_environment_whose_reset_takes_fewer_arguments_trains_and_repeats_itself(source, registered, caplog) -> None:
    name: Any = source
    if registered:
        name = f"{source.__name__}-v0"
        gymnasium.register(name, source, max_episode_steps=5)
    try:
        seen = []
        for seed in (1, 1, 2):
            environment = make_environment(name, Config(), seed, 0, notify=logging.getLogger("upright").warning)
            first, _ = environment.reset()
            seen.append(first.tobytes() + environment.step(0)[0].tobytes())
        assert seen[0] == seen[1] != seen[2]
        assert ("takes no seed in reset()" in caplog.text) == (source is NoArguments)
        upright.DQN(name, total_timesteps=60, learning_starts=20, num_envs=2).learn().close()
    finally:
        gymnasium.registry.pop(f"{source.__name__}-v0", None)


def test_versions_of_other_packages_may_be_variants(caplog) -> None:
    for version in (0, 1):
        gymnasium.register(f"Variant-v{version}", Noisy)
    try:
        upright.make("Variant-v0")
        assert "succeeds" not in caplog.text
        upright.make("CartPole-v0")
        assert "CartPole-v0 is out of date: CartPole-v1 succeeds it." in caplog.text
    finally:
        for version in (0, 1):
            del gymnasium.registry[f"Variant-v{version}"]


def test_several_rewards_are_named_as_such() -> None:
    class Two(Noisy):
        def step(self, action: int) -> Any:
            observation, reward, *rest = super().step(action)
            return observation, np.array([reward, 1.0]), *rest

    environment = make_environment(Two, Config(), 0, 0)
    environment.reset()
    with pytest.raises(
        EnvironmentFault, match=r"2 numbers, one for each of several objectives; weigh .*LinearReward\.$"
    ):
        environment.step(0)
