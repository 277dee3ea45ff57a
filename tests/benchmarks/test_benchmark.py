import dataclasses
import re
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from scipy.stats import binomtest, trim_mean

from benchmarks.learning import benchmark, contestants, judging, report, trainers
from benchmarks.learning.contestants import TASKS, Contestant
from benchmarks.learning.figures import WITHOUT_EFFECT, Figures, holds, read
from upright.comparison.statistics import bootstrap_interval, interquartile_mean
from upright.environments.environment import make_environment
from upright.settings.config import FORMERLY, Config

ROWS = contestants.contestants()
THERE = [row for row in ROWS if row.path.exists()]
by_title = pytest.mark.parametrize("row", THERE, ids=lambda row: row.title)
NUMBER = r"−?[\d,]+(?:\.\d+)?"


def numbers(text: str) -> list[float]:
    return [float(each.replace("−", "-").replace(",", "")) for each in re.findall(NUMBER, text)]


# What is committed


def test_every_file_is_a_rows():
    files = set(contestants.RESULTS.rglob("*.jsonl"))
    assert files == {row.path for row in THERE} and len({row.path for row in ROWS}) == len(ROWS)


def test_the_best_that_can_be_reached_in_taxi_is_as_the_page_says():
    """By value iteration without discount, from each of its starts."""
    taxi = gymnasium.make("Taxi-v4").unwrapped
    model = np.array([[taxi.P[state][action][0][1:] for action in range(6)] for state in range(500)])  # deterministic
    following, reward, goes_on = model[..., 0].astype(int), model[..., 1], 1 - model[..., 2]
    value = np.zeros(500)
    for _ in range(100):
        value = (reward + goes_on * value[following]).max(axis=1)
    over_all_starts = float(taxi.initial_state_distrib @ value)
    starts = [taxi.reset(seed=judging.FINAL_SEED + k)[0] for k in range(judging.FINAL_EPISODES)]
    said = next(note for note in report.NOTES if "Taxi-v4's threshold" in note)
    assert f"reaches {over_all_starts:.2f} over all its starts" in said
    assert f"and {value[starts].mean():.2f} in these {judging.FINAL_EPISODES} episodes" in said
    assert TASKS["Taxi-v4"].best == pytest.approx(value[starts].mean(), abs=1e-9)


def action_values(model, value, discount=1.0):
    """One backup through a tabular environment's model: (states, actions)."""
    return np.array(
        [
            [
                sum(p * (r + discount * (not over) * value[after]) for p, after, r, over in outcomes)
                for outcomes in actions
            ]
            for actions in ([model[state][action] for action in sorted(model[state])] for state in sorted(model))
        ]
    )


def test_the_best_that_can_be_reached_in_frozen_lake_is_as_the_page_says():
    """By dynamic programming backwards from the time limit."""
    lake = gymnasium.make("FrozenLake-v1")
    value = np.zeros(16)
    for _ in range(lake.spec.max_episode_steps):
        value = action_values(lake.unwrapped.P, value).max(axis=1)
    goal = value[0]
    said = next(note for note in report.NOTES if note.startswith("FrozenLake-v1's best policy"))
    assert f"the goal in {100 * goal:.1f} % of all episodes" in said
    assert f"standard deviation of {np.sqrt(goal * (1 - goal) / judging.INTERIM_EPISODES):.1f} " in said


def test_what_frozen_lakes_optimal_policies_score_in_the_final_episodes_is_as_the_page_says():
    """Those of value iteration, with a discount that only breaks the ties of the squares from which nothing is lost."""
    lake = gymnasium.make("FrozenLake-v1")
    model = lake.unwrapped.P
    value = np.zeros(16)
    for _ in range(3_000):
        quality = action_values(model, value, discount=0.999)
        value = quality.max(axis=1)
    best = [np.flatnonzero(quality[state] > value[state] - 1e-9) for state in range(16)]
    (square,) = [state for state in range(16) if value[state] > 0 and len(best[state]) > 1]
    scores = []
    for choice in best[square]:
        policy = quality.argmax(axis=1)
        policy[square] = choice
        reached = 0.0
        for k in range(judging.FINAL_EPISODES):
            state, _ = lake.reset(seed=judging.FINAL_SEED + k)
            ended = False
            while not ended:
                state, reward, terminated, truncated, _ = lake.step(int(policy[state]))
                ended = terminated or truncated
                reached += float(reward)
        scores.append(reached / judging.FINAL_EPISODES)
        worth = np.zeros(16)
        for _ in range(lake.spec.max_episode_steps):
            worth = action_values(model, worth)[np.arange(16), policy]
        assert f"{worth[0]:.3f}" == "0.740"
    said = next(note for note in report.NOTES if note.startswith("FrozenLake-v1's best policy"))
    assert f"score {scores[0]:.2f} or {scores[1]:.2f}: in one square" in said and "Both are worth 0.740" in said


