"""`--attempt N` of a run, for what lies on the node where that attempt ran.

Owns the option; which attempt it means is the client's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from services.cli.number import Number
from trainshed_client.run_files import chosen_attempt

__all__ = ["attempt_option", "chosen_attempt"]

F = TypeVar("F", bound=Callable[..., Any])


def attempt_option(function: F) -> F:
    """``--attempt N``."""
    return click.option("--attempt", type=Number(least=1), metavar="N", help="Which attempt (the latest).")(
        function
    )
