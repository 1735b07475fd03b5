"""How long `trainshed up` takes to be ready on a long log, and what its processes hold in memory then.

Usage: python -m bench.start_up [--runs 250000] [--live 100] [--times 5] [--state DIR]. Targets at 1,000,000 transitions
and 100 live runs: ready in 5 s, each Python process below 200 MB (while it rebuilds, too), nats-server below 450 MB.
``--state``: a stopped folder made by bench.history; it is kept, with what this benchmark adds to it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from bench import history
from bench.command_line import TRAINSHED, measure, newest
from bench.drain import drain, submit
from bench.processes import tree
from bench.stack import Stack, end, launch, stack_of
from bench.timing import Figure, figure, machine, table
from services.parts import DATABASE_FILE
from trainshed_client import subjects
from trainshed_client.nats_client import connect

READY_S, PYTHON_MB, NATS_MB = 5.0, 200.0, 450.0
REBUILT_WITHIN_S = 1_800.0
OPTIONS = ("--gpus", "2")
TRAFFIC = 300
KILLS = 2
MANY, WINDOW_S = 100_000, 130.0
"""The server keeps the ids of the last two minutes in memory: so many are no part of a log that grew over months."""
KEPT_AFTER_S = 8.0
"""After this the fold's snapshot has what came last, and a process killed with -9 leaves it there."""


class Memory:
    """The most that each kind of process below ``pid`` holds (PSS, MB), looked at ten times a second."""

    def __init__(self, pid: int) -> None:
        self.most: dict[str, float] = {}
        self._pid = pid
        self._end = threading.Event()
        self._watching = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._watching.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._watching.join()

    def _watch(self) -> None:
        while not self._end.wait(0.1):
            for name, mb in memory(self._pid).items():
                self.most[name] = max(mb, self.most.get(name, 0.0))


def memory(pid: int) -> dict[str, float]:
    """PSS (MB) of `up`, the projector and nats-server."""
    return {each.name: each.pss_mb for each in tree(pid) if each.name in ("up", "projector", "nats-server")}


class Measured:
    """Collects what is measured, several times each, in the order of its first time."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}
        self._kinds: dict[str, tuple[str, float | None]] = {}

    def add(self, name: str, value: float, unit: str, at_most: float | None = None) -> None:
        """One value; ``at_most`` is its target."""
        self._values.setdefault(name, []).append(value)
        self._kinds[name] = unit, at_most
        print(f"  {name}: {value:.2f} {unit}", file=sys.stderr, flush=True)

    def memory(self, when: str, held: dict[str, float]) -> None:
        """What each process holds."""
        for name, mb in sorted(held.items()):
            self.add(f"  {name}: PSS {when}", mb, "MB", NATS_MB if name == "nats-server" else PYTHON_MB)

    def figures(self) -> list[Figure]:
        """A line each."""
        return [
            figure(name, values, self._kinds[name][0], at_most=self._kinds[name][1])
            for name, values in self._values.items()
        ]


def figures(runs: int = 250_000, live: int = 100, times: int = 5, state: Path | None = None) -> list[Figure]:
    """For the table of all benchmarks; without ``state`` the history is made first, and removed at the end."""
    measured = Measured()
    if state is not None:
        _measure(state, times, measured)
        return measured.figures()
    folder = Path(tempfile.mkdtemp(prefix="tsb-"))
    try:
        written = asyncio.run(history.write(folder, runs, live))
        measured.add(f"history: {written.events:,} transitions written", written.took_s, "s")
        if written.events > MANY:
            time.sleep(WINDOW_S)
        _measure(folder, times, measured)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return measured.figures()


def _measure(folder: Path, times: int, measured: Measured) -> None:
    """The whole course: first start, starts after a stop and after kills, commands, audit, traffic, rebuild."""
    if not (folder / DATABASE_FILE).exists():
        _first_start(folder, measured)
    last = "a stop"
    for way in (
        *["a stop"] * (times - 1),
        *["kill -9"] * times,
        *["kill -9 of nats-server too"] * KILLS,
        "a stop",
    ):
        _start(folder, measured, f"after {last}", ENDINGS[way])
        last = way
    process = launch(folder, *OPTIONS)
    try:
        stack = stack_of(process, folder)
        _commands(stack, times, measured)
        asyncio.run(drain(stack, TRAFFIC))
        measured.memory(f"after {TRAFFIC} more runs", memory(process.pid))
        _audit(stack, measured)
    finally:
        end(process)
    _rebuild(folder, measured)


def _first_start(folder: Path, measured: Measured) -> None:
    """Nothing but the log: the fold and the read model are built from all of it."""
    process, begun = launch(folder, *OPTIONS), time.monotonic()
    with Memory(process.pid) as held:
        try:
            stack = stack_of(process, folder, REBUILT_WITHIN_S)
            measured.add("first start, all folded from the log: ready", time.monotonic() - begun, "s")
            asyncio.run(_caught_up(stack))
            measured.add("first start: read model up to date", time.monotonic() - begun, "s")
            time.sleep(KEPT_AFTER_S)
        finally:
            end(process)
    measured.memory("at most while all is built", held.most)


def _start(
    folder: Path, measured: Measured, when: str, stop: Callable[[subprocess.Popen[bytes]], None]
) -> None:
    process, begun = launch(folder, *OPTIONS), time.monotonic()
    with Memory(process.pid) as held:
        try:
            stack = stack_of(process, folder, REBUILT_WITHIN_S)
            measured.add(f"start {when}: ready", time.monotonic() - begun, "s", READY_S)
            used = sum(each.cpu_s for each in tree(process.pid))
            measured.add(f"start {when}: CPU of all processes until then", used, "s")
            asyncio.run(_caught_up(stack))
            measured.add(f"start {when}: read model up to date", time.monotonic() - begun, "s")
            measured.memory(f"right after a start {when}", memory(process.pid))
            asyncio.run(submit(stack, 10))
            time.sleep(KEPT_AFTER_S)
        finally:
            stop(process)
    measured.memory(f"at most at a start {when}", held.most)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """`up` alone: what it started ends with it, and nats-server closes its store."""
    process.kill()
    process.wait()


def _kill_all(process: subprocess.Popen[bytes]) -> None:
    """As a power cut: nats-server cannot write the index of its store."""
    for each in tree(process.pid):
        if each.name == "nats-server":
            os.kill(each.pid, signal.SIGKILL)
    _kill(process)


ENDINGS = {"a stop": end, "kill -9": _kill, "kill -9 of nats-server too": _kill_all}


def _rebuild(folder: Path, measured: Measured) -> None:
    """The read model is lost, the fold's snapshot is not: work goes on while the tables are built again."""
    for file in folder.glob(f"{DATABASE_FILE}*"):
        file.unlink()
    process, begun = launch(folder, *OPTIONS, "--stop-workers"), time.monotonic()
    with Memory(process.pid) as held:
        try:
            stack = stack_of(process, folder)
            measured.add("start without a read model: ready", time.monotonic() - begun, "s", READY_S)
            asked = time.monotonic()
            asyncio.run(drain(stack, 8))
            measured.add("  meanwhile: eight runs submitted and ended", time.monotonic() - asked, "s")
            asyncio.run(_caught_up(stack))
            measured.add("start without a read model: it is up to date", time.monotonic() - begun, "s")
        finally:
            end(process)
    measured.memory("at most while the read model is built", held.most)


