"""Videos: decoded again, they hold the frames, the sizes and the values that were played; else nothing is written."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Any

import av
import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from PIL import Image

import upright
from configurations import SHORT
from upright import Config
from upright.cli.main import main
from upright.environments.environment import EVALUATION_INDEX, make_environment
from upright.errors import EnvironmentFault, MissingExtra, UprightError
from upright.views.episodes import Moment, play
from upright.views.record import ActionBars, write_video

SMALL = Config(engine="torch", **SHORT)


class Coloured(gymnasium.Env):
    """Shows a picture whose red is the step; rendering does what `fault` says, and so does the metadata."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None, fault: str = "", height: int = 60, masks: bool = False) -> None:
        self.observation_space = spaces.Box(-1, 1, (2,), np.float32)
        self.action_space = spaces.Discrete(3, start=5)
        self.render_mode, self.fault, self.height, self.masks = render_mode, fault, height, masks
        if fault == "modes":
            self.metadata = {"render_modes": ["human", "ansi"]}
        if fault == "rate":
            self.metadata = {**self.metadata, "render_fps": "fast"}

    def _observe(self) -> tuple[np.ndarray, dict[str, Any]]:
        info = {"action_mask": np.array([1, 0, 1], np.int8)} if self.masks else {}
        return np.array([self.time / 20, 0.5], np.float32), info

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self._observe()

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.time += 1
        obs, info = self._observe()
        return obs, 2.0, self.time == 9, False, info

    def render(self) -> Any:
        assert self.render_mode == "rgb_array"
        frame = np.zeros((self.height, 81, 3), np.uint8)
        frame[..., 0] = 20 * self.time
        if self.time == 4:
            match self.fault:
                case "raises":
                    raise RuntimeError("no context")
                case "package":
                    raise gymnasium.error.DependencyNotInstalled("pygame is not installed")
                case "none":
                    return None
                case "float":
                    return frame / 255
                case "size":
                    return frame[:50]
                case "interrupt":
                    raise KeyboardInterrupt
        return frame


def agent_on(source: Any = Coloured, **settings: Any) -> upright.Agent:
    return upright.DQN(source, preset=SMALL, **settings).agent


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def decoded(path: Path) -> tuple[np.ndarray, float]:
    """All frames `[N, H, W, 3]`, and the seconds that they last."""
    if path.suffix == ".mp4":
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
            return np.array(frames), container.duration / 1e6
    frames, duration = [], 0.0
    with Image.open(path) as picture:
        for i in range(picture.n_frames):
            picture.seek(i)
            picture.load()
            frames.append(np.asarray(picture.convert("RGB")))
            duration += picture.info["duration"] / 1000
    return np.array(frames), duration


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp"])
def test_a_video_has_a_frame_for_each_state_of_each_episode(suffix: str, tmp_path) -> None:
    path = tmp_path / f"episode{suffix}"
    assert write_video(agent_on(), path, episodes=2, plain=True) == [(18.0, 9), (18.0, 9)]
    frames, seconds = decoded(path)
    assert len(frames) == 20, "nine steps are ten states"
    assert seconds == pytest.approx(2.0), "at the environment's ten frames a second"
    assert frames.shape[1:3] == ((60, 82) if suffix == ".mp4" else (60, 81)), "H.264 wants even numbers of pixels"
    red = frames[:, 30, 40, 0].astype(int)
    np.testing.assert_allclose(red, [20 * step for step in range(10)] * 2, atol=8)
    assert names(tmp_path) == [path.name]


