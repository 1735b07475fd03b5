"""The values of a witness: what it keeps, what it is given, and what it wants done.

Owns their fields; decides nothing and does nothing.
"""

from __future__ import annotations

import enum

import msgspec

from events.types import NodeCosignature, NodeObjection
from projections.transparency.checkpoint import TreeHead
from services.agent.reports.own_reports import StrangeEvent


class ObjectionKind(enum.StrEnum):
    """What a witness has against the log."""

    ROLLED_BACK = "rolled_back"
    """A checkpoint is smaller than the kept one: events are gone."""
    FORKED = "forked"
    """Of the kept one's size, with another root: there are two logs."""
    NOT_EXTENDED = "not_extended"
    """Larger, and does not begin with the kept one: events in it were altered."""
    OWN_EVENTS = "own_words"
    """An event that the log acknowledged to this node is not in it."""
    OTHER_KEY = "other_key"
    """One of these three, and signed with a key that never signed what this witness took."""
    OTHER_LOG = "other_log"
    """It is of another log."""
    NOT_APPENDED = "not_said"
    """An event that this node did not say is in it, in this node's name."""


class LogAcceptance(msgspec.Struct, frozen=True):
    """A LogAccepted as a published checkpoint bears it: an event as it is stored."""

    seq: int
    stored_ns: int
    subject: str
    body: bytes


class SeenCheckpoint(msgspec.Struct, frozen=True):
    """A published checkpoint, which the key that is named beside it has signed; ``note``: the whole of it."""

    head: TreeHead
    note: str
    vkey: str
    accepted: LogAcceptance | None = None


class KeptCheckpoint(msgspec.Struct, frozen=True):
    """The checkpoint that a witness holds to; ``note``: with its signatures, the witness's own among them."""

    size: int
    root: bytes
    note: str


class Trust(msgspec.Struct, frozen=True, kw_only=True):
    """What a witness keeps for good.

    ``origin``: the name of the log's tree. ``vkeys``: keys that signed what it took, the last one last. ``first``: the sequence of the first leaf, once it is known.
    ``newest_ns``: when the newest event was stored that it knows to be in the tree: only a later LogAccepted ends an objection.
    ``accepted_ns``: when the LogAccepted was stored by which it last began anew: what was stored before is accepted.
    ``hourly_at``: when one of those of every hour was kept (s since 1970).
    """

    v: int = 1
    origin: str
    kept: KeptCheckpoint | None = None
    vkeys: tuple[str, ...] = ()
    first: int | None = None
    newest_ns: int = 0
    accepted_ns: int = 0
    cosignature: NodeCosignature | None = None
    objection: NodeObjection | None = None
    hourly_at: int = 0


class OwnEvent(msgspec.Struct, frozen=True):
    """An event of this node's that the log acknowledged, as it was stored; ``leaf``: the hash of its leaf."""

    seq: int
    stored_ns: int
    subject: str
    leaf: bytes


class Stage(enum.Enum):
    """What is asked of the checkpoint that is looked at."""

    CONSISTENCY = enum.auto()
    OWN_EVENTS = enum.auto()
    ACCEPTANCE = enum.auto()


class WitnessState(msgspec.Struct, frozen=True, kw_only=True):
    """``looking``: the checkpoint that is being looked at; ``tries``: how often an answer about it proved nothing."""

    trust: Trust
    looking: SeenCheckpoint | None = None
    stage: Stage = Stage.CONSISTENCY
    tries: int = 0
    proven: Trust | None = None
    """What the own events showed so far; taken with the checkpoint."""


# --- what is given --------------------------------------------------------------------------------------


class Published(msgspec.Struct, frozen=True):
    """A checkpoint came in."""

    seen: SeenCheckpoint
    time: str


class Again(msgspec.Struct, frozen=True):
    """Nobody answered before: it is time to ask again."""


class Consistency(msgspec.Struct, frozen=True):
    """What ``audit.consistency`` answers."""

    first: int = msgspec.field(name="from")
    second: int = msgspec.field(name="to")
    first_root: bytes = msgspec.field(name="from_root")
    proof: tuple[bytes, ...]


class Inclusion(msgspec.Struct, frozen=True):
    """What ``audit.inclusion`` answers."""

    event: int
    index: int
    size: int
    leaf: bytes
    proof: tuple[bytes, ...]


class OwnEventsFound(msgspec.Struct, frozen=True):
    """What became of the own events: ``missing`` says of one, for people, how the tree lacks it. ``first``, ``newest_ns``: as
    in Trust, of those that are in it."""

    missing: str | None = None
    first: int | None = None
    newest_ns: int = 0


class Answered(msgspec.Struct, frozen=True):
    """The answer to what was asked last; None: there was none, and nothing is known."""

    answer: Consistency | Inclusion | OwnEventsFound | None
    time: str


class NotAppended(msgspec.Struct, frozen=True):
    """The log has an event in this node's name that this node did not say."""

    event: StrangeEvent
    time: str


Input = Published | Again | Answered | NotAppended


# --- what is wanted ------------------------------------------------------------------------------------


class AskConsistency(msgspec.Struct, frozen=True):
    """Ask whether the tree of ``second`` leaves begins with that of ``first``; after a pause where an answer proved nothing."""

    first: int
    second: int
    pause: bool = False


class AskOwnEvents(msgspec.Struct, frozen=True):
    """Ask after the own events in this tree, the first of whose leaves has sequence ``first``, if that is known."""

    head: TreeHead
    first: int | None


class AskAcceptance(msgspec.Struct, frozen=True):
    """Ask whether that event is in the tree of ``size`` leaves."""

    event: int
    size: int


class Keep(msgspec.Struct, frozen=True):
    """Cosign and keep what was taken, and say so once it is kept. ``new_key``: another than before signed it."""

    seen: SeenCheckpoint
    new_key: bool = False


class Object(msgspec.Struct, frozen=True):
    """Say what there is against the log, and keep it with the state's trust; ``seen``: the checkpoint, where it is one that is
    objected to."""

    objection: NodeObjection
    seen: SeenCheckpoint | None


class BeginAnew(msgspec.Struct, frozen=True):
    """An operator accepted the log as it is: note what was objected to (``before``), then cosign and keep the new
    beginning."""

    seen: SeenCheckpoint
    acceptance: LogAcceptance
    before: Trust


Wanted = AskConsistency | AskOwnEvents | AskAcceptance | Keep | Object | BeginAnew
