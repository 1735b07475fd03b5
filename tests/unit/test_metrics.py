"""A run's metrics as the client joins them and the command line shows them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec
import pytest

from services.cli.metrics import csv_text, lines, picture
from services.cli.table import PLAIN
from tests.support.times import at
from trainshed_client import subjects
from trainshed_client.connection import Reply
from trainshed_client.metrics import (
    AttemptMetrics,
    MetricsLine,
    joined,
    parse_line,
    stored_metrics,
    summaries,
)
from trainshed_client.not_finite import JsonNumber
from trainshed_client.records import RunRecord
from trainshed_client.statuses import RunStatus

RUN = RunRecord(
    run_id="r" * 26,
    name="ppo",
    status=RunStatus.RUNNING,
    attempt=1,
    digest="d",
    seq=5,
    submit_seq=1,
    priority=0,
    labels={},
    submitted_at=at("2026-11-24T09:00:00.000000Z"),
    updated_at=at("2026-11-24T09:00:00.000000Z"),
)


def attempt(number: int, *told: tuple[int | None, Mapping[str, JsonNumber]]) -> AttemptMetrics:
    return AttemptMetrics(
        number,
        [
            MetricsLine(at(f"2026-11-29T0{number}:00:00.{place:06d}Z"), step, None, dict(metrics))
            for place, (step, metrics) in enumerate(told)
        ],
    )


def told(*attempts: AttemptMetrics) -> list[tuple[int, float | None, dict[str, float]]]:
    return [(point.attempt, point.step, dict(point.metrics)) for point in joined(attempts)]


def test_of_what_attempts_measured_at_one_step_the_latest_counts() -> None:
    first = attempt(1, (1, {"loss": 1.0}), (2, {"loss": 0.5}), (3, {"loss": 0.4}))
    second = attempt(2, (2, {"loss": 0.6}), (4, {"loss": 0.3}))
    assert told(second, first) == [
        (1, 1, {"loss": 1.0}),
        (2, 2, {"loss": 0.6}),
        (1, 3, {"loss": 0.4}),
        (2, 4, {"loss": 0.3}),
    ]


def test_messages_of_one_step_are_one_point_unless_they_bear_the_same_metric() -> None:
    one = attempt(1, (1, {}), (None, {"loss": 1.0}), (1, {"accuracy": 0.1}), (1, {"loss": 2.0}), (2, {}))
    assert told(one) == [(1, 1, {"loss": 1.0, "accuracy": 0.1}), (1, 1, {"loss": 2.0}), (1, 2, {})]


def test_where_no_step_was_told_every_message_is_a_point_of_its_own() -> None:
    assert told(attempt(1, (None, {"a": 1.0}), (None, {"b": 1.0})), attempt(2, (None, {"a": 2.0}))) == [
        (1, None, {"a": 1.0}),
        (1, None, {"b": 1.0}),
        (2, None, {"a": 2.0}),
    ]


def test_a_line_that_cannot_be_read_is_passed_over() -> None:
    assert parse_line(b'{"time":"2026-11-29T09:00:00.000000Z","step":1,"metr') is None
    assert parse_line(b"") is None
    line = parse_line(
        b'{"time":"2026-11-29T09:00:00.000000Z","step":1,"progress":null,"metrics":{"a":1,"b":"NaN"},"of a newer release":{}}'
    )
    assert line is not None and line.metrics == {"a": 1.0, "b": "NaN"}


def test_what_is_no_finite_number_is_a_value_and_neither_lowest_nor_highest() -> None:
    points = joined([attempt(1, (1, {"a": "NaN"}), (2, {"a": 5.0}), (3, {"a": 3.0}), (4, {"a": "NaN"}))])
    (a,) = summaries(points)
    assert math.isnan(a.first.value) and math.isnan(a.last.value)
    assert (a.lowest.value, a.highest.value, a.highest.point.step) == (3.0, 5.0, 2)
    assert csv_text(points).splitlines()[1].endswith(",nan")
    (b,) = summaries(joined([attempt(1, (1, {"b": "-Infinity"}), (2, {"b": "NaN"}), (3, {"b": "Infinity"}))]))
    assert (b.lowest.value, b.highest.value) == (-math.inf, math.inf)


def test_for_people_each_metric_is_a_line() -> None:
    points = joined([attempt(1, *((step, {"loss": 1 / step}) for step in range(1, 20001)))])
    assert lines(points, RUN, PLAIN) == [
        "METRIC  VALUES  FIRST         LAST          MIN    MAX",
        "loss    20,000  1 @ 1  5e-05 @ 20k  5e-05 @ 20k  1 @ 1",
    ]


def test_for_people_the_metric_that_matters_comes_first() -> None:
    points = joined([attempt(1, (1, {"fps": 1.0, "entropy": 0.5, "eval/reward": 2.0}))])
    by_rule = [line.split()[0] for line in lines(points, RUN, PLAIN)]
    assert by_rule == ["METRIC", "eval/reward", "fps", "entropy"]
    as_told = msgspec.structs.replace(RUN, primary_metric="entropy")
    assert [line.split()[0] for line in lines(points, as_told, PLAIN)][1:3] == ["entropy", "fps"]


def test_csv_has_a_column_a_metric_and_every_digit() -> None:
    points = joined([attempt(1, (None, {"a,b": 0.1}), (3, {"a,b": 1e-17}), (4, {"c": 2.0}))])
    assert csv_text(points) == (
        'step,time,"a,b",c\n'
        ",2026-11-29T01:00:00.000000Z,0.1,\n"
        "3,2026-11-29T01:00:00.000001Z,1e-17,\n"
        "4,2026-11-29T01:00:00.000002Z,,2.0\n"
    )


def test_a_picture_shows_the_course_and_where_it_is_no_number() -> None:
    assert picture([1.0]) == "▁"
    assert picture([0.0, 1.0, math.nan, 7.0]) == "▁▂x█"
    assert picture([float(value) for value in range(2400)]) == "".join(
        "▁▂▃▄▅▆▇█"[int(share / 15 * 7 + 0.5)] for share in range(16)
    )
    assert picture([math.nan, math.inf]) == "xx"


class _File:
    """An attempt's metrics.jsonl behind the call that reads ranges of it, some bytes an answer."""

    def __init__(self, lines: int) -> None:
        self._data = b"".join(
            msgspec.json.encode({"time": f"2026-11-29T09:00:0{n}.000000Z", "step": n, "metrics": {"loss": n}})
            + b"\n"
            for n in range(lines)
        )

    async def request(self, subject: str, payload: bytes) -> Reply:
        offset = msgspec.json.decode(payload)["offset"]
        headers = {subjects.OFFSET_HEADER: str(offset), subjects.SIZE_HEADER: str(len(self._data))}
        return Reply(self._data[offset : offset + 100], headers)


@pytest.mark.parametrize(
    ("until", "steps"),
    [
        (None, [0, 1, 2, 3, 4]),
        ("2026-11-29T09:00:02.000000Z", [0, 1, 2]),
        ("2026-11-29T09:00:02.999999Z", [0, 1, 2]),
        ("2026-11-29T08:59:59.000000Z", []),
        ("2026-11-30T00:00:00.000000Z", [0, 1, 2, 3, 4]),
    ],
)
async def test_by_a_time_there_was_what_had_been_measured_then(until: str | None, steps: list[int]) -> None:
    found = await stored_metrics(_File(5), "r" * 26, 1, "gpu01", until=None if until is None else at(until))
    assert [line.step for line in found.lines] == steps
