"""The plot while an agent learns, the terminal's panel, and curves: what they show is what was reported."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console

import upright
from configurations import SHORT
from upright import Config, Run
from upright.cli.main import main
from upright.comparison.curves import Curve, aligned, draw, read_curve, read_experiments
from upright.loop import exploration_rate, train
from upright.runs.folders import RunFolder
from upright.runs.metrics import Episode, JsonLines, Progress
from upright.views import plot
from upright.views.plot import SHARE_OF_ALL, SHARE_OF_TIME, LivePlot, Window, live
from upright.views.terminal import LEVELS, Terminal, sparkline

matplotlib.use("agg")

TINY = Config(**{**SHORT, "total_timesteps": 600, "log_interval": 50, "engine": "torch"})


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Surface:
    """Counts drawings, each of which takes some of the clock's time."""

    def __init__(self, clock: Clock, seconds: float = 0.0) -> None:
        self.clock, self.seconds = clock, seconds
        self.at: list[float] = []
        self.afresh = 0
        self.is_closed = False

    def open(self, changing) -> None:
        pass

    def draw(self, afresh: bool) -> None:
        self.at.append(self.clock.now)
        self.afresh += afresh
        self.clock.now += self.seconds

    def close(self) -> None:
        self.is_closed = True


def figure() -> Figure:
    made = Figure(figsize=(4, 2), dpi=50)
    FigureCanvasAgg(made)
    return made


def report(step: int, total: int = 10_000, rewards: tuple[float, ...] = (), **metrics: float) -> Progress:
    episodes = tuple(Episode(step - len(rewards) + i + 1, 0, reward, 1) for i, reward in enumerate(rewards))
    return Progress(step, total, episodes, {"rollout/exploration_rate": 0.5, **metrics})


# --- live ---


def test_the_lines_are_the_episodes_their_means_and_epsilon(monkeypatch) -> None:
    plots = []

    class Kept(LivePlot):
        def __init__(self, *words) -> None:
            super().__init__(*words)
            plots.append(self)

    monkeypatch.setattr(plot, "LivePlot", Kept)
    monkeypatch.setattr(plot, "_in_notebook", lambda: True)
    monkeypatch.setattr(plot, "Inline", lambda figure: Surface(Clock()))
    run = Run("CartPole-v1", TINY)
    reports = list(live(train(run), "title"))
    episodes = [episode for progress in reports for episode in progress.episodes]
    steps, rewards = [episode.step for episode in episodes], [episode.reward for episode in episodes]
    (drawn,) = plots
    assert len(episodes) == run.episodes.count > 10
    assert drawn.returns.get_xydata().tolist() == [list(point) for point in zip(steps, rewards, strict=True)]
    assert list(drawn.means.get_xdata()) == steps
    means = [np.mean(rewards[max(0, i - 99) : i + 1]) for i in range(len(rewards))]
    np.testing.assert_allclose(drawn.means.get_ydata(), means)
    assert list(drawn.epsilon.get_xdata()) == [progress.step for progress in reports]
    expected = [exploration_rate(TINY, progress.step - 1) for progress in reports]
    np.testing.assert_allclose(drawn.epsilon.get_ydata(), expected)
    assert drawn.epsilon.axes is not drawn.returns.axes and drawn.means.axes is drawn.returns.axes
    assert drawn.returns.axes.get_xlim() == (0, 600)
    assert drawn.returns.axes.get_ylim()[1] == pytest.approx(1.05 * max(rewards))


def test_it_yields_what_it_is_given_and_draws_what_remains_when_it_is_left(monkeypatch) -> None:
    surface = Surface(Clock())
    monkeypatch.setattr(plot, "_in_notebook", lambda: True)
    monkeypatch.setattr(plot, "Inline", lambda figure: surface)
    reports = [report(step) for step in range(100, 1_000, 100)]
    seen = []
    loop = live(reports)
    for progress in loop:
        seen.append(progress)
        if progress.step == 300:
            break
    assert not surface.is_closed
    loop.close()
    assert seen == reports[:3] and surface.is_closed and len(surface.at) == 1

    def failing():
        yield reports[0]
        raise KeyError("fault")

    with pytest.raises(KeyError):
        list(live(failing()))


