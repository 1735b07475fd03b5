"""Bugs that are put into the services at their start, to see that the checks find them: `make faults ARGS=--seeded-bugs`.

Owns what each does to the code, under which faults it shows, and which check must find it. In no process but a seeded one.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from typing import Any, NamedTuple


class Bug(NamedTuple):
    """``services`` have it (the spawner is the agent's); ``found_by`` any of these; ``only`` these faults."""

    services: tuple[str, ...]
    patch: Callable[[], None]
    found_by: tuple[str, ...]
    only: str
    says: str

    def apply(self) -> None:
        """Put it into this process, if it is one of those."""
        if sys.argv[2] in self.services:
            self.patch()


def _skip_the_release() -> None:
    from events.state import Active, Run, State, Usage

    forget = State._forget

    def leaking(self: State, run: Run) -> None:
        forget(self, run)
        if isinstance(run.phase, Active):
            for placement in run.phase.placements:
                usage = self.usage.setdefault(placement.node, Usage({}, set()))
                for index in placement.slots:
                    usage.slots.setdefault(index, set()).add(run.ref)

    State._forget = leaking  # type: ignore[method-assign]


def _drop_the_guard_of_submitted() -> None:
    _without_guards()


def _drop_the_epochs_guard() -> None:
    _without_guards()


def _without_guards() -> None:
    from events.log import EventLog

    append_batch = EventLog.append_batch

    async def unguarded(self: EventLog, events: Any, guards: Any) -> list[int]:
        return await append_batch(self, events, [None] * len(events))

    EventLog.append_batch = unguarded  # type: ignore[method-assign]


def _apply_twice() -> None:
    from events.types import AttemptEnd
    from projections.read_model.core import Projection

    apply = Projection.apply

    def twice(self: Projection, stored: Any, body: bytes) -> Any:
        change = apply(self, stored, body)
        if isinstance(stored.event, AttemptEnd):
            self.working.state.seq = stored.seq - 1
            apply(self, stored, body)
        return change

    Projection.apply = twice  # type: ignore[method-assign]


def _forget_the_subreaper() -> None:
    from services.agent.processes import pool

    pool.SPAWNER = "tests.faults.seeded_spawner"


def _free_on_silence() -> None:
    import msgspec

    from events import evolve
    from events.node_machine import evolve_node
    from events.run_machine import end_attempt
    from events.types import NodeLost
    from trainshed_client.statuses import FailureReason, RunStatus

    def freeing(state: Any, stored: Any, event: Any) -> Any:
        change = evolve_node(state, stored, event)
        if not isinstance(event, NodeLost) or not change.nodes:
            return change
        runs, ended = list(change.runs), list(change.ended)
        for run, active, _ in list(state.attempts_of(event.node)):
            end = end_attempt(state, run, active, RunStatus.FAILED, FailureReason.NODE_LOST, stored)
            runs += end.runs
            ended += end.ended
        return msgspec.structs.replace(change, runs=tuple(runs), ended=tuple(ended))

    evolve.evolve_node = freeing  # type: ignore[attr-defined]


def _acknowledge_first() -> None:
    from services.agent.session.shell import SessionShell

    deliver = SessionShell.deliver

    def early(self: SessionShell, msg: Any) -> None:
        if msg.reply:
            self._spawn(self._acknowledge(msg))
        deliver(self, msg)

    SessionShell.deliver = early  # type: ignore[method-assign]


def _answer_before_it_is_stored() -> None:
    from events.log import EventLog

    async def hoping(self: EventLog, events: Any, guards: Any) -> list[int]:
        end = await self.end()

        async def later(event: Any) -> None:
            await asyncio.sleep(0.3)
            await self.nc.publish(event.subject, event.body)

        under_way.extend(asyncio.ensure_future(later(event)) for event in events)
        return list(range(end + 1, end + 1 + len(events)))

    under_way: list[asyncio.Future[None]] = []
    EventLog.append_batch = hoping  # type: ignore[method-assign]


def _put_what_no_schema_has() -> None:
    from projections.records import Puts

    of = Puts.of

    def more(self: Puts, applied: Any) -> Any:
        for subject, record in of(self, applied):
            yield subject, None if record is None else record[:-1] + b',"mood":"fine"}'

    Puts.of = more  # type: ignore[method-assign]


def _write_the_secret_down() -> None:
    _forget_the_subreaper()


def _launch_twice_without_a_lock() -> None:
    from services.agent.processes.workers import Workers

    _forget_the_subreaper()
    launch = Workers.launch

    async def twice(self: Workers, folder: Any) -> None:
        await asyncio.gather(launch(self, folder), launch(self, folder))
        await self._pool.hand_over(folder.absolute())

    Workers.launch = twice  # type: ignore[method-assign]


def spawner(bug: str) -> None:
    """What a bug does in the spawner, and so in its shims."""
    from services.agent.shim import cgroup, files, launch, prefork, process_tree

    match bug:
        case "forget the subreaper":
            process_tree.become_subreaper = lambda: None
            cgroup.join = lambda path, memory_path="": ("", "")
        case "write the secret down":
            command = launch.command

            def telling(*args: Any) -> launch.Command:
                made: launch.Command = command(*args)
                with open("command.json", "w") as file:
                    json.dump(made.environment, file)
                return made

            launch.command = telling  # type: ignore[assignment]
        case "launch twice, with no lock":

            def careless(folder: str, boot_id: str) -> tuple[int, dict[str, object]]:
                import os

                os.chdir(folder)
                return os.open("lock", os.O_RDWR | os.O_CLOEXEC), files.read_json("intent.json") or {}

            prefork._take_up = careless
        case _:
            raise ValueError(f"no bug of the spawner's: {bug}")


WRITERS = ("gateway", "dispatcher")
ALL = ("gateway", "dispatcher", "projector", "agent")

BUGS: dict[str, Bug] = {
    "skip the release": Bug(
        ("dispatcher",),
        _skip_the_release,
        ("I1",),
        "kill -9 projector",
        "the dispatcher's state keeps an ended attempt's slots",
    ),
    "drop the guard of Submitted": Bug(
        ("gateway",),
        _drop_the_guard_of_submitted,
        ("I6",),
        "kill -9 projector",
        "Submitted is appended without `expected last sequence 0`",
    ),
    "drop the epoch's guard": Bug(
        ("dispatcher",),
        _drop_the_epochs_guard,
        ("I3", "I2"),
        "SIGSTOP dispatcher (active)",
        "a dispatcher's events are appended without the epoch's guard",
    ),
    "apply twice": Bug(
        ("projector",),
        _apply_twice,
        ("I4",),
        "kill -9 projector",
        "the projector folds each end a second time",
    ),
    "forget the subreaper": Bug(
        ("agent",),
        _forget_the_subreaper,
        ("I5",),
        "kill -9 projector",
        "the shim is no child subreaper (and has no cgroup)",
    ),
    "free on silence": Bug(
        ALL,
        _free_on_silence,
        ("I2", "I3"),
        "SIGSTOP agent",
        "NodeLost ends the node's attempts, in every service",
    ),
    "acknowledge before the intent is written": Bug(
        ("agent",),
        _acknowledge_first,
        ("I1",),
        "disk full: agent",
        "a decision is acknowledged when it arrives",
    ),
    "answer before it is stored": Bug(
        ("gateway",),
        _answer_before_it_is_stored,
        ("I6",),
        "kill -9 nats-server,kill -9 gateway",
        "the gateway answers a submission 0.3 s before it appends it",
    ),
    "put what no schema has": Bug(
        ("projector",),
        _put_what_no_schema_has,
        ("contract",),
        "kill -9 worker",
        "the projector puts records with a field that docs/schema does not have",
    ),
    "write the secret down": Bug(
        ("agent",),
        _write_the_secret_down,
        ("I7",),
        "kill -9 projector",
        "the shim leaves the worker's environment in the attempt's folder",
    ),
    "launch twice, with no lock": Bug(
        ("agent",),
        _launch_twice_without_a_lock,
        ("I3",),
        "kill -9 projector",
        "each grant is handed to two shims, which look at no lock and no file",
    ),
}
