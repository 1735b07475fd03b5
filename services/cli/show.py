"""`trainshed show`: everything that is known of one run.

Owns how a run, its attempts and its timeline are laid out for people.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator

import click
import msgspec

from services.cli import describe
from services.cli.clock import now
from services.cli.common import (
    colour_wanted,
    connected,
    json_option,
    nats_option,
    print_json,
    run_async,
    warn_if_stale,
)
from services.cli.table import Cell, Column, print_table, styled
from services.cli.text import clean
from trainshed_client.answers import RunView
from trainshed_client.records import QueuedRunRecord
from trainshed_client.statuses import RunStatus

_LABEL_WIDTH = 10


@click.command()
@click.argument("run", metavar="RUN")
@json_option
@nats_option
def show(run: str, as_json: bool) -> None:
    """Show one run: its state, config, attempts and what happened to it."""
    body = run_async(_read(run))
    view = msgspec.json.decode(body, type=RunView)
    warn_if_stale(view.stale, view.seq)
    if as_json:
        print_json(body)
    else:
        _print(view, now())


async def _read(run: str) -> bytes:
    async with connected() as trainshed:
        return await trainshed.run_json(run)


def _print(view: RunView, at: str) -> None:
    colour = colour_wanted(sys.stdout)
    record = view.run
    for name, text, style in _facts(record, at):
        label = styled(f"{name}:".ljust(_LABEL_WIDTH), "dim", colour=colour)
        print(f"{label} {styled(clean(text), style, colour=colour)}")
    if view.config:
        print(
            styled("config:".ljust(_LABEL_WIDTH), "dim", colour=colour),
            msgspec.json.encode(view.config).decode(),
        )
    if view.attempts:
        print()
        print_table(
            (
                Column("ATTEMPT", right=True),
                Column("STATUS"),
                Column("WHERE"),
                Column("RAN", right=True),
                Column("LAST", shrink=16),
            ),
            [
                [
                    str(one.attempt),
                    Cell(str(one.status), describe.style_of(one.status)),
                    describe.where(one),
                    describe.ran(one, at),
                    clean(_of_attempt(describe.ending(one), describe.told(one), one.late_result)),
                ]
                for one in view.attempts
            ],
        )
    if view.timeline:
        print()
        print_table(
            (Column("SEQ", right=True), Column("TIME"), Column("EVENT"), Column("")),
            [[str(one.seq), one.time, one.type, clean(one.text)] for one in view.timeline],
        )


def _of_attempt(ending: str, told: str, late_result: str | None) -> str:
    words = [word for word in (ending, told) if word]
    if late_result:
        words.append(f"(too late: {late_result})")
    return ", ".join(words) or describe.NOTHING


def _facts(record: QueuedRunRecord, at: str) -> Iterator[tuple[str, str, str | None]]:
    yield "run", record.run_id, "bold"
    yield "name", record.name, None
    yield "status", _status(record), describe.style_of(record.status)
    if record.node:
        yield "where", describe.where(record) + (f" (pid {record.pid})" if record.pid else ""), None
    if record.command:
        yield "command", shlex.join(record.command), None
    needs = [
        f"{record.gpus} GPU{'' if record.gpus == 1 else 's'}",
        f"{record.cpus} CPU{'' if record.cpus == 1 else 's'}",
    ]
    yield "needs", ", ".join(needs) + (f", priority {record.priority}" if record.priority else ""), None
    if record.labels:
        yield "labels", ", ".join(f"{name}={value}" for name, value in record.labels.items()), None
    yield "waited", describe.waited(record, at), None
    if record.started_at:
        yield "ran", describe.ran(record, at), None
    if words := describe.told(record):
        yield "told", words, None
    if record.submitted_by:
        yield "by", record.submitted_by, None


def _status(record: QueuedRunRecord) -> str:
    words = str(record.status)
    if record.status in (RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.PENDING):
        text = describe.last(record)
        words += "" if text == describe.NOTHING else f": {text}"
    if record.attempt > 1:
        words += f" (attempt {record.attempt})"
    return words
