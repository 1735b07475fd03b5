"""One modelled world being changed: a draft of it, the log that stores events, and the faults that are left.

Owns guards, message ids, the push consumers and what a false word of the operator excuses; knows no move.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from events import rules
from events.codec import StoredEvent, event_subject
from events.state import Active
from events.types import (
    AttemptEnd,
    AttemptRef,
    CancelRequested,
    Dispatched,
    Elected,
    Event,
    NodeJoined,
    NodeLeft,
    NodeLost,
    NodeRemoved,
    RetryRequested,
    RunEvent,
    Started,
    Stopping,
)
from services.agent.session.values import Name
from tests.model.code import Broken, Code
from tests.model.values import (
    Agent,
    Cell,
    Cells,
    Disk,
    Fold,
    Heads,
    Letter,
    Office,
    Proc,
    Push,
    Word,
    World,
    next_seq,
)
from trainshed_client.subjects import Role

ENDS = frozenset({"Completed", "Failed", "Cancelled", "TimedOut"})
Disowned = frozenset[tuple[str, AttemptRef]]
"""(incarnation, attempt) that a NodeRemoved ended, and whose worker may run on (docs/protocol.md rule 12)."""


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """What there is, and how much may go wrong. ``faults``: how often each kind may happen, ``total`` all together.

    ``gpus``: what each run wants, and each node has where ``devices`` says no other number.

    ``machines``: (node name, incarnation of its state folder). ``hang``: workers end only when they are stopped.
    ``slots_per_gpu``: so many at a node's first join, and at each later one; where there are several, the first run wants its GPUs
    whole. ``borrowed``: the nodes are on loan. ``first_rules``: those of the first Elected; each later one names the newest.
    ``blamed``: how many failed starts each node has from the beginning. ``stays_away``: a node that left does not come back by itself. ``half_reads``: other things happen between an
    agent's reads of its name's last words. ``slow_storage``: run folders are made whenever their storage answers.
    """

    machines: tuple[tuple[str, str], ...] = (("n", "a"),)
    runs: int = 1
    tries: int = 2
    gpus: int = 1
    devices: int | None = None
    slots_per_gpu: tuple[int, int] = (1, 1)
    hang: bool = False
    borrowed: bool = False
    first_rules: int = rules.KNOWN
    blamed: int = 0
    stays_away: bool = False
    half_reads: bool = False
    slow_storage: bool = False
    total: int = 2
    faults: Mapping[str, int] = {}

    @property
    def shares(self) -> bool:
        """Whether a GPU is ever several slots."""
        return max(self.slots_per_gpu) > 1

    @property
    def names(self) -> tuple[str, ...]:
        """The node names."""
        return tuple(dict.fromkeys(name for name, _ in self.machines))


class Model:
    """A configuration, the code under test and the shared copies of all values."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.cells = Cells()
        self.code = Code(self.cells)
        self.kinds = tuple(config.faults)
        self.keeps_history = bool(config.faults.get("duplicate") or config.faults.get("consumer"))

    def budget(self) -> tuple[int, ...]:
        """What may go wrong at the start: in all, then of each kind."""
        return (self.config.total, *self.config.faults.values())

    def left(self, world: World | Draft, kind: str) -> bool:
        """Whether a fault of this kind may still happen."""
        if kind not in self.kinds:
            return False
        budget = world.budget.value
        return bool(budget[0] and budget[1 + self.kinds.index(kind)])


