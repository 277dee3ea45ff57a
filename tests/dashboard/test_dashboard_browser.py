"""The dashboard's pages in a real browser: every view clicked through, its pictures kept in artefacts/ to be looked at."""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from upright import Config, Run
from upright.loop import train

pytest.importorskip("starlette", reason="the extra 'dashboard' is not installed")
pytest.importorskip("playwright", reason="playwright is not installed")

from playwright.sync_api import Page, expect, sync_playwright

from upright.dashboard.server import serve

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARTEFACTS = Path(__file__).parents[2] / "artefacts"
IS_LONG = os.environ.get("UPRIGHT_FAULTS") == "long"
HOSTILE = "<img src=x onerror=alert(1)>"
SMALL = {
    "total_timesteps": 1_500,
    "learning_starts": 100,
    "batch_size": 16,
    "net_arch": (16,),
    "log_interval": 50,
    "checkpoint_every": 500,
    "max_episode_steps": 100,
}

expect.set_options(timeout=60_000)  # on a machine that has much else to do

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here: apt-get install chromium"),
    pytest.mark.xdist_group("browser"),
]


def make(root: Path, experiment: str, seed: int, **settings) -> Run:
    return Run(
        "CartPole-v1",
        Config().override(**{**SMALL, **settings}),
        seed,
        root / "CartPole-v1" / experiment / f"seed-{seed}",
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("place") / "runs"
    runs = [make(root, "default", seed, eval_freq=500, n_eval_episodes=1) for seed in (0, 1)]
    runs.append(make(root, "c51", 0, loss="categorical", munchausen=None))
    runs.append(make(root, HOSTILE, 0, gamma=0.9))
    for run in runs:
        list(train(run))
        run.save()
        run.close()
    with (root / "CartPole-v1" / "default" / "seed-0" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 1_500, HOSTILE: 1.0}) + "\n")
    return root


@pytest.fixture(scope="module")
def link(root) -> str:
    said: list[str] = []
    ended = threading.Event()
    options = {"port": 0, "say": said.append, "stop": ended.is_set}
    thread = threading.Thread(target=serve, args=(root,), kwargs=options, daemon=True)
    thread.start()
    until = time.monotonic() + 20
    while not said and time.monotonic() < until:
        time.sleep(0.05)
    yield said[0].split()[1]
    ended.set()
    thread.join(10)


@pytest.fixture(scope="module")
def chromium():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=["light", "dark", "phone"])
def page(request, chromium, link):
    """A page that fails its test for an error, a refused resource, or a request that leaves the machine."""
    size = {"width": 375, "height": 812} if request.param == "phone" else {"width": 1360, "height": 900}
    context = chromium.new_context(viewport=size, color_scheme="dark" if request.param == "dark" else "light")
    context.set_default_timeout(60_000)
    page = context.new_page()
    problems: list[str] = []
    own = link.split("/?")[0]
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("dialog", lambda dialog: problems.append(f"a dialog: {dialog.message}"))
    page.on("request", lambda asked: None if asked.url.startswith((own, "blob:")) else problems.append(asked.url))
    page.name = request.param
    page.goto(link)
    yield page
    context.close()
    assert not problems


def picture(page: Page, name: str) -> None:
    ARTEFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTEFACTS / f"dashboard-{name}-{page.name}.png", full_page=True)


def go(page: Page, view: str) -> None:
    page.get_by_role("navigation", name="Views").get_by_role("link", name=view, exact=True).click()


def is_whole(page: Page) -> bool:
    """Nothing is wider than the page, and whatever the keyboard reaches tells its name to who cannot see it."""
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    reached = [
        each
        for each in nodes
        if not each["ignored"] and each["role"]["value"] not in ("RootWebArea", "main", "MenuListPopup")
        and any(about["name"] == "focusable" for about in each.get("properties", []))
    ]  # fmt: skip
    assert len(reached) > 8
    assert [each for each in reached if not each.get("name", {}).get("value", "").strip()] == []
    return page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


FOCUSED = """() => {
    const element = document.activeElement, box = element.getBoundingClientRect();
    return {
        name: element.getAttribute("aria-label") ?? element.labels?.[0]?.textContent ?? element.textContent,
        isSeen: box.width > 5 && box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth,
        isMarked: getComputedStyle(element).outlineStyle !== "none",
    };
}"""


