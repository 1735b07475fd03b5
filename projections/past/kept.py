"""A moment that frames keep, made whole again: rows and folds of all that was live.

Owns how frames are put together and completed from the tables; knows neither when one is made nor how moments between
them are found out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any

import msgspec
from sqlalchemy import Connection, select

from events.state import Node, Pending, Run, RunProgress
from projections.read_model import tables
from projections.read_model.database import Database, in_chunks
from projections.read_model.folds import progress_of, run_with
from projections.read_model.frames import NODE_COLUMNS, RUN_COLUMNS, SLOT_COLUMNS, Frame, decoded
from projections.read_model.rows import NEVER_CHANGES, AttemptRow, NodeRow, RunRow, SlotRow
from projections.read_model.working_set import LiveSet

_OF_RUN, _OF_SLOT, _OF_NODE = (attrgetter(*columns) for columns in (RUN_COLUMNS, SLOT_COLUMNS, NODE_COLUMNS))
_SUBMITTED = tuple(sorted(NEVER_CHANGES))
_TEXTS = frozenset(NEVER_CHANGES & tables.JSON_COLUMNS)
_OF_ATTEMPT = tuple(sorted({*RunRow.__struct_fields__} & {*AttemptRow.__struct_fields__}))
_AS_SUBMITTED = RunProgress(phase=Pending(attempt=1))


class Beginning(msgspec.Struct, frozen=True):
    """What was kept of a moment: a beginning for those after it."""

    live: LiveSet
    stored_ns: int


def kept_before(database: Database, connection: Connection, seq: int) -> Beginning:
    """What was kept nearest to ``seq``, at it or before it; nothing at all before the first frame."""
    frames = _frames(connection, seq)
    if not frames:
        return Beginning(LiveSet(), 0)
    runs: dict[int, Any] = {}
    slots: dict[tuple[str, int], Any] = {}
    nodes: dict[str, Any] = {}
    folds: dict[str, Node] = {}
    for frame in frames:
        for submit_seq in frame.gone_runs:
            runs.pop(submit_seq, None)
        runs.update(dict.fromkeys(frame.queued))
        runs.update((run.submit_seq, run) for run in frame.runs)
        for key in frame.gone_slots:
            slots.pop(key, None)
        slots.update(((slot.node, slot.index), slot) for slot in frame.slots)
        for name in frame.gone_nodes:
            nodes.pop(name, None)
        nodes.update((node.node, node) for node in frame.nodes)
        folds.update((node.node, node.fold) for node in frame.nodes if node.fold is not None)
    last = frames[-1]
    rows = _runs(database, connection, runs)
    live = LiveSet(
        seq=last.seq,
        state_hash=int(last.state_hash, 16),
        epoch=last.epoch,
        epoch_of=last.epoch_of,
        rules=last.rules,
        runs=rows,
        attempts=[_attempt(row) for row, _ in rows if row.node is not None],
        slots=[SlotRow(**_named(SLOT_COLUMNS, _OF_SLOT(slot))) for slot in slots.values()],
        nodes=[
            (NodeRow(**_named(NODE_COLUMNS, _OF_NODE(node))), folds[name]) for name, node in nodes.items()
        ],
    )
    return Beginning(live, last.stored_ns)


def _frames(connection: Connection, seq: int) -> list[Frame]:
    """The last frame up to there, and those on which it builds."""
    of = tables.frames.c
    last = connection.execute(
        select(of.seq, of.base_seq).where(of.seq <= seq).order_by(of.seq.desc()).limit(1)
    ).one_or_none()
    if last is None:
        return []
    since = select(of.data).where(of.seq.between(last.base_seq, last.seq)).order_by(of.seq)
    return [decoded(bytes(data)) for data in connection.execute(since).scalars()]


def _runs(database: Database, connection: Connection, runs: dict[int, Any]) -> list[tuple[RunRow, Run]]:
    """With what their Submitted says; ``runs`` has their columns by ``submit_seq``, None of one that waits untouched."""
    found: list[tuple[RunRow, Run]] = []
    names = (*_SUBMITTED, "fold", "config")
    left = set(runs)
    for table in (
        tables.runs,
        tables.past_runs,
    ):  # the row of one that was submitted anew has become the new one's
        for chunk in in_chunks(left):
            statement = database.select(table, names, database.one_of("submit_seq", len(chunk)))
            for values in connection.exec_driver_sql(statement, chunk):
                submitted = dict(zip(names, values, strict=True))
                submit_seq = submitted["submit_seq"]
                if submit_seq in left:
                    left.discard(submit_seq)
                    found.append(_run(submitted, runs[submit_seq]))
        if not left:
            break
    return found


def _run(submitted: dict[str, Any], columns: Any) -> tuple[RunRow, Run]:
    fold, config = submitted.pop("fold"), submitted.pop("config")
    for name in _TEXTS:
        submitted[name] = msgspec.Raw(submitted[name].encode())
    submitted["named"] = bool(submitted["named"])
    if columns is None:
        row = RunRow(
            **submitted,
            attempt=1,
            queued_at=submitted["submitted_at"],
            seq=submitted["submit_seq"],
            status="PENDING",
        )
        progress = _AS_SUBMITTED
    else:
        row = RunRow(**submitted, **_named(RUN_COLUMNS, _OF_RUN(columns)))
        progress = columns.progress
    of_submission = progress_of(fold)
    progress = msgspec.structs.replace(
        progress,
        caller_path=of_submission.caller_path,
        code_folder=of_submission.code_folder,
        code_ignore=of_submission.code_ignore,
        submitter=of_submission.submitter,
    )
    return row, run_with(progress, row.run_id, row.submit_seq, config)


def _attempt(row: RunRow) -> AttemptRow:
    """The row of a live attempt, which says nothing that its run's row does not say."""
    return AttemptRow(**{name: getattr(row, name) for name in _OF_ATTEMPT})


def _named(columns: Iterable[str], values: Sequence[Any]) -> dict[str, Any]:
    return dict(zip(columns, values, strict=True))
