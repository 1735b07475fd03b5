"""Answers and published messages that the services make field by field, as structs for the schema.

Owns their fields; knows neither who sends them nor when.
"""

from __future__ import annotations

from typing import Any

import msgspec

from services.access.identities import PersonRole
from trainshed_client.errors import ErrorCode
from trainshed_client.fold_progress import FoldProgress


class WrongPart(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that is wrong with a request. ``path``: of its field, as in `resources.gpus.requested`; absent: the whole."""

    message: str
    path: str | None = None


class ErrorDetail(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was wrong, and what to do.

    ``path``: the field, as in `resources.gpus.requested`. ``errors``: all that is wrong, where that is more than one thing.
    ``more``: how many there are beside these. ``progress``: of a service that cannot answer yet, how far it is.
    """

    code: ErrorCode
    message: str
    path: str | None = None
    errors: list[WrongPart] = []
    more: int = 0
    progress: FoldProgress | None = None


class ErrorAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a request that was refused: nothing was appended."""

    error: ErrorDetail


class AppendedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to an acceptance. ``seq``: of its event in the log."""

    seq: int


class ReadModelHealth(msgspec.Struct, frozen=True, kw_only=True):
    """How the read model is.

    ``state_hash``: of what is folded, 64 hex digits. ``schema_version``: of its tables. ``quarantined``: messages of the log
    that are no event. ``objections``: the nodes that object to the log. ``gap``: the missing sequence at which the log's
    tree ended. ``ok``: whether it has all that was acknowledged before the question. ``records``: whether it is the one that
    keeps the records. ``log_id``: which log there is now, and ``last_seq`` its last sequence; null: it does not answer.
    ``person`` and ``role``: who asks, where people are enrolled.
    """

    v: int
    seq: int
    state_hash: str
    schema_version: int
    quarantined: int
    objections: list[str]
    gap: int | None
    log_id: str | None
    last_seq: int | None
    ok: bool
    records: bool
    person: str | None = None
    role: PersonRole | None = None
    stale: bool = False
    progress: FoldProgress | None = None


class CheckpointAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A signed checkpoint of the log's tree. ``root``: base64. ``vkey``: of who signed it, as signed-note writes a verifier
    key. ``checkpoint``: as C2SP's tlog-checkpoint has it. ``cosigned_by``: nodes. ``gap``: the missing sequence at which the tree
    ended."""

    v: int
    seq: int
    origin: str
    size: int
    root: str
    vkey: str
    checkpoint: str
    cosigned_by: list[str]
    gap: int | None
    stale: bool = False
    progress: FoldProgress | None = None


class ConsistencyAnswer(msgspec.Struct, frozen=True, kw_only=True, rename={"from_": "from"}):
    """A proof that the tree of ``to`` leaves extends that of ``from`` (RFC 9162), each hash in base64."""

    v: int
    seq: int
    from_: int
    to: int
    from_root: str
    to_root: str
    proof: list[str]
    stale: bool = False
    progress: FoldProgress | None = None


class InclusionAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A proof that an event is in the tree of ``size`` leaves (RFC 9162), each hash in base64. ``event``: its sequence;
    ``index``: of its leaf, from 0 on."""

    v: int
    seq: int
    event: int
    index: int
    size: int
    root: str
    leaf: str
    proof: list[str]
    stale: bool = False
    progress: FoldProgress | None = None


class RebuildProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a rebuild is: one of the messages before the last."""

    v: int
    progress: FoldProgress


class RowsHead(msgspec.Struct, frozen=True, kw_only=True):
    """The first message of all rows. ``counts``: how many rows each table has."""

    v: int
    seq: int
    state_hash: str
    log_id: str
    schema_version: int
    counts: dict[str, int]


class RowsPart(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of one table; ``part``: from 1 on. An empty message comes last."""

    part: int
    table: str
    rows: list[dict[str, Any]]


class AcceptedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """The last LogAccepted of a tree as it is stored; ``body`` in base64."""

    seq: int
    stored_ns: int
    subject: str
    body: str


class CheckpointMessage(msgspec.Struct, frozen=True, kw_only=True):
    """The log's tree, signed. ``vkey``: of who signed it, as signed-note writes a verifier key. ``checkpoint``: as C2SP's
    tlog-checkpoint has it. ``accepted``: the last acceptance that is in it."""

    v: int
    log_id: str
    vkey: str
    checkpoint: str
    accepted: AcceptedEvent | None


class TelemetryLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a worker's stdout that is a JSON object with a ``type`` or an ``event``; what else is in it is the worker's."""


class DirectGet(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A question for stored messages (NATS ADR-31). With ``batch`` it is answered in many messages, and last in one of status
    204.

    ``seq``: the first sequence. ``next_by_subj``: only messages of this subject, which may have wildcards. ``multi_last``: the
    last message of each of these subjects, of 1,024 at most. ``batch``: messages of one page. ``max_bytes``: of one page.
    ``up_to_seq``: with ``multi_last``, as of this sequence: the `Nats-UpTo-Sequence` of the page before.
    """

    seq: int | None = None
    last_by_subj: str | None = None
    next_by_subj: str | None = None
    multi_last: list[str] | None = None
    batch: int | None = None
    max_bytes: int | None = None
    up_to_seq: int | None = None
