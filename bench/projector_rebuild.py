"""Rebuilding the read model from a long log: events a second on one core, from stored bytes to committed rows.

Usage: python -m bench.projector_rebuild [EVENTS] [--profile]. The target is 40,000 events a second.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import statistics
import tempfile
import time
from pathlib import Path

from bench.log_maker import LogMaker
from events.codec import StoredEvent, decode, uuid7
from events.evolve import evolve
from events.state import State
from projections.read_model.database import Database
from projections.read_model.projector import Projector
from projections.transparency.tiles import Tiles
from services.projector.service import BATCH
from trainshed_client.direct_get import Message

NODES, SLOTS = 8, 8


def make_log(events: int) -> list[Message]:
    """Runs as a busy lab has them: 64 at a time on 8 nodes, four events each."""
    log = LogMaker()
    log.elect()
    for node in range(NODES):
        log.join(f"gpu{node:02}", slots=SLOTS, cpus=64)
    width = NODES * SLOTS
    while log.seq < events:
        run_ids = [
            log.submit(
                {
                    "run_name": f"sweep-{log.seq}",
                    "entry_point": "/usr/bin/python3",
                    "arguments": ["-m", "train", "--seed", str(log.seq)],
                    "labels": {"sweep": "lr", "user": "ada"},
                    "resources": {"gpus": {"requested": 1}},
                    "submission_key": uuid7(),
                }
            )
            for _ in range(width)
        ]
        for step in ("dispatch", "start", "complete"):
            for place, run_id in enumerate(run_ids):
                name, slot = f"gpu{place // SLOTS:02}", (place % SLOTS,)
                if step == "dispatch":
                    log.dispatch(run_id, 1, name, slot)
                elif step == "start":
                    log.start(run_id, 1, name, slot)
                else:
                    log.complete(run_id, 1, name)
    return log.messages


def rebuild(messages: list[Message], folder: Path) -> float:
    """Seconds to fold and commit ``messages`` into a new SQLite file, in batches as the feed hands them out."""
    database = Database(folder / "read.db")
    projector = Projector.open(database, "bench", len(messages), tiles=Tiles(folder / "audit"))
    start = time.process_time()
    for at in range(0, len(messages), BATCH):
        projector.apply(messages[at : at + BATCH])
    took = time.process_time() - start
    projector.close()
    database.close()
    return took


def core(messages: list[Message]) -> float:
    """Seconds for decode and evolve alone: what no read model can be faster than."""
    start = time.process_time()
    state = State()
    for message in messages:
        stored = decode(message.subject, message.body, message.seq, message.stored_ns)
        assert isinstance(stored, StoredEvent)
        evolve(state, stored)
    return time.process_time() - start


def main() -> None:
    """Print medians of three."""
    parser = argparse.ArgumentParser()
    parser.add_argument("events", type=int, nargs="?", default=100_000)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    messages = make_log(options.events)
    count = len(messages)
    if options.profile:
        with tempfile.TemporaryDirectory() as folder, cProfile.Profile() as profile:
            rebuild(messages, Path(folder))
        pstats.Stats(profile).sort_stats("tottime").print_stats(35)
        return
    folds = [core(messages) for _ in range(3)]
    rebuilds = []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder:
            rebuilds.append(rebuild(messages, Path(folder)))
    print(f"{count} events; decode and evolve alone: {count / statistics.median(folds):,.0f} events/s")
    print(f"rebuild to committed rows: {count / statistics.median(rebuilds):,.0f} events/s (target 40,000)")


if __name__ == "__main__":
    main()
