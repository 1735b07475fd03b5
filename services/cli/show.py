"""`trainshed show`: everything that is known of one run.

Owns how a run, its attempts and its timeline are laid out for people.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click
import msgspec

from services.cli import describe
from services.cli.at_rest import reading
from services.cli.clock import now
from services.cli.common import json_option, nats_option, print_json, warn_if_stale
from services.cli.output_tail import OutputTail, output_tail
from services.cli.run_argument import RUN
from services.cli.table import Cell, Column, Screen, print_lines, render, wrapped
from services.cli.text import clean, time_of_day, zoned
from services.cli.verb import verb
from trainshed_client.answers import RunView
from trainshed_client.records import AttemptRecord, QueuedRunRecord, TimelineEntry
from trainshed_client.rendering import passed_over
from trainshed_client.rendering.timeline import EndData, StartedData, SubmittedData, by_whom, data_of
from trainshed_client.statuses import CodeSeen, RunStatus

if TYPE_CHECKING:
    from trainshed_client.client import Trainshed

_LABEL_WIDTH = 10
_THREADS = "OMP_NUM_THREADS, unless the config sets it"


@verb("trainshed show ppo-cartpole", "trainshed show k3f2q7 --json")
@click.argument("run", metavar="RUN", type=RUN)
@json_option
@nats_option
def show(run: str, as_json: bool) -> None:
    """Show one run: its state, config, attempts and what happened to it.

    Of a run that failed, the last lines of its stderr come last.
    """
    body, view, tail = reading(lambda trainshed: _read(trainshed, run, for_people=not as_json))
    warn_if_stale(view.stale, view.seq, view.progress)
    if as_json:
        print_json(body)
    else:
        print_lines(lines(view, tail, now(), Screen.of(sys.stdout)))


async def _read(
    trainshed: Trainshed, run: str, *, for_people: bool
) -> tuple[bytes, RunView, OutputTail | None]:
    body = await trainshed.run_json(run)
    view = msgspec.json.decode(body, type=RunView)
    tail = None
    if for_people and view.run.status is RunStatus.FAILED:
        tail = await output_tail(trainshed, view)
    return body, view, tail


def lines(view: RunView, tail: OutputTail | None, at: str, screen: Screen) -> list[str]:
    """The whole page."""
    shown = list(facts(_facts(view, at), screen))
    if view.config:
        config = msgspec.json.format(msgspec.json.encode(view.config), indent=0).decode()
        shown += facts([("config", config, None)], screen)
    if view.attempts:
        shown += ["", *_attempts(view, at, screen)]
    if view.timeline:
        shown += ["", *timeline(view.timeline, screen)]
    if tail is not None:
        shown += ["", screen.styled(f"the last lines of its {tail.source}:", "dim")]
        shown += [f"  {clean(line)}" for line in tail.lines]
    return shown


def facts(
    pairs: Iterator[tuple[str, str, str | None]] | list[tuple[str, str, str | None]], screen: Screen
) -> Iterator[str]:
    """Lines of a name and what it is; (name, text, style)."""
    for name, text, style in pairs:
        label = screen.styled(f"{name}:".ljust(_LABEL_WIDTH), "dim")
        shown = wrapped(clean(text), _LABEL_WIDTH + 1, screen)
        yield f"{label} {screen.styled(shown, style)}"


def timeline(entries: list[TimelineEntry], screen: Screen) -> list[str]:
    """What happened, a line each, in the caller's zone; a terminal gets the time to the second."""
    times = [(time_of_day if screen.is_terminal else zoned)(one.time) for one in entries]
    return render(
        (
            Column("SEQ", right=True),
            Column("TIME"),
            Column("EVENT"),
            Column("", shrink=20),
        ),
        [[str(one.seq), at, one.type, clean(_text(one))] for one, at in zip(entries, times, strict=True)],
        screen,
    )


def _text(entry: TimelineEntry) -> str:
    """An agent gives as the reason of what was asked for that it was asked for."""
    match entry.type, data_of(entry):
        case "cancelled", EndData(reason="cancel", late=None, next=None):
            return "cancelled"
        case _:
            return entry.text


