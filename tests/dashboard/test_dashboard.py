"""The dashboard's server: what it reads, what it refuses, what it asks of a run. The pages are in test_dashboard_browser.py."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest

import toy_environments
from configurations import SHORT
from upright import Config, Run, files
from upright.cli.main import main
from upright.errors import EnvironmentFault, MissingExtra, RunError, SettingError
from upright.loop import train
from upright.runs import control
from upright.runs.checkpoint import Checkpoints
from upright.runs.folders import RunFolder

pytest.importorskip("starlette", reason="the extra 'dashboard' is not installed")

from upright.dashboard import beside
from upright.dashboard.answers import Answers
from upright.dashboard.app import _static_files, make_app
from upright.dashboard.catalogue import Catalogue
from upright.dashboard.episodes import Episodes
from upright.dashboard.following import MetricsFile
from upright.dashboard.guard import HEADERS
from upright.dashboard.player import Player, Wish
from upright.dashboard.playing import play
from upright.dashboard.sampling import downsample, within
from upright.dashboard.server import serve
from upright.dashboard.streams import Streams

TOKEN = "a-token-of-the-tests"
TESTS = str(Path(__file__).parent.parent)
IS_LONG = os.environ.get("UPRIGHT_FAULTS") == "long"
SMALL = {**SHORT, "log_interval": 50, "checkpoint_every": 100}

QUICK = ["--learning-starts", "50", "--batch-size", "8", "--net-arch", "8"]  # little work, on the command line


def trained(folder: Path, source="CartPole-v1", **settings) -> Run:
    run = Run(source, Config().override(**{**SMALL, **settings}), 0, folder)
    list(train(run))
    run.save()
    run.close()
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A folder with a finished run, and a secret beside it that nothing may show."""
    root = tmp_path_factory.mktemp("place") / "runs"
    trained(root / "CartPole-v1" / "default" / "seed-0", eval_freq=100, n_eval_episodes=1)
    (root.parent / "secret.txt").write_text("SECRET")
    (root / "CartPole-v1" / "default" / "seed-0" / "secret.txt").symlink_to(root.parent / "secret.txt")
    return root


class Answer:
    def __init__(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        self.status, self.body = status, body
        self.headers = {name.decode().lower(): value.decode() for name, value in headers}

    def json(self):
        return json.loads(self.body)


class Browser:
    """Asks the application as a browser does, but for what is changed on purpose."""

    def __init__(self, root: Path, trust: bool = False, allow_remote: bool = False) -> None:
        answers = Answers(root, trust)
        self.episodes = Episodes(answers)
        self.app = make_app(answers, self.episodes, Streams(answers), TOKEN, "upright-1", allow_remote)
        self.loop = asyncio.new_event_loop()

    def close(self) -> None:
        self.episodes.close()
        self.loop.close()

    def ask(self, path: str, method="GET", body=b"", headers=None, query="", raw_path: bytes | None = None) -> Answer:
        sent = {
            "host": "127.0.0.1:8765",
            "cookie": f"upright-1={TOKEN}",
            **({"origin": "http://127.0.0.1:8765"} if method == "POST" else {}),
        }
        sent |= headers or {}
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http", "path": path,
            "raw_path": path.encode("utf-8", "replace") if raw_path is None else raw_path,
            "query_string": query.encode("latin-1", "replace"), "root_path": "", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8765),
            "headers": [(name.encode(), value.encode("latin-1", "replace")) for name, value in sent.items() if value is not None],
        }  # fmt: skip
        return self.loop.run_until_complete(
            self._ask(scope, body if isinstance(body, bytes) else json.dumps(body).encode())
        )

    async def _ask(self, scope, body: bytes) -> Answer:
        given = [{"type": "http.request", "body": body, "more_body": False}]
        got: list[dict] = []
        ended = asyncio.Event()

        async def receive():
            if given:
                return given.pop(0)
            await asyncio.wait_for(ended.wait(), 0.5) if scope["path"] == "/api/events" else await ended.wait()
            return {"type": "http.disconnect"}

        async def send(message) -> None:
            got.append(message)

        with contextlib.suppress(TimeoutError, asyncio.CancelledError):  # a stream has no end
            await asyncio.wait_for(self.app(scope, receive, send), 20)
        ended.set()
        starts = [each for each in got if each["type"] == "http.response.start"]
        body = b"".join(each.get("body", b"") for each in got if each["type"] == "http.response.body")
        return Answer(starts[0]["status"], starts[0]["headers"], body)

    def run(self) -> str:
        return self.ask("/api/runs").json()["runs"][0]["id"]


