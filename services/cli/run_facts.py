"""The facts of one run, a line each: what `show` tells above its attempts and its timeline, each thing once.

Owns which lines there are and their text; how they are laid out is services/cli/show.py's.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from events.config import HeartbeatConfig, RetryPolicy, RunConfig, StopPolicy, stored_config
from services.cli import describe
from services.cli.text import count, format_bytes, short, time_of_day, zoned
from trainshed_client.naming import title_of
from trainshed_client.records import QueuedRunRecord, TimelineEntry
from trainshed_client.rendering import passed_over
from trainshed_client.rendering.durations import format_duration
from trainshed_client.rendering.timeline import StartedData, SubmittedData, by_whom, data_of
from trainshed_client.statuses import CodeSeen, RunStatus

if TYPE_CHECKING:
    from trainshed_client.answers import RunFolder, RunView

Fact = tuple[str, str, str | None]
"""A line's name, its text, and its style."""

_THREADS = "OMP_NUM_THREADS, unless the config sets it"
_ON_LINES = (
    *("run_name", "entry_point", "arguments", "working_dir", "resources", "labels", "code", "priority"),
    *("schedule", "retry", "stop", "heartbeat"),
)
"""Fields of a run config that lines of their own tell."""


def facts_of(view: RunView, folder: RunFolder | str | None, at: str, *, whole: bool) -> Iterator[Fact]:
    """All of them. ``folder``: where the last attempt left what it did, or why that is not known; None: nowhere.

    ``whole``: for a program, with times to the microsecond.
    """
    record, entries, config = view.run, view.timeline, _config(view.config)
    yield "run", record.run_id, "bold"
    if record.name == title_of(record):  # else its command says more
        yield "name", record.name, None
    yield "status", status_text(record, entries), describe.style_of(record.status)
    if record.node and not view.attempts:  # else they tell that
        yield "where", describe.where(record) + (f" (pid {record.pid})" if record.pid else ""), None
    if record.command:
        yield "command", shlex.join(record.command), None
    if config.working_dir is not None:
        yield "in", config.working_dir, None
    yield "needs", _needs(record), None
    yield "memory", _memory(config, view), None
    if text := _limits(config):
        yield "limits", text, None
    started = next((data for one in reversed(entries) if isinstance(data := data_of(one), StartedData)), None)
    if started is not None and started.threads is not None:
        yield "threads", f"{started.threads} ({_THREADS})", None
    submitted = next((data for one in entries if isinstance(data := data_of(one), SubmittedData)), None)
    if text := _code(config, record, submitted):
        yield "code", text, "yellow" if record.code is CodeSeen.CHANGED else None
    if submitted is not None and submitted.caller_path is not None:
        yield "path", f"{submitted.caller_path} (PATH where it was submitted)", None
    if record.labels:
        yield "labels", ", ".join(f"{name}={value}" for name, value in record.labels.items()), None
    if text := _submitted(record, whole=whole):
        yield "submitted", text, None
    yield "waited", describe.waited(record, at), None
    if record.started_at and not view.attempts:
        yield "ran", describe.ran(record, at), None
    if text := describe.used(record.usage):
        yield "used", text, None
    if text := describe.reported_whole(record, at):
        yield "told", text, None
    if record.passed_over:
        yield "not taken", "; ".join(passed_over.texts(record.passed_over)), "yellow"
    yield from _left(record, folder)
    if more := {name: value for name, value in view.config.items() if name not in _ON_LINES}:
        yield "config", msgspec.json.format(msgspec.json.encode(more), indent=0).decode(), None


def _config(config: Mapping[str, Any]) -> RunConfig:
    """With its defaults. What this release does not understand of it is passed over."""
    from trainshed_client.errors import TrainshedError

    try:
        return stored_config(dict(config))
    except TrainshedError:
        return RunConfig()


