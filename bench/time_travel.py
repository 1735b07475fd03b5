"""How things were at moments of a long log: the first page and the hash, each moment asked for the first time.

Usage: python -m bench.time_travel [EVENTS] [--in FOLDER] [--database URL]. The targets: 150 ms at the 95th percentile over 200 moments drawn evenly,
2 s for the first after a start, room of at most half of the read model, a projector at most a tenth slower. FOLDER keeps the
log and its read model, which take some minutes to make: a later call takes them up.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import os
import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import nats.errors

from bench.past_log import BusyLab
from bench.timing import machine, percentile
from events.log import MAX_BATCH, EventLog
from events.streams import ensure_streams
from projections.read_model.database import Database
from projections.read_model.frames import EVERY
from projections.read_model.projector import Projector
from services.access.local_realm import Unconfined
from services.nats_server.embedded_nats import EmbeddedNats
from services.projector.service import BATCH
from trainshed_client import subjects
from trainshed_client.nats_client import SafeClient, connect

MOMENTS = 200
STARTS = 5
PART, REPEATED = 40_000, 5
"""So many events are folded to see what keeping the past costs."""
OURS = ("frames", "past_runs", "past_runs_run_id", "past_attempts")
PAGE: dict[str, Any] = {}


async def store(nc: SafeClient, events: int) -> None:
    """Append ``events`` or a few more to a log that is empty."""
    log = EventLog(nc, timeout_s=60)
    lab = BusyLab()
    for _ in lab.events(events):
        made, lab.appended = lab.appended, []
        for at in range(0, len(made), MAX_BATCH):
            batch = made[at : at + MAX_BATCH]
            await log.append_batch(batch, [None] * len(batch))


async def ask(nc: SafeClient, call: str, **request: Any) -> dict[str, Any]:
    """One call, its answer decoded. Raises RuntimeError where it is an error."""
    message = await nc.request(subjects.api(call), msgspec.json.encode(request), timeout=60)
    answer: dict[str, Any] = msgspec.json.decode(message.data)
    if "error" in answer:
        raise RuntimeError(f"{call} {request}: {answer['error']}")
    return answer


@contextlib.asynccontextmanager
async def projecting(server: EmbeddedNats, folder: Path, database: str) -> AsyncIterator[SafeClient]:
    """A projector in a process of its own that has folded everything, and who asks it."""
    endpoint = server.endpoint
    environment = {
        "TRAINSHED_STATE_DIR": str(folder / "own"),
        "NATS_URL": endpoint.url,
        "TRAINSHED_NATS_USER": endpoint.user or "",
        "TRAINSHED_NATS_PASSWORD": endpoint.password or "",
    }
    words = (sys.executable, "-m", "services.cli", "projector", "--database", database)
    process = await asyncio.create_subprocess_exec(
        *words, env=os.environ | environment, stderr=asyncio.subprocess.DEVNULL
    )
    nc = await connect(endpoint, name="bench")
    try:
        end = await EventLog(nc).end()
        while True:
            with contextlib.suppress(nats.errors.Error, RuntimeError):
                answer = await ask(nc, "health")
                if answer["seq"] >= end and "stale" not in answer:
                    break
            await asyncio.sleep(0.05)
        yield nc
    finally:
        await nc.close()
        process.terminate()
        await process.wait()


async def moment(nc: SafeClient, seq: int) -> float:
    """Seconds for the first page and the hash."""
    began = time.perf_counter()
    await asyncio.gather(ask(nc, "run.list", at=seq, **PAGE), ask(nc, "audit.at", seq=seq))
    return time.perf_counter() - began


async def measure(folder: Path, events: int, database: str | None) -> None:
    """Print all figures."""
    url = database or str(folder / "read.db")
    server = EmbeddedNats(folder, Unconfined())
    await server.start(within_s=600)
    try:
        nc = await connect(server.endpoint, name="bench")
        await ensure_streams(nc)
        log = EventLog(nc)
        if await log.end() == 0:
            await store(nc, events)
        end = await log.end()
        async with projecting(server, folder, url) as nc_asking:
            step = end // MOMENTS
            seqs = [step // 2 + place * step for place in range(MOMENTS)]
            random.Random(1).shuffle(seqs)
            took = [await moment(nc_asking, seq) for seq in seqs]
            again = [await moment(nc_asking, seqs[-1]) for _ in range(20)]
        ms = [1000 * each for each in took]
        print(
            f"{MOMENTS} moments of {end:,} events, the first page and the hash: median {percentile(ms, 0.5):.0f} ms, "
            f"95 % {percentile(ms, 0.95):.0f} ms (target 150), the longest {max(ms):.0f} ms; "
            f"the same moment again: {1000 * percentile(again, 0.5):.0f} ms",
            flush=True,
        )
        firsts = []
        for seq in seqs[:STARTS]:
            async with projecting(server, folder, url) as nc_asking:
                firsts.append(await moment(nc_asking, seq))
        print(f"the first after a start: {max(firsts):.2f} s at most (target 2)", flush=True)
        await nc.close()
    finally:
        await server.stop(within_s=60)


def room(path: Path) -> None:
    """Print what of the file is the past's."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        sizes = dict(connection.execute("SELECT name, sum(pgsize) FROM dbstat GROUP BY name").fetchall())
    ours = sum(size for name, size in sizes.items() if name in OURS)
    rest = sum(sizes.values()) - ours
    print(
        f"room: {ours / 1e6:.1f} MB beside {rest / 1e6:.0f} MB, {ours / rest:.1%} (target 50 %)", flush=True
    )


def cost(folder: Path) -> None:
    """Print what the frames cost a projector, by the CPU time that it takes with and without."""
    pieces = list(BusyLab().events(PART))
    messages = [message for piece in pieces for message in piece]
    took: dict[float, list[float]] = {EVERY: [], math.inf: []}
    for attempt in range(REPEATED):
        for every in (EVERY, math.inf):
            database = Database(folder / f"cost{attempt}-{every}.db")
            projector = Projector.open(database, "bench", 10**9)
            projector.frames.due = int(every) if every < math.inf else sys.maxsize
            began = time.thread_time()
            for at in range(0, len(messages), BATCH):
                projector.apply(messages[at : at + BATCH])
            took[every].append(time.thread_time() - began)
            projector.close()
            database.close()
    ratio = percentile(took[EVERY], 0.5) / percentile(took[math.inf], 0.5)
    print(f"a projector with frames takes {ratio:.3f} of the time without (target 1.1)")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("events", type=int, nargs="?", default=1_000_000)
    parser.add_argument("--in", dest="folder", type=Path)
    parser.add_argument("--database", metavar="URL", help="in place of an SQLite file in FOLDER")
    options = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory(prefix="tsb-") as made:
        folder = options.folder or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        asyncio.run(measure(folder, options.events, options.database))
        if options.database is None:
            room(folder / "read.db")
        cost(Path(made))


if __name__ == "__main__":
    main()
