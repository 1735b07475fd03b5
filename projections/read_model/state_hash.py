"""The state hash: what each row adds to it.

Owns the fields that are hashed and the bytes that they are hashed as; knows neither SQL nor events.

It is the sum modulo 2^256, over every row of runs, attempts, slots, nodes and timeline, of
``sha256(msgspec.json.encode([table, row], order="sorted"))``, read as a big-endian number. ``row`` is the record as an
object (lists and objects inside it as such, not as text); heartbeat columns of live runs and attempts, and of nodes
and slots always, are left out of it.
"""

from __future__ import annotations

from copy import copy
from hashlib import sha256
from typing import Any

import msgspec
from msgspec import UNSET

from projections.read_model import reports
from projections.read_model.rows import AttemptRow, NodeRow, Row, RunRow, SlotRow, TimelineRow
from trainshed_client.statuses import LIVE

MODULUS = 1 << 256
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
    match row:
        case RunRow() if row.status in LIVE:
            left_out: tuple[str, ...] = reports.OF_RUN
        case AttemptRow() if row.status in LIVE:
            left_out = reports.OF_ATTEMPT
        case SlotRow():
            left_out = reports.OF_SLOT
        case NodeRow():
            left_out = reports.OF_NODE
        case _:
            return row
    other = copy(row)
    for name in left_out:
        setattr(other, name, UNSET)
    return other
