"""Named failpoints: steps at which a test has a process of its own die, stop or be slow. Off unless the environment says so.

Owns what happens at a point that is armed; must not know what is there. The standard library alone: the shim has them too.
"""

from __future__ import annotations

import os
import signal

ARMED = "TRAINSHED_FAILPOINTS"
"""``name=kill@3,other=stop``: at the third hit of ``name`` in one process SIGKILL to itself, at the first of ``other``
SIGSTOP; ``third=slow@500``: each pass of ``third`` takes 500 ms more. No setting of Trainshed's: a process that finds it says that it knows no such setting, and obeys."""
ONCE_IN = "TRAINSHED_FAILPOINTS_ONCE_IN"
"""A folder where a point that strikes leaves a file of its name first; one whose file is there does not strike."""
_ACTIONS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
_SLOW = "slow"


def failpoint(name: str) -> None:
    """A step between an append and its effect, or an effect and its append. Costs a look at an empty dict when off."""
    if _armed and name in _armed:
        _strike(name)


def delay(name: str) -> float:
    """Seconds that a pass of this point is to take longer: for whoever passes it to wait them out, on a loop or not."""
    number, milliseconds = _armed.get(name, (None, 0))
    return milliseconds / 1000 if number is None else 0.0


def parse(text: str) -> dict[str, tuple[signal.Signals | None, int]]:
    """What is armed: the signal and the hit at which it comes; without a signal the milliseconds of a delay.

    Raises ValueError with what is accepted.
    """
    armed: dict[str, tuple[signal.Signals | None, int]] = {}
    for part in filter(None, text.split(",")):
        name, equals, action = part.strip().partition("=")
        kind, at, hit = action.partition("@")
        known = kind in _ACTIONS or (kind == _SLOW and at)
        if not (name and equals and known and (hit.isdecimal() or not at)):
            raise ValueError(
                f"{ARMED}: {part!r}; accepted: NAME=kill, NAME=stop, NAME=kill@HIT, NAME=slow@MILLISECONDS, with commas"
            )
        armed[name] = (_ACTIONS.get(kind), int(hit or 1))
    return armed


def _strike(name: str) -> None:
    number, hit = _armed[name]
    _hits[name] = _hits.get(name, 0) + 1
    if number is not None and _hits[name] == hit and _first(name):
        os.kill(os.getpid(), number)


def _first(name: str) -> bool:
    """Whether no process has been struck at this point before, where only the first shall be."""
    folder = os.environ.get(ONCE_IN)
    if not folder:
        return True
    try:
        os.close(os.open(f"{folder}/{name}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except OSError:
        return False
    return True


_armed = parse(os.environ.get(ARMED, ""))
_hits: dict[str, int] = {}
