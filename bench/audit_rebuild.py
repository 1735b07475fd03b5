"""A read model of a long log made again: one that was deleted, and one by `audit rebuild`, asked ten times a second.

Usage: python -m bench.audit_rebuild [EVENTS] [--in FOLDER]. FOLDER keeps the log, which takes some minutes to make: a later call,
or one of bench.audit_verify, takes it up. The measure is what reading the log and folding it takes alone.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import nats.errors

from bench.audit_verify import store
from events.log import EventLog
from events.streams import ensure_streams
from projections.read_model.database import Database
from projections.read_model.projector import Projector
from projections.transparency.tiles import Tiles
from services.access.local_realm import Unconfined
from services.nats_server.embedded_nats import EmbeddedNats
from services.projector.service import BATCH
from trainshed_client import subjects
from trainshed_client.nats_client import SafeClient, connect

ASK_EVERY_S = 0.1


class _Answer(msgspec.Struct):
    seq: int = 0
    stale: bool = False
    seconds: float = 0.0
    same: bool = False
    progress: Any = None
    error: Any = None


class Asked:
    """What came of ten questions a second: how long each took, how many failed, whether a ``seq`` went back."""

    def __init__(self, nc: SafeClient) -> None:
        self._nc = nc
        self.seconds: list[float] = []
        self.failed = self.stale = self.back = self.seq = 0

    @contextlib.asynccontextmanager
    async def all_the_while(self) -> AsyncIterator[None]:
        """Ask meanwhile."""
        async with asyncio.TaskGroup() as tasks:
            every = tasks.create_task(self._every(tasks))
            yield
            every.cancel()

    async def _every(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            tasks.create_task(self._one())
            await asyncio.sleep(ASK_EVERY_S)

    async def _one(self) -> None:
        before, began = self.seq, time.monotonic()
        try:
            message = await self._nc.request(subjects.api("run.list"), b'{"limit":20}', timeout=10)
            answer = msgspec.json.decode(message.data, type=_Answer)
        except (nats.errors.Error, TimeoutError):
            answer = _Answer(error="none came")
        self.seconds.append(time.monotonic() - began)
        self.failed += answer.error is not None
        self.stale += answer.stale
        self.back += answer.error is None and answer.seq < before
        self.seq = max(self.seq, answer.seq)

    def __str__(self) -> str:
        took = sorted(self.seconds) or [0.0]
        return (
            f"{len(took)} questions, {self.failed} failed, {self.stale} stale, {self.back} went back; "
            f"median {took[len(took) // 2] * 1000:.0f} ms, 95 % {took[len(took) * 95 // 100] * 1000:.0f} ms, "
            f"the longest {took[-1] * 1000:.0f} ms"
        )


async def read_and_fold(nc: SafeClient, folder: Path) -> tuple[int, float]:
    """Events, and seconds to read and fold them with nothing beside it."""
    log = EventLog(nc)
    end = await log.end()
    database = Database(folder / "alone.db")
    projector = Projector.open(database, await log.log_id(), end, tiles=Tiles(folder / "alone"))
    began = time.monotonic()
    async with log.follow(1) as feed:
        while projector.seq < end:
            messages = await feed.batch(BATCH)
            await asyncio.to_thread(projector.apply, messages, with_records=False)
    took = time.monotonic() - began
    projector.close()
    database.close()
    return end, took


@contextlib.asynccontextmanager
async def projecting(server: EmbeddedNats, folder: Path, database: Path) -> AsyncIterator[None]:
    """A projector in a process of its own."""
    endpoint = server.endpoint
    environment = {
        "TRAINSHED_STATE_DIR": str(folder / "own"),
        "NATS_URL": endpoint.url,
        "TRAINSHED_NATS_USER": endpoint.user or "",
        "TRAINSHED_NATS_PASSWORD": endpoint.password or "",
    }
    words = (sys.executable, "-m", "services.cli", "projector", "--database", str(database))
    process = await asyncio.create_subprocess_exec(
        *words, env=os.environ | environment, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


async def until_whole(nc: SafeClient, end: int) -> None:
    """Wait until the projector answers with everything."""
    while True:
        with contextlib.suppress(nats.errors.Error, TimeoutError):
            message = await nc.request(subjects.api("health"), b"{}", timeout=5)
            answer = msgspec.json.decode(message.data, type=_Answer)
            if answer.seq >= end and not answer.stale:
                return
        await asyncio.sleep(0.05)


async def answered(nc: SafeClient) -> None:
    """Wait until it answers at all."""
    while True:
        try:
            await nc.request(subjects.api("run.list"), b"{}", timeout=5)
        except nats.errors.Error:
            await asyncio.sleep(0.05)
        else:
            return


async def rebuilt(nc: SafeClient) -> _Answer:
    """Ask for it, and wait for what comes of it."""
    inbox = nc.new_inbox()
    answers = await nc.subscribe(inbox)
    await nc.publish(subjects.api("audit.rebuild"), b"{}", reply=inbox)
    while True:
        answer = msgspec.json.decode((await answers.next_msg(timeout=30)).data, type=_Answer)
        if answer.progress is None:
            return answer


async def measure(state: Path, folder: Path, events: int) -> None:
    """Print all figures."""
    server = EmbeddedNats(state, Unconfined())
    await server.start(within_s=600)
    try:
        nc = await connect(server.endpoint, name="bench")
        await ensure_streams(nc)
        if await EventLog(nc).end() == 0:
            await store(nc, events)
        end, alone_s = await read_and_fold(nc, folder)
        print(
            f"{end:,} events: read and folded alone in {alone_s:.1f} s ({end / alone_s:,.0f} a second)",
            flush=True,
        )
        async with projecting(server, folder, folder / "read.db"):
            await answered(nc)
            began, asked = time.monotonic(), Asked(nc)
            async with asked.all_the_while():
                await until_whole(nc, end)
            took = time.monotonic() - began
            print(f"deleted: whole after {took:.1f} s ({took / alone_s:.2f} of that); {asked}", flush=True)
            began, asked = time.monotonic(), Asked(nc)
            async with asked.all_the_while():
                answer = await rebuilt(nc)
            took = time.monotonic() - began
            print(
                f"audit rebuild: {took:.1f} s ({took / alone_s:.2f} of that), the same: {answer.same}; {asked}",
                flush=True,
            )
        await nc.close()
    finally:
        await server.stop(within_s=60)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("events", type=int, nargs="?", default=1_000_000)
    parser.add_argument("--in", dest="folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="trainshed-bench-") as made:
        state = options.folder or Path(made) / "state"
        state.mkdir(parents=True, exist_ok=True)
        asyncio.run(measure(state, Path(made), options.events))


if __name__ == "__main__":
    main()
