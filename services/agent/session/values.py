"""What the agent's session knows, what may happen to it, and what it has done about it: frozen values.

Owns SessionState, the inputs and the actions of `machine.step`; decides nothing.
"""

from __future__ import annotations

import enum
from typing import Literal

import msgspec

from events.types import AttemptRef
from services.agent.folders.files import StopReason

FinaliseReason = Literal["not_started", "shim_lost"]


class SessionPhase(enum.Enum):
    """Where the session is."""

    READING = "reading"  # the name's last join, leave and removal are being read
    CLEARING = "clearing"  # every worker is being ended first: the log gave this incarnation up
    SWEEPING = "sweeping"  # processes of no listed attempt are being ended
    JOINING = "joining"  # NodeJoined is on its way
    JOINED = "joined"  # takes and launches
    LEAVING = "leaving"  # NodeLeft is on its way: takes and launches nothing any more
    RECLAIMING = "reclaiming"  # every worker is being ended, and the ends are being appended
    LEAVING_EMPTY = "leaving_empty"  # the second NodeLeft, without attempts, is on its way
    GONE = "gone"


class AttemptPlace(enum.Enum):
    """Where an attempt is whose end was not acknowledged yet."""

    WAITING = (
        "waiting"  # written down; its folder is not made, or its slot or its run's older attempt not gone
    )
    UP = "up"  # handed to a shim: its tree may live
    CLOSING = "closing"  # no shim answers for it: being finalised
    OVER = "over"  # its tree is gone and exit.json stands: the end is to be appended


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt on this node. ``seq`` is its Dispatched's sequence, 0 where that was never seen."""

    ref: AttemptRef
    seq: int
    slots: tuple[int, ...]
    place: AttemptPlace
    prepared: bool = False
    """The run's folder is made, or cannot be: a launch waits for storage to answer, nothing else does."""
    stop: StopReason | None = None
    started: bool = False
    started_appended: bool = False
    end_appended: bool = False


class Name(msgspec.Struct, frozen=True, kw_only=True):
    """The last events of this node's name: sequence (0: none) and incarnation of each (docs/protocol.md rule 11)."""

    joined: int = 0
    joined_by: str | None = None
    left: int = 0
    left_by: str | None = None
    left_empty: bool = False
    removed: int = 0
    removed_of: str | None = None


class SessionState(msgspec.Struct, frozen=True, kw_only=True):
    """All that decides what the agent does next.

    ``joined`` is the sequence of its own last NodeJoined (0: none in this process), ``upto`` the last decision that
    it wrote down. ``reclaim``: it leaves with its workers ended; ``left_some``: its NodeLeft lists attempts. ``refused``: the
    attempts whose grant could not be written down; nothing on disk says that these have ended.
    """

    incarnation: str
    phase: SessionPhase = SessionPhase.READING
    name: Name = Name()
    joined: int = 0
    upto: int = 0
    reclaim: bool = False
    left_some: bool = False
    attempts: tuple[Attempt, ...] = ()
    refused: frozenset[AttemptRef] = frozenset()


# --- inputs: what happened ---------------------------------------------------------------------------------


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt that the state folder holds when the agent starts; ``alive``: a shim answered for it."""

    ref: AttemptRef
    seq: int = 0
    slots: tuple[int, ...] = ()
    alive: bool = False
    ended: bool = False
    started: bool = False
    stop: StopReason | None = None


class Begun(msgspec.Struct, frozen=True):
    """The agent's process starts, with what an earlier one left."""

    found: tuple[Found, ...]


class NameRead(msgspec.Struct, frozen=True):
    """The name's last events are read."""

    name: Name


class Swept(msgspec.Struct, frozen=True):
    """No process of an attempt that is not listed is left."""


class Joined(msgspec.Struct, frozen=True):
    """NodeJoined is stored."""

    seq: int


class JoinRefused(msgspec.Struct, frozen=True):
    """Another NodeJoined of this name was stored meanwhile."""


class OnDisk(msgspec.Struct, frozen=True, kw_only=True):
    """What the attempt's folder holds when a decision on it comes in."""

    started: bool = False
    ended: bool = False


class Granted(msgspec.Struct, frozen=True, kw_only=True):
    """A Dispatched was delivered. ``view``: the sequence up to which its dispatcher knew the log; ``usable``: this node has
    what it names; ``unwritable``: it was tried for long enough to write it down."""

    seq: int
    incarnation: str
    ref: AttemptRef
    slots: tuple[int, ...] = ()
    view: int
    usable: bool = True
    unwritable: bool = False
    disk: OnDisk = OnDisk()


class StopOrdered(msgspec.Struct, frozen=True, kw_only=True):
    """A Stopping was delivered."""

    seq: int
    incarnation: str
    ref: AttemptRef
    reason: StopReason
    disk: OnDisk = OnDisk()


