"""What the tests of the Qt bridge show."""

from __future__ import annotations

from typing import Any

from trainshed_client.records import RunRecord
from trainshed_client.statuses import RunStatus

RUN = "k" * 26


def run_record(run_id: str = RUN, **fields: Any) -> RunRecord:
    """A run's record."""
    known: dict[str, Any] = {
        "name": "ppo",
        "status": RunStatus.PENDING,
        "attempt": 1,
        "digest": "d",
        "seq": 1,
        "submit_seq": 1,
        "priority": 0,
        "labels": {},
    }
    return RunRecord(run_id=run_id, **{**known, **fields})
