"""The modelled world as one hashable value: log, dispatchers, machines with disk and processes, and faults that are left.

Owns these values and their normal form (sequences renumbered, so that histories which differ in nothing else meet);
knows no move.
"""

from __future__ import annotations

import enum
from collections.abc import Hashable, Iterable
from typing import Any, NamedTuple

import msgspec

from events.codec import StoredEvent
from events.state import Node, Run
from events.types import AttemptRef, Event
from services.agent.folders.files import ExitFile, StopReason
from services.agent.session.values import Action, Input, Name, SessionState
from services.agent.shim import core_types
from trainshed_client.subjects import Role


class Fold(msgspec.Struct, frozen=True):
    """events.state.State as a value, with the runs that ended: what a reader of the whole log knows."""

    epoch: int = 0
    rules: int = 1
    runs: tuple[Run, ...] = ()
    nodes: tuple[Node, ...] = ()
    ended: tuple[Run, ...] = ()


class Word(msgspec.Struct, frozen=True):
    """The last event of one type that agents of a node said of a run."""

    node: str
    run_id: str
    type: str
    attempt: int
    seq: int


class Heads(msgspec.Struct, frozen=True):
    """The last sequence of each subject that somebody guards by or reads; and which runs somebody wanted to end."""

    elected: int = 0
    names: tuple[tuple[str, Name], ...] = ()
    words: tuple[Word, ...] = ()
    cancelled: tuple[str, ...] = ()


class Letter(msgspec.Struct, frozen=True):
    """An append that its sender gave up on and that may be stored yet. ``guard`` is (subject's key, sequence)."""

    role: Role
    node: str
    event: Event
    key: tuple[str, ...]
    seq: int


class Push(msgspec.Struct, frozen=True):
    """A node's push consumer: its events in order, the first ``acked`` of them acknowledged."""

    events: tuple[StoredEvent, ...] = ()
    acked: int = 0


class Sent(msgspec.Struct, frozen=True):
    """A decision that is stored and that the own fold has not passed."""

    event: Event
    seq: int


class Office(msgspec.Struct, frozen=True):
    """A dispatcher that holds itself for active: ``queue`` is decided and not stored, ``pending`` not folded.

    ``standing``: it stands for election again after an append without an answer.
    """

    epoch: int
    standing: bool = False
    queue: tuple[Event, ...] = ()
    sent: tuple[Sent, ...] = ()
    pending: tuple[StoredEvent, ...] = ()


class Files(msgspec.Struct, frozen=True):
    """What an attempt's folder holds; ``marker`` is the open marker beside it, ``intent`` a sequence (0: none) with its
    ``slots``."""

    marker: bool = True
    intent: int = 0
    slots: tuple[int, ...] = ()
    started: bool = False
    stop: StopReason | None = None
    exit: ExitFile | None = None


class Disk(msgspec.Struct, frozen=True):
    """A state folder."""

    incarnation: str
    files: tuple[tuple[AttemptRef, Files], ...] = ()


class Stage(enum.Enum):
    """Where an attempt's processes are."""

    COMING = "coming up"  # a shim has been handed the folder
    LOCKED = "locked"  # it has the lock and has looked
    UP = "up"  # the worker has exec'd
    ORPHAN = "orphan"  # the shim is gone, what the worker left is not


class Proc(msgspec.Struct, frozen=True):
    """An attempt's shim with its worker. ``devices``: what its slots were when it was launched, UUIDs; ``woken``: the signal
    to read stop.json is on its way."""

    ref: AttemptRef
    incarnation: str
    slots: tuple[int, ...]
    devices: tuple[str, ...]
    stage: Stage
    shim: core_types.ShimState | None = None
    woken: bool = False

    @property
    def live(self) -> bool:
        """Whether a process of the attempt itself may run."""
        return self.stage in (Stage.UP, Stage.ORPHAN)


class Agent(msgspec.Struct, frozen=True):
    """An agent's process: its session, what it has under way, and the shims that it watches.

    An input among ``tasks`` is one whose write failed: it is taken again.
    ``unanswered`` is the sequence of its NodeJoined where that was stored and the answer was lost; ``disowned``: when
    it read its name, its incarnation had been removed since its last join. ``at_fault``: what it launched and whose shim
    never started a worker (`LiveAttempt.at_fault`). ``half_read``: the name's last join is read,
    the rest is not.
    """

    state: SessionState
    tasks: tuple[Action | Input, ...] = ()
    watched: frozenset[AttemptRef] = frozenset()
    at_fault: frozenset[AttemptRef] = frozenset()
    unanswered: int = 0
    disowned: bool = False
    half_read: Name | None = None