class Draft:
    """A world that is being changed; ``done`` makes it a world again."""

    def __init__(self, model: Model, world: World) -> None:
        self.model = model
        self.heads, self.truth, self.ledger, self.wire = world.heads, world.truth, world.ledger, world.wire
        self.budget, self.disowned = world.budget, world.disowned
        self.pushes, self.offices, self.folds = list(world.pushes), list(world.offices), list(world.folds)
        self.agents, self.disks, self.procs = list(world.agents), list(world.disks), list(world.procs)

    def done(self) -> World:
        """The world, in its normal form."""
        return self.model.cells.normal(self.as_is())

    def as_is(self) -> World:
        """The world as it stands."""
        return World(
            self.heads,
            self.truth,
            self.ledger,
            self.wire,
            self.budget,
            self.disowned,
            tuple(self.pushes),
            tuple(self.offices),
            tuple(self.folds),
            tuple(self.agents),
            tuple(self.disks),
            tuple(self.procs),
        )

    def copy(self) -> Draft:
        """Another that goes on from here."""
        return Draft(self.model, self.as_is())

    def cell(self, value: Hashable) -> Cell:
        """The shared copy of a value."""
        return self.model.cells.of(value)

    def spend(self, kind: str) -> Draft:
        """Count a fault."""
        budget = list(self.budget.value)
        budget[0] -= 1
        budget[1 + self.model.kinds.index(kind)] -= 1
        assert min(budget) >= 0, kind
        if not budget[0]:
            budget[1:] = [0] * (len(budget) - 1)
        self.budget = self.cell(tuple(budget))
        return self

    # --- machines -------------------------------------------------------------------------------------------

    def node(self, m: int) -> str:
        """The name of machine ``m``."""
        return self.model.config.machines[m][0]

    def agent(self, m: int) -> Agent | None:
        """The agent's process on machine ``m``."""
        agent: Agent | None = self.agents[m].value
        return agent

    def set_agent(self, m: int, agent: Agent | None) -> None:
        """Another state of it, or None: it is gone."""
        self.agents[m] = self.cell(agent)

    def disk(self, m: int) -> Disk:
        """Its state folder."""
        disk: Disk = self.disks[m].value
        return disk

    def set_disk(self, m: int, disk: Disk) -> None:
        """Another state of it."""
        self.disks[m] = self.cell(disk)

    def of_procs(self, m: int) -> tuple[Proc, ...]:
        """The processes of attempts on it."""
        procs: tuple[Proc, ...] = self.procs[m].value
        return procs

    def set_procs(self, m: int, procs: tuple[Proc, ...]) -> None:
        """Others."""
        self.procs[m] = self.cell(procs)

    # --- the log --------------------------------------------------------------------------------------------

    def guarded(self, key: tuple[str, ...]) -> int:
        """The last sequence of what a guard with this key looks at."""
        heads: Heads = self.heads.value
        match key:
            case ("elected",):
                return heads.elected
            case ("joined", node):
                return dict(heads.names).get(node, Name()).joined
            case ():
                return 0
            case ("words", node, run_id):
                seqs = (w.seq for w in heads.words if w.node == node and w.run_id == run_id)
                return max(seqs, default=0)
            case _:
                raise ValueError(key)

    def said(self, node: str, event: Started | AttemptEnd) -> int:
        """The sequence of this very word where it is the last of its type, or of any end of the attempt (docs/protocol.md
        rule 13, as `Appender` looks for it); else 0."""
        heads: Heads = self.heads.value
        kinds = ENDS if isinstance(event, AttemptEnd) else {type(event).__name__}
        for word in heads.words:
            of_attempt = (word.node, word.run_id, word.attempt) == (node, event.run_id, event.attempt)
            if of_attempt and word.type in kinds:
                return word.seq
        return 0

    def unspoken(self, node: str, ref: AttemptRef, types: Collection[str]) -> None:
        """A process that launches an attempt, or finds its shim answering, may take what comes of these in its node's name for
        its own or a forger's (docs/protocol.md rule 20). Raises Broken where an earlier one said it, or may have."""
        if not self.model.code.objects:
            return
        spoken = [(word.node, word.run_id, word.attempt, word.type) for word in self.heads.value.words]
        for letter in self.wire.value:
            if isinstance(letter.event, Started | AttemptEnd) and letter.role == Role.AGENT:
                event = letter.event
                spoken.append((letter.node, event.run_id, event.attempt, type(event).__name__))
        for said_by, run_id, attempt, type_ in spoken:
            if (said_by, run_id, attempt) == (node, ref.run_id, ref.attempt) and type_ in types:
                raise Broken(
                    f"rule 20: {type_} of {run_id}.{attempt} is an earlier process's word, and would be objected to"
                )

    def store(self, role: Role, event: Event, node: str = "") -> int:
        """Store an event: every consequence in the log and in the consumers. Raises Broken."""
        seq = next_seq(self.as_is())
        subject = event_subject(event, role, node or None)
        stored = StoredEvent(seq, 0, subject, "", "", event)
        before: Fold = self.truth.value
        self.truth, change = self.model.code.fold(self.truth, stored)
        self.ledger = self.model.code.audit(self.ledger, stored, change)
        self.heads = self.cell(_heads(self.heads.value, stored))
        for place, cell in enumerate(self.offices):
            office: Office | None = cell.value
            if office is not None:
                self.offices[place] = self.cell(replace(office, pending=(*office.pending, stored)))
        match event:
            case Dispatched(node=to) | Stopping(node=to) | NodeLost(node=to):
                self._pushed(to, stored)
            case NodeJoined(node=to):
                self._forget_pushed(to)
            case NodeRemoved():
                self._disown(before, event)
            case _:
                pass
        return seq

    def _pushed(self, node: str, stored: StoredEvent) -> None:
        place = self.model.config.names.index(node)
        push: Push = self.pushes[place].value
        self.pushes[place] = self.cell(replace(push, events=(*push.events, stored)))

    def _forget_pushed(self, node: str) -> None:
        place = self.model.config.names.index(node)
        push: Push = self.pushes[place].value
        self.pushes[place] = self.cell(Push(push.events[push.acked :]))

    def acknowledge(self, node: str, seq: int) -> None:
        """The consumer goes on, where this is what it waits for."""
        place = self.model.config.names.index(node)
        push: Push = self.pushes[place].value
        if not self.model.code.in_order:
            left = tuple(event for event in push.events if event.seq != seq)
            self.pushes[place] = self.cell(Push(left))
        elif push.acked < len(push.events) and push.events[push.acked].seq == seq:
            push = replace(push, acked=push.acked + 1)
            if not self.model.keeps_history:
                push = Push(push.events[push.acked :])
            self.pushes[place] = self.cell(push)

    def make_consumer(self, node: str) -> None:
        """It was removed, and is made anew from the sequence of the NodeJoined (docs/protocol.md rule 10)."""
        place = self.model.config.names.index(node)
        push: Push = self.pushes[place].value
        joined = self.guarded(("joined", node))
        self.pushes[place] = self.cell(Push(tuple(event for event in push.events if event.seq > joined)))

    def _disown(self, before: Fold, event: NodeRemoved) -> None:
        after: Fold = self.truth.value
        left = {run.run_id: run for run in (*after.runs, *after.ended)}
        gone = {
            (event.incarnation, run.ref)
            for run in before.runs
            if isinstance(run.phase, Active)
            and event.incarnation in [one.incarnation for one in run.phase.placements]
            and left[run.run_id].phase != run.phase
        }
        if gone:
            self.disowned = self.cell(frozenset(self.disowned.value | gone))

    def deliver_letter(self, letter: Letter) -> bool:
        """A late append reaches the server; False where its guard refuses it."""
        if self.guarded(letter.key) != letter.seq:
            return False
        self.store(letter.role, letter.event, letter.node)
        return True