@pytest.fixture()
def browser(runs):
    made = Browser(runs)
    yield made
    made.close()


# Reading -------------------------------------------------------------------------------------------------------------


def record(step: int, value: float) -> str:
    return json.dumps({"step": step, "rollout/ep_rew_mean": value, "time/fps": 1000.0}) + "\n"


def episode(step: int, value: float) -> str:
    return json.dumps({"step": step, "env": 0, "rollout/ep_rew": value, "rollout/ep_len": 7}) + "\n"


def test_a_file_is_read_as_it_grows_and_a_half_written_line_waits(tmp_path) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(path)
    assert not metrics.refresh()
    path.write_text(episode(5, 9.0) + record(10, 1.0))
    assert metrics.refresh() and not metrics.refresh()
    assert metrics.cursor == (1, 1, 1) or metrics.cursor == (0, 1, 1)
    line = record(20, 3.0)
    for end in range(1, len(line)):
        path.write_text(episode(5, 9.0) + record(10, 1.0) + line[:end])
        metrics.refresh()
        assert len(metrics.records.step) == 1
    path.write_text(episode(5, 9.0) + record(10, 1.0) + line)
    metrics.refresh()
    x, y = metrics.points("rollout/ep_rew_mean")
    assert x.tolist() == [10, 20] and y.tolist() == [1, 3]
    assert metrics.points("episode/return")[1].tolist() == [9.0]
    assert (metrics.best, metrics.last["step"]) == (3.0, 20)


def test_a_file_cut_back_by_resume_or_removed_is_read_anew(tmp_path) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(path)
    path.write_text("".join(record(k, float(k)) for k in range(1, 50)))
    metrics.refresh()
    generation = metrics.generation
    path.write_text("".join(record(k, float(k)) for k in range(1, 20)))
    metrics.refresh()
    assert metrics.generation > generation and metrics.best == 19.0
    # Cut back and grown beyond where it was, between two looks.
    path.write_text(
        "".join(record(k, float(k)) for k in range(1, 10)) + "".join(record(k, -1.0) for k in range(10, 99))
    )
    metrics.refresh()
    assert metrics.best == 9.0 and len(metrics.records.step) == 98
    path.unlink()
    assert metrics.refresh()
    assert metrics.cursor[1:] == (0, 0)
    path.mkdir()
    metrics.refresh()


