"""What the log says is going on: the live runs, the nodes, and who holds which slot.

Owns the values and the one index over them (State, which only evolve changes); knows no event, clock or scheduler.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TypeVar

import msgspec

from events import rules
from events.config import Needs, RetryPolicy
from events.types import AttemptRef, Device
from trainshed_client.statuses import FailureReason, NodeStatus, RunStatus


class Pending(msgspec.Struct, frozen=True, kw_only=True, tag="pending"):
    """Queued: ``attempt`` is the next one, not before ``not_before_ns`` (ns since 1970, stream time).

    ``waiting_for`` are the runs of ``after`` that have not completed; ``failed_dependency`` is one that never will.
    """

    attempt: int
    not_before_ns: int = 0
    waiting_for: frozenset[str] = frozenset()
    failed_dependency: str | None = None


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """What an attempt holds of one node, and whether it was told to stop there.

    ``uuids`` are the devices that the slots were when it was granted: it holds them even if an inventory that comes
    later numbers them otherwise. ``shared`` are those of which it was not granted all slots: others may hold the rest.
    """

    node: str
    incarnation: str
    slots: tuple[int, ...]
    cpus: int
    memory_mb: int
    uuids: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    stopping: bool = False


class Active(msgspec.Struct, frozen=True, kw_only=True, tag="active"):
    """Granted and not ended: this attempt holds its placements, one today, on a node each.

    ``since_ns``: when its Dispatched was stored, once ``started`` its Started.
    """

    attempt: int
    placements: tuple[Placement, ...]
    dispatched_seq: int
    started: bool = False
    since_ns: int = 0

    def on(self, node: str) -> Placement | None:
        """Its placement on this node; None where it has none there."""
        for placement in self.placements:
            if placement.node == node:
                return placement
        return None

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes that it is on."""
        return tuple(placement.node for placement in self.placements)

    def shares(self, uuid: str, node: str, slots: Collection[int]) -> bool:
        """Whether it leaves others the rest of a device that is these slots of the node: all that it has of it is some
        of them, and it was granted them as a share."""
        return all(
            uuid in placement.shared and placement.node == node and not set(slots).isdisjoint(placement.slots)
            for placement in self.placements
            if uuid in placement.uuids
        )

    def with_placement(self, changed: Placement) -> Active:
        """The same with another value of its placement on that node."""
        placements = tuple(changed if one.node == changed.node else one for one in self.placements)
        return msgspec.structs.replace(self, placements=placements)


class Ended(msgspec.Struct, frozen=True, kw_only=True, tag="ended"):
    """Over, with ``attempt`` as the last one; only a RetryRequested that names it leaves this."""

    attempt: int
    status: RunStatus
    reason: FailureReason | None = None


Phase = Pending | Active | Ended


LOCAL = "local"
"""Who submits where no account vouches for anybody."""
BY_RUN = "run"
"""``run/<run id>`` submits what the worker of that run does."""


class RunProgress(msgspec.Struct, frozen=True, omit_defaults=True):
    """All of a run that its config does not decide: what the read model keeps of it beside the config.

    ``tries`` counts the attempts that count against ``retry.max_attempts``, ``unstarted`` those in a row that ended
    ``not_started``. ``tried`` are the nodes where no worker of it could be started, by name, since the last RetryRequested.
    ``caller_path`` is its Submitted's; ``code_folder`` is where its node finds its code ("": not known), less what
    ``code_ignore`` matches. ``submitter``: who submitted it, or the run whose worker did.
    """

    phase: Phase
    tries: int = 0
    unstarted: int = 0
    tried: tuple[str, ...] = ()
    cancel_requested: bool = False
    caller_path: str | None = None
    code_folder: str = ""
    code_ignore: tuple[str, ...] = ()
    submitter: str = LOCAL


class Run(RunProgress, frozen=True, kw_only=True):
    """One accepted run config and where it stands.

    ``config`` is the normalised config as stored; the fields after it are what decisions need of it. They have no
    defaults: whoever adds one makes it of the config (``run_machine.run_of_config``), or it belongs to RunProgress.
    """

    run_id: str
    submit_seq: int
    config: bytes
    name: str
    priority: int
    needs: Needs
    retry: RetryPolicy
    after: tuple[str, ...]
    max_duration_s: float | None
    grace_s: float

    @property
    def status(self) -> RunStatus:
        """The run's status as users see it."""
        match self.phase:
            case Pending():
                return RunStatus.PENDING
            case Active(started=started):
                return RunStatus.RUNNING if started else RunStatus.DISPATCHING
            case Ended(status=status):
                return status

    @property
    def attempt(self) -> int:
        """The present attempt, the last one, or of a queued run the next."""
        return self.phase.attempt

    @property
    def ref(self) -> AttemptRef:
        """This run's ``attempt`` as a reference."""
        return AttemptRef(self.run_id, self.phase.attempt)


