"""The words for how runs, attempts and nodes stand.

Owns the enums that both ends of the wire share; knows no transition between them.
"""

from __future__ import annotations

import logging
from typing import Any

from trainshed_client._compat import StrEnum

_log = logging.getLogger("trainshed.statuses")

MOST_WARNINGS = 1_000
_warned: set[tuple[str, str]] = set()
"""Names that were met and are not known: one warning each."""


class OpenEnum(StrEnum):
    """An enum to which a newer release may add: a name that is not known here is read as UNSPECIFIED, with a warning."""

    @classmethod
    def _missing_(cls, value: object) -> Any:
        met = (cls.__name__, f"{value!r:.60}")
        if met not in _warned and len(_warned) < MOST_WARNINGS:
            _warned.add(met)
            _log.warning(
                "%s %s is not known to this release, and read as UNSPECIFIED: update the client", *met
            )
        return cls["UNSPECIFIED"]


class RunStatus(OpenEnum):
    """Status of a run and of an attempt (an attempt is never PENDING)."""

    PENDING = "PENDING"
    DISPATCHING = "DISPATCHING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    UNSPECIFIED = "UNSPECIFIED"

    @property
    def ended(self) -> bool:
        """True for the terminal statuses, which only a retry leaves."""
        return self in ENDED


LIVE = (RunStatus.PENDING, RunStatus.DISPATCHING, RunStatus.RUNNING)
PLACED = (RunStatus.DISPATCHING, RunStatus.RUNNING)
"""What is granted a place on a node."""
ENDED = (RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED)


class FailureReason(OpenEnum):
    """Why an attempt or a run did not complete."""

    EXIT_CODE = "exit_code"
    SIGNAL = "signal"
    WORKER_TIMEOUT = "worker_timeout"
    TIME_LIMIT = "time_limit"
    OUT_OF_MEMORY = "out_of_memory"
    SPAWN_ERROR = "spawn_error"
    SHIM_LOST = "shim_lost"
    NODE_LOST = "node_lost"
    NODE_RECLAIMED = "node_reclaimed"
    DEPENDENCY_FAILED = "dependency_failed"
    NOT_STARTED = "not_started"
    UNSPECIFIED = "UNSPECIFIED"


class AtFault(OpenEnum):
    """Whose trouble kept a worker from starting: the node's (storage, descriptors, shim) or the run's own (program, folder)."""

    NODE = "node"
    RUN = "run"
    UNSPECIFIED = "UNSPECIFIED"


class NodeStatus(OpenEnum):
    """Status of a node; only an ``up`` and not drained one is granted runs."""

    UP = "up"
    LOST = "lost"
    LEFT = "left"
    REMOVED = "removed"
    UNSPECIFIED = "UNSPECIFIED"


GONE = (NodeStatus.LEFT, NodeStatus.REMOVED)
"""What is granted nothing until it joins again."""


class CodeSeen(OpenEnum):
    """What a node saw of a run's code beside its worker's start: as submitted, another, or not all of it."""

    SAME = "same"
    CHANGED = "changed"
    UNKNOWN = "unknown"
    UNSPECIFIED = "UNSPECIFIED"


class WaitReason(OpenEnum):
    """Why a PENDING run is not running, in the order in which it is looked for."""

    CANCEL = "cancel"
    DEPENDENCY = "dependency"
    BACKOFF = "backoff"
    NO_NODE = "no_node"
    TOO_LARGE = "too_large"
    GPUS = "gpus"
    CPUS = "cpus"
    MEMORY = "memory"
    SUSPECT = "suspect"
    RESERVATION = "reservation"
    TURN = "turn"
    UNSPECIFIED = "UNSPECIFIED"