def test_what_is_no_line_of_ours_is_counted_and_passed_over(tmp_path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [record(1, 1.0), "\x00\x01\n", "[]\n", "{}\n", "[" * 5_000 + "\n", '{"step": "a"}\n', '{"step": 1e999}\n', '{"step": true}\n',
             '{"step": 2, "rollout/ep_rew_mean": NaN, "x": "text", "big": 1' + "0" * 400 + '}\n', '{"step": 3, "env": 0}\n', record(4, 2.0)]  # fmt: skip
    path.write_bytes("".join(lines).encode() + b"\xff\xfe{\n")
    metrics = MetricsFile(path)
    metrics.refresh()
    assert metrics.damaged == 8
    assert metrics.points("rollout/ep_rew_mean")[0].tolist() == [1, 4]


def test_a_large_file_is_skimmed_then_read_to_the_same(tmp_path) -> None:
    path = tmp_path / "metrics.jsonl"
    random_ = random.Random(0)
    values = [random_.gauss(0, 100) for _ in range(5_000)]
    path.write_text("".join(episode(10 * k + 5, 1.0) + record(10 * k + 10, value) for k, value in enumerate(values)))
    metrics = MetricsFile(path)
    metrics.refresh()
    assert not metrics.is_loaded and metrics.best is None and metrics.last["step"] == 50_000
    metrics.skim()
    assert metrics.best == pytest.approx(max(values))
    x, y, _ = metrics.sampled("rollout/ep_rew_mean", 500)
    assert 400 <= len(x) <= 600
    known = dict(zip(range(10, 50_001, 10), values, strict=True))
    assert all(known[int(step)] == pytest.approx(value) for step, value in zip(x, y, strict=True))
    metrics.load()
    assert np.allclose(metrics.points("rollout/ep_rew_mean")[1], values)
    with path.open("a") as file:
        file.write(record(60_000, 1e6))
    metrics.refresh()
    assert metrics.best == 1e6 and len(metrics.records.step) == 5_001


def test_downsampling_keeps_every_peak_and_the_ends() -> None:
    random_ = np.random.default_rng(0)
    for size in (1, 2, 5, 599, 601, 10_000):
        x = np.cumsum(random_.random(size))
        y = random_.normal(size=size)
        y[size // 3] = 1e6
        a, b = downsample(x, y, 600)
        assert len(a) <= 602 and a[0] == x[0] and a[-1] == x[-1] and np.all(np.diff(a) > 0 if size > 1 else True)
        assert b.max() == y.max() and b.min() == y.min()
        assert set(zip(a.tolist(), b.tolist(), strict=True)) <= set(zip(x.tolist(), y.tolist(), strict=True))
    assert within(np.arange(10.0), 3.0, 5.0) == slice(2, 7)


def test_runs_have_a_state_that_takes_no_lock(tmp_path) -> None:
    folder = tmp_path / "runs" / "CartPole-v1" / "default" / "seed-0"
    run = Run("CartPole-v1", Config().override(**SMALL), 0, folder)
    catalogue = Catalogue(tmp_path / "runs")
    going = train(run)
    next(going)
    catalogue.refresh()
    (found,) = catalogue.runs.values()
    assert found.state == "running" and json.loads((folder / "running.json").read_text())["pid"] == os.getpid()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    marker = json.loads((folder / "running.json").read_text())
    files.write(folder / "running.json", json.dumps({**marker, "pid": ended.pid}).encode())
    assert found.refresh() and found.state == "stale"
    for damage in (b"{", b"[]", b'{"pid": -1}', b'{"pid": "x", "host": 3}'):
        (folder / "running.json").write_bytes(damage)
        found.refresh()
        assert found.state in ("stale", "running")
    list(going)
    found.refresh()
    assert found.state == "finished"
    run.close()
    assert not (folder / "running.json").exists()
    run.close()
    stopped = Run("CartPole-v1", Config().override(**SMALL), 1, folder.parent / "seed-1")
    next(train(stopped))
    stopped.close()
    fresh = Catalogue(tmp_path / "runs")
    fresh.refresh()
    assert {each.seed: each.state for each in fresh.runs.values()} == {0: "finished", 1: "stopped"}


def test_links_are_not_followed(tmp_path) -> None:
    elsewhere = tmp_path / "elsewhere"
    trained(elsewhere / "seed-0")
    root = tmp_path / "runs"
    (root / "real").mkdir(parents=True)
    (root / "linked").symlink_to(elsewhere)
    (root / "real" / "seed-1").symlink_to(elsewhere / "seed-0")
    (root / "real" / "seed-2").mkdir()
    (root / "real" / "seed-2" / "metrics.jsonl").symlink_to(elsewhere / "seed-0" / "metrics.jsonl")
    (root / "real" / "config.json").symlink_to(elsewhere / "config.json")
    catalogue = Catalogue(root)
    catalogue.refresh()
    (found,) = catalogue.runs.values()
    assert found.seed == 2 and found.metrics.cursor == (0, 0, 0) and found.config == {} and found.moments() == []
    # A folder that becomes a link while it is watched.
    trained(root / "later" / "seed-3")
    late = Catalogue(root)
    late.refresh()
    (kept,) = [each for each in late.runs.values() if each.seed == 3]
    (root / "later").rename(tmp_path / "moved")
    (root / "later").symlink_to(tmp_path / "moved")
    assert not kept.refresh() and kept.moments() == []


@pytest.mark.skipif(os.name != "posix", reason="kills with SIGKILL")
def test_reading_a_run_while_it_is_killed_never_fails(tmp_path) -> None:
    words = "--total-timesteps 100000 --log-interval 20 --checkpoint-every 300 --quiet --out runs/x"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([TESTS, os.environ.get("PYTHONPATH", "")])}
    browser = Browser(tmp_path)
    folder = tmp_path / "runs" / "x" / "seed-0"
    try:
        for attempt in range(3 if IS_LONG else 1):
            command = (
                ["resume", str(folder), "--quiet"] if attempt else ["train", "CartPole-v1", *words.split(), *QUICK]
            )
            process = subprocess.Popen([sys.executable, "-m", "upright", *command], cwd=tmp_path, env=environment)
            until = time.monotonic() + 60
            seen = asked = 0
            while time.monotonic() < until and seen < 60:
                rows = browser.ask("/api/runs")
                assert rows.status == 200
                for row in rows.json()["runs"]:
                    seen += row["state"] == "running" and row["step"] > 0
                    for path in ("series", "settings"):
                        assert browser.ask(f"/api/{path}", query=f"runs={row['id']}").status == 200
                    assert browser.ask("/api/moments", query=f"run={row['id']}").status == 200
                asked += 1
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert seen
            with (folder / "metrics.jsonl").open("ab") as file:
                file.write(b'{"step": 9999999, "rollout')
            time.sleep(0.6)
            (row,) = browser.ask("/api/runs").json()["runs"]
            assert row["state"] == "stale" and row["step"] < 9999999
    finally:
        browser.close()


# Who may ask ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"cookie": None}, {"cookie": "upright-1=wrong"}, {"cookie": "upright-1="}, {"cookie": f"upright-2={TOKEN}"}, {"cookie": 'upright-1="'},
        {"host": None}, {"host": "evil.example"}, {"host": "evil.example:8765"}, {"host": "127.0.0.1.evil.example"}, {"host": "localhost.evil.example:8765"},
        {"host": "10.0.0.1:8765"}, {"host": "[::1"}, {"host": "127.0.0.1:8765@evil.example"}, {"host": "127.0.0.1:99999999"}, {"host": ""}, {"host": "é"},
        {"origin": "http://evil.example"}, {"origin": "null"}, {"origin": "http://127.0.0.1:1"}, {"origin": "https://127.0.0.1:8765"}, {"origin": ""},
        {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"},
    ],
)  # fmt: skip
def test_strangers_get_403_everywhere(browser, headers) -> None:
    for path, method in (
        ("/", "GET"),
        ("/style.css", "GET"),
        ("/api/runs", "GET"),
        ("/api/events", "GET"),
        ("/api/control", "POST"),
        ("/nowhere", "GET"),
    ):
        answer = browser.ask(path, method, b"{}", headers)
        assert answer.status == 403, (path, headers)
        assert b"CartPole" not in answer.body and "set-cookie" not in answer.headers


