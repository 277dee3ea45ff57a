"""Settings: documented, checked when built, refused in one sentence, and the same after a trip through JSON."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import json
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configurations import bootstraps, options
from drawn_settings import values_of
from upright.cli.arguments import Train
from upright.dqn import DQN
from upright.errors import SettingError
from upright.settings.config import Config
from upright.settings.foreign_names import FOREIGN_NAMES, INSTEAD, SCHEDULES
from upright.settings.kinds import KINDS, Categorical, Munchausen, QLearning, Quantile
from upright.settings.presets import PRESETS, preset

SETTINGS = [Config, *KINDS["loss"].values(), Munchausen, *KINDS["replay"].values()]


def field_texts(cls: type) -> dict[str, str]:
    """The text under each field in the source."""
    body = next(
        node.body
        for node in ast.parse(inspect.getsource(inspect.getmodule(cls))).body
        if isinstance(node, ast.ClassDef) and node.name == cls.__name__
    )
    texts = {}
    for field, text in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            texts[field.target.id] = text.value.value  # type: ignore[union-attr]
    return texts


@pytest.mark.parametrize("cls", SETTINGS)
def test_every_field_has_a_text_with_the_range_that_is_checked(cls: type) -> None:
    texts = field_texts(cls)
    for field in dataclasses.fields(cls):
        stated = re.findall(r"[\[(][-\w]+, [-\w]+[\])]", texts[field.name])
        checked = cls._ranges.get(field.name)
        assert stated == ([checked] if checked else []), field.name


@pytest.mark.parametrize("cls", SETTINGS)
def test_values_just_outside_each_range_are_refused_and_the_bounds_inside_accepted(cls: type) -> None:
    whole = {field.name: "int" in str(field.type) for field in dataclasses.fields(cls)}
    # A batch has to fit into the memory, whichever of the two is at its bound.
    beside = {"batch_size": {"buffer_size": 2**21}, "buffer_size": {"batch_size": 1}}
    for name, interval in cls._ranges.items():
        number, step = (int, 1) if whole[name] else (float, 1e-9)
        low, high = (float(bound) for bound in interval[1:-1].split(","))
        for bound, closed, outwards in ((low, interval[0] == "[", -1), (high, interval[-1] == "]", 1)):
            if math.isinf(bound):
                continue
            inside, outside = number(bound), number(bound + outwards * step * closed)
            if name == "net_arch":
                inside, outside = (inside,), (outside,)
            with pytest.raises(
                SettingError, match=re.escape(f"{name} is {outside!r}, but it has to lie in {interval}")
            ):
                cls(**{name: outside})
            if closed:
                assert getattr(cls(**{name: inside}, **beside.get(name, {})), name) == inside


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"batch_size": "64"}, "batch_size is '64', but it has to be a whole number."),
        ({"batch_size": 64.5}, "batch_size is 64.5, but it has to be a whole number."),
        ({"batch_size": True}, "batch_size is True, but it has to be a whole number."),
        ({"batch_size": math.nan}, "batch_size is nan, but it has to be a whole number."),
        ({"batch_size": math.inf}, "batch_size is inf, but it has to be a whole number."),
        ({"batch_size": np.float32(64.5)}, "but it has to be a whole number."),
        ({"net_arch": (64, 6.5)}, "net_arch is (64, 6.5), but it has to be a list, each a whole number."),
        ({"learning_rate": lambda progress: progress}, "learning_rate is a function, but it has to be a number: learning_rate_schedule='linear' lets it fall"),
        ({"learning_rate": functools.partial(pow, 2)}, "learning_rate is a partial, but it has to be a number: learning_rate_schedule"),
        ({"exploration_final_eps": lambda step: 0.1}, "exploration_final_eps is a function, but it has to be a number: ε falls linearly from"),
        ({"gamma": lambda step: 0.9}, "gamma is a function, but it has to be a number."),
        ({"optimizer": np.zeros(2)}, "optimizer is array([0., 0.]), but it has to be one of adam"),
        ({"optimizer": lambda step: 0.9}, "optimizer is a function, but it has to be one of adam"),
        ({"learning_rate": "0.001"}, "learning_rate is '0.001', but it has to be a number."),
        ({"gamma": "high"}, "gamma is 'high', but it has to be a number."),
        ({"gamma": math.nan}, "gamma is nan, but it has to lie in [0, 1]."),
        ({"noisy": 1}, "noisy is 1, but it has to be true or false."),
        ({"optimizer": "lion"}, f"optimizer is 'lion', but it has to be one of {', '.join(options('optimizer'))}."),
        ({"net_arch": 64}, "net_arch is 64, but it has to be a list, each a whole number."),
        *[({"loss": 3}, f"{cls.__name__}(…)") for cls in KINDS["loss"].values()],
        ({"loss": "c52"}, f"loss is 'c52', but it has to be one of {', '.join(KINDS['loss'])}"),
        ({"lr": 1e-3}, "There is no setting 'lr'. Did you mean 'learning_rate'?"),
        ({"verbose": 1}, "There is no setting 'verbose': learn(progress_bar=True) shows a panel"),
        ({"tensorboard_log": "logs"}, "There is no setting 'tensorboard_log': the metrics are in metrics.jsonl"),
        ({"policy": "MlpPolicy"}, "There is no setting 'policy': the network follows from the observations"),
        ({"num_atoms": 7}, "There is no setting 'num_atoms'. Did you mean 'atoms' in 'loss', as in loss=QLearning(double=True)"),
        ({"prioritized_replay_alpha": 0.5}, "Did you mean 'alpha' in 'replay', as in replay=Prioritised(alpha=0.6)?"),
        ({"learning_rte": 1e-3}, "There is no setting 'learning_rte'. Did you mean 'learning_rate'"),
        ({"batch_size": 100, "buffer_size": 99}, "batch_size (100) is above buffer_size (99)"),
        ({"max_grad_norm": 1.0, "max_grad_value": 1.0}, "both clip the gradient"),
        ({"optimizer": "sgd", "amsgrad": True}, "amsgrad needs Adam's second moment, and optimizer is sgd"),
        ({"layer_norm": True, "net_arch": ()}, "layer_norm has no hidden layer"),
        ({"munchausen": True, "loss": QLearning(double=True)}, "munchausen and loss.double cannot be combined"),
        ({"munchausen": True, "loss": Quantile(double=True)}, "munchausen and loss.double cannot be combined"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_in_one_sentence(settings: dict, sentence: str) -> None:
    with pytest.raises(SettingError) as refused:
        Config().override(**settings)
    assert str(refused.value).startswith(sentence) or sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_support_needs_its_ends_in_order() -> None:
    for v_min, v_max in ((1.0, 1.0), (2.0, 1.0), (-math.inf, 1.0), (0.0, math.nan)):
        with pytest.raises(SettingError, match="v_min has to be below v_max"):
            Categorical(v_min=v_min, v_max=v_max)


def test_every_foreign_name_leads_to_a_setting() -> None:
    known = {field.name for field in dataclasses.fields(Config)}
    inner = {
        f"{part}.{field.name}" for part in KINDS for kind in KINDS[part].values() for field in dataclasses.fields(kind)
    }
    assert set(FOREIGN_NAMES.values()) <= known | inner
    assert not set(FOREIGN_NAMES) & known
    assert set(SCHEDULES) <= known | {name.partition(".")[2] for name in inner}


def test_what_to_do_instead_of_a_foreign_setting_exists() -> None:
    known = {field.name for field in dataclasses.fields(Config)}
    # `learn` has no log_interval of its own, which in SB3 counts episodes.
    assert not set(INSTEAD) & (known | set(FOREIGN_NAMES)) - {"log_interval"}
    arguments = {name for each in (DQN.__init__, DQN.learn) for name in inspect.signature(each).parameters}
    options = {field.name for field in dataclasses.fields(Train)} | known
    for text in (*INSTEAD.values(), *SCHEDULES.values()):
        assert text[-1] not in ".?"
        outside = re.sub(r"\w+\((?!…)[^()]*=[^()]*\)", "", text.replace("learn(progress_bar=True)", ""))
        assert set(re.findall(r"(\w+)=", outside)) <= known | arguments
        assert {name.replace("-", "_") for name in re.findall(r"--([\w-]+)", text)} <= options


def test_an_argument_that_learn_does_not_have_is_answered() -> None:
    agent = DQN("CartPole-v1")
    for name, sentence in {
        "callback": "learn has no argument 'callback': iterate over upright.train(upright.Run(env, config)), which",
        "log_interval": "learn has no argument 'log_interval': it is a setting, in steps: DQN(…, log_interval=500).",
        "reset_num_timesteps": "learn has no argument 'reset_num_timesteps': learn continues where it stopped",
        "tb_log_name": "learn has no argument 'tb_log_name': a run's folder names",
        "gamma": "learn has no argument 'gamma': it is a setting of the agent, DQN(…, gamma=…).",
        "lr": "learn has no argument 'lr': it is a setting of the agent, DQN(…, learning_rate=…).",
        "num_atoms": "it is a setting of the agent, DQN(…, loss=…), as in loss=QLearning(double=True) or",
        "timesteps": "learn has no argument 'timesteps'. Did you mean 'total_timesteps'?",
        "progres_bar": "learn has no argument 'progres_bar'. Did you mean 'progress_bar'?",
        "colour": "learn has no argument 'colour'.",
    }.items():
        with pytest.raises(SettingError, match=re.escape(sentence)):
            agent.learn(300, **{name: 4})
    assert agent.run.step == 0
    agent.close()


def test_numbers_of_numpy_are_numbers() -> None:
    config = Config(batch_size=np.int64(32), gamma=np.float32(0.5))
    assert type(config.batch_size) is int and type(config.gamma) is float and config.gamma == 0.5


@pytest.mark.parametrize("value", [1e5, 100_000.0, np.float32(1e5), np.float64(1e5), np.int32(100_000)])
def test_a_whole_float_is_a_count(value: float) -> None:
    config = Config(total_timesteps=value, discretize=np.float64(11), net_arch=(64.0, 32), loss=Quantile(quantiles=5e1))
    assert config == Config(total_timesteps=100_000, discretize=11, net_arch=(64, 32), loss=Quantile(quantiles=50))
    counts = (config.total_timesteps, config.discretize, config.net_arch[0], config.loss.quantiles)
    assert {type(count) for count in counts} == {int}
    assert Config.from_dict(json.loads('{"total_timesteps": 1e5}')).total_timesteps == 100_000


def test_settings_are_frozen() -> None:
    arguments = {"size": [3]}
    config = Config(env_kwargs=arguments)
    arguments["size"].append(4)
    assert config.env_kwargs == {"size": [3]}
    assert hash(config) == hash(Config(env_kwargs={"size": [3]}))
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().gamma = 0.5  # type: ignore[misc]


@given(
    loss=st.one_of(values_of(cls, most=300, v_max=st.floats(-9, 1e6)) for cls in KINDS["loss"].values()),
    replay=st.one_of(values_of(cls) for cls in KINDS["replay"].values()),
    munchausen=st.none() | values_of(Munchausen),
    net_arch=st.lists(st.integers(1, 1000), max_size=4),
    gamma=st.floats(0, 1),
    env_kwargs=st.dictionaries(st.text(), st.one_of(st.booleans(), st.integers(), st.text()), max_size=3),
    max_grad_norm=st.one_of(st.none(), st.floats(0, 1e6, exclude_min=True)),
)
def test_json_keeps_every_setting(loss, munchausen, **settings) -> None:
    if "munchausen" not in bootstraps(loss):
        munchausen = None
    original = Config(loss=loss, munchausen=munchausen, **settings)
    assert Config.from_dict(json.loads(json.dumps(original.to_dict()))) == original


@pytest.mark.parametrize(
    "values",
    [
        {"gama": 0.9},
        {"loss": {"kind": "categorical", "atmos": 3}},
        {"loss": {"kind": "nothing"}},
        {"loss": {}},
        {"munchausen": {"alhpa": 1}},
        {"replay": 3},
        {"net_arch": ["wide"]},
    ],
)
def test_json_with_anything_unknown_is_refused(values: dict) -> None:
    with pytest.raises(SettingError):
        Config.from_dict(values)


def test_what_an_older_file_could_not_name_is_as_it_was_then() -> None:
    now = {"cut_n_steps", "exploration_repeat", "stretch_observations"}
    then = {name: value for name, value in Config().to_dict().items() if name not in now}
    old = Config.from_file(then)
    assert (old.cut_n_steps, old.exploration_repeat, old.stretch_observations) == (False, None, False)
    assert Config.from_file(Config().to_dict()) == Config() == Config.from_dict(then)


def test_presets_are_all_there_and_differ() -> None:
    assert {
        "default", "tutorial", "dqn", "double", "dueling", "per", "noisy", "c51", "qrdqn", "iqn", "munchausen", "rainbow",
    } <= set(PRESETS)  # fmt: skip
    for name, one in PRESETS.items():
        assert all(one != other for other_name, other in PRESETS.items() if other_name != name)
    assert PRESETS["default"] == Config()
    with pytest.raises(SettingError, match="There is no preset 'rainbw'. Did you mean 'rainbow'?"):
        preset("rainbw")


def test_the_dqn_preset_has_the_numbers_of_natures_code() -> None:
    dqn = PRESETS["dqn"]
    assert (dqn.total_timesteps, dqn.buffer_size, dqn.learning_starts) == (50_000_000, 1_000_000, 50_000)
    assert (dqn.batch_size, dqn.train_freq, dqn.gradient_steps, dqn.gamma, dqn.n_steps) == (32, 4, 1, 0.99, 1)
    assert (dqn.exploration_initial_eps, dqn.exploration_final_eps) == (1.0, 0.1)
    assert dqn.exploration_fraction * dqn.total_timesteps == 1_000_000
    assert dqn.exploration_after_learning_starts
    assert (dqn.optimizer, dqn.learning_rate, dqn.learning_rate_schedule) == ("rmsprop", 2.5e-4, "constant")
    # 0.01 under the root with the sum of 32 gradients; beside the root with their mean.
    assert dqn.optimizer_eps == pytest.approx(math.sqrt(0.01) / 32)
    assert (dqn.tau, dqn.target_update_interval) == (1.0, 10_000)  # steps, in the code
    assert (dqn.max_grad_norm, dqn.max_grad_value, dqn.weight_decay) == (None, None, 0.0)
    assert dqn.loss == QLearning(error="huber")  # whose gradient is δ clipped to ±1


def test_the_tutorial_preset_has_the_tutorials_numbers() -> None:
    tutorial = PRESETS["tutorial"]
    assert (tutorial.batch_size, tutorial.gamma, tutorial.buffer_size, tutorial.net_arch) == (
        128,
        0.99,
        10_000,
        (128, 128),
    )
    assert (tutorial.exploration_initial_eps, tutorial.exploration_final_eps) == (0.9, 0.05)
    assert tutorial.exploration_time_constant == 1000
    assert (tutorial.tau, tutorial.target_update_interval) == (0.005, 1)
    assert (tutorial.optimizer, tutorial.learning_rate, tutorial.amsgrad) == ("adamw", 1e-4, True)
    assert (tutorial.max_grad_value, tutorial.max_grad_norm) == (100, None)
    assert (tutorial.loss, tutorial.munchausen, tutorial.n_steps) == (QLearning(error="huber"), None, 1)
    assert (tutorial.train_freq, tutorial.gradient_steps, tutorial.learning_rate_schedule) == (1, 1, "constant")
