"""From a submit request being sent to the worker's first instruction, against a bare spawn of the same program.

Usage: python -m bench.submit_to_exec [RUNS] [--hops]. The target is p50 at most 4.5 times the bare spawn's.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from bench.first_instruction import HEARD_S, FirstInstruction
from bench.stack import Stack, running_stack
from bench.timing import Figure, figure, machine, median, percentile, table
from trainshed_client import subjects
from trainshed_client.nats_client import SafeClient, connect

WARM_UP = 30
PAUSE_S = 0.02
"""Between two measurements: what follows a run (its end, its rows) must not stand in the next one's way."""
NODE = "bench"
HOPS = ("answered", "dispatched stored", "pushed", "intent written", "started.json", "first instruction")


class Measured(msgspec.Struct):
    """Milliseconds of each measurement; hops count from the request."""

    bare: list[float]
    run: list[float]
    hops: dict[str, list[float]]


async def measure(stack: Stack, runs: int, *, with_hops: bool) -> Measured:
    """Bare spawns and runs in turn, after a warm-up of both."""
    nc = await connect(stack.endpoint, name="bench")
    out = Measured([], [], {name: [] for name in HOPS})
    with tempfile.TemporaryDirectory() as folder, FirstInstruction(Path(folder)) as worker:
        watch = _Hops(nc, await connect(stack.service("agent"), name="bench")) if with_hops else None
        if watch is not None:
            await watch.start()
        for place in range(WARM_UP + runs):
            bare = await _bare(worker)
            await asyncio.sleep(PAUSE_S)
            took, at = await _run(nc, worker, watch)
            if watch is not None:
                at |= watch.take(stack, str(at.pop("run_id")))
            await asyncio.sleep(PAUSE_S)
            if place < WARM_UP:
                continue
            out.bare.append(bare)
            out.run.append(took)
            for name in HOPS:
                if name in at:
                    out.hops[name].append(at[name] / 1e6)
    await nc.close()
    return out


async def _bare(worker: FirstInstruction) -> float:
    tag = uuid.uuid4().hex
    heard = worker.expect(tag)
    command = worker.command(tag)
    sent = time.monotonic_ns()
    subprocess.run(command, check=True)  # noqa: ASYNC221 (blocking is what is measured)
    async with asyncio.timeout(HEARD_S):
        return (await heard - sent) / 1e6


async def _run(nc: SafeClient, worker: FirstInstruction, watch: _Hops | None) -> tuple[float, dict[str, Any]]:
    tag = uuid.uuid4().hex
    heard = worker.expect(tag)
    program, *arguments = worker.command(tag)
    config = {"run_name": "first", "entry_point": program, "arguments": arguments, "submission_key": tag}
    body = msgspec.json.encode(config)
    sent = time.monotonic_ns()
    if watch is not None:
        watch.begin(sent)
    answer = await nc.request(subjects.api("run.submit"), body, timeout=HEARD_S)
    answered = time.monotonic_ns()
    async with asyncio.timeout(HEARD_S):
        first = await heard
    run_id = msgspec.json.decode(answer.data)["run_id"]
    at = {"run_id": run_id, "answered": answered - sent, "first instruction": first - sent}
    return (first - sent) / 1e6, at


class _Hops:
    """Where the time goes, seen from outside: from subjects that anyone may hear, and started.json's own time.

    The arrival times are this process's, so they say a tenth of a millisecond too much.
    """

    def __init__(self, nc: SafeClient, agents: SafeClient) -> None:
        """``agents``: as the node, in whose account the decisions for it arrive and are acknowledged."""
        self._nc = nc
        self._agents = agents
        self._sent = 0
        self._seen: dict[str, int] = {}

    async def start(self) -> None:
        for nc, name, subject in (
            (self._nc, "dispatched stored", f"{subjects.LOG}.>"),
            (self._agents, "pushed", subjects.push_delivery(NODE)),
            (self._agents, "intent written", f"{subjects.ACKS}{subjects.EVENTS_STREAM}.{NODE}.>"),
        ):
            await nc.subscribe(subject, cb=self._noting(name))

    def begin(self, sent: int) -> None:
        self._sent = sent
        self._seen.clear()

    def take(self, stack: Stack, run_id: str) -> dict[str, int]:
        at = dict(self._seen)
        started = stack.state_dir / "attempts" / run_id / "1" / "started.json"
        realtime = msgspec.json.decode(started.read_bytes())["started_at"] * 1e9
        at["started.json"] = int(realtime - (time.time_ns() - time.monotonic_ns())) - self._sent
        return at

    def _noting(self, name: str) -> Callable[[Any], Any]:
        async def note(msg: Any) -> None:
            if name != "dispatched stored" or ".dispatcher.dispatched." in msg.subject:
                self._seen.setdefault(name, time.monotonic_ns() - self._sent)

        return note


def figures(runs: int = 300) -> list[Figure]:
    """For the table of all benchmarks."""
    with running_stack(node=NODE) as stack:
        measured = asyncio.run(measure(stack, runs, with_hops=False))
    bare, run = measured.bare, measured.run
    halves = [
        median(run[at : at + runs // 5]) / median(bare[at : at + runs // 5])
        for at in range(0, runs - runs // 5 + 1, runs // 5)
    ]
    ratio = median(run) / median(bare)
    return [
        figure("bare spawn, p50 (p90 as the range's end)", _with_p90(bare), "ms"),
        figure("submit to exec, p50 (p90 as the range's end)", _with_p90(run), "ms"),
        Figure(
            name="submit to exec / bare spawn (p50; range of five parts)",
            median=ratio,
            low=min(halves),
            high=max(halves),
            unit="×",
            target="≤ 4.5",
            met=ratio <= 4.5,
        ),
    ]


def _with_p90(values: list[float]) -> list[float]:
    return [min(values), median(values), percentile(values, 0.9)]


def main() -> None:
    """Print p50, p90 and the ratio; with --hops where the time goes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", type=int, nargs="?", default=300)
    parser.add_argument("--hops", action="store_true", help="watch each hop too (which slows it a little)")
    options = parser.parse_args()
    print(machine())
    if not options.hops:
        print(table(figures(options.runs)))
        return
    with running_stack(node=NODE) as stack:
        measured = asyncio.run(measure(stack, options.runs, with_hops=True))
    print(f"bare spawn      p50 {median(measured.bare):.2f} ms")
    before = 0.0
    for name in HOPS:
        at = median(measured.hops[name]) if measured.hops[name] else float("nan")
        print(
            f"{name:18} p50 {at:6.2f} ms   +{at - before:5.2f}   p90 {percentile(measured.hops[name], 0.9):.2f}"
        )
        if name != "answered":
            before = at


if __name__ == "__main__":
    main()
