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
from events.types import Device, Elected, Event, NodeJoined, SchedulerInfo, Submitted
from services.dispatcher.decisions import Decisions
from trainshed_client.subjects import Role

NODES = 20
SHAPES = 200


def a_state(pending: int, shape: Callable[[int], dict[str, object]]) -> tuple[State, Decisions]:
    """Twenty nodes with eight slots each, and as many runs as asked for, waiting."""
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
        config = {"entry_point": "/bin/true", "priority": number % 5, "resources": shape(number)}
        raw = msgspec.Raw(msgspec.json.encode(config))
        put(Role.GATEWAY, Submitted(run_id=f"r{number}", config=raw, digest=""))
    return state, decisions


def median_ms(state: State, decisions: Decisions, times: int) -> float:
    """The median time of a decision (its grants are not sent, so each finds the same), in milliseconds."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        decisions.decide(state, state.seq, state.epoch, 0, lambda _: 0.0, 15.0)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken) * 1_000


def one_grant(_: int) -> dict[str, object]:
    """Runs of one shape that fill a node each, so that 20 are granted and the rest is one blocked shape."""
    return {"gpus": {"requested": 8}}


def nothing_fits(_: int) -> dict[str, object]:
    """More than any node has: the decision finds that nothing can start."""
    return {"gpus": {"requested": 9}}


def many_shapes(number: int) -> dict[str, object]:
    """Two hundred different needs in the queue."""
    return {
        "cpus": 1 + number % SHAPES % 60,
        "memory_mb": 1_000 * (number % SHAPES),
        "gpus": {"requested": 8},
    }


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pending", type=int, default=100_000)
    parser.add_argument("--times", type=int, default=200)
    options = parser.parse_args()
    print(
        f"{'queue':<14} {'10 pending':>12} {f'{options.pending} pending':>16} {'ratio':>7}   (target < 5 ms)"
    )
    for name, shape in (
        ("20 grants", one_grant),
        ("nothing fits", nothing_fits),
        ("200 shapes", many_shapes),
    ):
        few = median_ms(*a_state(10, shape), options.times)
        many = median_ms(*a_state(options.pending, shape), options.times)
        print(f"{name:<14} {few:>9.3f} ms {many:>13.3f} ms {many / few:>7.1f}")


if __name__ == "__main__":
    main()
