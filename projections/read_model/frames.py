"""Frames: what is live at every four hundredth event, kept so that a moment is found without folding the log from its start.

Owns a frame's form, what goes into one and when it is due; knows no SQL, and not how a moment is made of them.

A whole frame holds all that is live. Those after it hold what changed since the frame before, until together they are larger
than the whole one: so a long queue is not kept again and again, and to read a moment costs three times what is live at most.
Of a run a frame keeps what its Submitted does not say; of one that nothing has happened to since, that it waits. Nothing in
it is a heartbeat's.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec

from events.state import Node, Pending, RunProgress
from projections.read_model import reports
from projections.read_model.core import Projection
from projections.read_model.rows import NEVER_CHANGES, NodeRow, Row, RunRow, SlotRow
from projections.read_model.working_set import Changes, WorkingRun, WorkingSet

EVERY = 400
_LEVEL = 1
"""Of compression: a higher one makes a frame a few hundredths smaller."""


def _columns(kind: type[Row], left_out: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name in kind.__struct_fields__ if name not in {*left_out})


RUN_COLUMNS = _columns(RunRow, {*NEVER_CHANGES, *reports.OF_RUN})
SLOT_COLUMNS = _columns(SlotRow, reports.OF_SLOT)
NODE_COLUMNS = _columns(NodeRow, reports.OF_NODE)


def _form(name: str, kind: type[Row], columns: tuple[str, ...], before: list[tuple[str, Any]]) -> Any:
    """How a row is read from a frame: its columns by their place."""
    types = {field.name: field.type for field in msgspec.structs.fields(kind)}
    return msgspec.defstruct(
        name, [*before, *((column, types[column]) for column in columns)], array_like=True
    )


_RUN_FORM = _form("RunForm", RunRow, RUN_COLUMNS, [("submit_seq", int), ("progress", RunProgress)])
_SLOT_FORM = _form("SlotForm", SlotRow, SLOT_COLUMNS, [])
_NODE_FORM = _form("NodeForm", NodeRow, NODE_COLUMNS, [("fold", Node | None)])
_OF_RUN, _OF_SLOT, _OF_NODE = (attrgetter(*names) for names in (RUN_COLUMNS, SLOT_COLUMNS, NODE_COLUMNS))


class Frame(msgspec.Struct, array_like=True, kw_only=True):
    """What is live after event ``seq``, or of it what changed since the frame before.

    ``queued``: the runs, by their ``submit_seq``, that wait as they were submitted. ``runs``, ``slots`` and ``nodes`` have
    their columns by place; a node's ``fold`` is null where it has not changed.
    """

    seq: int
    stored_ns: int
    state_hash: str
    epoch: int
    epoch_of: str
    rules: int
    queued: list[int]
    runs: list[Any]
    gone_runs: list[int]
    slots: list[Any]
    gone_slots: list[tuple[str, int]]
    nodes: list[Any]
    gone_nodes: list[str]


class _ReadFrame(Frame, array_like=True, kw_only=True):
    runs: list[_RUN_FORM]  # type: ignore[valid-type]
    slots: list[_SLOT_FORM]  # type: ignore[valid-type]
    nodes: list[_NODE_FORM]  # type: ignore[valid-type]


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(_ReadFrame)


def encoded(frame: Frame) -> bytes:
    """A frame as it is kept."""
    return zlib.compress(_ENCODER.encode(frame), _LEVEL)


def decoded(data: bytes) -> Frame:
    """The inverse."""
    return _DECODER.decode(zlib.decompress(data))


class KeptFrame(NamedTuple):
    """A frame as its row has it; ``base_seq``: of the whole one with which to begin."""

    seq: int
    base_seq: int
    data: bytes


class FrameMaker:
    """Makes the frames of one projection as it folds. The first one after a start is whole.

    ``due``: the sequence with which the next one is made, or with the first one after it.
    """

    def __init__(self, projection: Projection, every: int = EVERY) -> None:
        self._projection = projection
        self._every = every
        self._last = projection.working.seq
        self.due = self._last // every * every + every
        self._base = 0
        self._size_of_base = self._size_since = 0
        self._made: list[KeptFrame] = []
        self._runs: dict[int, WorkingRun | None] = {}
        """What changed since the last frame, by ``submit_seq``; None: it is live no more."""
        self._slots: set[tuple[str, int]] = set()
        self._nodes: set[str] = set()
        self._folds: dict[str, Node] = {}
        """Nodes as the frames have them so far."""

    def make(self, stored_ns: int) -> None:
        """Make the frame that is due: the last event that was folded was stored at that time."""
        self.note(self._projection.sum_up())
        seq = self._projection.working.seq
        whole = not self._base or self._size_since > self._size_of_base
        data = encoded(self._whole(stored_ns) if whole else self._changed(stored_ns))
        if whole:
            self._base, self._size_of_base, self._size_since = seq, len(data), 0
        else:
            self._size_since += len(data)
        self._made.append(KeptFrame(seq, self._base, data))
        self._last, self.due = seq, seq // self._every * self._every + self._every
        self._runs, self._slots, self._nodes = {}, set(), set()

    def note(self, changes: Changes) -> None:
        """Heed what has changed since the last time."""
        for (
            before
        ) in changes.past_runs:  # also of one that was submitted anew, and has another `submit_seq` now
            self._ended(before.row.submit_seq)
        for item in changes.runs:
            row = item.row
            assert row is not None
            if row.ended_at is None:
                self._runs[row.submit_seq] = item
            else:
                self._ended(row.submit_seq)
        self._slots.update((node, index) for node, index, _ in changes.slots)
        self._nodes.update(changes.nodes)

    def take(self) -> list[KeptFrame]:
        """The frames that were made since the last call, to be committed with what they are of."""
        made, self._made = self._made, []
        return made

    def _ended(self, submit_seq: int) -> None:
        if submit_seq <= self._last:
            self._runs[submit_seq] = None
        else:
            self._runs.pop(submit_seq, None)

    def _whole(self, stored_ns: int) -> Frame:
        working = self._projection.working
        self._folds = {}
        frame = _frame(working, stored_ns)
        for item in working.runs.values():
            if item.row is not None and item.row.ended_at is None:
                _add_run(frame, item)
        frame.slots = [
            _OF_SLOT(item.row) for of_node in working.slots.values() for item in of_node.values() if item.row
        ]
        for name, node in working.nodes.items():
            if node.row is not None:
                self._add_node(frame, name)
        return frame

    def _changed(self, stored_ns: int) -> Frame:
        working = self._projection.working
        frame = _frame(working, stored_ns)
        for submit_seq, run in self._runs.items():
            if run is None:
                frame.gone_runs.append(submit_seq)
            else:
                _add_run(frame, run)
        for node, index in self._slots:
            item = working.slots.get(node, {}).get(index)
            if item is None or item.row is None:
                frame.gone_slots.append((node, index))
            else:
                frame.slots.append(_OF_SLOT(item.row))
        for name in self._nodes:
            self._add_node(frame, name)
        return frame

    def _add_node(self, frame: Frame, name: str) -> None:
        working = self._projection.working
        item, node = working.nodes.get(name), working.state.nodes.get(name)
        if item is None or item.row is None or node is None:
            frame.gone_nodes.append(name)
            self._folds.pop(name, None)
            return
        frame.nodes.append((None if self._folds.get(name) is node else node, *_OF_NODE(item.row)))
        self._folds[name] = node


def _frame(working: WorkingSet, stored_ns: int) -> Frame:
    return Frame(
        seq=working.seq,
        stored_ns=stored_ns,
        state_hash=f"{working.state_hash:064x}",
        epoch=working.state.epoch,
        epoch_of=working.state.epoch_of,
        rules=working.state.rules,
        queued=[],
        runs=[],
        gone_runs=[],
        slots=[],
        gone_slots=[],
        nodes=[],
        gone_nodes=[],
    )


def _add_run(frame: Frame, item: WorkingRun) -> None:
    row, run = item.row, item.run
    assert row is not None
    # what it comes after changes its fold and none of its columns
    if row.seq == row.submit_seq and isinstance(run.phase, Pending) and not run.after:
        frame.queued.append(row.submit_seq)
        return
    progress = RunProgress(run.phase, run.tries, run.unstarted, run.tried, run.cancel_requested)
    frame.runs.append((row.submit_seq, progress, *_OF_RUN(row)))
