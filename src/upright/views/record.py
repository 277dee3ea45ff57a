"""Greedy episodes as a video: what the environment shows, and the values of the actions beside it."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import numpy as np
from gymnasium.error import DependencyNotInstalled

from upright import files
from upright.agent import Agent
from upright.environments.environment import Environment
from upright.environments.sources import EnvironmentSource
from upright.errors import EnvironmentFault, MissingExtra, RunError, SettingError
from upright.evaluation import check_request, evaluate
from upright.messages import first_line
from upright.views.episodes import Moment, is_picture, make_rendered, play
from upright.views.watch import has_display

SUFFIXES = (".mp4", ".gif", ".webp")
DEFAULT_RATE = 30  # frames a second, of an environment that does not say it
ANIMATION_RATE = 25  # above which browsers do not play a GIF as fast as it says
LARGEST_ANIMATION = 512 * 2**20  # pixels, each of a byte: Pillow takes all frames at once
FASTEST_FORM = {"crf": "20", "preset": "veryfast"}

# Shapes: H rows and W columns of pixels, A actions.
Draw = Callable[[np.ndarray], None]


def write_video(
    agent: Agent,
    path: Path,
    episodes: int = 1,
    seed: int = 0,
    env: EnvironmentSource | None = None,
    plain: bool = False,
) -> list[tuple[float, int]]:
    """Write greedy episodes to a file, .mp4, .gif or .webp; the return and the length of each.

    The episodes are the first of `evaluate` with the same seed, at the environment's own frame rate: a frame before
    each step, and one of the end. plain: without the Q-values. The file is whole or not there. Raises EnvironmentFault
    where the environment renders no pictures, MissingExtra where a package is missing.
    """
    if path.suffix not in SUFFIXES:
        raise SettingError(f"{path} must end in {', '.join(SUFFIXES)}.")
    if path.is_dir():
        raise RunError(f"{path} is a folder; name a file in it.")
    check_request(episodes, seed)
    for module, name in (("PIL", "Pillow"), ("av", "PyAV")) if path.suffix == ".mp4" else (("PIL", "Pillow"),):
        if importlib.util.find_spec(module) is None:
            raise MissingExtra(f"{name} is not installed: pip install 'upright[video]'")
    source = agent.where_to_act(env)
    if not has_display():
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # or SDL complains, though it is to open no window
    fix = "add it there, and a render() that returns an array of height × width × 3 bytes"
    environment = make_rendered(agent, source, seed, "rgb_array", fix)
    try:
        bars: ActionBars | None = None
        results = []
        with _video(path, _rate(environment)) as add:
            for episode in range(episodes):
                for moment in play(agent, environment, episode):
                    frame = _render(environment)
                    if not plain:
                        frame = np.repeat(np.repeat(frame, k := -(-ActionBars.LEAST // len(frame)), 0), k, 1)
                        bars = bars or _bars(agent, source, episodes, seed, len(frame))
                        frame = np.concatenate([frame, bars.draw(moment)], axis=1)
                    add(frame)
                results.append((moment.total, moment.step))
        return results
    finally:
        environment.close()


def _rate(environment: Environment) -> Fraction:
    """Frames a second."""
    rate = environment.metadata.get("render_fps")
    try:
        found = Fraction(rate or DEFAULT_RATE).limit_denominator(1000)
    except (TypeError, ValueError, OverflowError):
        found = Fraction(0)
    if not 0 < found <= 1000:
        raise EnvironmentFault(
            f"{environment.name} names {rate!r} as render_fps in its metadata, which is not a rate of frames; fix it."
        )
    return found


def _render(environment: Environment) -> np.ndarray:
    """Return what the environment renders now: uint8 `[H, W, 3]`."""
    try:
        frame: Any = environment.render()
    except DependencyNotInstalled as error:
        raise MissingExtra(
            f"{environment.name} cannot be rendered: {first_line(error)}; or pip install 'upright[render]'"
        ) from error
    except Exception as error:
        raise EnvironmentFault(
            f"{environment.name} cannot be rendered here: render() raised {type(error).__name__}: {first_line(error)}"
        ) from error
    if not is_picture(frame):
        is_array = isinstance(frame, np.ndarray)
        what = f"{frame.dtype} {frame.shape}" if is_array else f"a {type(frame).__name__}"
        raise EnvironmentFault(
            f"{environment.name} cannot be recorded: render() returned {what}, not bytes of height × width × 3."
        )
    return frame


def _bars(agent: Agent, source: EnvironmentSource, episodes: int, seed: int, height: int) -> ActionBars:
    """The bars whose scale holds every value of these episodes, which are played for it without being rendered."""
    low, high = math.inf, -math.inf

    def policy(obs: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
        nonlocal low, high
        q = agent.learner.q_values(obs)
        low, high = min(low, float(q.min())), max(high, float(q.max()))
        return agent.greedy(obs, mask)

    evaluate(policy, source, agent.config, episodes, seed, agent.spaces)
    names = [_name(agent.actions.decode(action)) for action in range(agent.actions.n)]
    return ActionBars(names, low, high, height)


def _name(action: Any) -> str:
    return "·".join(str(each) for each in action.ravel()) if isinstance(action, np.ndarray) else str(action)


class ActionBars:
    """The values of the actions as bars, the chosen one's strong and with a pointer; the step and the return so far.

    rows: the first and the last-but-one line of each bar · left, length: its first column, and columns at most
    Actions beyond what the height has room for share a bar, which shows the highest of their values.
    """

    LEAST = 240  # lines, below which frames are enlarged
    WIDTH = 240
    GROUND, TEXT, BAR, CHOSEN = (247, 247, 247), (34, 34, 34), (136, 170, 204), (204, 102, 0)
    LETTERED = 14  # lines, below which a bar has no room for letters

    left, length = 52, 116

    def __init__(self, names: Sequence[str], low: float, high: float, height: int) -> None:
        """Bars for actions of these names, on a scale from low to high."""
        from PIL import Image, ImageDraw, ImageFont

        self.low, self.high = low, high
        self._font = ImageFont.load_default(size=13)
        top, bottom = 30, height - 74
        count = min(len(names), (bottom - top) // 2)
        self._groups = np.array_split(np.arange(len(names)), count)
        pitch = min(36.0, (bottom - top) / count)
        edges = [top + round(i * pitch) for i in range(count + 1)]
        gap = max(1, round(pitch * 0.2))
        self.rows = [(first, last - gap) for first, last in itertools.pairwise(edges)]
        self._has_letters = pitch - gap >= self.LETTERED
        self._background = Image.new("RGB", (self.WIDTH, height), self.GROUND)
        draw = ImageDraw.Draw(self._background)
        draw.text((12, 8), "Q(s, a)", self.TEXT, self._font)
        if self._has_letters:
            for (first, last), group in zip(self.rows, self._groups, strict=True):
                draw.text((self.left - 8, (first + last) / 2), names[group[0]][:5], self.TEXT, self._font, anchor="rm")
        scale = self.rows[-1][1] + 6
        draw.line((self.left, scale, self.left + self.length, scale), self.TEXT)
        draw.text((self.left, scale + 4), f"{low:.4g}", self.TEXT, self._font, anchor="lt")
        draw.text((self.left + self.length, scale + 4), f"{high:.4g}", self.TEXT, self._font, anchor="rt")

    def draw(self, moment: Moment) -> np.ndarray:
        """The picture of a moment: `[H, WIDTH, 3]`."""
        from PIL import ImageDraw

        picture = self._background.copy()
        draw = ImageDraw.Draw(picture)
        for (first, last), group in zip(self.rows, self._groups, strict=True):
            allowed = group if moment.mask is None else group[moment.mask[group]]
            middle = (first + last) / 2
            value = float(moment.q[allowed].max()) if len(allowed) else None
            is_chosen = moment.action is not None and moment.action in group
            if value is not None:
                right = self.left + max(1, self.columns(value))
                draw.rectangle((self.left, first, right - 1, last - 1), self.CHOSEN if is_chosen else self.BAR)
            if is_chosen:
                draw.polygon([(2, middle - 5), (2, middle + 5), (9, middle)], self.CHOSEN)
            if self._has_letters:
                text = "forbidden" if value is None else f"{value:.4g}"
                draw.text((self.left + self.length + 8, middle), text, self.TEXT, self._font, anchor="lm")
        foot = picture.height - 40
        draw.text((12, foot), f"step {moment.step:,}", self.TEXT, self._font)
        draw.text((12, foot + 18), f"return {moment.total:,.6g}", self.TEXT, self._font)
        return np.asarray(picture)

    def columns(self, value: float) -> int:
        """Return how many columns of a bar that value takes."""
        span = self.high - self.low
        share = (value - self.low) / span if span > 0 else 0.5
        return round(min(1.0, max(0.0, share)) * self.length)


@contextlib.contextmanager
def _video(path: Path, rate: Fraction) -> Iterator[Draw]:
    """Write what is added, frames uint8 `[H, W, 3]` of one size, to a file that takes its name when it is whole."""
    size: tuple[int, ...] = ()

    with files.replacing(path) as file:
        form = _mp4(file, rate) if path.suffix == ".mp4" else _animation(file, path.suffix[1:].upper(), rate)
        with form as write:

            def add(frame: np.ndarray) -> None:
                nonlocal size
                if size and frame.shape != size:
                    raise EnvironmentFault(
                        f"The frames of a video have one size, and after {size[1]} × {size[0]} pixels came "
                        f"{frame.shape[1]} × {frame.shape[0]}: let the environment render in one size."
                    )
                size = frame.shape
                write(frame)

            yield add


@contextlib.contextmanager
def _mp4(file: IO[bytes], rate: Fraction) -> Iterator[Draw]:
    import av

    stream: Any = None
    with av.open(file, "w", format="mp4") as container:

        def write(frame: np.ndarray) -> None:
            nonlocal stream
            # H.264 with colours at half the resolution, which every player has, wants even numbers of pixels.
            frame = np.pad(frame, ((0, len(frame) % 2), (0, frame.shape[1] % 2), (0, 0)), "edge")
            if stream is None:
                stream = container.add_stream("libx264", rate=rate, options=FASTEST_FORM)
                stream.height, stream.width = frame.shape[:2]
                stream.pix_fmt = "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))

        yield write
        if stream is not None:
            container.mux(stream.encode(None))


@contextlib.contextmanager
def _animation(file: IO[bytes], form: str, rate: Fraction) -> Iterator[Draw]:
    from PIL import Image

    frames: list[Image.Image] = []
    every = math.ceil(rate / ANIMATION_RATE)
    count = 0

    def write(frame: np.ndarray) -> None:
        nonlocal count
        if count % every == 0:
            if (len(frames) + 1) * frame.shape[0] * frame.shape[1] > LARGEST_ANIMATION:
                raise SettingError(
                    f"A .{form.lower()} of more than {len(frames):,} frames of this size takes too much memory: "
                    "record an .mp4, or fewer episodes."
                )
            # Without dithering, what stands still stays the same, and costs nothing.
            frames.append(Image.fromarray(frame).quantize(256, dither=Image.Dither.NONE))
        count += 1

    yield write
    if frames:
        # Flat colours and letters are smaller, and sharper, without loss than with it.
        options = {"lossless": True, "quality": 30, "method": 2} if form == "WEBP" else {}
        frames[0].save(
            file, form, save_all=True, append_images=frames[1:], duration=float(1000 * every / rate), loop=0, **options
        )
