"""Reading a long log as a reader does, by batches of direct gets, against the consumer of services, both in one run.

Usage: python -m bench.reading [EVENTS] [--page N]. Prints events a second of each, and the ratio.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

from bench.history import WITHOUT_DEADLINE_S, write
from bench.timing import machine
from events.log import EventLog
from services.access.local_realm import Unconfined
from services.nats_server.embedded_nats import EmbeddedNats
from trainshed_client import subjects
from trainshed_client.direct_get import PAGE, StreamReader
from trainshed_client.nats_client import SafeClient, connect

ROUNDS = 5


async def by_consumer(nc: SafeClient, end: int) -> float:
    """Seconds to read the log by an ordered push consumer."""
    began, seen = time.perf_counter(), 0
    async with EventLog(nc).follow(1) as feed:
        while seen < end:
            seen += len(await feed.batch())
    return time.perf_counter() - began


async def by_direct_gets(nc: SafeClient, end: int, page: int) -> float:
    """Seconds to read it by direct gets."""
    began, seen = time.perf_counter(), 0
    async for messages in StreamReader(nc, subjects.EVENTS_STREAM, where="bench").pages(size=page):
        seen += len(messages)
    assert seen == end, f"{seen} of {end}"
    return time.perf_counter() - began


async def measure(events: int, page: int) -> None:
    """Print both and the ratio; each round reads once the one way and once the other."""
    with tempfile.TemporaryDirectory() as folder:
        written = await write(Path(folder), events // 4, 0)
        server = EmbeddedNats(Path(folder), Unconfined())
        await server.start(within_s=WITHOUT_DEADLINE_S)
        nc = await connect(server.endpoint, name="bench")
        try:
            rounds = [
                (await by_consumer(nc, written.events), await by_direct_gets(nc, written.events, page))
                for _ in range(ROUNDS)
            ]
        finally:
            await nc.close()
            await server.stop(within_s=60.0)
    consumer, direct = (statistics.median(taken) for taken in zip(*rounds, strict=True))
    ratio = statistics.median(one / other for one, other in rounds)
    print(f"{written.events:,} events, {ROUNDS} rounds; {machine()}")
    print(f"by a consumer:    {written.events / consumer:>9,.0f} events/s")
    print(f"by direct gets:   {written.events / direct:>9,.0f} events/s, {ratio:.2f} times the consumer's")


def main() -> int:
    """Measure."""
    parser = argparse.ArgumentParser(prog="python -m bench.reading")
    parser.add_argument("events", type=int, nargs="?", default=200_000)
    parser.add_argument("--page", type=int, default=PAGE)
    options = parser.parse_args()
    asyncio.run(measure(options.events, options.page))
    return 0


if __name__ == "__main__":
    sys.exit(main())