def test_the_link_gives_a_cookie_and_every_answer_its_headers(browser) -> None:
    first = browser.ask("/", headers={"cookie": None}, query=f"token={TOKEN}")
    assert first.status == 200
    assert first.headers["set-cookie"].startswith(f"upright-1={TOKEN}; Path=/; HttpOnly; SameSite=Strict")
    assert browser.ask("/", headers={"cookie": None}, query="token=wrong").status == 403
    assert browser.ask("/", headers={"cookie": None}, query="&".join(["token=x"] * 50)).status == 403
    assert browser.ask("/api/runs", headers={"cookie": None}, query=f"token={TOKEN}").status == 403
    assert (
        browser.ask("/", headers={"cookie": None, "sec-fetch-site": "cross-site"}, query=f"token={TOKEN}").status == 200
    )
    assert browser.ask("/", headers={"cookie": None, "host": "evil.example"}, query=f"token={TOKEN}").status == 403
    assert browser.ask("/api/control", "POST", {}, {"origin": None}).status == 403
    for path in ("/", "/api/runs", "/nowhere", "/api/control"):
        answer = browser.ask(path)
        assert HEADERS.items() <= answer.headers.items()
        assert not any(name.startswith("access-control") for name in answer.headers)
    policy = first.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy


def test_the_machines_own_names_are_taken_when_others_may_come(runs) -> None:
    remote = Browser(runs, allow_remote=True)
    try:
        assert remote.ask("/api/runs", headers={"host": "192.168.0.7:8765"}).status == 200
        assert remote.ask("/api/runs", headers={"host": "evil.example"}).status == 403
    finally:
        remote.close()


