"""`audit verify` of a long log, through the command line: how long it takes, and the most memory that it has.

Usage: python -m bench.audit_verify [EVENTS] [--in FOLDER]. The target is 200 MB at 1,000,000 events. FOLDER keeps the log and
its read model, which take some minutes to make: a later call takes them up.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.log_maker import LogMaker
from events.codec import StoredEvent, decode, uuid7
from events.evolve import evolve
from events.log import EventLog
from events.state import State
from events.streams import ensure_streams
from events.types import Dispatched
from services.access.local_realm import Unconfined
from services.dispatcher.decisions import Decisions
from services.nats_server.embedded_nats import EmbeddedNats
from services.projector.service import ProjectorService
from services.scheduling.scheduler import SCHEDULER
from trainshed_client.direct_get import Message
from trainshed_client.endpoint import write_endpoint
from trainshed_client.nats_client import SafeClient, connect

NODES, SLOTS = 8, 8
OPTIONS = ((), ("--decisions",))
MB = 1024


class DecidedLog(LogMaker):
    """Runs as a busy lab has them, 64 at a time, each granted by the dispatcher's own decisions."""

    def __init__(self) -> None:
        super().__init__()
        self._state, self._decisions, self._read = State(), Decisions(), 0

    def rounds(self) -> Iterator[list[Message]]:
        """The messages of the beginning, then of one round of runs after the other."""
        self.elect(scheduler=SCHEDULER)
        for node in range(NODES):
            self.join(f"gpu{node:02}", slots=SLOTS, cpus=64)
        while True:
            for _ in range(NODES * SLOTS):
                self.submit(
                    {
                        "run_name": f"sweep-{self.seq}",
                        "entry_point": "/usr/bin/python3",
                        "arguments": ["-m", "train", "--seed", str(self.seq)],
                        "labels": {"sweep": "lr", "user": "ada"},
                        "resources": {"gpus": {"requested": 1}},
                        "submission_key": uuid7(),
                    }
                )
            self._fold()
            decided = self._decisions.decide(self._state, self.seq, self.epoch, self.now_ns, {})
            grants = [event for event in decided if isinstance(event, Dispatched)]
            for grant in grants:
                self.by_dispatcher(grant)
            for grant in grants:
                self.start(grant.run_id, grant.attempt, grant.node, grant.slots)
            for grant in grants:
                self.complete(grant.run_id, grant.attempt, grant.node)
            self._fold()
            yield self.messages
            self.messages, self._read = [], 0

    def _fold(self) -> None:
        for message in self.messages[self._read :]:
            stored = decode(message.subject, message.body, message.seq, message.stored_ns)
            assert isinstance(stored, StoredEvent)
            self._decisions.note(self._state, stored, evolve(self._state, stored))
        self._read = len(self.messages)


async def store(nc: SafeClient, events: int) -> None:
    """Append ``events`` or a few more to a log that is empty."""
    log = EventLog(nc)
    made = DecidedLog()
    for messages in made.rounds():
        for message in messages:
            await nc.publish(message.subject, message.body)
        await nc.flush()
        while await log.end() < made.seq:
            await asyncio.sleep(0.002)
        if made.seq >= events:
            return
        if made.seq % 50_000 < len(messages):
            print(f"{made.seq:,} events are stored", file=sys.stderr, flush=True)


async def measure(folder: Path, events: int) -> int:
    """Print a line for each way to ask; 1 where it was no clean log."""
    server = EmbeddedNats(folder, Unconfined())
    write_endpoint(folder, await server.start())
    nc = await connect(server.endpoint, name="bench", forever=True)
    try:
        await ensure_streams(nc)
        if await EventLog(nc).end() == 0:
            await store(nc, events)
        end = await EventLog(nc).end()
        projector = ProjectorService(nc, folder / "read.db")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(projector.run())
            try:
                await projector.ready.wait()
                while projector.position < end:
                    await asyncio.sleep(0.5)
                return max([await asyncio.to_thread(ask, folder, options, end) for options in OPTIONS])
            finally:
                projector.stop()
    finally:
        await nc.close()
        await server.stop()


def ask(folder: Path, options: tuple[str, ...], events: int) -> int:
    """`audit verify` in a process of its own: prints what it took; its exit code."""
    command = [sys.executable, "-m", "services.cli", "audit", "verify", "--json", *options]
    begun = time.monotonic()
    process = subprocess.Popen(command, env={**os.environ, "TRAINSHED_STATE_DIR": str(folder)})
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    took = time.monotonic() - begun
    print(
        f"audit verify {' '.join(options)}: {events:,} events in {took:.1f} s, {usage.ru_maxrss / MB:.0f} MB at most",
        flush=True,
    )
    return process.returncode


def main() -> int:
    """Make the log where there is none, and measure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("events", type=int, nargs="?", default=1_000_000)
    parser.add_argument("--in", dest="folder", type=Path)
    options = parser.parse_args()
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
        return asyncio.run(measure(options.folder, options.events))
    with tempfile.TemporaryDirectory(prefix="tsb-") as folder:
        return asyncio.run(measure(Path(folder), options.events))


if __name__ == "__main__":
    sys.exit(main())
