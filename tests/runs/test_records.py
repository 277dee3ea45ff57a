"""The lines of metrics.jsonl: what is written is read again, and the short cuts say what parsing says."""

from __future__ import annotations

import random

import pytest

from upright.errors import RunError
from upright.runs import records
from upright.runs.metrics import Episode, JsonLines, Progress

METRICS = {"rollout/ep_rew_mean": -21.5, "train/loss": 1.25e-7, "time/fps": 9000.0}


@pytest.fixture()
def written(tmp_path):
    lines = JsonLines(tmp_path / "metrics.jsonl")
    for step in range(10, 40, 10):
        mean = {"rollout/ep_rew_mean": -21.5 * step}
        lines.write(Progress(step, 100, (Episode(step - 3, 1, -7.0, 12),), {**METRICS, **mean}))
    lines.close()
    return tmp_path / "metrics.jsonl"


def test_what_is_written_is_read_again(written) -> None:
    lines = [records.parse(text) for text in written.read_bytes().splitlines()]
    assert lines == records.parse_many(written.read_bytes())
    assert [records.is_episode(line) for line in lines] == [True, False] * 3
    assert lines[0] == {"step": 7, "env": 1, "rollout/ep_rew": -7.0, "rollout/ep_len": 12}
    assert records.numbers(lines[0]) == {"rollout/ep_rew": -7.0, "rollout/ep_len": 12}
    assert records.numbers(lines[1]) == {**METRICS, "rollout/ep_rew_mean": -215.0}
    assert list(records.read(written, ("train/loss",)))[:2] == [{"step": 7}, {"step": 10, "train/loss": 1.25e-7}]


def test_short_cuts_say_what_parsing_says(written) -> None:
    content = written.read_bytes()
    texts, lines = content.splitlines(), records.parse_many(content)
    assert list(map(records.looks_like_episode, texts)) == list(map(records.is_episode, lines))
    for tag in ("rollout/ep_rew", *METRICS):
        assert records.values(tag, content) == [line[tag] for line in lines if tag in line]


@pytest.mark.parametrize("text", [b"[]", b"{}", b"null", b"{", b"[" * 5_000, b'{"step": true}', b'{"step": NaN}',
                                  b'{"step": 1' + b"0" * 400 + b"}", b'{"step": "a"}', b"\xff\x00"])  # fmt: skip
def test_what_is_no_line_is_none_and_read_names_it(text: bytes, written) -> None:
    assert records.parse(text) is None
    assert records.parse_many(written.read_bytes() + text + b"\n")[-1] is None
    written.write_bytes(written.read_bytes() + text + b"\n")
    with pytest.raises(RunError, match=r"metrics\.jsonl is damaged in line 7, which is no record; remove that line\."):
        list(records.read(written, ()))


def test_a_value_that_is_no_number_is_left_out_and_read_refuses_it(written) -> None:
    text = b'{"step": 40, "a": "text", "b": NaN, "c": true, "d": null, "e": 2}\n'
    line = records.parse(text)
    assert line is not None and records.numbers(line) == {"e": 2}
    written.write_bytes(text)
    assert list(records.read(written, ("e",))) == [{"step": 40, "e": 2}]
    for tag in "abcd":
        with pytest.raises(RunError, match="damaged in line 1"):
            list(records.read(written, (tag,)))


def test_a_half_written_line_is_not_read(written) -> None:
    content = written.read_bytes()
    whole = content.count(b"\n")
    for size in random.Random(0).sample(range(len(content)), 50):
        written.write_bytes(content[:size])
        assert len(list(records.read(written, ()))) == content[:size].count(b"\n") <= whole
        assert records.whole_lines(content[:size]) == content[: content[:size].rfind(b"\n") + 1]