def test_another_host_needs_to_be_meant(runs, capsys) -> None:
    with pytest.raises(SettingError, match="--allow-remote"):
        serve(runs, "0.0.0.0")
    assert main(["dashboard", str(runs), "--host", "192.0.2.1"]) == 2
    assert "lets other machines in" in capsys.readouterr().err
    assert main(["dashboard", str(runs / "nowhere")]) == 2
    assert main(["dashboard", str(runs), "--port", "99999"]) == 2


def test_nothing_on_a_page_comes_from_elsewhere_and_nothing_is_inline() -> None:
    files = _static_files()
    assert {"index.html", "style.css", "js/main.js", "uplot/uPlot.esm.js", "uplot/LICENSE"} <= files.keys()
    written = Path(__file__).parents[2] / "src" / "upright" / "dashboard" / "static"
    assert files.keys() == {path.relative_to(written).as_posix() for path in written.rglob("*") if path.is_file()}
    page = files["index.html"][0].decode()
    assert "style=" not in page and "onclick" not in page and "<style" not in page and page.count("<script") == 1
    for name, (content, _) in files.items():
        if name.startswith("js/") or name in ("index.html", "style.css"):
            text = content.decode()
            assert "innerHTML" not in text and "insertAdjacentHTML" not in text and "eval(" not in text
            assert "https://" not in text and "http://" not in text.replace("http://www.w3.org/2000/svg", "")


def test_no_spelling_of_a_path_leads_outside(browser, runs) -> None:
    dots = ["..", "%2e%2e", ".%2e", "%252e%252e", "..;", "%c0%ae%c0%ae", "．．", "....", "..%00", "%u002e%u002e"]
    slashes = ["/", "%2f", "\\", "%5c", "%252f", "//", "/./", "%c0%af", "∕"]
    targets = ["secret.txt", "etc/passwd", str(runs.parent / "secret.txt").lstrip("/")]
    prefixes = ["/", "/js/", "/api/episodes/", "/uplot/", "/api/runs/"]
    spellings = [
        prefix + slash.join([dot] * depth + [target])
        for prefix in prefixes for dot in dots for slash in slashes for depth in (1, 4) for target in targets
    ]  # fmt: skip
    random.Random(0).shuffle(spellings)
    key = browser.run()
    assert len(spellings) >= 500
    for spelling in spellings if IS_LONG else spellings[:700]:
        for answer in (
            browser.ask(spelling),
            browser.ask(spelling.split("?")[0], raw_path=spelling.encode()),
            browser.ask("/api/series", query=f"runs={quote(spelling)}"),
            browser.ask("/api/moments", query=f"run={spelling}"),
            browser.ask("/api/episodes", "POST", {"run": key, "moment": spelling, "episode": 0}),
        ):
            assert answer.status in (400, 404, 405), spelling
            assert b"SECRET" not in answer.body and b"root:" not in answer.body


def test_fuzzed_requests_never_break_it(browser) -> None:
    random_ = random.Random(1)
    key = browser.run()
    words = [key, key[:-1], "0" * 16, "..", "%00", "\x00", "🦆", "NaN", "-1", "1e308", "9" * 400, "null", "[]", '"', "'", "<script>", "\r\n", "step-100",
             "policy", "best", "step-99999999999999999999", "checkpoint", "", ",", "rollout/ep_rew_mean", "episode/return", f"{key}.0.0.0", f"{key}.9.9.9"]  # fmt: skip
    paths = ["/", "/api/runs", "/api/series", "/api/settings", "/api/moments", "/api/episodes", "/api/control", "/api/episodes/x", "/api/episodes/x/pictures",
             "/style.css", "/js/main.js", "/api/", "//", "/api/episodes/"]  # fmt: skip
    names = ["runs", "run", "tags", "points", "from", "to", "token", "moment", "episode", "request"]
    methods = ["GET", "GET", "POST", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "ODD"]
    statuses = set()
    for _ in range(50_000 if IS_LONG else 2_000):
        path = random_.choice(paths) + (random_.choice(words) if random_.random() < 0.2 else "")
        query = "&".join(f"{random_.choice(names)}={random_.choice(words)}" for _ in range(random_.randrange(5)))
        value = {
            random_.choice(names): random_.choice([*words, 0, -1, 1e300, None, [], {}, True])
            for _ in range(random_.randrange(4))
        }
        body = random_.choice(
            [json.dumps(value).encode(), random_.randbytes(random_.randrange(60)), b"[" * 3_000, b"x" * 9_000]
        )
        headers = (
            {}
            if random_.random() < 0.7
            else {
                random_.choice(
                    ["cookie", "origin", "host", "content-length", "content-type", "accept", "range"]
                ): random_.choice(words)
            }
        )
        if (
            value.get("moment") in ("policy", "best", "step-100")
            and value.get("run") == key
            and path == "/api/episodes"
        ):
            continue  # is played in another test
        answer = browser.ask(path, random_.choice(methods), body, headers, query)
        statuses.add(answer.status)
        assert answer.status < 500, (path, query, body[:100])
    assert {200, 400, 403, 404, 405} <= statuses


