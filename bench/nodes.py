"""What 20,000 nodes that came and went cost, beside 20: a decision, the read-back of an ended run, the fold's snapshot.

Usage: python -m bench.nodes [--nodes 20000]. CPU time, which a busy machine changes little; each line ends with the ratio,
the same in both being 1.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from bench.log_maker import LogMaker
from bench.timing import machine
from events.codec import NewEvent, StoredEvent, decode
from events.evolve import evolve
from events.history import LogHistory
from events.log import MAX_BATCH, EventLog
from events.state import State, snapshot
from events.streams import ensure_streams
from events.types import NodeLeft
from services.access.local_realm import Unconfined
from services.dispatcher.decisions import Decisions
from services.nats_server.embedded_nats import EmbeddedNats
from trainshed_client.nats_client import connect

FEW, MANY = 20, 20_000
STAYS = 20
TIMES = 30


class Costs(msgspec.Struct):
    """CPU milliseconds, medians; and the snapshot's size in KiB."""

    decision: float = 0.0
    read_back: float = 0.0
    snapshot: float = 0.0
    size: float = 0.0


class ComingAndGoing(LogMaker):
    """Nodes on loan that come and go around one run that ended; some nodes stay."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[NewEvent] = []

    def append(self, new: NewEvent) -> int:
        """Keep the event as its writer made it, too."""
        self.made.append(new)
        return super().append(new)

    def write(self, nodes: int) -> str:
        """The whole log; the run's id."""
        self.elect()
        for number in range(STAYS):
            self.join(f"stays{number}")
        self._come_and_go(0, nodes // 2)
        run_id = self.submit()
        self.dispatch(run_id, node="stays0")
        self.start(run_id, node="stays0")
        self.complete(run_id, node="stays0")
        self._come_and_go(nodes // 2, nodes)
        for _ in range(200):
            self.submit()
        return run_id

    def _come_and_go(self, first: int, end: int) -> None:
        for number in range(first, end):
            name = f"loan{number}"
            upto = self.join(name, borrowed=True)
            self.by_agent(NodeLeft(node=name, incarnation=f"{name}-a", upto=upto), name)


def measure(nodes: int) -> Costs:
    """Write such a log into a server of its own and measure on it."""
    log = ComingAndGoing()
    run_id = log.write(nodes)
    state, decisions = State(), Decisions()
    for message in log.messages:
        stored = decode(message.subject, message.body, message.seq, message.stored_ns)
        assert isinstance(stored, StoredEvent)
        decisions.note(state, stored, evolve(state, stored))
    costs = Costs()
    costs.decision = cpu_ms(lambda: decisions.decide(state, state.seq, state.epoch, 0, {}))
    kept: list[bytes] = []
    costs.snapshot = cpu_ms(lambda: kept.append(msgspec.msgpack.encode(snapshot(state))))
    costs.size = len(kept[-1]) / 1024
    costs.read_back = asyncio.run(_read_back(log, run_id))
    return costs


def cpu_ms(act: Callable[[], object]) -> float:
    """The median CPU time of an act, in milliseconds."""
    taken = []
    for _ in range(TIMES):
        began = time.process_time()
        act()
        taken.append(time.process_time() - began)
    return statistics.median(taken) * 1_000


async def _read_back(made: ComingAndGoing, run_id: str) -> float:
    with tempfile.TemporaryDirectory(prefix="tsb-") as folder:
        server = EmbeddedNats(Path(folder), Unconfined())
        await server.start()
        try:
            nc = await connect(server.endpoint, name="bench-nodes")
            try:
                await ensure_streams(nc)
                log = EventLog(nc, timeout_s=60.0)
                for first in range(0, len(made.made), MAX_BATCH):
                    batch = made.made[first : first + MAX_BATCH]
                    await log.append_batch(batch, [None] * len(batch))
                history, end = LogHistory(log), await log.end()
                taken = []
                for _ in range(TIMES):
                    began = time.process_time()
                    run = await history.run_before(run_id, end + 1)
                    taken.append(time.process_time() - began)
                    assert run is not None and run.status.ended
                return statistics.median(taken) * 1_000
            finally:
                await nc.close()
        finally:
            await server.stop()


def main() -> None:
    """Print a line for each cost: with few nodes, with many, and how many times as much that is."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.nodes", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--nodes", type=int, default=MANY, metavar="N", help=f"that came and went ({MANY:,})")
    options = parser.parse_args()
    print(machine())
    few, many = measure(FEW), measure(options.nodes)
    print(f"{'nodes that came and went':<32}{FEW:>10}{options.nodes:>10,}{'ratio':>8}")
    for what, unit in (("decision", "ms"), ("read_back", "ms"), ("snapshot", "ms"), ("size", "KiB")):
        one, other = getattr(few, what), getattr(many, what)
        label = {"read_back": "an ended run read back", "size": "  its size"}.get(what, what)
        print(f"{label + ', ' + unit:<32}{one:>10.3f}{other:>10.3f}{other / max(one, 1e-9):>8.1f}")


if __name__ == "__main__":
    main()