def test_seeds_that_play_as_well_as_the_best_policy_are_counted():
    task = dataclasses.replace(TASKS["Taxi-v4"], best=7.5)
    taxi = Contestant("No One", task, "upright", {}, 100, range(3), "")
    assert Figures(taxi, [result(0, 7.5), result(1, 7.49), result(2, 7.75)]).perfect == 2
    assert Figures(dataclasses.replace(taxi, task=TASKS["CartPole-v1"]), [result(0, 500.0)]).perfect == 0


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.env)
def test_settings_that_are_left_out_change_nothing_in_any_task(task):
    now, then = Config(), Config(**{name: FORMERLY[name] for name in WITHOUT_EFFECT})
    environments = [make_environment(task.env, config, 0, 0) for config in (now, then)]
    (first, first_info), (other, other_info) = (environment.reset() for environment in environments)
    np.testing.assert_array_equal(first, other)
    assert environments[0].observations.scale is environments[1].observations.scale is None
    assert first_info.keys() == other_info.keys()


@by_title
def test_a_rows_results_are_whole(row):
    results = read(row)
    seeds = [each["seed"] for each in results]
    assert seeds == sorted(set(seeds)) and set(seeds) <= set(row.seeds)
    assert all(each["settings"] == results[0]["settings"] and holds(each, row) for each in results)
    for each in results:
        assert (each["contestant"], each["env"]) == (row.name, row.task.env)
        steps = [point[0] for point in each["curve"]]
        seconds = [point[2] for point in each["curve"]]
        assert len(steps) == judging.POINTS and steps == sorted(set(steps)) and seconds == sorted(seconds)
        assert steps[-1] == each["steps"] >= row.steps and each["steps"] == results[0]["steps"]
        assert seconds[-1] == each["cpu_seconds"] <= each["wall_seconds"] * 1.05
        assert len(each["returns"]) == judging.FINAL_EPISODES
        assert re.fullmatch("[0-9a-f]{40}", each["commit"])


@by_title
def test_every_figure_of_the_page_is_computed_again(row):
    section = report.PAGE.read_text().partition(f"## {row.task.env}\n")[2].partition("\n## ")[0]
    (line,) = [line for line in section.splitlines() if line.replace("*", "").startswith(f"| {row.name} |")]
    _, _, solved, middle, worst, first_steps, first_seconds, seconds, steps, _ = line.split("|")
    results = read(row)
    finals = np.array([each["returns"] for each in results]).mean(axis=1)
    places = 1e-3 if row.task.threshold == 0.7 else 0.1
    wins = int((finals >= row.task.threshold - 1e-9).sum())
    share = binomtest(wins, len(finals)).proportion_ci(method="wilson")
    assert numbers(solved) == pytest.approx([wins, len(finals), 100 * share.low, 100 * share.high], abs=0.5)
    interval = [] if len(finals) == 1 else bootstrap_interval(interquartile_mean, finals)
    assert numbers(middle) == pytest.approx([trim_mean(finals, 0.25), *interval], abs=places)
    assert numbers(worst) == pytest.approx([finals.min()], abs=places)
    assert numbers(seconds) == pytest.approx([np.median([each["cpu_seconds"] for each in results])], abs=0.51)
    assert numbers(steps) == [results[0]["steps"]]
    for text, column in ((first_steps, 0), (first_seconds, 2)):
        firsts = []
        for each in results:
            solving = [point[column] for point in each["curve"] if point[1] >= row.task.threshold]
            firsts.append(solving[0] if solving else np.inf)
        never, median = int(np.isinf(firsts).sum()), np.median(firsts)
        expected = [] if np.isinf(median) else [median]
        assert numbers(text) == pytest.approx([*expected, *([never, len(firsts)] if never else [])], abs=0.51)