def _heads(heads: Heads, stored: StoredEvent) -> Heads:
    seq, event = stored.seq, stored.event
    match event:
        case Elected():
            return replace(heads, elected=seq)
        case CancelRequested(run_id=run_id):
            return replace(heads, cancelled=tuple(sorted({*heads.cancelled, run_id})))
        case RetryRequested(run_id=run_id):
            return replace(heads, cancelled=tuple(each for each in heads.cancelled if each != run_id))
        case NodeJoined(node=node, incarnation=by):
            return _named(heads, node, joined=seq, joined_by=by)
        case NodeLeft(node=node, incarnation=by, attempts=attempts):
            return _named(heads, node, left=seq, left_by=by, left_empty=not attempts)
        case NodeRemoved(node=node, incarnation=by):
            return _named(heads, node, removed=seq, removed_of=by)
        case RunEvent() if stored.subject.role == Role.AGENT:
            node, kind = stored.subject.node, type(event).__name__
            word = Word(node, event.run_id, kind, getattr(event, "attempt", 0), seq)
            others = (w for w in heads.words if (w.node, w.run_id, w.type) != (node, event.run_id, kind))
            return replace(heads, words=tuple(sorted((*others, word), key=_place)))
        case _:
            return heads


def _place(word: Word) -> tuple[str, str, str]:
    return (word.node, word.run_id, word.type)


def _named(heads: Heads, node: str, **fields: Any) -> Heads:
    names = dict(heads.names)
    names[node] = replace(names.get(node, Name()), **fields)
    return replace(heads, names=tuple(sorted(names.items(), key=lambda item: item[0])))
