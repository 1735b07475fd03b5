"""`trainshed explain`: why a run waits, or why it ended as it did.

Owns how that is laid out; the reasons are the read side's.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click
import msgspec

from services.cli import describe
from services.cli.clock import now
from services.cli.common import connected, json_option, nats_option, print_json, run_async, warn_if_stale
from services.cli.run_argument import RUN
from services.cli.show import facts, timeline
from services.cli.table import Screen, print_lines
from services.cli.text import clean, short
from services.cli.verb import verb
from trainshed_client.answers import Explanation
from trainshed_client.records import QueuedRunRecord
from trainshed_client.statuses import RunStatus


@verb("trainshed explain k3f2q7", "trainshed explain ppo-cartpole --json")
@click.argument("run", metavar="RUN", type=RUN)
@json_option
@nats_option
def explain(run: str, as_json: bool) -> None:
    """Say why a run is waiting, or why it ended, and what happened to it last."""
    body = run_async(_read(run))
    answer = msgspec.json.decode(body, type=Explanation)
    warn_if_stale(answer.stale, answer.seq)
    if as_json:
        print_json(body)
    else:
        print_lines(lines(answer, now(), Screen.of(sys.stdout)))


async def _read(run: str) -> bytes:
    async with connected() as trainshed:
        return await trainshed.explain_json(run)


def lines(answer: Explanation, at: str, screen: Screen) -> list[str]:
    """The whole answer."""
    record = answer.run
    status = screen.styled(str(record.status), describe.style_of(record.status))
    shown = [f"run {short(record.run_id)} ({clean(record.name)}) is {status}"]
    shown += facts(list(_why(record, at)), screen)
    if answer.timeline:
        shown += ["", *timeline(answer.timeline, screen)]
    return shown


def _why(record: QueuedRunRecord, at: str) -> Iterator[tuple[str, str, str | None]]:
    run = short(record.run_id)
    match record.status:
        case RunStatus.PENDING:
            waits_for = record.waits_for
            yield "why", waits_for.text if waits_for else "it was queued a moment ago", None
            yield "waited", describe.waited(record, at), None
            yield "to follow", f"trainshed logs -f {run}", None
            yield "to end", f"trainshed cancel {run}", None
        case RunStatus.COMPLETED:
            yield "why", f"its worker exited with 0 after {describe.ran(record, at)}", None
            yield "output", f"trainshed logs {run}", None
        case RunStatus.FAILED:
            yield "why", describe.last(record), None
            yield "where", describe.where(record), None
            yield "output", f"trainshed logs {run}", None
            yield "again", f"trainshed retry {run}", None
        case RunStatus.CANCELLED:
            text = describe.last(record)
            yield "why", "a cancel was asked for" if text == describe.NOTHING else text, None
            yield "again", f"trainshed retry {run}", None
        case _:
            yield "where", describe.where(record), None
            yield "ran", describe.ran(record, at), None
            yield "last", describe.last(record), None
            yield "to follow", f"trainshed logs -f {run}", None
