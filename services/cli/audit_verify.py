"""`trainshed audit verify`: is the read model what the log says, and does the log keep the invariants?

Owns what is printed and the exit code; replay and comparison are projections.audit.verify's.
"""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from services.cli.common import (
    connected,
    exit_with,
    json_option,
    log_errors,
    nats_option,
    note,
    print_json,
    run_async,
)
from services.cli.verb import verb
from trainshed_client.errors import ExitCode
from trainshed_client.os_errors import why

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from projections.audit.acknowledged import SubmitAnswer
    from projections.audit.verify import Verdict


@verb("trainshed audit verify", "trainshed audit verify --acks answers.jsonl")
@click.option(
    "--acks",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="What `submit --json` printed, a line an answer: is each one in the log?",
)
@json_option
@nats_option
def verify(as_json: bool, acks: Path | None) -> None:
    """Replay the whole log here and compare with the stack's own tables, row for row and by state hash.

    Exit code 1 where they differ or an invariant does not hold.
    """
    verdict = run_async(_verify(_answers(acks) if acks is not None else []))
    if as_json:
        print_json(
            {
                "v": 1,
                "ok": verdict.ok,
                "seq": verdict.seq,
                "events": verdict.events,
                "state_hash": verdict.state_hash,
                "violations": verdict.violations,
            }
        )
    else:
        _print(verdict)
    exit_with(ExitCode.OK if verdict.ok else ExitCode.VIOLATION)


def _answers(path: Path) -> list[SubmitAnswer]:
    from projections.audit.acknowledged import read_acks

    try:
        return read_acks(path.read_bytes().splitlines(), str(path))
    except OSError as error:
        raise click.BadParameter(f"{path}: {why(error)}", param_hint="--acks") from None


async def _verify(acks: list[SubmitAnswer]) -> Verdict:
    from events.log import EventLog
    from projections.audit.verify import rows_from
    from projections.audit.verify import verify as replay_and_compare

    async with connected() as trainshed:
        with log_errors(trainshed):
            # Closed before the connection is, whatever happens to the replay.
            async with aclosing(cast("AsyncGenerator[bytes, None]", rows_from(trainshed.nc))) as rows:
                return await replay_and_compare(EventLog(trainshed.nc), rows, acks)


def _print(verdict: Verdict) -> None:
    replayed = f"replayed {verdict.events:,} events"
    if verdict.ok:
        click.echo(f"{replayed}: the tables are the same (state hash {verdict.state_hash[:12]}…)")
        return
    count = len(verdict.violations)
    click.echo(f"{replayed}, up to {verdict.seq}: {count} violation{'' if count == 1 else 's'}")
    for violation in verdict.violations:
        click.echo(f"  {violation.invariant} at {violation.seq}: {violation.message}")
    if any(violation.invariant == "I6" for violation in verdict.violations):
        note("the log lacks what was acknowledged: keep it and its server's files as they are, and tell us")
    else:
        note("the log is as it was; keep it, and tell us: the tables or the code that made them are wrong")
