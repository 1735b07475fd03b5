"""A long past in a state folder: as many runs as asked for, as a busy node leaves them, and some that wait.

Owns the plausible history and how it is written (atomic batches, the project's own codec); measures nothing.

Usage: python -m bench.history --runs N [--live 100] --state DIR
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bench.log_maker import LogMaker
from events.codec import NewEvent, uuid7
from events.log import MAX_BATCH, EventLog
from events.streams import ensure_streams
from events.types import Cancelled, CancelRequested, Failed, Stopping, TimedOut
from services.access.local_realm import Unconfined
from services.agent.identity import identify
from services.nats_server.embedded_nats import EmbeddedNats
from trainshed_client.nats_client import connect
from trainshed_client.statuses import FailureReason

NODE = "bench"
SLOTS, CPUS = 8, 64
WAITS = {"entry_point": "/bin/sleep", "arguments": ["86400"]}
WITHOUT_DEADLINE_S = 600.0


class Written(msgspec.Struct, frozen=True):
    """What a history came to: transitions in the log, and the seconds that they took to write."""

    events: int
    runs: int
    live: int
    took_s: float


class History(LogMaker):
    """Makes events in the order of their sequences; ``taken`` hands out those not yet taken."""

    def __init__(self, incarnation: str) -> None:
        super().__init__()
        self._incarnation = incarnation
        self._made: list[NewEvent] = []

    @property
    def now_ns(self) -> int:
        """The time of writing: what is stored in these moments."""
        return time.time_ns()

    def append(self, new: NewEvent) -> int:
        """Keep the event until it is taken; its sequence is the one that the log will give it."""
        self._made.append(new)
        self.seq += 1
        return self.seq

    def taken(self) -> list[NewEvent]:
        """What was made since the last call."""
        made, self._made = self._made, []
        return made

    def events(self, runs: int, live: int) -> Iterator[list[NewEvent]]:
        """The whole history in pieces of a few hundred events: ``runs`` that ended, then ``live`` that wait."""
        self.elect()
        self.join(NODE, slots=SLOTS, cpus=CPUS, incarnation=self._incarnation)
        for first in range(0, runs, SLOTS):
            self._wave(range(first, min(first + SLOTS, runs)))
            yield self.taken()
        for number in range(live):
            # a node on which some are granted gives them back at its end: the number of live ones stays
            self.submit({**self._config(number), **WAITS, "retry": {"max_attempts": 1_000, "backoff_s": 0}})
        yield self.taken()

    def _wave(self, numbers: range) -> None:
        """A run on each slot, from submission to end."""
        run_ids = [self.submit(self._config(number)) for number in numbers]
        for slot, run_id in enumerate(run_ids):
            self._grant(run_id, 1, slot)
        for slot, run_id in enumerate(run_ids):
            self.start(run_id, 1, NODE, (slot,))
        for slot, (number, run_id) in enumerate(zip(numbers, run_ids, strict=True)):
            self._end(number, run_id, slot)

    def _end(self, number: int, run_id: str, slot: int) -> None:
        """Of a hundred runs 94 complete, two of them at the second try; two each fail, are cancelled and time out."""
        match number % 50:
            case 7:
                self._fail(run_id, 1)
                self._grant(run_id, 2, slot)
                self.start(run_id, 2, NODE, (slot,))
                self.complete(run_id, 2, NODE)
            case 17:
                self._fail(run_id, 1)
                self._grant(run_id, 2, slot)
                self.start(run_id, 2, NODE, (slot,))
                self._fail(run_id, 2)
            case 27:
                self.by_gateway(CancelRequested(run_id=run_id))
                self.by_dispatcher(
                    Stopping(
                        run_id=run_id,
                        attempt=1,
                        epoch=self.epoch,
                        node=NODE,
                        incarnation=self._incarnation,
                        reason="cancel",
                    )
                )
                self.by_agent(Cancelled(run_id=run_id, attempt=1, reason="cancel", signal=15), NODE)
            case 37:
                timed_out = TimedOut(
                    run_id=run_id, attempt=1, failure_reason=FailureReason.TIME_LIMIT, timeout_s=60.0
                )
                self.by_agent(timed_out, NODE)
            case _:
                self.complete(run_id, 1, NODE)

    def _grant(self, run_id: str, attempt: int, slot: int) -> None:
        launch = msgspec.json.encode(
            {"entry_point": "/usr/bin/python3", "arguments": ["-m", "train", "--seed", str(self.seq)]}
        )
        self.dispatch(
            run_id, attempt, NODE, (slot,), incarnation=self._incarnation, launch=msgspec.Raw(launch)
        )

    def _fail(self, run_id: str, attempt: int) -> None:
        tail = (
            "Traceback (most recent call last):\n  ...\nRuntimeError: CUDA error: an illegal memory access\n"
        )
        failed = Failed(
            run_id=run_id,
            attempt=attempt,
            failure_reason=FailureReason.EXIT_CODE,
            exit_code=1,
            duration_s=3.5,
            output_tail=tail,
        )
        self.by_agent(failed, NODE)

    def _config(self, number: int) -> dict[str, object]:
        return {
            "run_name": f"sweep-{number // 100}",
            "entry_point": "/usr/bin/python3",
            "arguments": ["-m", "train", "--seed", str(number)],
            "labels": {"sweep": "lr", "user": "ada"},
            "resources": {"gpus": {"requested": 1}},
            "retry": {"max_attempts": 2, "backoff_s": 0},
            "submission_key": uuid7(),
        }


async def write(state_dir: Path, runs: int, live: int) -> Written:
    """Write such a history into a new ``state_dir``, whose stack does not run. Raises TrainshedError, RuntimeError."""
    server = EmbeddedNats(state_dir, Unconfined())
    await server.start(within_s=WITHOUT_DEADLINE_S)
    try:
        nc = await connect(server.endpoint, name="history")
        try:
            log_id = await ensure_streams(nc)
            log = EventLog(nc, timeout_s=60.0)
            if await log.end():
                raise RuntimeError(f"{state_dir} has a log already: name a folder that is new")
            history = History(identify(state_dir, log_id=log_id, node=NODE, ids=uuid7).incarnation)
            began = time.monotonic()
            await _append(log, history.events(runs, live))
            took_s = time.monotonic() - began
            if (end := await log.end()) != history.seq:
                raise RuntimeError(f"{history.seq} events were made and {end} are stored")
        finally:
            await nc.close()
    finally:
        await server.stop(within_s=60.0)
    return Written(end, runs, live, took_s)


async def _append(log: EventLog, pieces: Iterator[list[NewEvent]]) -> None:
    """In batches, one after the other; while the log stores one the next is made."""
    storing: asyncio.Task[list[int]] | None = None
    left: list[NewEvent] = []
    try:
        for piece in pieces:
            left += piece
            while len(left) >= MAX_BATCH:
                batch, left = left[:MAX_BATCH], left[MAX_BATCH:]
                if storing is not None:
                    await storing
                storing = asyncio.create_task(log.append_batch(batch, [None] * len(batch)))
                await asyncio.sleep(0)  # it is sent before the next is made
        if storing is not None:
            await storing
        if left:
            await log.append_batch(left, [None] * len(left))
    finally:
        if storing is not None and not storing.done():
            storing.cancel()
            await asyncio.wait({storing})


def main() -> int:
    """Write one and say what came of it."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.history", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--runs",
        type=int,
        required=True,
        metavar="N",
        help="runs that ended (a bit over four transitions each)",
    )
    parser.add_argument(
        "--live", type=int, default=100, metavar="N", help="runs that wait for a GPU at the end (100)"
    )
    parser.add_argument(
        "--state", type=Path, required=True, metavar="DIR", help="a new state folder (TRAINSHED_STATE_DIR)"
    )
    options = parser.parse_args()
    written = asyncio.run(write(options.state.absolute(), options.runs, options.live))
    print(
        f"{written.events:,} transitions of {written.runs:,} runs and {written.live} that wait, in {written.took_s:.1f} s "
        f"({written.events / written.took_s:,.0f} a second).\n"
        f"Start it: TRAINSHED_STATE_DIR={options.state.absolute()} trainshed up --gpus {SLOTS}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