def tab_to(page: Page, name: str, key: str = "Tab") -> None:
    """Press Tab until what is so named has the focus; on the way, all that has it is on the screen and marked."""
    for _ in range(80):
        page.keyboard.press(key)
        focused = page.evaluate(FOCUSED)
        assert focused["isSeen"] and focused["isMarked"], focused
        if focused["name"].strip().startswith(name):
            return
    raise AssertionError(f"Tab does not reach {name}")


def test_every_view_is_clicked_through(page, root) -> None:
    rows = page.locator("table.runs tbody tr")
    expect(rows).to_have_count(4)
    assert "token" not in page.url
    assert page.evaluate("document.cookie") == ""
    picture(page, "runs")
    assert is_whole(page)
    page.get_by_label("Filter runs").fill("c51")
    expect(rows).to_have_count(1)
    page.get_by_label("Filter runs").fill("")
    page.get_by_label("State").select_option("running")
    expect(page.get_by_text("No run matches the filter.")).to_be_visible()
    page.get_by_label("State").select_option("")
    expect(rows).to_have_count(4)
    if page.name != "phone":
        page.get_by_role("button", name="Steps/s").click()
        expect(page.locator("th[aria-sort=descending]")).to_have_text("Steps/s ↓")
        page.get_by_role("button", name="Steps/s").click()
        expect(page.locator("th[aria-sort=ascending]")).to_have_text("Steps/s ↑")

    for row in ("default · seed 0", "default · seed 1", "c51 · seed 0", f"{HOSTILE} · seed 0"):
        page.get_by_label(f"Choose CartPole-v1/{row}").check()
    page.get_by_role("link", name="Compare curves").click()
    expect(page.get_by_role("heading", name="3 experiments compared")).to_be_visible()
    expect(page.locator(".chart canvas")).to_have_count(6)
    expect(page.get_by_role("group", name="Return. default, interquartile mean of 2 seeds")).to_be_visible()
    chart = page.locator(".chart .plot").first
    chart.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".tip").first).to_contain_text("step")
    page.keyboard.press("+")
    expect(page.get_by_role("button", name="Reset zoom").first).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Reset zoom").first).to_be_hidden()
    box = page.locator(".u-over").first.bounding_box()
    if page.name != "phone":
        page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + 60)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 60, steps=4)
        page.mouse.up()
        expect(page.get_by_role("button", name="Reset zoom").nth(2)).to_be_visible()  # all charts zoom together
        page.get_by_role("button", name="Reset zoom").first.click()
    page.get_by_role("button", name="log").nth(2).click()
    expect(page.get_by_role("button", name="log").nth(2)).to_have_attribute("aria-pressed", "true")
    page.get_by_label("Smoothing").fill("0.8")
    expect(page.locator("output")).to_have_text("0.80")
    page.get_by_text("Values as a table").first.click()
    expect(page.locator(".chart table").first).to_contain_text("interquartile mean of 2 seeds")
    page.get_by_text("Other metrics").click()
    expect(page.get_by_role("heading", name="train/grad_norm")).to_be_visible()
    expect(page.get_by_role("heading", name=HOSTILE)).to_be_visible()
    picture(page, "charts")
    assert is_whole(page)

    page.get_by_role("link", name="What differs").click()
    expect(page.get_by_role("columnheader", name="settings differ")).to_be_visible()
    expect(page.get_by_role("row", name="loss.kind")).to_contain_text("categorical")
    picture(page, "settings")
    assert is_whole(page)

    go(page, "Agent")
    page.get_by_label("Run").select_option(label="CartPole-v1/c51 · seed 0")
    expect(page.get_by_label("Moment").locator("option")).to_have_count(3)
    page.get_by_label("Moment").select_option(label="Checkpoint at step 1,000")
    page.get_by_role("button", name="Play an episode").click()
    expect(page.get_by_role("heading", name="Distribution of the return")).to_be_visible(timeout=150_000)
    expect(page.get_by_role("button", name="▶ Play", exact=True)).to_be_visible()  # it has been played to its end
    scrubber = page.get_by_label("Step of the episode")
    scrubber.focus()
    page.keyboard.press("Home")
    before = page.locator(".facts").inner_text()
    page.keyboard.press("End")
    assert page.locator(".facts").inner_text() != before
    steps = int(scrubber.get_attribute("max")) + 1
    expect(page.locator(".transport .note")).to_have_text(f"step {steps} of {steps}")
    assert page.locator(".picture canvas").evaluate("canvas => canvas.width") == 600
    picture(page, "agent")
    assert is_whole(page)

    go(page, "Episodes")
    page.get_by_label("Run").select_option(label="CartPole-v1/default · seed 0")
    expect(page.locator(".u-over")).to_have_count(1)
    page.wait_for_timeout(300)
    box = page.locator(".u-over").first.bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.9, box["y"] + box["height"] * 0.5)
    expect(page.get_by_text("The nearest policy that is kept")).to_be_visible()
    expect(page.locator(".facts")).to_be_visible(timeout=150_000)
    picture(page, "episodes")
    assert is_whole(page)

    theme = page.locator("html").get_attribute("class")
    page.locator("#theme").click()
    assert page.locator("html").get_attribute("class") != theme


