"""The state hash: what each row adds to it.

Owns the fields that are hashed and the bytes that they are hashed as; knows neither SQL nor events.

It is the sum modulo 2^256, over every row of runs, attempts, slots, nodes and timeline, of
``sha256(msgspec.json.encode([table, row], order="sorted"))``, read as a big-endian number. ``row`` is the record as an
object (lists and objects inside it as such, not as text); heartbeat columns of live runs and attempts, and of nodes
and slots always, are left out of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from hashlib import sha256
from typing import Any

import msgspec
from msgspec import UNSET

from projections.read_model import reports
from projections.read_model.rows import AttemptRow, NodeRow, Row, RunRow, SlotRow, TimelineRow
from trainshed_client.statuses import LIVE

MODULUS = 1 << 256
_LIVE = frozenset(map(str, LIVE))
_UNTIL_THE_END = (RunRow, AttemptRow)
"""Of these, heartbeat columns are left out while they are live alone: an end bears the last report."""
_LEFT_OUT: Mapping[type[Row], tuple[str, ...]] = {
    RunRow: reports.OF_RUN,
    AttemptRow: reports.OF_ATTEMPT,
    SlotRow: reports.OF_SLOT,
    NodeRow: reports.OF_NODE,
}
_ENCODER = msgspec.json.Encoder()  # rows have their fields in alphabetical order


def digest_of_entry(row: TimelineRow) -> int:
    """The same as :func:`digest`, for the rows that there are most of."""
    return int.from_bytes(sha256(_ENCODER.encode(("timeline", row))).digest())


def digest(row: Row) -> int:
    """The row's part in the state hash."""
    return int.from_bytes(sha256(_ENCODER.encode((row.table, _hashed(row)))).digest())


def hashed_fields(row: Row) -> dict[str, Any]:
    """The row as the object that is hashed: what two read models must agree on."""
    fields: dict[str, Any] = msgspec.json.decode(_ENCODER.encode(_hashed(row)))
    return fields


def _hashed(row: Row) -> Row:
    """The row, less the columns that are left out."""
    left_out = _LEFT_OUT.get(type(row))
    if left_out is None or (isinstance(row, _UNTIL_THE_END) and row.status not in _LIVE):
        return row
    other = copy(row)
    for name in left_out:
        setattr(other, name, UNSET)
    return other
