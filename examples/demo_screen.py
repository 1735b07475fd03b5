"""The runs of the demo and how they are shown: what each must come to, the live table, the table at the end.

It owns the demo's promises and its screen; it knows nothing of processes or of the command line.
"""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

LIVE = ("PENDING", "DISPATCHING", "RUNNING")
_COLOURS = {"COMPLETED": "green", "FAILED": "red", "CANCELLED": "yellow", "RUNNING": "cyan"}


@dataclass
class Run:
    """One run: the arguments of its worker, how it must end, and what is known of it so far."""

    name: str
    arguments: list[str]
    status: str = "COMPLETED"
    exit_code: int | None = 0
    failure_reason: str | None = None
    time_out_s: int | None = None
    """A heartbeat time-out, in seconds: such a run is submitted as a file, which says more than options do."""
    run_id: str = ""
    now: str = "PENDING"
    where: str = ""
    since: float = 0.0
    record: dict[str, Any] = field(default_factory=dict)

    def unmet(self) -> list[str]:
        """What of its record is not as promised, a sentence each."""
        if not self.record:
            return [f"{self.name}: `ls --all` does not have it"]
        promised = {"status": self.status, "failure_reason": self.failure_reason, "attempt": 1}
        if self.exit_code is not None:
            promised["exit_code"] = self.exit_code
        lines = [
            f"{self.name}: {key} is {self.record.get(key)}, expected {value}"
            for key, value in promised.items()
            if self.record.get(key) != value
        ]
        first, last = self.rewards()
        if self.status == "COMPLETED" and (first is None or last is None or not last >= 4 * first):
            lines.append(f"{self.name}: the reward did not rise clearly: {first} → {last}")
        return lines

    def rewards(self) -> tuple[float | None, float | None]:
        """The first and the last reward that the worker told."""
        metrics = self.record.get("metrics") or {}
        first, last = (metrics.get(name) for name in ("first_reward", "reward"))
        return None if first is None else float(first), None if last is None else float(last)  # "NaN" too


def sweep() -> list[Run]:
    """The runs, in the order in which they are submitted."""
    learn = [
        Run(f"lr{lr}-seed{seed}", ["--seed", f"{seed}", "--lr", f"{lr}"])
        for lr in (1, 2, 4)
        for seed in (1, 2)
    ]
    others = [
        Run("too-long", ["--seed", "5", "--iterations", "5000"], "CANCELLED", None),
        Run(
            "goes-silent", ["--seed", "7", "--hang-at", "10"], "FAILED", None, "worker_timeout", time_out_s=5
        ),
        Run("breaks", ["--seed", "6", "--fail-at", "5"], "FAILED", 3, "exit_code"),
    ]
    return [learn[0], *others, *learn[1:]]


class Screen:
    """Where everything is printed: on a terminal with a live table of the runs, else a line for each change."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        if not self.console.is_terminal:
            self.console.width = 120  # a log has no width; tables must not be cut to 80 columns for it
        self.runs: dict[str, Run] = {}
        self.started = time.monotonic()

    def __rich__(self) -> Table:
        table = _table("the runs now", {"run": "left", "status": "left", "slot": "left", "for": "right"})
        for run in self.runs.values():
            busy = run.now in LIVE[1:]
            lasts = f"{time.monotonic() - run.since:.0f} s" if busy else ""
            table.add_row(run.name, _coloured(run.now), run.where, lasts)
        return table

    @contextlib.contextmanager
    def live(self) -> Iterator[None]:
        """Keep the table on the screen, where the screen is a terminal."""
        if not self.console.is_terminal:
            yield
            return
        with Live(self, console=self.console, refresh_per_second=4, transient=True):
            yield

    def change(self, run: Run, status: str) -> None:
        """A run has come to another status."""
        run.now, run.since = status, time.monotonic()
        if not self.console.is_terminal and status != "DISPATCHING":
            where = f" on slot {run.where}" if status == "RUNNING" and run.where else ""
            self.say(f"  {time.monotonic() - self.started:5.1f} s  {run.name:<12} {status}{where}")

    def say(self, text: str, style: str = "") -> None:
        self.console.print(escape(text), style=style, soft_wrap=True)

    def heading(self, text: str) -> None:
        self.say(f"\n{text}", "bold")

    def command(self, words: list[str]) -> None:
        self.say(f"$ {shlex.join(words)}", "cyan")

    def result(self) -> None:
        """The table at the end, from the records."""
        headings = {"run": "left", "status": "left", "slot": "left"}
        headings |= {"wait": "right", "duration": "right", "reward": "right", "why": "left"}
        table = _table("the runs in the end", headings)
        for run in self.runs.values():
            record = run.record
            first, last = run.rewards()
            code, reason = record.get("exit_code"), record.get("failure_reason") or ""
            table.add_row(
                run.name,
                _coloured(record.get("status", "?")),
                ", ".join(map(str, record.get("slots") or [])),
                _seconds(record.get("submitted_at"), record.get("started_at")),
                _seconds(record.get("started_at"), record.get("ended_at")),
                "" if first is None or last is None else f"{first:.0f} → {last:.0f}",
                f"exit code {code}" if reason == "exit_code" else reason,
            )
        self.console.print(table)


def _table(title: str, headings: dict[str, str]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left", title_style="bold")
    for heading, side in headings.items():
        table.add_column(heading, justify="right" if side == "right" else "left", no_wrap=True)
    return table


def _seconds(start: str | None, end: str | None) -> str:
    if start is None or end is None:
        return ""
    return f"{(datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds():.1f} s"


def _coloured(status: str) -> str:
    return f"[{_COLOURS.get(status, 'dim')}]{status}[/]"