class Session(msgspec.Struct, frozen=True):
    """An incarnation's last list of what it has: by it the dispatcher may end what its agent will not append.

    ``left_upto``: nothing that was granted above it was ever taken; None while the session lasts.
    """

    incarnation: str
    joined_seq: int
    listed: frozenset[AttemptRef]
    left_upto: int | None


SUSPECT_AFTER = 3


class FailedStart(msgspec.Struct, frozen=True):
    """A run that a node could not start by its own fault, when the end that says so was stored (ns since 1970), and why.

    ``probes``: how many up to this one were granted once the node was suspect, and after the failed start before.
    """

    run_id: str
    at_ns: int
    why: str
    probes: int = 0


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A node as its agent's words and the dispatcher's verdicts have it.

    ``joined_seq`` is the sequence of its last NodeJoined and ``listed`` the attempts that this named; of these
    ``to_stop`` were ended in the log before and await a Stopping. ``left_upto`` stands from NodeLeft to the next join;
    ``earlier`` are the last sessions of the incarnations that had the name before, newest last. ``failed_starts``: the
    last ones of different runs since a worker was started there, newest last, SUSPECT_AFTER at most.
    """

    name: str
    host: str
    incarnation: str
    status: NodeStatus
    joined_seq: int
    joined_ns: int
    seq: int
    cpus: int
    memory_mb: int
    gpus: tuple[Device, ...] = ()
    drained: bool = False
    borrowed: bool = False
    listed: frozenset[AttemptRef] = frozenset()
    to_stop: frozenset[AttemptRef] = frozenset()
    left_upto: int | None = None
    left_attempts: int = 0
    earlier: tuple[Session, ...] = ()
    unhealthy: frozenset[int] = frozenset()
    memory_enforced: bool | None = None
    failed_starts: tuple[FailedStart, ...] = ()

    @property
    def session(self) -> Session:
        """The present incarnation's."""
        return Session(self.incarnation, self.joined_seq, self.listed, self.left_upto)

    def session_of(self, incarnation: str) -> Session | None:
        """The last one of an incarnation; None where it never had the name, or long ago."""
        if incarnation == self.incarnation:
            return self.session
        return next((one for one in self.earlier if one.incarnation == incarnation), None)

    @property
    def is_there(self) -> bool:
        """It has joined, and neither left nor been removed; silence makes it no less so."""
        return self.status in (NodeStatus.UP, NodeStatus.LOST)

    @property
    def takes_work(self) -> bool:
        """True where a grant may be made: it guides decisions and never makes a Dispatched not count."""
        return self.status is NodeStatus.UP and not self.drained

    @property
    def suspect(self) -> bool:
        """It could start none of the last SUSPECT_AFTER runs: the scheduler grants it single ones, to see."""
        return len(self.failed_starts) == SUSPECT_AFTER


class Usage(msgspec.Struct):
    """What the attempts of one node hold; part of the index, changed in place.

    A slot has one holder in every log that keeps invariant I2; the index is defined for the others too.
    """

    slots: dict[int, set[AttemptRef]]
    attempts: set[AttemptRef]
    cpus: int = 0
    memory_mb: int = 0


