"""The kinds of records that can be watched: where each lies, where its changes are heard, and what is newer.

Owns these; knows neither a connection nor what is handed out.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec

from trainshed_client import subjects
from trainshed_client.answers import decode_run
from trainshed_client.records import NodeRecord, QueueRecord, RunRecord, SlotRecord
from trainshed_client.times import NEVER
from trainshed_client.watching.newest import Age

R = TypeVar("R")

_log = logging.getLogger("trainshed.records")


@dataclasses.dataclass(frozen=True)
class RecordKind(Generic[R]):
    """``live``: the subject of its changes; what follows ``live_before`` in one is the key. ``age``: see Newest."""

    name: str
    bucket: str
    live: str
    live_before: str
    decode: Callable[[bytes], R]
    age: Callable[[R], Age]

    @property
    def stream(self) -> str:
        """The stream of the bucket."""
        return f"KV_{self.bucket}"

    def live_key(self, subject: str) -> str:
        """The key whose change is heard there."""
        return subject[len(self.live_before) :]

    def stored_key(self, subject: str) -> str:
        """The key that is stored there."""
        return subject[len(self.bucket) + len("$KV..") :]

    def record(self, key: str, body: bytes) -> R | None:
        """The record, unknown fields passed over; None, with a warning, where it cannot be read at all."""
        try:
            return self.decode(body)
        except msgspec.MsgspecError as error:
            _log.warning(
                "a %s record that this release cannot read is passed over: %.100s (%s)", self.name, key, error
            )
            return None


def _age(record: RunRecord | SlotRecord | NodeRecord) -> Age:
    return record.seq, record.updated_at or NEVER


def _queue_age(record: QueueRecord) -> Age:
    return record.seq, record.at


RUNS: RecordKind[RunRecord] = RecordKind(
    "run",
    subjects.RUNS_BUCKET,
    f"{subjects.WATCH_RUNS}.*",
    f"{subjects.WATCH_RUNS}.",
    decode_run,
    _age,
)
SLOTS = RecordKind(
    "slot",
    subjects.SLOTS_BUCKET,
    f"{subjects.WATCH_SLOTS}.*.*",
    f"{subjects.WATCH_SLOTS}.",
    msgspec.json.Decoder(SlotRecord).decode,
    _age,
)
NODES = RecordKind(
    "node",
    subjects.NODES_BUCKET,
    f"{subjects.WATCH_NODES}.*",
    f"{subjects.WATCH_NODES}.",
    msgspec.json.Decoder(NodeRecord).decode,
    _age,
)
QUEUE = RecordKind(
    "queue",
    subjects.QUEUE_BUCKET,
    subjects.WATCH_QUEUE,
    f"{subjects.WATCH}.",
    msgspec.json.Decoder(QueueRecord).decode,
    _queue_age,
)