def test_the_page_and_the_readmes_table_are_of_these_files():
    figures = report.all_figures()
    assert report.PAGE.read_text() == report.page(figures)
    readme = report.README.read_text()
    assert readme == report.with_summary(readme, figures)
    pictures = re.findall(r"\(pictures/(\S+)\)", report.PAGE.read_text())
    assert set(pictures) == {f"{row.task.env}.svg" for row in THERE}
    assert all((report.FOLDER / "pictures" / name).is_file() for name in [*pictures, "all.svg"])


def test_the_readmes_table_says_what_the_page_says():
    def rows(text):
        lines = [line for line in text.splitlines() if line.startswith("|") and "---" not in line]
        return [[cell.strip(" |") for cell in line.split(" | ")] for line in lines]

    table = report.README.read_text().partition(report.BEGIN)[2].partition(report.END)[0]
    sections = report.PAGE.read_text().split("\n## ")
    env = ""
    for place, *cells in rows(table)[1:]:
        env = place.partition(",")[0] or env
        (section,) = [each for each in sections if each.startswith(f"{env}\n")]
        (whole,) = [row for row in rows(section) if row[0] == cells[0]]
        assert cells == [*whole[:3], *whole[-2:]]


# How it is made


def test_side_by_side_episodes_return_what_one_after_the_other_do():
    def policy(observations, masks):
        assert masks is None and len(observations) == judging.SIDE_BY_SIDE
        return (observations[:, 2] > 0).astype(int)

    count = 2 * judging.SIDE_BY_SIDE + 5
    env, expected = gymnasium.make("CartPole-v1"), []
    for k in range(count):
        observation, total, over = env.reset(seed=7 + k)[0], 0.0, False
        while not over:
            action = int(observation[2] > 0)
            observation, reward, terminated, truncated, _ = env.step(action)
            total, over = total + reward, terminated or truncated
        expected.append(total)
    assert judging.episodes("CartPole-v1", policy, count, 7) == expected and len(set(expected)) > 5


def test_an_episode_without_a_limit_of_its_own_has_one():
    up = lambda observations, masks: np.zeros(len(observations), int)  # against the wall for ever
    assert judging.episodes("CliffWalking-v1", up, 2, 0) == [-judging.LIMIT, -judging.LIMIT]


def test_policies_get_the_mask():
    seen = []

    def policy(observations, masks):
        seen.append(masks)
        return masks.argmax(axis=1)

    judging.episodes("Taxi-v4", policy, 3, 0)
    assert seen[0].shape == (3, 6) and {0, 1} == set(np.unique(seen))


def test_the_clocks_stand_still_while_a_policy_is_judged(monkeypatch):
    now = 0.0

    def judge(env, policy, count, first_seed):
        nonlocal now
        now += 1_000
        return [5.0] * count

    monkeypatch.setattr(judging.time, "process_time", lambda: now)
    monkeypatch.setattr(judging.time, "perf_counter", lambda: 2 * now)
    monkeypatch.setattr(judging, "episodes", judge)
    watch = judging.Watch("CartPole-v1", 1_000)
    watch.start()
    for step in range(10, 1_001, 10):
        now += 1
        watch(step, None)
    now += 1
    watch.finish(1_007, None)
    assert [point[0] for point in watch.curve] == [*range(50, 1_000, 50), 1_007]
    assert [point[2] for point in watch.curve] == [*range(5, 100, 5), 101]
    assert (watch.cpu, watch.wall, watch.steps, len(watch.returns)) == (101, 202, 1_007, judging.FINAL_EPISODES)


