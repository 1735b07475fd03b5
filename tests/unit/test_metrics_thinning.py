"""A metrics.jsonl that would become too large is thinned: what must stay, how much goes, and that nobody who reads it is led astray."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.agent.folders.paths import METRICS
from services.agent.output import metrics_range
from services.agent.shim import metrics_file
from services.agent.shim.metrics_file import append, kept, lines_back, offset_of, thin
from trainshed_client.metrics import MetricsCutter
from trainshed_client.times import utc_text

VALUES = st.one_of(st.floats(width=16), st.sampled_from([0.0, 1.0, math.nan, math.inf, -math.inf]))
MESSAGES = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3),
        st.none() | st.integers(0, 99),
        st.booleans(),
    ),
    max_size=60,
)
Message = tuple[dict[str, float], int | None, bool]


def lines_of(messages: list[Message], begin: int = 0) -> list[bytes]:
    return [
        metrics_file.line(1_000_000 + place, step, None, metrics.items(), 50 * place if printed else None)
        for place, (metrics, step, printed) in enumerate(messages, begin)
    ]


def facts(lines: list[bytes]) -> dict[str, Any]:
    """What must be the same before and after."""
    found: dict[str, Any] = {}
    records = [json.loads(line) for line in lines]
    found["ends"] = [json.dumps(record) for record in records[:1] + records[-1:]]
    found["printed"] = max((offset_of(line.rstrip(b"\n")) or 0 for line in lines), default=0)
    for name in sorted({name for record in records for name in record["metrics"]}):
        told = [
            (record["time"], float(record["metrics"][name]))
            for record in records
            if name in record["metrics"]
        ]
        numbers = [value for _, value in told if not math.isnan(value)]
        found[name] = {
            "first": repr(told[0]),
            "last": repr(told[-1]),
            "lowest": min(numbers, default=None),
            "highest": max(numbers, default=None),
            "first nan": next((time for time, value in told if math.isnan(value)), None),
        }
    return found


@given(MESSAGES, st.integers(1, 4))
def test_first_last_lowest_and_highest_stay_however_often_it_is_thinned(
    messages: list[Message], times: int
) -> None:
    before = lines_of(messages)
    after = before
    for _ in range(times):
        after = [line for line, stays in zip(after, kept(after), strict=True) if stays]
        assert facts(after) == facts(before)
    assert after == [line for line in before if line in set(after)]  # in their order, and unchanged


def test_about_half_of_each_kind_of_line_goes() -> None:
    messages: list[Message] = [({"loss": 1.0}, 1, False), ({"accuracy": 1.0}, 1, False)] * 500
    stays = kept(lines_of(messages))
    for kind in (stays[0::2], stays[1::2]):
        assert 245 <= sum(kind) <= 255
    every_other: list[Message] = [
        ({f"m{place % 64}": float(place), f"n{place // 64}": 1.0}, 1, False) for place in range(1000)
    ]
    assert sum(kept(lines_of(every_other))) < 700


def test_what_cannot_be_read_goes() -> None:
    assert list(
        kept([b"{torn\n", *lines_of([({"a": 1.0}, 1, False)]), b"[]\n", b'{"metrics":{"a":null}}\n'])
    ) == [0, 1, 0, 0]


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(MESSAGES, st.integers(0, 3)), min_size=1, max_size=12),
    st.integers(600, 4000),
    st.integers(0, 40),
)
def test_a_file_stays_below_its_limit_and_a_follower_misses_nothing_that_stayed(
    tmp_path_factory: pytest.TempPathFactory,
    batches: list[tuple[list[Message], int]],
    limit: int,
    slow: int,
) -> None:
    """The follower reads ``slow`` lines' worth at a time, now and then; at last it reads to the end."""
    path = tmp_path_factory.mktemp("metrics") / METRICS
    every: list[bytes] = []
    handed_out: list[str] = []
    cutter = MetricsCutter()
    position = 0

    def follow(limit: int) -> bool:
        nonlocal position
        found = metrics_range.read(path, position, limit)
        handed_out.extend(utc_text(line.time) for line in cutter.feed(found.offset, found.data))
        position = found.offset + len(found.data)
        return bool(found.data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics_file, "LIMIT", limit)
        for messages, reads in batches:
            lines = lines_of(messages, len(every))
            every += lines
            append(str(path), b"".join(lines))
            for _ in range(reads):
                follow(60 * slow + 1)
    while follow(100_000):
        pass
    text = path.read_bytes()
    records = [json.loads(line) for line in text.splitlines()]
    thinned = next((record["thinned"] for record in records if "thinned" in record), None)
    left = [line + b"\n" for line in text.splitlines() if b'"thinned"' not in line]
    assert facts(left) == facts(every)
    assert thinned is None or (
        records[0]["thinned"] == thinned and sum("thinned" in each for each in records) == 1
    )
    whole = MetricsCutter()
    assert len(whole.feed(0, text)) == len(left)
    assert whole.left_out == len(every) - len(left) == (0 if thinned is None else thinned["lines"])
    assert metrics_range.read(path, 0, 1).size >= sum(map(len, every))
    times = [json.loads(line)["time"] for line in every]
    assert handed_out == sorted(set(handed_out)) and set(handed_out) <= set(times)
    assert {json.loads(line)["time"] for line in left} <= set(handed_out)


def test_who_has_read_all_goes_on_where_new_lines_are_added(tmp_path: Path) -> None:
    path = tmp_path / METRICS
    lines = lines_of([({"a": float(place)}, place, False) for place in range(1000)])
    append(str(path), b"".join(lines))
    end = metrics_range.read(path, 0, 1).size
    for _ in range(3):
        thin(str(path))
        assert metrics_range.read(path, 0, 1).size == end
        assert metrics_range.read(path, end, 1000).data == b""
    more = lines_of([({"a": 5.0}, 5, False)], 1000)[0]
    append(str(path), more)
    assert metrics_range.read(path, end, 1000).data == more
    assert path.stat().st_size < 150 * 90
    assert next(lines_back(str(path))) + b"\n" == more


def test_lines_that_were_left_out_before_they_were_written_are_counted(tmp_path: Path) -> None:
    path = tmp_path / METRICS
    (line,) = lines_of([({"a": 1.0}, 1, False)])
    append(str(path), line, left_out=7)
    assert json.loads(path.read_bytes().splitlines()[0])["thinned"]["lines"] == 7
    append(str(path), lines_of([({"a": 1.0}, 1, False)], 1)[0], left_out=3)
    assert json.loads(path.read_bytes().splitlines()[0])["thinned"]["lines"] == 10


def test_a_thinning_that_is_killed_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / METRICS
    append(str(path), b"".join(lines_of([({"a": 1.0}, 1, False)] * 50)))
    before = path.read_bytes()

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(metrics_file.os, "rename", killed)  # type: ignore[attr-defined]
        with pytest.raises(KeyboardInterrupt):
            thin(str(path))
    assert path.read_bytes() == before
    thin(str(path))
    assert len(path.read_bytes()) < len(before)