class CountedLost(msgspec.Struct, frozen=True, kw_only=True):
    """A NodeLost was delivered."""

    seq: int
    incarnation: str


class FoldersPrepared(msgspec.Struct, frozen=True):
    """The storage of the run's folder has answered: the folder is made, or cannot be."""

    ref: AttemptRef


class StartedWritten(msgspec.Struct, frozen=True):
    """The attempt's worker has exec'd."""

    ref: AttemptRef


class ShimLost(msgspec.Struct, frozen=True):
    """The shim is gone and left no exit.json, or there never was one (the launch failed)."""

    ref: AttemptRef


class ShimAlive(msgspec.Struct, frozen=True):
    """An attempt that was to be finalised has a live shim after all, watched from now on."""

    ref: AttemptRef


class ExitWritten(msgspec.Struct, frozen=True):
    """No process of the attempt is left and its exit.json stands."""

    ref: AttemptRef


class EndStored(msgspec.Struct, frozen=True):
    """The attempt's end was acknowledged."""

    ref: AttemptRef


class LeaveAsked(msgspec.Struct, frozen=True):
    """The agent is to stop; ``reclaim``: and to end its workers first."""

    reclaim: bool


class LeaveStored(msgspec.Struct, frozen=True):
    """NodeLeft is stored, or can never be (another incarnation has joined)."""


Input = (
    Begun
    | NameRead
    | Swept
    | Joined
    | JoinRefused
    | Granted
    | StopOrdered
    | CountedLost
    | FoldersPrepared
    | StartedWritten
    | ShimLost
    | ShimAlive
    | ExitWritten
    | EndStored
    | LeaveAsked
    | LeaveStored
)


# --- actions: what to do, in this order ----------------------------------------------------------------------


class WriteGrant(msgspec.Struct, frozen=True):
    """Write open marker, folder, lock and intent.json."""

    ref: AttemptRef
    seq: int


class WriteFolder(msgspec.Struct, frozen=True):
    """Write open marker, folder and lock of an attempt that is not to be launched."""

    ref: AttemptRef


class WriteStop(msgspec.Struct, frozen=True):
    """Write stop.json."""

    ref: AttemptRef
    reason: StopReason
    seq: int


class PrepareFolders(msgspec.Struct, frozen=True):
    """Make the run's folder, however long its storage takes; then FoldersPrepared."""

    ref: AttemptRef


class Launch(msgspec.Struct, frozen=True):
    """Hand the folder to a shim."""

    ref: AttemptRef


class WakeShim(msgspec.Struct, frozen=True):
    """Have the shim read stop.json."""

    ref: AttemptRef


class Ack(msgspec.Struct, frozen=True):
    """Acknowledge the delivery of this sequence."""

    seq: int


class Finalise(msgspec.Struct, frozen=True):
    """Take the lock, end what is left of the tree and write exit.json; then ExitWritten or ShimAlive."""

    ref: AttemptRef
    reason: FinaliseReason


class AppendStarted(msgspec.Struct, frozen=True):
    """Append Started."""

    ref: AttemptRef


class AppendEnd(msgspec.Struct, frozen=True):
    """Append the end that exit.json says, after what was appended of the run before; then EndStored."""

    ref: AttemptRef


class Forget(msgspec.Struct, frozen=True):
    """Remove the open marker."""

    ref: AttemptRef


class ReadName(msgspec.Struct, frozen=True):
    """Read the last events of the name; then NameRead."""


class Sweep(msgspec.Struct, frozen=True):
    """End every process of ours that belongs to none of these; then Swept."""

    keep: tuple[AttemptRef, ...]


class AppendJoined(msgspec.Struct, frozen=True):
    """Append NodeJoined, guarded by the name's last join; then Joined or JoinRefused."""

    guard: int
    attempts: tuple[AttemptRef, ...]


class AppendLeft(msgspec.Struct, frozen=True):
    """Append NodeLeft, guarded by the own NodeJoined; then LeaveStored."""

    guard: int
    upto: int
    attempts: tuple[AttemptRef, ...]


class Refuse(msgspec.Struct, frozen=True):
    """Exit: the name belongs to another state folder. Nothing is appended or acknowledged any more."""

    owner: str


class Finish(msgspec.Struct, frozen=True):
    """Exit: all that was to be done is done."""


Action = (
    WriteGrant
    | WriteFolder
    | WriteStop
    | PrepareFolders
    | Launch
    | WakeShim
    | Ack
    | Finalise
    | AppendStarted
    | AppendEnd
    | Forget
    | ReadName
    | Sweep
    | AppendJoined
    | AppendLeft
    | Refuse
    | Finish
)
Step = tuple[SessionState, tuple[Action, ...]]
WRITES = (WriteGrant, WriteFolder, WriteStop)
