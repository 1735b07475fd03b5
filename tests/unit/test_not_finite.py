"""NaN and the infinities: from what a worker writes to JSON and back, in the shim's turn and in everybody else's."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.codec import Writer, decode_heartbeat
from events.types import RunHeartbeat
from projections.read_model.reports import ReportColumns
from services.agent.shim import numbers
from trainshed_client import not_finite
from trainshed_client.records import AttemptRecord, RunRecord, json_of
from trainshed_client.statuses import RunStatus
from trainshed_client.subjects import Role

SPELLED = [
    ("nan", "NaN"),
    ("NaN", "NaN"),
    ("-nan", "NaN"),
    ("inf", "Infinity"),
    ("+Inf", "Infinity"),
    ("Infinity", "Infinity"),
    (" INF ", "Infinity"),
    ("-inf", "-Infinity"),
    ("-Infinity", "-Infinity"),
]


@pytest.mark.parametrize(("text", "expected"), SPELLED)
def test_what_is_not_finite_is_read_as_languages_print_it(text: str, expected: str) -> None:
    value = numbers.number(text)
    assert value is not None
    assert numbers.in_json(value) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1_000", 1000.0), ("+1.5", 1.5), (" 2 ", 2.0), ("1e-4", 0.0001), ("-0.0", -0.0), ("9" * 30, 1e30)],
)
def test_numbers_are_what_python_reads(text: str, expected: float) -> None:
    assert numbers.number(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        "1,5",
        "1.234,5",
        "0x1p3",
        "0x10",
        "tensor(0.5)",
        "50%",
        "True",
        "NA",
        "null",
        "1e400",
        "-1e400",
        "1" * 65,
    ],
)
def test_what_is_no_number_or_none_that_a_float_holds_is_not_read(text: str) -> None:
    assert numbers.number(text) is None


@given(st.floats())
def test_both_turns_are_one_and_the_way_back_gives_the_value(value: float) -> None:
    assert numbers.in_json(value) == not_finite.in_json(value)
    back = not_finite.from_json(msgspec.json.decode(msgspec.json.encode(not_finite.in_json(value))))
    assert back == value or (math.isnan(back) and math.isnan(value))


def test_events_take_these_three_strings_and_no_other() -> None:
    def read(metrics: dict[str, object]) -> RunHeartbeat:
        return msgspec.json.decode(
            msgspec.json.encode({"run_id": "r", "attempt": 1, "metrics": metrics}), type=RunHeartbeat
        )

    told = {"a": "NaN", "b": "Infinity", "c": "-Infinity", "d": 1.5, "e": 2}
    assert read(dict(told)).metrics == told
    for other in ("nan", "", "1.5", None, True):
        with pytest.raises(msgspec.ValidationError):
            read({"a": other})


def test_a_heartbeat_reaches_the_columns_with_what_is_not_finite() -> None:
    beat = RunHeartbeat(run_id="r", attempt=1, metrics={"loss": "NaN", "b": 1.0}, primary_metric="loss")
    subject, _id, body = Writer(Role.AGENT, lambda: 0, node="gpu01").heartbeat(beat)
    stored = decode_heartbeat(subject, body)
    assert isinstance(stored, RunHeartbeat)
    columns = ReportColumns.of(stored, "now")
    assert bytes(columns.metrics) == b'{"b":1.0,"loss":"NaN"}'
    assert columns.primary_metric == "loss"


RUN = {"run_id": "r", "name": "r", "status": "RUNNING", "attempt": 1, "digest": "", "seq": 1, "submit_seq": 1}
ATTEMPT = {"run_id": "r", "attempt": 1, "status": "RUNNING", "node": "gpu01"}
IN_JSON = {"loss": "NaN", "best": "-Infinity", "reward": 1.5}


@pytest.mark.parametrize(
    ("fields", "kind"), [({**RUN, "priority": 0, "labels": {}}, RunRecord), (ATTEMPT, AttemptRecord)]
)
def test_a_record_has_floats_for_programs_and_its_json_the_strings(
    fields: dict[str, object], kind: type[RunRecord | AttemptRecord]
) -> None:
    body = msgspec.json.encode({**fields, "metrics": IN_JSON})
    record, again = (msgspec.json.decode(body, type=kind) for _ in range(2))
    assert math.isnan(record.metrics["loss"])
    assert (record.metrics["best"], record.metrics["reward"]) == (-math.inf, 1.5)
    assert record == again  # as for every other value
    assert record.status is RunStatus.RUNNING
    assert msgspec.json.decode(msgspec.json.encode(json_of(record)))["metrics"] == IN_JSON
    assert msgspec.json.decode(msgspec.json.encode(json_of(record)), type=kind) == record
