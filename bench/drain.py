"""How many runs a second are drained when they do nothing, with few and with many waiting behind them.

Usage: python -m bench.drain [--runs 1000] [--waiting 10000]. Targets: 300 runs/s; with 10,000 waiting at least half.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import time
import uuid
from typing import Any

from bench.stack import Stack, running_stack
from bench.timing import Figure, figure, machine, table
from trainshed_client import subjects
from trainshed_client.client import Trainshed
from trainshed_client.nats_client import SafeClient, connect
from trainshed_client.nats_connection import NatsConnection

TARGET = 300
CPUS = 8
BATCH = 1000
GIVE_UP_S = 300.0
PARTS = 5


class Ends:
    """Counts runs as their ends are stored, by the log's republished events."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self._wanted = 0
        self._reached = asyncio.Event()

    async def listen(self, nc: SafeClient) -> None:
        """From now on."""
        subscription = await nc.subscribe(
            f"{subjects.LOG}.>", cb=self._hear, pending_msgs_limit=-1, pending_bytes_limit=-1
        )
        del subscription
        await nc.flush()

    async def reach(self, count: int) -> None:
        """Wait for so many ends in all."""
        self._wanted = count
        self._reached.clear()
        if len(self.times) < count:
            async with asyncio.timeout(GIVE_UP_S):
                await self._reached.wait()

    async def _hear(self, msg: Any) -> None:
        if ".agent.completed." in msg.subject:
            self.times.append(time.monotonic())
            if len(self.times) >= self._wanted:
                self._reached.set()
        elif ".agent.failed." in msg.subject:
            raise RuntimeError(f"a run failed: {msg.data!r}")

    def rates(self, first: int, last: int) -> list[float]:
        """Runs a second between two of them, in parts."""
        step = (last - first) // PARTS
        edges = [first + place * step for place in range(PARTS + 1)]
        return [
            step / (self.times[after - 1] - self.times[before - 1])
            for before, after in itertools.pairwise(edges)
        ]


def config(place: int, tag: str) -> dict[str, Any]:
    """A run that does nothing."""
    return {"run_name": f"noop-{place}", "entry_point": "/bin/true", "submission_key": f"{tag}-{place}"}


async def submit(stack: Stack, count: int) -> None:
    """Submit them in batches; the answers tell that they are stored."""
    tag = uuid.uuid4().hex
    async with Trainshed(
        NatsConnection(await connect(stack.endpoint, name="bench"), stack.endpoint.url)
    ) as trainshed:
        for at in range(0, count, BATCH):
            await trainshed.submit_many([config(place, tag) for place in range(at, min(count, at + BATCH))])


async def drain(stack: Stack, runs: int) -> list[float]:
    """Runs a second over parts of ``runs``, submitted as one batch; the first and last hundredth are left out."""
    nc = await connect(stack.endpoint, name="bench-ends")
    ends = Ends()
    await ends.listen(nc)
    await submit(stack, runs)
    await ends.reach(runs)
    await nc.close()
    return ends.rates(max(1, runs // 100), runs - runs // 100)


async def drain_with_waiting(stack: Stack, waiting: int, window: int) -> list[float]:
    """Runs a second over ``window`` runs, measured once all of ``waiting`` are submitted."""
    nc = await connect(stack.endpoint, name="bench-ends")
    ends = Ends()
    await ends.listen(nc)
    await submit(stack, waiting)
    begun = len(ends.times) + CPUS
    await ends.reach(begun + window)
    await nc.close()
    return ends.rates(begun, begun + window)


def figures(runs: int = 1000, waiting: int = 10_000) -> list[Figure]:
    """For the table of all benchmarks."""
    with running_stack(cpus=CPUS) as stack:
        asyncio.run(drain(stack, 100))  # a warm-up
        few = asyncio.run(drain(stack, runs))
    out = [figure(f"drain, {runs} runs of /bin/true on {CPUS} declared CPUs", few, "runs/s", at_least=TARGET)]
    if waiting:
        with running_stack(cpus=CPUS) as stack:
            many = asyncio.run(drain_with_waiting(stack, waiting, runs))
        # half of the target, or of what this machine does, whichever is more
        goal = round(max(TARGET, out[0].median) / 2)
        out.append(figure(f"drain, with {waiting} waiting", many, "runs/s", at_least=goal))
    return out


def main() -> None:
    """Print both rates."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--waiting", type=int, default=10_000)
    options = parser.parse_args()
    print(machine())
    print(table(figures(options.runs, options.waiting)))


if __name__ == "__main__":
    main()