def _needs(record: QueuedRunRecord) -> str:
    needs = [
        f"{record.gpus} GPU{'' if record.gpus == 1 else 's'}",
        f"{record.cpus} CPU{'' if record.cpus == 1 else 's'}",
    ]
    return ", ".join(needs) + (f", priority {record.priority}" if record.priority else "")


def _memory(config: RunConfig, view: RunView) -> str:
    """What was asked for, and what was used of it."""
    memory_mb, kept = config.resources.memory_mb, describe.memory_limit(view.run.memory_enforced)
    asked = f"{memory_mb} MB of memory{f' ({kept})' if kept else ''}" if memory_mb else "none asked for"
    on_gpus = view.attempts[-1].gpu_memory_mb if view.attempts and not view.run.status.ended else None
    now = "" if on_gpus is None else f"{format_bytes(on_gpus << 20)} of GPU memory now"
    return ", ".join(filter(None, (asked, describe.memory_used(view.run.usage), now)))


def _limits(config: RunConfig) -> str:
    """What ends an attempt, and how: of what nobody asked for only that there is no time limit."""
    schedule, retry, stop, heartbeat = config.schedule, config.retry, config.stop, config.heartbeat
    limit_s = schedule.max_duration_seconds
    limits = ["no time limit" if limit_s is None else f"{format_duration(limit_s)} an attempt"]
    if schedule.max_steps is not None:
        limits.append(f"{count(schedule.max_steps)} steps")
    if retry != RetryPolicy():
        limits.append(f"{retry.max_attempts} attempts, {format_duration(retry.backoff_s)} apart")
    if heartbeat != HeartbeatConfig():
        silence = (
            "the node's time-out" if heartbeat.timeout_s is None else format_duration(heartbeat.timeout_s)
        )
        limits.append(f"silent for {silence} at most (by {heartbeat.source})")
    if stop != StopPolicy():
        limits.append(f"to stop {stop.signal}, then SIGKILL after {format_duration(stop.grace_s)}")
    return ", ".join(limits)


def _code(config: RunConfig, record: QueuedRunRecord, submitted: SubmittedData | None) -> str:
    """``3f2a91c4 of commit 9d31e0b2 (dirty), the same at the start``; empty where the config names no code."""
    if config.code is None:
        return ""
    shown = [
        describe.code_named(msgspec.to_builtins(config.code), submitted),
        describe.code_at_start(record.code),
    ]
    if submitted is not None and submitted.folder and submitted.folder != config.working_dir:
        shown.append(f"in {submitted.folder}")
    return ", ".join(filter(None, shown))


def _submitted(record: QueuedRunRecord, *, whole: bool) -> str:
    at = "" if record.submitted_at is None else (zoned if whole else time_of_day)(record.submitted_at)
    return f"{at} by {record.submitted_by}".strip() if record.submitted_by else at


def _left(record: QueuedRunRecord, folder: RunFolder | str | None) -> Iterator[Fact]:
    """Where it left what it did, its output and its artifacts, and how to see them."""
    if folder is None:
        return
    if isinstance(folder, str):
        yield "folder", folder, "yellow"
        return
    run = short(record.run_id)
    here = folder.host == os.uname().nodename or os.path.isdir(folder.folder)
    where = folder.folder if here else f"{folder.host}:{folder.folder}"
    yield (
        "folder",
        where if folder.exists else f"{where}, which somebody deleted",
        None if folder.exists else "yellow",
    )
    sizes = [f"{name} {format_bytes(size)}" for name, size in folder.output_bytes.items() if size is not None]
    below = os.path.relpath(folder.output, folder.folder)
    place = folder.output if below.startswith("..") else below
    yield "output", f"{', '.join(sizes) or 'none'} in {place}: trainshed logs {run}", None
    if not folder.artifacts:
        yield "artifacts", "none", None
        return
    files = f"{folder.artifacts:,} file{'' if folder.artifacts == 1 else 's'}{' at least' if folder.partial else ''}"
    yield "artifacts", f"{files}, {format_bytes(folder.artifacts_bytes)}: trainshed artifacts {run}", None


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