def _commands(stack: Stack, times: int, measured: Measured) -> None:
    commands: dict[str, Sequence[str]] = {
        "trainshed ls": (*TRAINSHED, "ls"),
        "trainshed show": (*TRAINSHED, "show", newest(stack)),
        "trainshed slots": (*TRAINSHED, "slots"),
        "trainshed ls --all -n 100": (*TRAINSHED, "ls", "--all", "-n", "100"),
    }
    for name, values in measure(stack, times, commands).items():
        for value in values:
            measured.add(f"{name}, on this log", value, "s")


def _audit(stack: Stack, measured: Measured) -> None:
    begun, most = time.monotonic(), 0.0
    command = (*TRAINSHED, "audit", "verify", "--json")
    with (
        Memory(stack.pid) as held,
        tempfile.TemporaryFile() as out,
        subprocess.Popen(command, env=stack.environment, stdout=out, stderr=out) as audit,
    ):
        while audit.poll() is None:
            most = max(most, *(each.pss_mb for each in tree(audit.pid)), 0.0)
            time.sleep(0.1)
        out.seek(0)
        said = out.read()
    if audit.returncode:
        raise RuntimeError(f"audit verify: exit {audit.returncode}: {said!r:.500}")
    measured.add(f"audit verify, {json.loads(said)['events']:,} events", time.monotonic() - begun, "s")
    measured.add("  audit verify: PSS at most", most, "MB", PYTHON_MB)
    measured.memory("at most while it is audited", held.most)


async def _caught_up(stack: Stack) -> None:
    """Until the read model has all that is stored. Raises TimeoutError after half an hour."""
    nc = await connect(stack.endpoint, name="bench-health")
    try:
        async with asyncio.timeout(REBUILT_WITHIN_S):
            while not (await _health(nc)).get("ok"):
                await asyncio.sleep(0.05)
    finally:
        await nc.close()


async def _health(nc: Any) -> dict[str, Any]:
    answer = await nc.request(subjects.api("health"), b"{}", timeout=10.0)
    health: dict[str, Any] = json.loads(answer.data)
    return health


def main() -> None:
    """Print the table; each value as it comes on stderr."""
    parser = argparse.ArgumentParser(prog="python -m bench.start_up")
    parser.add_argument("--runs", type=int, default=250_000)
    parser.add_argument("--live", type=int, default=100)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--state", type=Path)
    options = parser.parse_args()
    print(machine(), f"pid {os.getpid()}", file=sys.stderr)
    print(table(figures(options.runs, options.live, options.times, options.state)))


if __name__ == "__main__":
    main()