def _attempts(view: RunView, at: str, screen: Screen) -> list[str]:
    return render(
        (
            Column("ATTEMPT", right=True),
            Column("STATUS"),
            Column("WHERE", shrink=10),
            Column("RAN", right=True),
            Column("LAST", shrink=16),
        ),
        [
            [
                str(one.attempt),
                Cell(str(one.status), describe.style_of(one.status)),
                describe.where(one),
                describe.ran(one, at),
                clean(_of_attempt(one, view.run)),
            ]
            for one in view.attempts
        ],
        screen,
    )


def _of_attempt(attempt: AttemptRecord, run: QueuedRunRecord) -> str:
    parts = [part for part in (describe.ending(attempt), describe.reported(attempt, of=run)) if part]
    if attempt.code is CodeSeen.CHANGED:
        parts.append(describe.CODE_CHANGED)
    if attempt.late_result:
        parts.append(f"(too late: {attempt.late_result})")
    return ", ".join(parts) or describe.NOTHING


def _facts(view: RunView, at: str) -> Iterator[tuple[str, str, str | None]]:
    record, entries = view.run, view.timeline
    yield "run", record.run_id, "bold"
    yield "name", record.name, None
    yield "status", status_text(record, entries), describe.style_of(record.status)
    if record.node:
        yield "where", describe.where(record) + (f" (pid {record.pid})" if record.pid else ""), None
    if record.command:
        yield "command", shlex.join(record.command), None
    needs = [
        f"{record.gpus} GPU{'' if record.gpus == 1 else 's'}",
        f"{record.cpus} CPU{'' if record.cpus == 1 else 's'}",
        *_memory(view),
    ]
    yield "needs", ", ".join(needs) + (f", priority {record.priority}" if record.priority else ""), None
    started = next((data for one in reversed(entries) if isinstance(data := data_of(one), StartedData)), None)
    if started is not None and started.threads is not None:
        yield "threads", f"{started.threads} ({_THREADS})", None
    if text := _code(view.config, record, entries):
        yield "code", text, "yellow" if record.code is CodeSeen.CHANGED else None
    if (submitted := _submitted(entries)) is not None and submitted.caller_path is not None:
        yield "path", f"{submitted.caller_path} (PATH where it was submitted)", None
    if record.labels:
        yield "labels", ", ".join(f"{name}={value}" for name, value in record.labels.items()), None
    yield "waited", describe.waited(record, at), None
    if record.started_at:
        yield "ran", describe.ran(record, at), None
    if text := describe.used(record.usage):
        yield "used", text, None
    if text := describe.reported_whole(record, at):
        yield "told", text, None
    if record.passed_over:
        yield "not taken", "; ".join(passed_over.texts(record.passed_over)), "yellow"
    if record.submitted_by:
        yield "by", record.submitted_by, None


def _code(config: Mapping[str, Any], record: QueuedRunRecord, entries: list[TimelineEntry]) -> str:
    """``3f2a91c4 of commit 9d31e0b2 (dirty), the same at the start``; empty where the config names no code."""
    code = config.get("code")
    if not isinstance(code, dict):
        return ""
    shown = describe.code_named(code, _submitted(entries))
    return ", ".join(filter(None, (shown, describe.code_at_start(record.code))))


def _submitted(entries: list[TimelineEntry]) -> SubmittedData | None:
    return next((data for one in entries if isinstance(data := data_of(one), SubmittedData)), None)


def _memory(view: RunView) -> Iterator[str]:
    resources = view.config.get("resources")
    memory_mb = resources.get("memory_mb") if isinstance(resources, dict) else None
    if memory_mb:
        kept = describe.memory_limit(view.run.memory_enforced)
        yield f"{memory_mb} MB of memory{f' ({kept})' if kept else ''}"


def status_text(record: QueuedRunRecord, entries: list[TimelineEntry]) -> str:
    """A run's status with what it waits for or how it ended."""
    shown = str(record.status)
    if record.status in (RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.PENDING):
        asked = describe.cancelled_by(record, entries)
        text = describe.why_ended(record, entries)
        if asked is not None:
            shown += f" {by_whom(asked)}"
        elif text != describe.NOTHING:
            shown += f": {text}"
    if gone := describe.away(record):
        shown += f": {gone}"
    if record.attempt > 1:
        shown += f" (attempt {record.attempt})"
    return shown