@pytest.mark.parametrize("page", ["phone", "dark"], indirect=True)
def test_every_view_is_used_with_the_keyboard_alone(page) -> None:
    expect(page.locator("table.runs tbody tr")).to_have_count(4)
    press = page.keyboard.press
    tab_to(page, "Filter runs")
    page.keyboard.type("CartPole")
    tab_to(page, "Run")
    press("Enter")
    expect(page.locator("th[aria-sort=ascending]")).to_have_text("Run ↑")
    for seed in (0, 1):
        tab_to(page, f"Choose CartPole-v1/default · seed {seed}")
        press("Space")
        expect(page.get_by_text(f"{seed + 1} chosen")).to_be_visible()
    tab_to(page, "Compare curves")
    press("Enter")
    expect(page.get_by_role("heading", name="CartPole-v1/default", level=1)).to_be_visible()
    expect(page.get_by_role("group", name="Return. default, interquartile mean of 2 seeds")).to_be_visible()
    tab_to(page, "Skip to the content", "Shift+Tab")
    press("Enter")
    tab_to(page, "Smoothing")
    press("End")
    expect(page.locator("output")).to_have_text("0.98")
    tab_to(page, "log axis of Return")
    press("Space")
    expect(page.get_by_role("button", name="log axis of Return")).to_have_attribute("aria-pressed", "true")
    tab_to(page, "Return.")
    press("End")
    expect(page.locator(".tip").first).to_contain_text("step 1,500")
    press("+")
    expect(page.get_by_role("button", name="Reset zoom").first).to_be_visible()
    press("Escape")
    expect(page.get_by_role("button", name="Reset zoom").first).to_be_hidden()
    tab_to(page, "Values as a table")
    press("Enter")
    expect(page.get_by_role("region", name="Return, as a table")).to_be_visible()

    tab_to(page, "Agent", "Shift+Tab")
    press("Enter")
    expect(page.locator("main")).to_be_focused()
    expect(page.get_by_label("Moment").locator("option")).to_have_count(4)
    tab_to(page, "Moment")
    press("Home")
    tab_to(page, "▶ Play an episode")
    press("Enter")
    expect(page.locator(".facts")).to_be_visible(timeout=150_000)
    tab_to(page, "Step of the episode")
    press("End")
    last = int(page.get_by_label("Step of the episode").get_attribute("max")) + 1
    expect(page.locator(".transport .note")).to_have_text(f"step {last} of {last}")
    tab_to(page, "Q-values over the episode")
    press("Home")
    press("Enter")
    expect(page.locator(".transport .note")).to_have_text(f"step 1 of {last}")

    tab_to(page, "Episodes", "Shift+Tab")
    press("Enter")
    expect(page.locator("main")).to_be_focused()
    expect(page.get_by_text(re.compile(r"^[1-9][\d,]* episodes\."))).to_be_visible()  # there is something to pick
    tab_to(page, "Return of each episode")
    press("ArrowRight")
    press("Enter")
    expect(page.get_by_text("The nearest policy that is kept")).to_be_visible()
    expect(page.locator(".facts")).to_be_visible(timeout=150_000)

    tab_to(page, "Settings", "Shift+Tab")
    press("Enter")
    expect(page.locator("main")).to_be_focused()
    tab_to(page, page.locator("summary").inner_text())
    press("Enter")
    expect(page.get_by_role("row", name="batch_size")).to_be_hidden()