@pytest.mark.parametrize("seconds", [0.0001, 0.004, 0.03, 0.5])
def test_drawing_is_bounded_whatever_it_takes(seconds: float) -> None:
    clock = Clock()
    surface = Surface(clock, seconds)
    made = LivePlot(figure(), surface, "", clock)
    training = 0.0
    for step in range(1, 10_001):
        clock.now += 0.01  # of training
        training += 0.01
        made.take(report(step, rewards=(float(step % 7),)))
    gaps = np.diff(surface.at)
    assert gaps.min() >= 0.25 - 1e-9, "at most four times a second"
    assert gaps.min() >= seconds / SHARE_OF_TIME - 1e-9
    assert len(surface.at) * seconds <= SHARE_OF_ALL * training + seconds
    assert len(surface.at) >= min(training / 0.27, training * 0.9 * SHARE_OF_TIME / seconds), (
        "and yet it draws what it may"
    )
    assert surface.at[0] < 0.3, "people see something at once"
    assert surface.afresh == 1, "the axes are drawn once, as long as the end of the run stays where it was"
    made.take(report(10_001, total=20_000))
    made.draw()
    assert surface.afresh == 2 and made.returns.axes.get_xlim() == (0, 20_000)


def test_the_limits_hold_every_return() -> None:
    made = LivePlot(figure(), Surface(Clock()), "", Clock())
    for rewards in ((), (0.0,), (5.0,), (-3.0, 2.0), (-1e6,), (1e9,)):
        made.take(report(1, rewards=rewards))
        made.draw()
        low, high = made.returns.axes.get_ylim()
        assert low < high and all(low <= reward <= high for reward in (*rewards, 0.0))


class Windowed(FigureCanvasAgg):
    """A canvas as a window's, which notes what is asked of it."""

    supports_blit = True

    def __init__(self, *words) -> None:
        super().__init__(*words)
        self.calls: list[str] = []

    def draw(self) -> None:
        self.calls.append("draw")
        super().draw()

    draw_idle = draw

    def blit(self, box=None) -> None:
        self.calls.append("blit")
        self.shown = np.array(self.buffer_rgba())

    def flush_events(self) -> None:
        self.calls.append("flush")


def test_a_window_shows_by_parts_what_it_would_show_as_a_whole() -> None:
    made = Figure(figsize=(4, 2), dpi=50)
    canvas = Windowed(made)
    drawn = LivePlot(made, Window(made), "title", Clock())
    for step in (100, 200, 300):
        drawn.take(report(step, rewards=(step / 10, step / 5)))
        drawn.draw()
    assert [call for call in canvas.calls if call != "flush"] == ["draw", "blit", "blit"]
    by_parts = canvas.shown
    canvas.draw()
    assert (np.array(canvas.buffer_rgba()) == by_parts).all()
    canvas.calls.clear()
    drawn.close()
    assert canvas.calls == ["blit", "flush", "draw", "flush"]
    assert not drawn.returns.get_animated(), "whoever saves the figure afterwards has the lines in it"


def test_a_notebooks_output_is_one_picture_that_is_replaced(monkeypatch) -> None:
    shown: list[bytes] = []

    class Handle:
        def update(self, image) -> None:
            shown.append(image.data)

    def display(image, display_id) -> Handle:
        assert display_id is True and not shown
        shown.append(image.data)
        return Handle()

    monkeypatch.setattr("IPython.display.display", display)
    monkeypatch.setattr(plot, "_in_notebook", lambda: True)
    before = matplotlib.pyplot.get_fignums()
    list(live([report(step, 300, rewards=(step / 10,)) for step in (100, 200, 300)]))
    assert matplotlib.pyplot.get_fignums() == before, "none is left for the cell to show once more"
    assert shown and all(Image.open(io.BytesIO(content)).size == (700, 320) for content in shown)
    pixels = np.asarray(Image.open(io.BytesIO(shown[-1])))
    for colour in (plot.FAINT, plot.STRONG, plot.OTHER):
        wanted = tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
        assert (np.abs(pixels.astype(int) - wanted).max(axis=2) < 40).sum() > 20, colour


def test_learn_draws_too(monkeypatch) -> None:
    clock = Clock()
    surface = Surface(clock)
    monkeypatch.setattr(plot, "_in_notebook", lambda: True)
    monkeypatch.setattr(plot, "Inline", lambda figure: surface)
    upright.DQN("CartPole-v1", preset=TINY).learn(200, plot=True)
    assert surface.is_closed and surface.at


def test_where_nothing_can_be_shown_training_goes_on_and_that_is_said(caplog) -> None:
    reports = [report(100)]
    assert list(live(reports)) == reports
    assert "neither a notebook nor a display" in caplog.text and "upright plot RUN" in caplog.text