# What the pages ask for ----------------------------------------------------------------------------------------------


def test_the_table_and_series_say_what_the_files_say(browser, runs) -> None:
    (row,) = browser.ask("/api/runs").json()["runs"]
    lines = [json.loads(line) for line in (runs / "CartPole-v1/default/seed-0/metrics.jsonl").read_text().splitlines()]
    means = [line["rollout/ep_rew_mean"] for line in lines if "rollout/ep_rew_mean" in line]
    assert (row["environment"], row["configuration"], row["seed"]) == ("CartPole-v1", "CartPole-v1/default", 0)
    assert (row["step"], row["total"], row["state"]) == (300, 300, "finished")
    assert row["last"] == means[-1] and row["best"] == max(means)
    assert not any(str(runs) in str(value) for value in row.values())
    found = browser.ask("/api/series", query=f"runs={row['id']}").json()["runs"][row["id"]]
    assert found["exact"] and found["series"]["episode/return"]["of"] == sum("env" in line for line in lines)
    assert found["series"]["rollout/ep_rew_mean"]["values"] == pytest.approx(means)
    zoomed = browser.ask("/api/series", query=f"runs={row['id']}&tags=time/fps&from=120&to=180").json()["runs"][
        row["id"]
    ]
    assert zoomed["series"]["time/fps"]["steps"] == [100, 150, 200]
    settings = browser.ask("/api/settings", query=f"runs={row['id']}").json()["runs"][row["id"]]
    assert settings["loss.kind"] == '"q_learning"' and settings["batch_size"] == "8"
    moments = browser.ask("/api/moments", query=f"run={row['id']}").json()
    assert [each["moment"] for each in moments["moments"]] == ["step-200", "step-300", "best", "policy"]


def test_a_stream_tells_what_was_written_since(tmp_path) -> None:
    folder = tmp_path / "env" / "x" / "seed-0"
    folder.mkdir(parents=True)
    path = folder / "metrics.jsonl"
    path.write_text(episode(5, 9.0) + record(10, 1.0))
    answers = Answers(tmp_path)
    (row,) = answers.table()["runs"]
    cursors = {row["id"]: tuple(answers.series([row["id"]], [], 600, None, None)["runs"][row["id"]]["cursor"])}
    assert answers.news(cursors) == {}
    with path.open("a") as file:
        file.write(episode(15, 8.0) + record(20, 2.0))
    answers.refresh(0.0)
    news = answers.news(cursors)[row["id"]]
    assert news["series"]["rollout/ep_rew_mean"] == {"steps": [20], "values": [2]}
    assert news["series"]["episode/return"] == {"steps": [15], "values": [8]}
    path.write_text(record(10, 5.0))
    answers.refresh(0.0)
    assert answers.news(cursors) == {row["id"]: {"again": True}}
    path.write_text(record(10, 5.0) + "".join(record(k, 1.0) for k in range(11, 3_000)))
    answers.refresh(0.0)
    assert answers.news(cursors) == {row["id"]: {"again": True}}


