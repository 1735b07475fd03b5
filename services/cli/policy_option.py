"""`--policy FILE`: whose signatures of a checkpoint count, as C2SP's tlog-policy has it.

Owns the option and the reading of the file; what it asks for is projections.transparency.policy's.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from trainshed_client.os_errors import why

if TYPE_CHECKING:
    from projections.transparency.policy import WitnessPolicy

F = TypeVar("F", bound=Callable[..., Any])


def policy_option(function: F) -> F:
    """The option; `read_policy` takes what it is given."""
    return click.option(
        "--policy",
        metavar="FILE",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Whose signatures of a checkpoint count, as C2SP's tlog-policy has it: log, witness, group and quorum lines.",
    )(function)


def read_policy(path: Path | None) -> WitnessPolicy | None:
    """The policy of a file. Raises what names the option, and the line that is wrong."""
    if path is None:
        return None
    from projections.transparency.policy import OPTION, parse_policy

    try:
        return parse_policy(path.read_bytes(), str(path))
    except OSError as error:
        raise click.BadParameter(f"{path}: {why(error)}", param_hint=OPTION) from None