def test_without_matplotlib_the_line_that_installs_it(monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(
        upright.errors.MissingExtra, match=r"^matplotlib is not installed: pip install 'upright\[plot\]'$"
    ):
        live([])
    agent = upright.DQN("CartPole-v1", preset=TINY)
    with pytest.raises(upright.errors.MissingExtra):
        agent.learn(100, plot=True)
    assert agent.run.step == 0
    assert main(["plot", str(tmp_path), "-o", str(tmp_path / "c.png")]) == 2
    assert capsys.readouterr().err == "upright: matplotlib is not installed: pip install 'upright[plot]'\n"


# --- the terminal ---

METRICS = {
    "rollout/ep_rew_mean": 123.45, "rollout/ep_len_mean": 67.0, "rollout/exploration_rate": 0.25, "train/loss": 0.0123,
    "time/fps": 15_432.0,
}  # fmt: skip


def test_the_panel_says_it_all() -> None:
    console = Console(record=True, force_terminal=True, width=90, file=io.StringIO(), legacy_windows=False)
    terminal = Terminal(console, 1_000, "[bold]Cart[/bold]Pole-v1", "engine native on cpu: because it can")
    terminal.write(Progress(250, 1_000, (), METRICS))
    terminal.close()
    text = console.export_text()
    assert "[bold]Cart[/bold]Pole-v1" in text, "a name is no markup"
    assert "250/1,000 · 25% · " in text and re.search(r"\d:\d\d left", text)
    assert "return 123.5" in text and "▁" in text
    assert "length 67  ε 0.25  loss 0.0123  15,432 steps/s" in text
    assert "engine native on cpu: because it can" in text


def test_the_panel_is_drawn_four_times_a_second_at_most(monkeypatch) -> None:
    clock = Clock()
    monkeypatch.setattr("upright.views.terminal.time.monotonic", clock)
    terminal = Terminal(Console(force_terminal=True, width=80, file=io.StringIO()), 1_000, "x", first=500)
    drawn = []
    monkeypatch.setattr(terminal, "_panel", lambda progress: drawn.append(progress.step) or "")
    for step in range(501, 1_001):
        clock.now += 0.01
        terminal.write(Progress(step, 1_000, (), METRICS))
    assert len(drawn) <= 5.0 / 0.25 + 2 and drawn[0] == 501 and drawn[-1] == 1_000


@pytest.mark.parametrize("width", [20, 40, 200])
def test_the_panel_fits_a_narrow_terminal_and_one_without_unicode(width: int) -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="replace")
    console = Console(record=True, force_terminal=True, width=width, file=file)
    terminal = Terminal(console, 10, "Env-v0", "engine torch on cpu: because the network is your own")
    terminal.close()
    console.export_text()
    console.print(terminal._panel(Progress(5, 10, (), {"rollout/exploration_rate": 1.0})))  # before an episode ends
    console.print(terminal._panel(Progress(10, 10, (), METRICS)))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width and not any(level in "".join(lines) for level in LEVELS)


def test_elsewhere_there_are_plain_lines_every_ten_seconds_and_at_the_end(monkeypatch) -> None:
    clock = Clock()
    monkeypatch.setattr("upright.views.terminal.time.monotonic", clock)
    file = io.StringIO()
    terminal = Terminal(Console(file=file, width=240), 100, "x", "engine")
    for step in range(1, 101):
        clock.now += 0.25
        terminal.write(Progress(step, 100, (), METRICS))
    terminal.close()
    assert [line.split("  ")[0] for line in file.getvalue().splitlines()] == [
        "step 40/100",
        "step 80/100",
        "step 100/100",
    ]
    assert file.getvalue().splitlines()[-1] == (
        "step 100/100  return 123.5  length 67  ε 0.25  loss 0.0123  15,432 steps/s"
    )


