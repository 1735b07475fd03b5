"""What a newer release has and this one does not know: read as UNSPECIFIED, with one warning, and never an error."""

from __future__ import annotations

import logging

import msgspec
import pytest

from tests.unit.test_cli_words import record
from trainshed_client import statuses
from trainshed_client.records import json_of
from trainshed_client.statuses import FailureReason, OpenEnum, RunStatus
from trainshed_client.watching.kinds import NODES, RUNS


@pytest.fixture(autouse=True)
def none_was_met(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statuses, "_warned", set())


def test_a_record_of_a_newer_release_is_read_with_a_warning_for_each_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    newer = json_of(record()) | {"status": "PAUSED", "failure_reason": "gremlins", "new_field": {"a": [1]}}
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            read = RUNS.record("x", msgspec.json.encode(newer))
            assert read is not None
            assert (read.status, read.failure_reason) == (RunStatus.UNSPECIFIED, FailureReason.UNSPECIFIED)
            assert not read.status.ended
    assert [one.levelname for one in caplog.records] == ["WARNING"] * 2
    assert "RunStatus 'PAUSED'" in caplog.text and "FailureReason 'gremlins'" in caplog.text


def test_every_enum_that_may_grow_has_the_name_for_what_is_not_known() -> None:
    for kind in OpenEnum.__subclasses__():
        assert kind("none of them").value == kind["UNSPECIFIED"].value == "UNSPECIFIED"


def test_what_is_no_record_is_passed_over_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert NODES.record("box", b'{"node": 7}') is None
        assert NODES.record("box", b"\xff") is None
    assert len(caplog.records) == 2 and "box" in caplog.text


def test_names_without_end_do_not_fill_the_memory() -> None:
    for number in range(statuses.MOST_WARNINGS + 10):
        assert RunStatus(f"strange {number}") is RunStatus.UNSPECIFIED
    assert len(statuses._warned) == statuses.MOST_WARNINGS