class State:
    """The fold's one index. Read it freely; only ``evolve`` and its machines of runs and nodes change it.

    Ended runs are not in it, so its size goes with what is live and not with history.
    """

    __slots__ = ("epoch", "epoch_of", "held_uuids", "nodes", "rules", "runs", "seq", "usage", "waiting")

    def __init__(self) -> None:
        self.seq = 0
        self.epoch = 0
        self.epoch_of = ""
        self.rules = rules.FIRST
        self.runs: dict[str, Run] = {}
        self.nodes: dict[str, Node] = {}
        self.usage: dict[str, Usage] = {}
        self.held_uuids: dict[str, set[AttemptRef]] = {}
        self.waiting: dict[str, set[str]] = {}

    def usage_of(self, node: str) -> Usage:
        """What is held of a node (nothing where nothing ever was)."""
        return self.usage.get(node) or Usage({}, set())

    def attempts_of(self, node: str) -> Iterator[tuple[Run, Active, Placement]]:
        """The live attempts of a node, with their runs and what they hold there."""
        for ref in self.usage_of(node).attempts:
            run = self.runs[ref.run_id]
            if isinstance(run.phase, Active) and (placement := run.phase.on(node)) is not None:
                yield run, run.phase, placement

    def copy(self) -> State:
        """Another one with the same in it, which does not change with this one."""
        other = State()
        other.seq, other.epoch, other.epoch_of, other.rules = self.seq, self.epoch, self.epoch_of, self.rules
        other.runs, other.nodes = self.runs.copy(), self.nodes.copy()
        other.usage = {
            node: Usage(_sets_of(held.slots), held.attempts.copy(), held.cpus, held.memory_mb)
            for node, held in self.usage.items()
        }
        other.held_uuids, other.waiting = _sets_of(self.held_uuids), _sets_of(self.waiting)
        return other

    # --- for evolve alone ---------------------------------------------------------------------------------

    def put_run(self, run: Run) -> None:
        """Keep a live run's new value, with what follows from its phase; an ended run leaves the index."""
        before = self.runs.get(run.run_id)
        if before is not None:
            if _held_alike(before.phase, run.phase):
                self.runs[run.run_id] = run
                return
            self._forget(before)
        if isinstance(run.phase, Ended):
            self.runs.pop(run.run_id, None)
            return
        self.runs[run.run_id] = run
        self._index(run)

    def put_node(self, node: Node) -> None:
        """Keep a node's new value."""
        self.nodes[node.name] = node

    def drop_node(self, name: str) -> None:
        """Forget a node."""
        del self.nodes[name]

    def _index(self, run: Run) -> None:
        match run.phase:
            case Active(placements=placements):
                ref = run.ref
                for placement in placements:
                    usage = self.usage.get(placement.node)
                    if usage is None:
                        usage = self.usage[placement.node] = Usage({}, set())
                    usage.attempts.add(ref)
                    usage.cpus += placement.cpus
                    usage.memory_mb += placement.memory_mb
                    for index in placement.slots:
                        usage.slots.setdefault(index, set()).add(ref)
                    for uuid in placement.uuids:
                        self.held_uuids.setdefault(uuid, set()).add(ref)
            case Pending(waiting_for=waiting_for):
                for dependency in waiting_for:
                    self.waiting.setdefault(dependency, set()).add(run.run_id)
            case Ended():
                pass

    def _forget(self, run: Run) -> None:
        match run.phase:
            case Active(placements=placements):
                ref = run.ref
                for placement in placements:
                    usage = self.usage[placement.node]
                    usage.attempts.discard(ref)
                    usage.cpus -= placement.cpus
                    usage.memory_mb -= placement.memory_mb
                    for index in placement.slots:
                        _discard(usage.slots, index, ref)
                    for uuid in placement.uuids:
                        _discard(self.held_uuids, uuid, ref)
                    if not usage.attempts:
                        del self.usage[placement.node]
            case Pending(waiting_for=waiting_for):
                for dependency in waiting_for:
                    _discard(self.waiting, dependency, run.run_id)
            case Ended():
                pass


def _held_alike(before: Phase, after: Phase) -> bool:
    """Whether the index is the same by both, as where an attempt has started."""
    match before, after:
        case Active(placements=held), Active(placements=holds):
            return held is holds and before.attempt == after.attempt
        case _:
            return False


K = TypeVar("K")
V = TypeVar("V")


def _sets_of(index: dict[K, set[V]]) -> dict[K, set[V]]:
    return {key: values.copy() for key, values in index.items()}


def _discard(index: dict[K, set[V]], key: K, value: V) -> None:
    """Take a value from a key's set, and the key with its last one."""
    values = index.get(key)
    if values is not None:
        values.discard(value)
        if not values:
            del index[key]


SNAPSHOT_VERSION = 9


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A State as one value, to be kept beside its position."""

    v: int = SNAPSHOT_VERSION
    seq: int
    epoch: int
    epoch_of: str
    rules: int
    runs: tuple[Run, ...]
    nodes: tuple[Node, ...]


def snapshot(state: State) -> Snapshot:
    """``state`` as a value."""
    return Snapshot(
        seq=state.seq,
        epoch=state.epoch,
        epoch_of=state.epoch_of,
        rules=state.rules,
        runs=tuple(state.runs.values()),
        nodes=tuple(state.nodes.values()),
    )


def restore(kept: Snapshot) -> State:
    """The State that a snapshot was taken of."""
    state = State()
    state.seq, state.epoch, state.epoch_of, state.rules = kept.seq, kept.epoch, kept.epoch_of, kept.rules
    state.nodes = {node.name: node for node in kept.nodes}
    for run in kept.runs:
        state.put_run(run)
    return state


NO_HISTORY: Mapping[str, Run] = {}
"""What evolve is given where no ended run is asked for."""