@pytest.mark.parametrize("page", ["light"], indirect=True)
def test_what_seeds_have_in_common_is_computed_as_it_is_named(page) -> None:
    random_ = np.random.default_rng(0)
    for size in (1, 2, 3, 4, 5, 8, 11):
        numbers = np.sort(random_.normal(size=size))
        mean, quartiles = page.evaluate(
            """async (numbers) => {
                const { interquartileMean, quantile } = await import("/js/statistics.js");
                return [interquartileMean(numbers), [0.25, 0.75].map((share) => quantile(numbers, share))];
            }""",
            numbers.tolist(),
        )
        # Each number four times over: then the middle half is a whole count of them.
        assert mean == pytest.approx(np.repeat(numbers, 4)[size : 3 * size].mean())
        assert quartiles == pytest.approx(np.quantile(numbers, [0.25, 0.75]))
    smoothed, together = page.evaluate(
        """async () => {
            const { smoothed, summary } = await import("/js/statistics.js");
            const line = (values) => ({ steps: [0, 1, 2], values });
            return [smoothed([4, 0, 8], 0.5), summary([line([0, 1, 2]), line([2, 3, 4]), line([4, 5, 6])])];
        }"""
    )
    assert smoothed == pytest.approx([4, 1 / 0.75 * (0.25 * 4), (0.125 * 4 + 0.5 * 8) / 0.875])
    assert together["values"] == pytest.approx([2, 3, 4]) and together["seeds"] == 3
    assert together["low"] == pytest.approx([1, 2, 3]) and together["high"] == pytest.approx([3, 4, 5])


@pytest.mark.parametrize("page", ["light"], indirect=True)
def test_a_live_run_is_followed_and_stopped_from_the_page(page, root) -> None:
    run = make(root, "live", 0, total_timesteps=10**7, checkpoint_every=10**6)
    ended = threading.Event()

    def go_on() -> None:
        for _ in train(run):
            time.sleep(0.05)
        run.close()
        ended.set()

    thread = threading.Thread(target=go_on, daemon=True)
    thread.start()
    try:
        page.get_by_role("link", name="CartPole-v1/live").click(timeout=30_000)
        expect(page.locator(".state.running").first).to_be_visible()
        first = page.get_by_role("group", name="Steps per second.").get_attribute("aria-label")
        page.wait_for_timeout(2_500)
        assert page.get_by_role("group", name="Steps per second.").get_attribute("aria-label") != first
        page.get_by_role("button", name="Checkpoint now").click()
        folder = root / "CartPole-v1" / "live" / "seed-0" / "checkpoints"
        until = time.monotonic() + 20
        while not list(folder.glob("*/manifest.json")) and time.monotonic() < until:
            page.wait_for_timeout(100)
        assert list(folder.glob("*/manifest.json"))
        page.get_by_role("button", name="Stop with checkpoint").click()
        page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
        assert not ended.is_set()
        page.get_by_role("button", name="Stop with checkpoint").click()
        page.get_by_role("dialog").get_by_role("button", name="Stop with checkpoint").click()
        assert ended.wait(20)
        expect(page.locator(".state.stopped").first).to_be_visible()
    finally:
        run.stop()
        thread.join(20)
        shutil.rmtree(root / "CartPole-v1" / "live")


@pytest.mark.parametrize("page", ["light"], indirect=True)
def test_a_page_that_follows_does_not_grow(page, root) -> None:
    """As many lines as hours of training write: what the page holds stays as it was."""
    folder = root / "CartPole-v1" / "long" / "seed-0"
    folder.mkdir(parents=True)
    path, step = folder / "metrics.jsonl", 0
    session = page.context.new_cdp_session(page)

    def write(count: int) -> None:
        nonlocal step
        with path.open("a") as file:
            for _ in range(count):
                step += 100
                file.write(
                    json.dumps({"step": step, "rollout/ep_rew_mean": step % 977, "train/loss": 0.1, "time/fps": 9.0})
                    + "\n"
                )
                file.write(
                    json.dumps({"step": step, "env": 0, "rollout/ep_rew": step % 91, "rollout/ep_len": 9}) + "\n"
                )

    def heap() -> tuple[int, int]:
        session.send("HeapProfiler.collectGarbage")
        return session.send("Runtime.getHeapUsage")["usedSize"], page.evaluate("document.querySelectorAll('*').length")

    try:
        write(700)
        page.get_by_role("link", name="CartPole-v1/long").click(timeout=30_000)
        expect(page.locator(".chart canvas")).to_have_count(6)
        sizes = []
        for _ in range(60 if IS_LONG else 6):
            write(900)
            page.wait_for_timeout(1_300)
            sizes.append(heap())
        page.wait_for_timeout(1_500)
        sizes.append(heap())
        assert sizes[-1][1] <= sizes[0][1] + 10
        assert sizes[-1][0] < sizes[0][0] + 3 * 2**20, sizes
    finally:
        shutil.rmtree(folder.parent)
