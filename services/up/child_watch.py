"""What `up` makes of its children: when one that ended is not started again, and when one that is silent is ended.

Owns these two rules, both pure; knows neither the process nor the line to it.
"""

from __future__ import annotations

import enum

from services.up.child_link import Refusal
from trainshed_client.errors import ErrorCode, TrainshedError

STARTS = 3
"""So often a projector that ends before it ever served is started, before `up` ends too."""
LONG_LIFE_S = 30.0
"""One that lived longer had no trouble with its start."""
LOOK_EVERY_S = 2.0
ANSWER_WITHIN_S = 2.5
HUNG_LOOKS = 3
"""Looks in a row, 13 s, without an answer: counted and not timed, for it may have been us, or the machine, who stood still."""
FIRST_LOOKS = 20
"""The same before its first sign of life: the interpreter loads its modules from a cold disk."""


def why_given_up(
    name: str,
    refusal: Refusal | None,
    exit_code: int,
    failures: int,
    *,
    has_served: bool,
) -> TrainshedError | None:
    """Why `up` ends because its child of that name did; None: it is started again.

    Where one has served, it never ends what runs. Before that what no new start can mend ends it at once, and
    everything else when it has come ``failures`` times in a row (STARTS).
    """
    if has_served:
        return None
    if refusal is not None and refusal.code is not ErrorCode.UNAVAILABLE:
        return TrainshedError(refusal.code, refusal.message)
    if failures < STARTS:
        return None
    if refusal is not None:
        return TrainshedError(refusal.code, refusal.message)
    how = f"by signal {-exit_code}" if exit_code < 0 else f"with exit code {exit_code}"
    return TrainshedError(
        ErrorCode.UNAVAILABLE,
        f"the {name} ended {how} before it served, {failures} times; what it wrote before that stands above. "
        f"Try it alone: trainshed {name}",
    )


class ChildAct(enum.Enum):
    """What is due after a look at a projector."""

    NOTHING = "nothing"
    LOG_SILENT = "log_silent"
    LOG_WELL = "log_well"
    END_HUNG = "end_hung"


def after_child_look(silent: int, *, answered: bool, begun: bool) -> tuple[int, ChildAct]:
    """What a look means; ``silent``: the looks before it, in a row, that had no answer, and what to give the next.

    ``begun``: there was a sign of life at some time. One that rebuilds answers as ever: its work is not on the loop
    that answers.
    """
    if answered:
        return 0, ChildAct.LOG_WELL if silent else ChildAct.NOTHING
    silent += 1
    if silent == (HUNG_LOOKS if begun else FIRST_LOOKS):
        return silent, ChildAct.END_HUNG
    return silent, ChildAct.LOG_SILENT if begun and silent == 1 else ChildAct.NOTHING
