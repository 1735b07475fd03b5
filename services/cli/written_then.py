"""What the worker of a run that was live at a moment of the past had told and written by then: from its node's files.

Owns that they are cut by the node's clock, and what is said of that; heartbeats themselves are not kept.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from services.cli.output_tail import Impatient, OutputTail, tail_by
from services.cli.text import short
from trainshed_client.errors import TrainshedError
from trainshed_client.statuses import PLACED

if TYPE_CHECKING:
    from services.cli.as_of import PastMoment
    from trainshed_client.client import Trainshed
    from trainshed_client.records import QueuedRunRecord


class WrittenThen(NamedTuple):
    """The record with what the worker had told last, the last lines it had written, and where that is from."""

    record: QueuedRunRecord
    tail: OutputTail | None
    remark: str


async def written_then(
    trainshed: Trainshed, record: QueuedRunRecord, moment: PastMoment
) -> WrittenThen | None:
    """None where no worker ran then; where its node does not answer, the remark says so."""
    if record.status not in PLACED or record.node is None:
        return None
    try:
        reported, tail = await asyncio.gather(
            _reported(trainshed, record, moment.clock),
            tail_by(trainshed, record.run_id, record.attempt, record.node, moment.clock),
        )
    except TrainshedError as error:
        remark = f"what it had told and written by then is on {record.node}: {error.message}"
        return WrittenThen(record, None, remark)
    return WrittenThen(
        reported,
        tail,
        f"what it had told and written by then is from {record.node}'s files, by that node's clock; "
        f"all of it: trainshed logs --at {moment.option} {short(record.run_id)}",
    )


async def _reported(trainshed: Trainshed, record: QueuedRunRecord, by: str) -> QueuedRunRecord:
    from trainshed_client.metrics import stored_metrics
    from trainshed_client.not_finite import from_json

    assert record.node is not None
    asks = Impatient(trainshed)
    found = await stored_metrics(
        asks, record.run_id, record.attempt, record.node, until=datetime.fromisoformat(by)
    )
    metrics: dict[str, float] = {}
    for line in found.lines:
        metrics.update({name: from_json(value) for name, value in line.metrics.items()})
    step = next((line.step for line in reversed(found.lines) if line.step is not None), None)
    progress = next((line.progress for line in reversed(found.lines) if line.progress is not None), None)
    return msgspec.structs.replace(record, step=step, progress=progress, metrics=metrics)