def test_the_values_stand_beside_the_frame_as_they_are(tmp_path) -> None:
    agent = agent_on()
    write_video(agent, tmp_path / "e.mp4")
    frames, seconds = decoded(tmp_path / "e.mp4")
    assert len(frames) == 10 and seconds == pytest.approx(1.0)
    assert frames.shape[1:] == (240, 4 * 81 + ActionBars.WIDTH, 3), "enlarged until the letters can be read"
    environment = make_environment(Coloured, agent.config, 0, EVALUATION_INDEX)
    moments = list(play(agent, environment, 0))
    assert [moment.step for moment in moments] == list(range(10)) and moments[-1].action is None
    every = np.array([moment.q for moment in moments[:-1]])
    panel = ActionBars(["5", "6", "7"], float(every.min()), float(every.max()), 240)
    for frame, moment in zip(frames, moments, strict=True):
        beside = frame[:, 4 * 81 :].astype(int)
        assert np.abs(beside[:, panel.left :] - panel.draw(moment)[:, panel.left :]).mean() < 2
        for action, (first, last) in enumerate(panel.rows):
            colour = ActionBars.CHOSEN if action == moment.action else ActionBars.BAR
            line = beside[(first + last) // 2, panel.left : panel.left + panel.length]
            assert (np.abs(line - colour).max(axis=1) < 60).sum() == pytest.approx(
                panel.columns(moment.q[action]), abs=3
            )


def moment_of(q: np.ndarray, mask: np.ndarray | None, action: int | None, step: int, total: float) -> Moment:
    return Moment(q, mask, action, step, total, reward=0.0, obs=np.zeros(2, np.float32), ended=None)


def bars(panel: ActionBars, moment: Moment) -> list[tuple[int, tuple[int, ...]]]:
    """Of each bar, its length in pixels and its colour."""
    picture, found = panel.draw(moment), []
    for first, last in panel.rows:
        line = picture[first, panel.left : panel.left + panel.length]
        same = (line == line[0]).all(axis=1) & (line != ActionBars.GROUND).any(axis=1)
        assert (picture[first:last, panel.left : panel.left + panel.length] == line).all(), "a bar is a rectangle"
        found.append((int(same.sum()), tuple(line[0].tolist())))
    return found


def test_a_bar_is_as_long_as_its_value_and_the_chosen_one_stands_out() -> None:
    panel = ActionBars(["0", "1", "2", "3"], -10.0, 30.0, 400)
    moment = moment_of(np.array([-10.0, 0.0, 30.0, 20.0]), None, 2, 12, 3.5)
    length = ActionBars.length
    assert bars(panel, moment) == [
        (1, ActionBars.BAR), (length // 4, ActionBars.BAR), (length, ActionBars.CHOSEN), (length * 3 // 4, ActionBars.BAR),
    ]  # fmt: skip
    picture = panel.draw(moment)
    first, last = panel.rows[2]
    assert (picture[first:last, :10] == ActionBars.CHOSEN).all(axis=2).any(), "a pointer, for whoever sees no colours"
    assert not (picture[: panel.rows[1][1], :10] == ActionBars.CHOSEN).all(axis=2).any()
    ended = moment_of(moment.q, None, None, 13, 3.5)
    assert [colour for _, colour in bars(panel, ended)] == [ActionBars.BAR] * 4
    assert (picture[-40:] != panel.draw(ended)[-40:]).any(), "the step is said"


def test_a_forbidden_action_has_no_bar() -> None:
    panel = ActionBars(["0", "1"], 0.0, 1.0, 240)
    q, mask = np.array([0.5, 1.0]), np.array([True, False])
    assert bars(panel, moment_of(q, mask, 0, 0, 0.0)) == [
        (ActionBars.length // 2, ActionBars.CHOSEN),
        (0, ActionBars.GROUND),
    ]


@pytest.mark.parametrize("count", [1, 2, 18, 68, 1_000])
def test_there_is_a_bar_for_any_number_of_actions(count: int) -> None:
    panel = ActionBars([str(i) for i in range(count)], 0.0, 1.0, 240)
    q = np.zeros(count)
    q[count - 1] = 1.0
    found = bars(panel, moment_of(q, None, count - 1, 0, 0.0))
    assert len(found) == min(count, 68) and panel.rows[-1][1] <= 240 - 60
    assert found[-1] == (ActionBars.length, ActionBars.CHOSEN) and all(
        each == (1, ActionBars.BAR) for each in found[:-1]
    )


def test_equal_values_are_no_fault() -> None:
    assert bars(ActionBars(["0"], 3.0, 3.0, 240), moment_of(np.array([3.0]), None, 0, 0, 0.0)) == [
        (ActionBars.length // 2, ActionBars.CHOSEN)
    ]


def test_masks_and_their_environment_are_recorded(tmp_path) -> None:
    agent = agent_on(env_kwargs={"masks": True})
    assert write_video(agent, tmp_path / "e.gif") == [(18.0, 9)]


def test_fast_environments_make_animations_that_browsers_can_follow(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Coloured, "metadata", {"render_modes": ["rgb_array"], "render_fps": 50})
    write_video(agent_on(), tmp_path / "e.gif", plain=True)
    frames, seconds = decoded(tmp_path / "e.gif")
    assert len(frames) == 5 and seconds == pytest.approx(0.2)
    write_video(agent_on(), tmp_path / "e.mp4", plain=True)
    frames, seconds = decoded(tmp_path / "e.mp4")
    assert len(frames) == 10 and seconds == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("fault", "error", "says"),
    [
        ("modes", EnvironmentFault, "Coloured cannot be rendered so: that takes 'rgb_array' among the render_modes of its metadata, and it has 'human', 'ansi'"),
        ("rate", EnvironmentFault, "Coloured names 'fast' as render_fps in its metadata, which is not a rate of frames; fix it."),
        ("raises", EnvironmentFault, "Coloured cannot be rendered here: render() raised RuntimeError: no context"),
        ("package", MissingExtra, "Coloured cannot be rendered: pygame is not installed; or pip install 'upright[render]'"),
        ("none", EnvironmentFault, "render() returned a NoneType, not bytes of height × width × 3."),
        ("float", EnvironmentFault, "render() returned float64 (60, 81, 3), not bytes of height × width × 3."),
        ("size", EnvironmentFault, "after 81 × 60 pixels came 81 × 50: let the environment render in one size."),
        ("interrupt", KeyboardInterrupt, ""),
    ],
)  # fmt: skip
@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_what_cannot_be_recorded_is_said_and_an_older_video_stays(fault, error, says, suffix, tmp_path) -> None:
    path = tmp_path / f"e{suffix}"
    path.write_bytes(b"older")
    with pytest.raises(error) as raised:
        write_video(agent_on(env_kwargs={"fault": fault}), path, plain=True)
    assert says in str(raised.value)
    assert path.read_bytes() == b"older" and names(tmp_path) == [path.name]


def test_an_animation_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("upright.views.record.LARGEST_ANIMATION", 60 * 81 * 5)
    with pytest.raises(UprightError, match=r"A \.gif of more than 5 frames .* record an \.mp4, or fewer episodes"):
        write_video(agent_on(), tmp_path / "e.gif", plain=True)
    assert names(tmp_path) == []


def test_a_full_disk_is_said(tmp_path, monkeypatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("upright.files.os.fsync", full)
    with pytest.raises(UprightError, match=r"e\.mp4 cannot be written: No space left on device; choose another place"):
        write_video(agent_on(), tmp_path / "e.mp4", plain=True)
    assert names(tmp_path) == []


@pytest.mark.parametrize(("module", "name"), [("av", "PyAV"), ("PIL", "Pillow")])
def test_a_missing_package_answers_with_the_line_that_installs_it(module, name, tmp_path, monkeypatch) -> None:
    agent = agent_on()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=rf"^{name} is not installed: pip install 'upright\[video\]'$"):
        write_video(agent, tmp_path / "e.mp4")
    assert names(tmp_path) == []


# --- the commands ---


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cartpole")
    return upright.DQN("CartPole-v1", preset=SMALL).save(folder / "policy")


def test_record_makes_a_video_of_what_evaluate_meets(cartpole, tmp_path, capsys) -> None:
    assert main(["record", str(cartpole), "-o", f"{tmp_path}/new/e.mp4", "--episodes", "2", "--seed", "7"]) == 0
    evaluated = upright.load(cartpole).evaluate(2, seed=7)
    said = capsys.readouterr().out.splitlines()
    assert said == [
        *(f"return {reward:g} in {length} steps" for reward, length in zip(evaluated.returns, evaluated.lengths, strict=True)),
        f"Video: {tmp_path}/new/e.mp4",
    ]  # fmt: skip
    frames, seconds = decoded(tmp_path / "new" / "e.mp4")
    assert len(frames) == evaluated.lengths.sum() + 2 and seconds == pytest.approx(len(frames) / 50, abs=0.01)
    assert frames.shape[1:] == (400, 600 + ActionBars.WIDTH, 3)
    assert main(["record", str(cartpole), "-o", f"{tmp_path}/plain.mp4", "--plain"]) == 0
    assert decoded(tmp_path / "plain.mp4")[0].shape[1:] == (400, 600, 3)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("record nowhere -o e.mp4", "There is no policy in nowhere"),
        ("record POLICY", "Missing from upright record: -o FILE, --out FILE"),
        ("record POLICY -o e.avi", "e.avi must end in .mp4, .gif, .webp."),
        ("record POLICY -o here.mp4", "here.mp4 is a folder; name a file in it."),
        ("record POLICY -o file/e.mp4", "file/e.mp4 cannot be written: "),
        ("record POLICY -o e.mp4 --episodes 0", "episodes is 0, but it has to be a whole number, 1 or more."),
        ("record POLICY -o e.mp4 --env Acrobot-v1", "Acrobot-v1 does not fit this policy"),
        ("record POLICY -o e.mp4 --env no_module:Env", "needs the module 'no_module'"),
    ],
)  # fmt: skip
def test_a_mistake_gives_one_sentence_and_leaves_nothing(words, says, cartpole, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("here.mp4").mkdir()
    assert main(words.replace("POLICY", str(cartpole)).split()) == 2
    said = capsys.readouterr().err
    assert said.startswith("upright: ") and says in said and said.count("\n") == 1
    assert names(tmp_path) == ["file", "here.mp4"]


def test_without_a_display_watch_offers_a_video(cartpole, monkeypatch, capsys) -> None:
    monkeypatch.setattr("upright.views.watch.sys.platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert main(["watch", str(cartpole)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("upright: There is no display to watch CartPole-v1 on")
    assert said.endswith("upright record RUN -o episode.mp4.\n")


def test_an_environment_without_windows_is_not_watched_but_offered_as_a_video(monkeypatch) -> None:
    from upright.views.watch import show

    monkeypatch.setattr("upright.views.watch.has_display", lambda: True)
    with pytest.raises(EnvironmentFault, match=r"takes 'human' .* it has 'rgb_array'; try a video: upright record"):
        list(show(agent_on(), 1))