def test_a_run_is_asked_to_write_a_checkpoint_and_to_stop(tmp_path) -> None:
    folder = tmp_path / "runs" / "CartPole-v1" / "default" / "seed-0"
    run = Run(
        "CartPole-v1", Config().override(**{**SMALL, "total_timesteps": 5_000, "checkpoint_every": 10**6}), 0, folder
    )
    browser = Browser(tmp_path / "runs")
    try:
        going = train(run)
        next(going)
        key = browser.run()
        assert browser.ask("/api/control", "POST", {"run": key, "request": "format"}).status == 400
        assert browser.ask("/api/control", "POST", {"run": key, "request": "checkpoint"}).json() == {
            "asked": "checkpoint"
        }
        assert Checkpoints(folder, 2).steps() == []
        next(going)
        assert Checkpoints(folder, 2).steps() == [100] and not run.stopping
        (folder / "request.json").write_text('{"request": "rm -rf"}')
        next(going)
        assert not (folder / "request.json").exists()
        assert browser.ask("/api/control", "POST", {"run": key, "request": "stop"}).status == 200
        steps = [progress.step for progress in going]
        assert steps == [200] and Checkpoints(folder, 2).steps() == [100, 200]
        run.close()
        time.sleep(0.6)
        refused = browser.ask("/api/control", "POST", {"run": key, "request": "stop"})
        assert refused.status == 409 and refused.json()["error"] == "This run is stopped: nobody is there to stop."
    finally:
        browser.close()
    control.ask(RunFolder(folder), "stop")  # too late for the process that is gone, and not meant for the next
    again = Run.open(folder, 400)
    assert list(train(again))[-1].step == 400
    again.close()


def test_a_link_for_a_request_is_not_followed(tmp_path) -> None:
    folder = tmp_path / "x" / "seed-0"
    run = Run("CartPole-v1", Config().override(**SMALL), 0, folder)
    (tmp_path / "elsewhere").write_text('{"request": "stop"}')
    (folder / "request.json").symlink_to(tmp_path / "elsewhere")
    assert list(train(run))[-1].step == 300
    run.close()
    assert (tmp_path / "elsewhere").exists()