@pytest.mark.parametrize("library", ["upright", "sb3_dqn"])
def test_a_library_trains_and_hands_over_its_final_policy(library):
    (row,) = [each for each in ROWS if each.library == library and each.title.startswith("CartPole-v1")][:1]
    settings, steps = row.settings, 300
    if library == "upright":
        settings = {**settings, "total_timesteps": steps, "log_interval": 100}
    watch = judging.Watch("CartPole-v1", steps)
    getattr(trainers, library)("CartPole-v1", settings, steps, 3, watch)
    assert watch.steps == (steps if library == "upright" else 512)  # whole rounds of 256
    assert watch.curve[-1][0] == watch.steps and min(watch.returns) >= 8


def test_schedules_of_the_peers():
    epsilon = contestants.TIANSHOU["Acrobot-v1"][1]["epsilon"]
    steps = (0, 100_000, 300_000, 500_000, 900_000)
    assert [trainers._epsilon(epsilon, step) for step in steps] == [0.5, 0.5, 0.375, 0.25, 0.25]
    epsilon = contestants.TIANSHOU["LunarLander-v3"][1]["epsilon"]
    assert trainers._epsilon(epsilon, 2) == pytest.approx(0.73 * 0.999995**2)
    assert trainers._epsilon(epsilon, 10**7) == 0.01
    assert trainers._rate("lin_1.5e-3")(0.5) == 7.5e-4 and trainers._rate(0.1) == 0.1


@pytest.fixture
def row(tmp_path, monkeypatch):
    monkeypatch.setattr(contestants, "RESULTS", tmp_path)
    return Contestant("No One", TASKS["CartPole-v1"], "sb3_dqn", {"gamma": 0.9}, 100, range(5, 9), "")


def result(seed, mean=475.0, curve=((10, 480.0, 0.5),), settings=None):
    return {"seed": seed, "settings": settings or {"gamma": 0.9}, "returns": [mean, mean], "curve": curve,
            "cpu_seconds": 1.0, "steps": 100}  # fmt: skip


def test_what_is_there_is_not_run_again_unless_settings_have_changed(row):
    assert benchmark.missing(row, row.seeds) == [5, 6, 7, 8]
    for seed in (7, 5, 7):
        benchmark.keep(row, result(seed, mean=float(seed)))
    assert [each["seed"] for each in read(row)] == [5, 7] and benchmark.missing(row, row.seeds) == [6, 8]
    changed = Contestant(row.name, row.task, row.library, {"gamma": 0.5}, 100, row.seeds, "")
    assert benchmark.missing(changed, row.seeds) == [5, 6, 7, 8]
    benchmark.keep(changed, result(6, settings={"gamma": 0.5}))
    assert [each["seed"] for each in read(row)] == [6]


def test_a_trial_that_fails_is_said_and_leaves_nothing(row, capsys):
    trials = benchmark.Trials()
    trials.run(row, 5)
    assert trials.failures == 1 and not row.path.exists()
    assert "CartPole-v1 No One, seed 5 failed: StopIteration" in capsys.readouterr().out


def test_never_is_later_than_any_step(row):
    never = ((10, 474.0, 0.5),)
    assert Figures(row, [result(5), result(6), result(7, 474.9, never)]).solved == 2
    figures = Figures(row, [result(5), result(6), result(7, curve=never)])
    assert "| 10 (never in 1 of 3) | 0.5 (never in 1 of 3) |" in report._table([], [report._cells(figures)])[-1]
    figures = Figures(row, [result(5), result(6, curve=never), result(7, curve=never)])
    assert "| never in 2 of 3 | never in 2 of 3 |" in report._table([], [report._cells(figures)])[-1]


def test_a_setting_that_came_later_is_as_it_was_before():
    ours = ROWS[0]
    before = {**ours.settings, "exploration_repeat": None}
    older = {name: value for name, value in before.items() if name != "exploration_repeat"}
    formerly = dataclasses.replace(ours, settings=before)
    assert holds({"settings": older}, formerly) and holds({"settings": before}, formerly)
    assert not holds({"settings": {**older, "gamma": 0.5}}, formerly)
    assert holds({"settings": ours.settings}, ours)


def test_markers_that_are_missing_are_named(tmp_path):
    with pytest.raises(ValueError, match="README has no lines"):
        report.with_summary(Path(__file__).read_text()[:10], [])