class Cell:
    """One shared copy of a value, with the sequences in it; compared and hashed by identity."""

    __slots__ = ("seqs", "value")

    def __init__(self, value: Any) -> None:
        self.value = value
        self.seqs = frozenset(_seqs(value))


class World(NamedTuple):
    """A state of the model. Per node name: ``pushes``; per dispatcher: ``offices`` and ``folds``; else per machine.

    ``ledger``: what an audit of the log remembers.
    """

    heads: Cell
    truth: Cell
    ledger: Cell
    wire: Cell
    budget: Cell
    disowned: Cell
    pushes: tuple[Cell, ...]
    offices: tuple[Cell, ...]
    folds: tuple[Cell, ...]
    agents: tuple[Cell, ...]
    disks: tuple[Cell, ...]
    procs: tuple[Cell, ...]


PLAIN = ("heads", "truth", "ledger", "wire", "budget", "disowned")

_SEQ_FIELDS = frozenset(
    {
        "seq",
        "epoch",
        "elected",
        "joined",
        "left",
        "removed",
        "upto",
        "guard",
        "intent",
        "unanswered",
        "dispatched_seq",
        "joined_seq",
        "left_upto",
        "submit_seq",
    }
)
"""Fields of the project's and of these structs that hold a sequence wherever they are numbers."""


def _seqs(value: object) -> Iterable[int]:
    if isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            field = getattr(value, name)
            if name in _SEQ_FIELDS and type(field) is int:
                if field:
                    yield field
            elif isinstance(field, msgspec.Struct | tuple | frozenset):
                yield from _seqs(field)
    elif isinstance(value, tuple | frozenset):
        for each in value:
            yield from _seqs(each)


def _renumbered(value: Any, new: dict[int, int]) -> Any:
    if isinstance(value, msgspec.Struct):
        changes: dict[str, object] = {}
        for name in value.__struct_fields__:
            field = getattr(value, name)
            if name in _SEQ_FIELDS and type(field) is int:
                if field and new[field] != field:
                    changes[name] = new[field]
            elif isinstance(field, msgspec.Struct | tuple | frozenset):
                again = _renumbered(field, new)
                if again is not field:
                    changes[name] = again
        return msgspec.structs.replace(value, **changes) if changes else value
    if isinstance(value, tuple | frozenset):
        again = [_renumbered(each, new) for each in value]
        if all(a is b for a, b in zip(again, value, strict=True)):
            return value
        return tuple(again) if isinstance(value, tuple) else frozenset(again)
    return value


class Cells:
    """The shared copies of one search."""

    def __init__(self) -> None:
        self._cells: dict[Hashable, Cell] = {}
        self._renumbered: dict[tuple[Cell, tuple[int, ...]], Cell] = {}

    def of(self, value: Hashable) -> Cell:
        """The one cell with this value."""
        key = (type(value), value)
        cell = self._cells.get(key)
        if cell is None:
            cell = self._cells[key] = Cell(value)
        return cell

    def normal(self, world: World) -> World:
        """``world`` with its sequences numbered 1, 2, 3 ... in their order: only order and equality ever count."""
        used = seqs_in(world)
        if not used or max(used) == len(used):
            return world
        new = {seq: place for place, seq in enumerate(sorted(used), 1)}
        return World(
            *(
                tuple(self._moved(cell, new) for cell in each)
                if type(each) is tuple
                else self._moved(each, new)  # type: ignore[arg-type]
                for each in world
            )
        )

    def _moved(self, cell: Cell, new: dict[int, int]) -> Cell:
        if not cell.seqs:
            return cell
        key = (cell, tuple(new[seq] for seq in sorted(cell.seqs)))
        moved = self._renumbered.get(key)
        if moved is None:
            moved = self._renumbered[key] = self.of(_renumbered(cell.value, new))
        return moved


def seqs_in(world: World) -> set[int]:
    """Every sequence that somebody still remembers."""
    return set().union(
        world.heads.seqs,
        world.truth.seqs,
        world.ledger.seqs,
        world.wire.seqs,
        *[cell.seqs for cells in world[len(PLAIN) :] for cell in cells],  # type: ignore[union-attr]
    )


def next_seq(world: World) -> int:
    """The sequence that the log would give to what is stored now."""
    return max(seqs_in(world), default=0) + 1
