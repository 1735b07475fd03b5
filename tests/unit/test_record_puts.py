"""Whatever the log holds and however it is cut: what is put and what leaves is what a filling would have there."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.log_maker import LogMaker
from events.codec import Writer
from events.types import GpuReading, NodeDrained, NodeHeartbeat, NodeLeft, RunHeartbeat
from projections import records
from projections.queries import answers
from projections.queries.answers import Queries
from projections.read_model.changed import Applied
from projections.read_model.database import Database
from projections.read_model.heartbeats import apply_heartbeats
from projections.read_model.projector import Projector
from projections.records import Filling, Puts
from tests.support.random_log import ComingAndGoing, RandomLog
from tests.support.read_model import LOG_ID, memory
from trainshed_client.direct_get import Message
from trainshed_client.subjects import Role

SOME = 3
"""So many of the runs that ended last stay."""


class Watched:
    """The buckets, as who follows what is put has them."""

    def __init__(self, database: Database) -> None:
        self._queries = Queries(database)
        filling = self._filling()
        self.puts = Puts(run_id for run_id, _ in filling.ended)
        self.kept = self._all(filling)

    def take(self, applied: Applied) -> None:
        """Put it; for each key what is put is never older than what was."""
        for subject, record in self.puts.of(applied):
            before = self.kept.pop(subject, None)
            if record is not None:
                if before is not None:
                    assert _age(before) <= _age(record), subject
                self.kept[subject] = record

    def is_as_filled(self) -> bool:
        """But for this: where a run that had ended is retried, the one that ended before all of these does not come back."""
        filling = self._filling()
        all_, ended = self._all(filling), [f"{records.RUNS}.{run_id}" for run_id, _ in filling.ended]
        gone = [subject for subject in ended if subject not in self.kept]
        return gone == ended[: len(gone)] and self.kept == {
            subject: record for subject, record in all_.items() if subject not in gone
        }

    def is_as_listed(self) -> bool:
        """Its slots and nodes are those of `slot.list` and `node.list`."""
        answers_ = (self._queries.slots()["slots"], self._queries.nodes()["nodes"])
        slots, nodes = ([msgspec.json.decode(record) for record in of_kind] for of_kind in answers_)
        listed = {f"{records.SLOTS}.{slot['node']}.{slot['index']}" for slot in slots}
        listed |= {f"{records.NODES}.{node['node']}" for node in nodes}
        return listed == {subject for subject in self.kept if not subject.startswith(f"{records.RUNS}.")}

    def _filling(self) -> Filling:
        live, ended = self._queries.bucket_runs()
        return Filling(live, ended, self._queries.bucket_slots(), self._queries.bucket_nodes())

    def _all(self, filling: Filling) -> dict[str, bytes]:
        return {subject: record for of_bucket in filling.records.values() for subject, record in of_bucket}


def _age(record: bytes) -> tuple[int, str]:
    fields: dict[str, Any] = msgspec.json.decode(record)
    return fields["seq"], fields["updated_at"] or ""


@pytest.fixture(autouse=True, scope="module")
def few_ended() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        for module in (records, answers):
            patch.setattr(module, "LAST_ENDED", SOME)
        yield


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 10**9), events=st.integers(1, 150))
def test_what_is_put_and_what_leaves_comes_to_what_a_filling_has(seed: int, events: int) -> None:
    log = RandomLog(seed) if seed % 2 else ComingAndGoing(seed)
    for _ in range(events):
        log.grow()
    chooser, at = random.Random(seed), 0
    database = memory()
    projector = Projector.open(database, LOG_ID, 10**9)
    watched = Watched(database)
    while at < len(log.messages):
        size = chooser.choice([1, 1, 2, 5, 40])
        watched.take(projector.apply(log.messages[at : at + size]))
        at += size
        assert watched.is_as_filled()
        assert watched.is_as_listed()
        if chooser.random() < 0.1:  # another projector, or the same one after a restart of the server
            watched = Watched(database)
    projector.close()
    database.close()


def _sent(heartbeat: NodeHeartbeat | RunHeartbeat, node: str, at_s: float) -> Message:
    subject, _, body = Writer(Role.AGENT, lambda: 0, lambda: "id", node).heartbeat(heartbeat)
    return Message(1, int(at_s * 1e9), subject, body)


def test_a_free_slot_goes_with_its_node_and_comes_back_with_it_and_a_held_one_stays() -> None:
    log = LogMaker()
    log.elect()
    log.join()
    log.dispatch(log.submit())
    database = memory()
    projector = Projector.open(database, LOG_ID, 10**9)
    watched = Watched(database)

    def slots() -> list[str]:
        watched.take(projector.apply(log.messages))
        log.messages.clear()
        assert watched.is_as_filled()
        assert watched.is_as_listed()
        return sorted(subject for subject in watched.kept if subject.startswith(records.SLOTS))

    held, free = (f"{records.SLOTS}.gpu01.{index}" for index in (0, 1))
    assert slots() == [held, free]
    log.by_agent(NodeLeft(node="gpu01", incarnation="gpu01-a", upto=log.seq), "gpu01")
    assert slots() == [held]
    readings = tuple(GpuReading(index=index, memory_used_mb=7) for index in (0, 1))
    heartbeat = NodeHeartbeat(node="gpu01", incarnation="gpu01-a", gpus=readings)
    watched.take(apply_heartbeats(projector, [_sent(heartbeat, "gpu01", 1_800_000_000.0)]))
    assert slots() == [held]
    log.join()
    assert slots() == [held, free]
    projector.close()
    database.close()


@settings(max_examples=30, deadline=None)
@given(gaps=st.lists(st.floats(0.5, 15), min_size=1, max_size=40), frees=st.randoms(use_true_random=False))
def test_a_nodes_heartbeats_are_put_once_in_ten_seconds_of_the_clock_and_no_end_of_it_is_lost(
    gaps: list[float], frees: random.Random
) -> None:
    log = ComingAndGoing(1)
    log.messages.clear()
    log.seq = 0
    log.join("gpu01")
    database = memory()
    projector = Projector.open(database, LOG_ID, 10**9)
    watched = Watched(database)
    watched.take(projector.apply(log.messages))
    began = at = 1_800_000_000.0
    put = 0
    for gap in gaps:
        at += gap
        free = frees.randrange(10**6)
        applied = apply_heartbeats(
            projector,
            [_sent(NodeHeartbeat(node="gpu01", incarnation="gpu01-a", disk_free_mb=free), "gpu01", at)],
        )
        put += len(applied.nodes)
        watched.take(applied)
    assert 1 <= put <= (at - began) // 10 + 1
    # what the last one said is put with the next event of the node at the latest
    log.by_gateway(NodeDrained(node="gpu01", incarnation="gpu01-a"))
    watched.take(projector.apply(log.messages[1:]))
    assert watched.is_as_filled()
    projector.close()
    database.close()
