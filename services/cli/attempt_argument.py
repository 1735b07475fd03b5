"""`--attempt N` of a run, for what lies on the node where that attempt ran.

Owns which attempt is meant and the errors where there is none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from services.cli.number import Number
from services.cli.text import short
from trainshed_client.errors import ErrorCode, TrainshedError

if TYPE_CHECKING:
    from trainshed_client.answers import RunView
    from trainshed_client.records import AttemptRecord

F = TypeVar("F", bound=Callable[..., Any])


def attempt_option(function: F) -> F:
    """``--attempt N``."""
    return click.option("--attempt", type=Number(least=1), metavar="N", help="Which attempt (the latest).")(
        function
    )


def chosen_attempt(view: RunView, number: int | None) -> AttemptRecord:
    """The attempt that is meant. Raises NOT_FOUND where the run has none of that number, or none yet."""
    granted = {one.attempt: one for one in view.attempts}
    chosen = granted.get(number if number is not None else max(granted, default=0))
    if chosen is not None:
        return chosen
    run = short(view.run.run_id)
    if number is not None and granted:
        text = f"run {run} has no attempt {number}, only {len(granted)}; see: trainshed show {run}"
    elif view.run.status.ended:
        text = f"run {run} never started, and left nothing; why: trainshed explain {run}"
    else:
        text = f"run {run} has not started, and has no folder yet; why: trainshed explain {run}"
    raise TrainshedError(ErrorCode.NOT_FOUND, text)
