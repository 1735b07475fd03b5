"""Which role a call of the API needs, for the sentence that somebody reads whose role has not got it.

Owns that sentence; the server's permissions are what keeps anybody out (a test holds this against them).
"""

from __future__ import annotations

from typing import Optional

import msgspec

from trainshed_client import subjects
from trainshed_client.errors import ErrorCode, TrainshedError

LEAST = "viewer"
"""Whoever gets in has at least this role."""
_RANKS = {LEAST: 0, "submitter": 1, "admin": 2}
_SUBMITS = frozenset({"run.check", "run.submit", "run.submit_batch", "run.cancel", "run.retry"})
_ADMINISTERS = frozenset(
    {"node.drain", "node.resume", "node.remove", "audit.accept", "audit.rebuild", "prune"}
)
_MAY = {LEAST: "reads and changes nothing", "submitter": "submits, and ends his own runs"}


class _Asking(msgspec.Struct, frozen=True):
    """Of the answer to `health` what it says of who asks."""

    person: Optional[str] = None
    role: Optional[str] = None


def needed_role(subject: str) -> str:
    """The least role that may ask there."""
    call = subject[len(subjects.API) + 1 :]
    if call.startswith("node.") and call.count(".") == 2:
        call = call.rpartition(".")[2]
    return "admin" if call in _ADMINISTERS else "submitter" if call in _SUBMITS else LEAST


def lacking(subject: str, health: bytes) -> TrainshedError | None:
    """Why who asks there is not heard, by what `health` answered him: his role; None where it is not that."""
    try:
        asking = msgspec.json.decode(health, type=_Asking)
    except msgspec.MsgspecError:
        return None
    needed = needed_role(subject)
    role = asking.role
    if role is None or _RANKS.get(role, len(_RANKS)) >= _RANKS[needed]:
        return None
    who, call = asking.person or "you", subject[len(subjects.API) + 1 :]
    return TrainshedError(
        ErrorCode.DENIED,
        f"{who} is a {role} here, who {_MAY[role]}; {call} takes the role {needed}. On the control side's machine: trainshed "
        f"user add {who} --role {needed}",
    )
