"""The older statuses as ours and back: every record has one, every one of them has records, and the page has the same table."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from trainshed_client.older_statuses import (
    FAULTS,
    OlderOutcome,
    OlderStatus,
    OurStatus,
    older_outcome,
    older_status,
    our_statuses,
)
from trainshed_client.records import RunRecord
from trainshed_client.statuses import FailureReason, RunStatus

PAGE = (Path(__file__).resolve().parents[2] / "docs/coming-from-grpc.md").read_text()
AT = "2026-11-24T10:32:05.000000Z"


def record(
    status: RunStatus,
    *,
    ready: bool = False,
    reported: dict[str, object] | None = None,
    reason: FailureReason | None = None,
) -> RunRecord:
    more: dict[str, object] = {
        "ready_at": AT if ready else None,
        "failure_reason": reason,
        **(reported or {}),
    }
    return RunRecord(
        run_id="a" * 26,
        name="ppo",
        status=status,
        attempt=1,
        digest="d",
        seq=1,
        submit_seq=1,
        priority=0,
        labels={},
        **more,  # type: ignore[arg-type]
    )


REPORTED: list[dict[str, object]] = [{}, {"step": 0}, {"progress": 0.0}, {"metrics": {"loss": 0.5}}]
RECORDS = [
    record(status, ready=ready, reported=reported, reason=reason)
    for status, ready, reported, reason in itertools.product(
        RunStatus, (False, True), REPORTED, (None, *FailureReason)
    )
]


@pytest.mark.parametrize("one", RECORDS, ids=lambda one: f"{one.status}-{one.ready_at}-{one.failure_reason}")
def test_a_record_is_found_by_the_status_that_it_has_there(one: RunRecord) -> None:
    older = older_status(one)
    assert any(
        ours.status is one.status and ours.ready in (None, one.ready_at is not None)
        for ours in our_statuses(older)
    ) == (one.status is not RunStatus.UNSPECIFIED)
    assert (older_outcome(one) is not None) == (older is OlderStatus.TERMINATED)


def test_every_older_status_but_paused_has_records() -> None:
    assert {older_status(one) for one in RECORDS} == set(OlderStatus) - {OlderStatus.PAUSED}
    assert {older_outcome(one) for one in RECORDS} == {None, *OlderOutcome}
    assert our_statuses(OlderStatus.PAUSED) == our_statuses(OlderStatus.UNSPECIFIED) == ()


def test_a_running_one_goes_on_by_what_its_worker_reports() -> None:
    running = RunStatus.RUNNING
    assert older_status(record(running)) is OlderStatus.HANDSHAKE
    assert older_status(record(running, ready=True)) is OlderStatus.READY
    for reported in REPORTED[1:]:
        assert older_status(record(running, reported=reported)) is OlderStatus.EXECUTING
        assert older_status(record(running, ready=True, reported=reported)) is OlderStatus.EXECUTING


def rows() -> list[list[str]]:
    """The page's table of statuses."""
    (section,) = [part for part in PAGE.split("\n## ") if part.startswith("Each status\n")]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row[0]}-{row[1]}-{row[2]}")
def test_each_row_of_the_page_is_what_the_functions_have(row: list[str]) -> None:
    older, _, outcome = row[0].replace("`", "").partition(", ")
    assert OlderStatus(older) in OlderStatus
    if row[1] == "none":
        assert our_statuses(OlderStatus(older)) == ()
        return
    status = RunStatus(row[1])
    ready = {"null": False, "set": True, "either": None}[row[2]]
    assert {ours for ours in our_statuses(OlderStatus(older)) if ours.status is status} & {
        OurStatus(status, ready),
        OurStatus(status),
    }
    reasons = [FailureReason(found) for found in re.findall(r"`(\w+)`", row[3]) if found != "failure_reason"]
    for reason in (*reasons, *(() if reasons else (None,))):
        reported: dict[str, object] = {"step": 1} if older == "EXECUTING" else {}
        for is_ready in (False, True) if ready is None else (ready,):
            one = record(status, ready=is_ready, reported=reported, reason=reason)
            assert older_status(one) is OlderStatus(older)
            assert older_outcome(one) == (OlderOutcome(outcome) if outcome else None)


def test_the_page_has_every_status_and_names_every_reason_of_a_failed_run() -> None:
    assert {row[0].partition(",")[0] for row in rows()} == {str(one) for one in OlderStatus} - {"UNSPECIFIED"}
    named = {
        FailureReason(found)
        for row in rows()
        for found in re.findall(r"`(\w+)`", row[3])
        if found != "failure_reason"
    }
    of_no_failed_run = {FailureReason.DEPENDENCY_FAILED, FailureReason.NOT_STARTED, FailureReason.UNSPECIFIED}
    assert named == set(FailureReason) - of_no_failed_run
    assert set(FAULTS) <= named