def test_training_that_was_stopped_from_the_dashboard_says_how_to_go_on(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    answered = Run.answer

    def stop(run: Run) -> None:
        if run.step == 100:
            control.ask(RunFolder(run.folder), "stop")
        answered(run)

    monkeypatch.setattr(Run, "answer", stop)
    words = ["--total-timesteps", "1000", "--log-interval", "50", *QUICK]
    assert main(["train", "CartPole-v1", *words]) == 0
    assert "Stopped at step 100; resume with: upright resume runs/CartPole-v1/default/seed-0" in capsys.readouterr().out
    assert json.loads((tmp_path / "runs/CartPole-v1/default/seed-0/result.json").read_text())["final_mean"] is None


# The agent -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["policy", "best", "step-200"])
def test_an_episode_shows_what_the_policy_does(runs, moment) -> None:
    from PIL import Image

    folder = runs / "CartPole-v1" / "default" / "seed-0"
    (folder / "secret.txt").unlink(missing_ok=True)
    shown, pictures = play(Wish(folder, moment, 0, False))
    steps = len(shown["chosen"])
    assert len(pictures) == len(shown["q"]) == len(shown["rewards"]) == len(shown["reached"]) == steps > 0
    assert all(np.argmax(q) == action for q, action in zip(shown["q"], shown["chosen"], strict=True))
    assert shown["reached"][0] == pytest.approx(sum(0.99**k for k in range(steps)), rel=1e-5)
    assert shown["actions"] == ["left", "right"] and shown["distribution"] is None
    import io

    assert Image.open(io.BytesIO(pictures[0])).size == (600, 400)
    if moment == "policy":
        import upright

        assert upright.load(folder).evaluate(1).returns[0] == shown["total"]


@pytest.mark.parametrize("loss", ["categorical", "quantile", "implicit_quantile"])
def test_distributional_agents_show_their_distribution(tmp_path, loss) -> None:
    trained(
        tmp_path / "x" / "seed-0",
        loss=loss,
        munchausen=None,
        total_timesteps=120,
        max_episode_steps=30,
        noisy=loss == "categorical",
    )
    for moment in ("policy", "step-120"):
        shown, _ = play(Wish(tmp_path / "x" / "seed-0", moment, 1, False))
        found = shown["distribution"]
        probability, edges = np.array(found["probability"]), np.array(found["edges"])
        assert probability.shape == (len(shown["chosen"]), 2, len(edges) - 1)
        assert np.allclose(probability.sum(axis=2), 1, atol=5e-3)
        means = (probability * (edges[1:] + edges[:-1]) / 2).sum(axis=2)
        assert np.allclose(means, shown["q"], atol=(edges[1] - edges[0]) / 2 + 0.02 * np.abs(edges).max())


def test_masks_and_environments_without_pictures_are_shown_as_they_are(tmp_path) -> None:
    trained(tmp_path / "x" / "seed-0", source=toy_environments.Masked)
    shown, pictures = play(Wish(tmp_path / "x" / "seed-0", "policy", 0, True))
    assert shown["chosen"] and (pictures or shown["why_no_pictures"])
    assert any(None in q for q in shown["q"])
    assert all(q[action] is not None for q, action in zip(shown["q"], shown["chosen"], strict=True))


def test_a_module_that_a_file_names_is_only_imported_where_it_is_trusted(tmp_path) -> None:

    folder = tmp_path / "x" / "seed-0"
    trained(folder, source=toy_environments.Masked)
    for moment in ("policy", "step-300"):
        with pytest.raises(EnvironmentFault, match="--trust"):
            play(Wish(folder, moment, 0, False))
        assert play(Wish(folder, moment, 0, True))[0]["chosen"]


def test_the_worker_plays_and_its_failures_are_sentences(runs, tmp_path) -> None:
    player, seen = Player(), []
    try:
        shown, _ = player.play(Wish(runs / "CartPole-v1" / "default" / "seed-0", "policy", 3, False), seen.append)
        assert shown["chosen"]
        with pytest.raises(Exception, match="no policy"):
            player.play(Wish(tmp_path, "policy", 0, False), seen.append)
        player._process.kill()
        player._process.join()
        assert (
            player.play(Wish(runs / "CartPole-v1" / "default" / "seed-0", "policy", 3, False), seen.append)[0] == shown
        )
    finally:
        player.close()


def test_a_checkpoints_policy_is_read_without_the_replay_memory(runs) -> None:
    folder = runs / "CartPole-v1" / "default" / "seed-0"
    checkpoints = Checkpoints(folder, 2)
    about, parameters = checkpoints.policy(300)
    assert about["step"] == 300
    import upright

    final = upright.load(folder).learner.parameters()
    assert parameters.keys() == final.keys() and all(np.array_equal(parameters[name], final[name]) for name in final)
    with pytest.raises(RunError):
        checkpoints.policy(123)


# Beside a run --------------------------------------------------------------------------------------------------------


def test_train_with_the_dashboard_prints_a_link_that_ends_with_the_run(tmp_path) -> None:
    import httpx

    words = ["--total-timesteps", "4000000", "--log-interval", "100", *QUICK, "--dashboard"]
    process = subprocess.Popen(
        [sys.executable, "-m", "upright", "train", "CartPole-v1", *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        link = next(line for line in process.stdout if line.startswith("Dashboard: ")).split()[1]
        client = httpx.Client(base_url=link.split("/?")[0])
        assert client.get("/api/runs").status_code == 403
        assert client.get(link).status_code == 200
        until = time.monotonic() + 30
        while not (rows := client.get("/api/runs").json()["runs"]) and time.monotonic() < until:
            time.sleep(0.2)
        assert rows[0]["state"] == "running"
        asked = client.post(
            "/api/control", json={"run": rows[0]["id"], "request": "stop"}, headers={"origin": link.split("/?")[0]}
        )
        assert asked.status_code == 200
        said = process.stdout.read()
        assert process.wait(60) == 0
        assert "Stopped at step" in said and "see it again with: upright dashboard" in said
        with pytest.raises(httpx.ConnectError):
            client.get("/api/runs")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_missing_extra_is_named_with_its_pip_line(monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(beside, "NEEDED", ("no_such_package",))
    with pytest.raises(MissingExtra, match=r"pip install 'upright\[dashboard\]'"):
        beside.check_installed()
    assert main(["dashboard", "."]) == 2
    assert main(["train", "CartPole-v1", "--dashboard"]) == 2
    assert "pip install 'upright[dashboard]'" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
