"""How long one decision takes with many runs PENDING, against the same decision with ten.

Usage: python -m bench.scheduler [--pending 100000] [--times 200]. Target: under 5 ms with 100,000.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import msgspec

from events.codec import StoredEvent, event_subject
from events.evolve import evolve
from events.state import State
from events.types import (
    Device,
    Dispatched,
    Elected,
    Event,
    NodeJoined,
    SchedulerInfo,
    Started,
    Submitted,
    View,
    Why,
)
from services.dispatcher.decisions import Decisions
from trainshed_client.subjects import Role

NODES = 20
SHAPES = 200


def a_state(
    pending: int, shape: Callable[[int], dict[str, object]], busy: int = 0
) -> tuple[State, Decisions]:
    """Twenty nodes with eight slots each, ``busy`` of them held for an hour, and as many runs as asked for, waiting."""
    state, decisions = State(), Decisions()

    def put(role: Role, event: Event, node: str | None = None) -> None:
        seq = state.seq + 1
        stored = StoredEvent(seq, seq, event_subject(event, role, node), "", "", event)
        decisions.note(state, stored, evolve(state, stored))

    put(Role.DISPATCHER, Elected(name="bench", scheduler=SchedulerInfo(name="bench", version=1)))
    for number in range(NODES):
        name = f"n{number}"
        gpus = tuple(Device(index=index, uuid=f"{name}-{index}") for index in range(8))
        put(
            Role.AGENT,
            NodeJoined(node=name, incarnation=name, host=name, cpus=64, memory_mb=512_000, gpus=gpus),
            name,
        )
    for number in range(pending):
        config = {"entry_point": "/bin/true", "priority": number % 5, **shape(number)}
        raw = msgspec.Raw(msgspec.json.encode(config))
        put(Role.GATEWAY, Submitted(run_id=f"r{number}", config=raw, digest=""))
    for number in range(NODES * busy):
        hold(put, f"h{number}", f"n{number % NODES}", number // NODES)
    return state, decisions


def hold(put: Callable[..., None], run_id: str, node: str, slot: int) -> None:
    """A run of an hour at most that has a slot."""
    config = {"resources": {"gpus": {"requested": 1}}, "schedule": {"max_duration_seconds": 3_600}}
    raw = msgspec.Raw(msgspec.json.encode(config))
    put(Role.GATEWAY, Submitted(run_id=run_id, config=raw, digest=""))
    grant = Dispatched(
        run_id=run_id,
        attempt=1,
        epoch=1,
        node=node,
        incarnation=node,
        slots=(slot,),
        cpus=1,
        memory_mb=0,
        launch=raw,
        view=View(seq=1, now=""),
        why=Why(free=1),
    )
    put(Role.DISPATCHER, grant)
    put(Role.AGENT, Started(run_id=run_id, attempt=1, pid=1, host=node, slots=(slot,), devices=()), node)


def median_ms(state: State, decisions: Decisions, times: int) -> float:
    """The median CPU time of a decision (its grants are not sent, so each finds the same), in milliseconds.

    A decision waits for nothing; a busy machine does not change this number much.
    """
    taken = []
    for _ in range(times):
        began = time.process_time()
        decisions.decide(state, state.seq, state.epoch, 0, {})
        taken.append(time.process_time() - began)
    return statistics.median(taken) * 1_000


def one_grant(_: int) -> dict[str, object]:
    """Runs of one shape that fill a node each, so that 20 are granted and the rest is one blocked shape."""
    return {"resources": {"gpus": {"requested": 8}}}


def nothing_fits(_: int) -> dict[str, object]:
    """More than any node has: the decision finds that nothing can start."""
    return {"resources": {"gpus": {"requested": 9}}}


def many_shapes(number: int) -> dict[str, object]:
    """Two hundred different needs in the queue."""
    return {
        "resources": {
            "cpus": 1 + number % SHAPES % 60,
            "memory_mb": 1_000 * (number % SHAPES),
            "gpus": {"requested": 8},
        }
    }


def many_limits(number: int) -> dict[str, object]:
    """First one that no node has room for yet, then runs of 1,000 time limits, some of which are over before it starts."""
    if number == 0:
        return {"priority": 9, "resources": {"gpus": {"requested": 8}}}
    limit = {"max_duration_seconds": 1 + 37 * (number % 1_000)}
    return {"resources": {"cpus": 1 + number % 4, "gpus": {"requested": 1 + number % 2}}, "schedule": limit}


def too_long_limits(number: int) -> dict[str, object]:
    """The same, but nobody is over in time, and the slots beside are too few."""
    wanted = many_limits(number)
    if number:
        wanted["resources"] = {"cpus": 1 + number % 4, "gpus": {"requested": 2}}
        wanted["schedule"] = {"max_duration_seconds": 100_000 + number % 1_000}
    return wanted


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pending", type=int, default=100_000)
    parser.add_argument("--times", type=int, default=200)
    options = parser.parse_args()
    print(
        f"{'queue':<14} {'10 pending':>12} {f'{options.pending} pending':>16} {'ratio':>7}   (target < 5 ms)"
    )
    for name, shape, busy in (
        ("20 grants", one_grant, 0),
        ("nothing fits", nothing_fits, 0),
        ("200 shapes", many_shapes, 0),
        ("back-filling", many_limits, 7),
        ("none in time", too_long_limits, 7),
    ):
        few = median_ms(*a_state(10, shape, busy), options.times)
        many = median_ms(*a_state(options.pending, shape, busy), options.times)
        print(f"{name:<14} {few:>9.3f} ms {many:>13.3f} ms {many / few:>7.1f}")


if __name__ == "__main__":
    main()