def test_a_sparkline_rises_with_its_values() -> None:
    assert sparkline([], 10) == ""
    assert sparkline([3.0, 3.0], 10) == "▁▁"
    assert sparkline(list(range(8)), 8) == LEVELS
    assert sparkline([float(i // 100) for i in range(800)], 8) == LEVELS
    assert len(sparkline([0.0] * 1_000, 30)) == 30


def test_the_engine_says_why() -> None:
    assert upright.DQN("CartPole-v1", preset=TINY).agent.engine == "engine torch on cpu: as chosen"
    own = upright.DQN("CartPole-v1", preset=TINY, engine="auto", network=lambda problem: torch.nn.Linear(4, 2))
    assert re.fullmatch(
        r"engine torch on \w+: because (the network is your own|upright was installed .+)", own.agent.engine
    )


# --- curves ---


def write_run(folder: Path, episodes=(), evaluations=(), threshold: float | None = None) -> Path:
    lines = JsonLines(folder / "metrics.jsonl")
    for step, reward in episodes:
        lines.write(Progress(step, 100, (Episode(step, 0, reward, 1),), {}))
    for step, mean in evaluations:
        lines.write(Progress(step, 100, (), {"eval/mean_reward": mean, "train/loss": 1.0}))
    lines.close()
    (folder.parent / "config.json").write_text(json.dumps({"name": "Env-v0"}))
    if threshold is not None:
        (folder / "result.json").write_text(json.dumps({"threshold": threshold}))
    return folder


@pytest.fixture
def experiment(tmp_path) -> Path:
    folder = tmp_path / "runs" / "Env-v0" / "mine"
    for seed in range(5):
        episodes = [(step, float(step * seed)) for step in range(1, 41)]
        evaluations = [(10, 10.0 * seed), (20, 20.0 * seed), (40, float(seed**2))]
        write_run(folder / f"seed-{seed}", episodes, evaluations, 12.5)
    return folder


def by_id(made) -> dict[str, np.ndarray]:
    return {line.get_gid(): line.get_xydata() for line in made.axes[0].lines if line.get_gid()}


def test_curves_are_the_metrics(experiment) -> None:
    made = by_id(draw(*read_experiments([experiment], "auto")))
    for seed in range(5):
        assert made[f"mine/seed-{seed}"].tolist() == [[10, 10 * seed], [20, 20 * seed], [40, seed**2]]
    # Of the five the lowest and the highest are left out: seeds 0 and 4, but at each step for itself.
    assert made["mine"].tolist() == [[10, 20], [20, 40], [40, (1 + 4 + 9) / 3]]
    made = by_id(draw(*read_experiments([experiment / "seed-2"], "train"), smooth=1))
    assert list(made) == ["mine/seed-2"]
    assert made["mine/seed-2"].tolist() == [[step, 2 * step] for step in range(1, 41)]
    made = by_id(draw(*read_experiments([experiment / "seed-2", experiment / "seed-3"], "train"), smooth=3))
    assert made["mine/seed-2"][:4, 1].tolist() == [2, 3, 4, 6] and set(made) == {"mine", "mine/seed-2", "mine/seed-3"}


def test_the_default_is_evaluations_where_all_have_some_else_the_mean_of_100_episodes(experiment) -> None:
    other = write_run(experiment.parent / "other" / "seed-0", [(i, 1.0 * i) for i in range(1, 301)])
    experiments, returns = read_experiments([experiment, other], "auto")
    assert returns == "train" and [len(each.curves) for each in experiments] == [5, 1]
    made = draw(experiments, returns)
    assert by_id(made)["other/seed-0"][-1].tolist() == [300, np.mean(range(201, 301))]
    assert "mean of 100 episodes" in made.axes[0].get_ylabel()
    assert made.axes[0].get_title() == "Env-v0"


def test_runs_are_aligned_as_far_as_all_have_come() -> None:
    long = Curve(np.array([0.0, 10.0, 20.0]), np.array([0.0, 10.0, 20.0]))
    short = Curve(np.array([5.0, 15.0]), np.array([1.0, 1.0]))
    steps, table = aligned([long, short])
    assert steps.tolist() == [5, 10, 15] and table.tolist() == [[5, 10, 15], [1, 1, 1]]
    values = np.random.default_rng(0).normal(size=(9, 3_000))
    curves = [Curve(np.arange(3_000.0), row) for row in values]
    assert len(aligned(curves)[0]) == 1_000 and aligned(curves, 7)[1].shape == (9, 7)
    curves = [Curve(np.arange(900.0), row[:900]) for row in values]
    np.testing.assert_array_equal(aligned(curves)[1], values[:, :900])


def test_a_threshold_is_a_line_of_its_own(experiment) -> None:
    made = draw(*read_experiments([experiment], "auto"))
    labels = [text.get_text() for text in made.axes[0].get_legend().get_texts()]
    assert labels == ["mine, interquartile mean of 5 seeds", "threshold, 12.5"]
    assert made.axes[0].lines[-1].get_ydata() == [12.5, 12.5]


def test_names_are_no_mathematics_and_none_is_left_out(tmp_path) -> None:
    for name in ("_mine", r"a $\no^{command$"):
        run = write_run(tmp_path / name / "seed-0", [(5, 1.0)])
        (run.parent / "config.json").write_text(json.dumps({"name": r"$\frac{$" if name == "_mine" else "\x1b[2J"}))
    made = draw(*read_experiments([tmp_path / "_mine", tmp_path / r"a $\no^{command$"], "train"))
    made.canvas.draw()
    labels = [text.get_text() for text in made.axes[0].get_legend().get_texts()]
    assert labels == [r"$\frac{$, _mine, seed-0", f"{tmp_path.name}, a $\\no^{{command$, seed-0"]
    made = draw(*read_experiments([tmp_path / "_mine"], "train"))
    made.canvas.draw()
    assert [text.get_text() for text in made.axes[0].get_legend().get_texts()] == [" _mine, seed-0"]


def test_plot_writes_whole_pictures(experiment, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for suffix in ("png", "svg", "pdf"):
        name = f"{tmp_path}/curve.{suffix}"
        assert main(["plot", str(experiment), "-o", name]) == 0
        first = Path(name).read_bytes()
        assert main(["plot", str(experiment), "--out", name]) == 0
        assert Path(name).read_bytes() == first, "the same curves are the same bytes"
    assert "Env-v0, mine: seed-0, seed-1, seed-2, seed-3, seed-4" in capsys.readouterr().out
    picture = Image.open(tmp_path / "curve.png")
    picture.load()
    assert picture.size == (1280, 720)
    assert "<svg" in (tmp_path / "curve.svg").read_text()
    assert (tmp_path / "curve.pdf").read_bytes().startswith(b"%PDF")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curve.pdf", "curve.png", "curve.svg", "runs"]


def test_a_run_that_is_being_written_is_read_as_far_as_it_is_whole(tmp_path) -> None:
    run = write_run(tmp_path / "mine" / "seed-0", [(5, 1.0), (9, 2.0)], [(10, 3.0)])
    content = (run / "metrics.jsonl").read_bytes()
    for size in range(len(content) + 1):
        (run / "metrics.jsonl").write_bytes(content[:size])
        assert len(read_curve(RunFolder(run), "train").steps) == content[:size].count(b'rollout/ep_len": 1}\n')


@pytest.mark.parametrize("line", ["{", "[]", "5", '{"step": "a", "rollout/ep_rew": 1.0}', '{"rollout/ep_rew": 1.0}', "\x00",
                                  '{"step": 1, "rollout/ep_rew": NaN}', "[" * 100_000,
                                  '{"step": 1' + "0" * 400 + ', "rollout/ep_rew": 1.0}'])  # fmt: skip
def test_a_damaged_line_is_named(line: str, tmp_path, capsys) -> None:
    run = write_run(tmp_path / "mine" / "seed-0", [(5, 1.0)])
    with open(run / "metrics.jsonl", "a") as file:
        file.write(line + "\n")
    assert main(["plot", str(run), "-o", str(tmp_path / "c.png")]) == 2
    assert capsys.readouterr().err == (
        f"upright: {run / 'metrics.jsonl'} is damaged in line 2, which is no record; remove that line.\n"
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("plot nowhere -o c.png", "There is no run in nowhere: neither metrics.jsonl nor seed-*/metrics.jsonl"),
        ("plot -o c.png", "There is nothing to plot: give the folder of a run"),
        ("plot mine", "Missing from upright plot"),
        ("plot mine -o c.bmp", "c.bmp must end in .png, .svg, .pdf."),
        ("plot mine -o here.png", "here.png is a folder; name a file in it."),
        ("plot mine -o mine/config.json/c.png", "mine/config.json/c.png cannot be written: "),
        ("plot mine -o c.png --smooth 0", "smooth is 0, but it has to be 1 or more."),
        ("plot mine -o c.png --returns eval", "holds no evaluation (train it with --eval-freq)"),
        ("plot empty -o c.png", "empty/seed-0 holds no episode that has ended, so there is no curve to draw."),
        ("plot mine -o c.png --returns best", "invalid choice 'best'"),
    ],
)  # fmt: skip
def test_a_mistake_gives_one_sentence_and_leaves_nothing(words: str, says: str, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(Path("mine/seed-0"), [(5, 1.0)])
    write_run(Path("empty/seed-0"))
    Path("here.png").mkdir()
    assert main(words.split()) == 2
    said = capsys.readouterr().err
    assert said.startswith("upright: ") and says in said and said.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "here.png", "mine"]
