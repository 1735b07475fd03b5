"""Random event logs for property tests: mostly what a real stack writes, now and then what none should."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from bench.log_maker import LogMaker
from events.codec import StoredEvent, decode
from events.evolve import evolve
from events.run_machine import verdict_on
from events.state import Active, Pending, State
from events.types import (
    Artifacts,
    ArtifactsHashed,
    AttemptRef,
    Cancelled,
    CancelRequested,
    Completed,
    Device,
    Event,
    Failed,
    LastHeartbeat,
    NodeDrained,
    NodeJoined,
    NodeLeft,
    NodeLost,
    NodeRemoved,
    NodeResumed,
    RetryRequested,
    SlotHealthy,
    SlotUnhealthy,
    Stopping,
    TimedOut,
)
from trainshed_client.provenance import Provenance
from trainshed_client.records import AttemptUsage
from trainshed_client.statuses import AtFault, CodeSeen, FailureReason

NODES = ("gpu01", "gpu02")
MANY_ARTIFACTS = Artifacts(count=10**25, bytes=3)
SOME_ARTIFACTS = Artifacts(count=2, bytes=7, partial=True)


class RandomLog(LogMaker):
    """``grow`` appends one more event, chosen by ``random`` with an eye on where the log stands."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self.state = State()
        self.ids: list[str] = []
        self._folded = 0
        self._elect()

    def grow(self) -> None:
        """One more event."""
        self._fold()
        chances = (
            (4, self._submit),
            (6, self._dispatch),
            (5, self._start),
            (7, self._end),
            (2, self._cancel),
            (2, self._retry),
            (2, self._stop),
            (3, self._join),
            (2, self._node),
            (1, self._dispatchers_end),
            (1, self._elect),
            (1, self._junk),
        )
        self._one_of(chances)

    def _one_of(self, chances: Sequence[tuple[int, Callable[[], object]]]) -> None:
        weights = [weight for weight, _ in chances]
        self.random.choices([step for _, step in chances], weights)[0]()

    def _elect(self) -> None:
        self.elect(f"d{self.random.randrange(3)}", rules=self.random.choice([1, 1, 2, 3]))

    def _fold(self) -> None:
        for message in self.messages[self._folded :]:
            stored = decode(message.subject, message.body, message.seq, message.stored_ns)
            if isinstance(stored, StoredEvent):
                evolve(self.state, stored)
        self._folded = len(self.messages)

    def _run(self) -> str:
        live = [run_id for run_id in self.ids if run_id in self.state.runs]
        return self.random.choice(live if live and self.random.random() < 0.85 else self.ids or ["nobody"])

    def _attempt(self, run_id: str) -> int:
        run = self.state.runs.get(run_id)
        if run is not None and self.random.random() < 0.9:
            return run.attempt
        return self.random.randint(1, 3)

    def _node_of(self, run_id: str) -> str:
        run = self.state.runs.get(run_id)
        if run is not None and isinstance(run.phase, Active) and self.random.random() < 0.9:
            return run.phase.placements[0].node
        return self.random.choice(NODES)

    def _submit(self) -> None:
        number = self.random.randrange(8)
        config: dict[str, object] = {"entry_point": f"/bin/w{number}", "labels": {"n": str(number), "a": "é"}}
        if number % 2:
            config["retry"] = {"max_attempts": 3, "backoff_s": 2.5}
        if number > 4 and self.ids:
            config["after"] = sorted(self.random.sample(self.ids, 1))
        provenance = Provenance(
            folder="/srv/é", commit=f"{number}" * 400, dirty=bool(number), ignore=("*.ipynb",)
        )
        if number > 5:
            config["code"] = {"sha256": f"{number}" * 64}
        run_id = self.submit(config, provenance=self.random.choice([None, provenance]))
        if run_id not in self.ids:
            self.ids.append(run_id)

    def _dispatch(self) -> None:
        queued = [
            r for r in self.ids if r in self.state.runs and isinstance(self.state.runs[r].phase, Pending)
        ]
        run_id = self.random.choice(queued or self.ids or ["nobody"])
        node = self.random.choice(NODES)
        joined = self.state.nodes.get(node)
        slots = tuple(sorted(self.random.sample(range(3), self.random.randint(0, 2))))
        incarnation = joined.incarnation if joined is not None else "none"
        self.dispatch(run_id, self._attempt(run_id), node, slots, incarnation=incarnation)

    def _start(self) -> None:
        run_id = self._run()
        self.start(run_id, self._attempt(run_id), self._node_of(run_id))

    def _end(self) -> None:
        run_id = self._run()
        attempt, node = self._attempt(run_id), self._node_of(run_id)
        told = LastHeartbeat(
            ready_at="2026-11-24T08:00:00.000000Z",
            step=self.random.choice([None, 7, 7.0, 7.5, 10**30, 1e19]),
            progress=self.random.choice([None, -0.0, 0.25]),
            metrics=self.random.choice([{}, {"b": 1.0, "a": -0.0}, {"a": "NaN", "c": "Infinity", "b": 1e30}]),
            passed_over=self.random.choice([{}, {"value": "X_STEP=a", "key": "é"}]),
            primary_metric=self.random.choice([None, "reward"]),
            seq=3,
        )
        last = self.random.choice([None, told])
        reason = self.random.choice(list(FailureReason))
        code = self.random.choice([None, 3, 10**25])
        usage = self.random.choice([None, AttemptUsage(), AttemptUsage(cpu_s=-0.0, memory_peak_mb=10**25)])
        seen = self.random.choice([None, *CodeSeen])
        left = self.random.choice([None, MANY_ARTIFACTS, SOME_ARTIFACTS, SOME_ARTIFACTS])
        event: Event = self.random.choice(
            [
                Completed(
                    run_id=run_id,
                    attempt=attempt,
                    last_heartbeat=last,
                    usage=usage,
                    code=seen,
                    artifacts=left,
                ),
                ArtifactsHashed(run_id=run_id, attempt=attempt, artifacts=left),
                Failed(
                    run_id=run_id, attempt=attempt, failure_reason=reason, exit_code=code, last_heartbeat=last
                ),
                self._not_started(run_id, attempt),
                self._not_started(run_id, attempt),
                Failed(
                    run_id=run_id,
                    attempt=attempt,
                    failure_reason=FailureReason.EXIT_CODE,
                    exit_code=3,
                    code=seen,
                ),
                Cancelled(run_id=run_id, attempt=attempt, reason="cancel", last_heartbeat=last, usage=usage),
                TimedOut(
                    run_id=run_id, attempt=attempt, failure_reason=FailureReason.WORKER_TIMEOUT, timeout_s=300
                ),
            ]
        )
        self.by_agent(event, node)

    def _not_started(self, run_id: str, attempt: int) -> Failed:
        return Failed(
            run_id=run_id,
            attempt=attempt,
            failure_reason=self.random.choice([FailureReason.NOT_STARTED, FailureReason.SPAWN_ERROR]),
            at_fault=self.random.choice([None, AtFault.NODE, AtFault.NODE, AtFault.RUN, AtFault.UNSPECIFIED]),
            message=self.random.choice([None, "no space left on device"]),
        )

    def _cancel(self) -> None:
        self.by_gateway(CancelRequested(run_id=self._run(), reason=self.random.choice([None, "too slow"])))

    def _retry(self) -> None:
        run_id = self.random.choice(self.ids or ["nobody"])
        self.by_gateway(RetryRequested(run_id=run_id, attempt=self.random.randint(1, 3)))

    def _stop(self) -> None:
        run_id = self._run()
        node = self._node_of(run_id)
        self.by_dispatcher(
            Stopping(
                run_id=run_id,
                attempt=self._attempt(run_id),
                epoch=self.epoch,
                node=node,
                incarnation=f"{node}-a",
                reason="cancel",
            )
        )

    def _join(self) -> None:
        node = self.random.choice(NODES)
        live = [AttemptRef(run.run_id, run.attempt) for run, _, _ in self.state.attempts_of(node)]
        self.by_agent(
            NodeJoined(
                node=node,
                incarnation=f"{node}-{self.random.choice('aaab')}",
                host=f"{node}.lab",
                cpus=self.random.choice([4, 8, 10**20]),
                memory_mb=32_000,
                gpus=tuple(
                    Device(
                        index=i, uuid=f"GPU-{node}-{self.random.choice('xy')}", name="T4", memory_mb=15_000
                    )
                    for i in range(self.random.randint(0, 3))
                ),
                attempts=tuple(live[: self.random.randint(0, len(live))]),
                borrowed=self.random.random() < 0.5,
            ),
            node,
        )

    def _node(self) -> None:
        node = self.random.choice(NODES)
        joined = self.state.nodes.get(node)
        who: dict[str, Any] = {
            "node": node,
            "incarnation": joined.incarnation if joined is not None else "none",
        }
        choice = self.random.randrange(7)
        index = self.random.randrange(3)
        if choice == 0:
            self.by_agent(NodeLeft(**who, upto=self.random.randint(0, self.seq)), node)
        elif choice == 1:
            self.by_agent(SlotUnhealthy(**who, index=index), node)
        elif choice == 2:
            self.by_agent(SlotHealthy(**who, index=index), node)
        elif choice == 3:
            self.by_dispatcher(NodeLost(**who, epoch=self.epoch, silent_s=15.0))
        elif choice == 4:
            self.by_gateway(NodeRemoved(**who))
        elif choice == 5:
            self.by_gateway(NodeDrained(**who))
        else:
            self.by_gateway(NodeResumed(**who))

    def _dispatchers_end(self) -> None:
        run_id = self._run()
        attempt = self._attempt(run_id)
        reason = self.random.choice([FailureReason.SHIM_LOST, FailureReason.NOT_STARTED])
        event: Event = self.random.choice(
            [
                Cancelled(
                    run_id=run_id,
                    attempt=attempt,
                    epoch=self.epoch,
                    failure_reason=FailureReason.DEPENDENCY_FAILED,
                ),
                Failed(run_id=run_id, attempt=attempt, epoch=self.epoch, failure_reason=reason),
            ]
        )
        self.by_dispatcher(event)

    def _junk(self) -> None:
        body = self.random.choice([b"", b"{}", b"\xff\xfe", msgspec.json.encode({"specversion": "1.0"})])
        tail = self.random.choice(["failed.gpu01", "exploded.gpu01", "submitted._", "*.x"])
        self.raw(f"trainshed.events.run.{self._run()}.agent.{tail}", body)


class ComingAndGoing(RandomLog):
    """Nodes on loan that come and go under few names, with grants that were on their way to them."""

    def grow(self) -> None:
        """One more event."""
        self._fold()
        self._one_of(
            (
                (2, self._submit),
                (6, self._grant),
                (1, self._start),
                (1, self._end),
                (4, self._join),
                (4, self._leave),
                (2, self._lose),
                (3, self._remove),
                (5, self._verdict),
                (1, self._elect),
                (1, self._retry),
                (1, self._node),
            )
        )

    def _grant(self) -> None:
        queued = [run for run in self.state.runs.values() if isinstance(run.phase, Pending)]
        if queued:
            run, node = self.random.choice(queued), self.random.choice(NODES)
            self.dispatch(
                run.run_id, run.attempt, node, (0,), incarnation=f"{node}-{self.random.choice('ab')}"
            )

    def _who(self) -> dict[str, Any]:
        node = self.random.choice(NODES)
        known = self.state.nodes.get(node)
        incarnation = known.incarnation if known is not None else f"{node}-{self.random.choice('ab')}"
        return {"node": node, "incarnation": incarnation}

    def _leave(self) -> None:
        who = self._who()
        self.by_agent(NodeLeft(**who, upto=self.random.randint(max(0, self.seq - 12), self.seq)), who["node"])

    def _lose(self) -> None:
        self.by_dispatcher(NodeLost(**self._who(), epoch=self.epoch, silent_s=15.0))

    def _remove(self) -> None:
        self.by_gateway(NodeRemoved(**self._who()))

    def _verdict(self) -> None:
        """What is owed, also by other rules than those in force."""
        active = [(run, run.phase) for run in self.state.runs.values() if isinstance(run.phase, Active)]
        if active:
            run, phase = self.random.choice(active)
            reason = verdict_on(self.state, run, phase) or FailureReason.NOT_STARTED
            failed = Failed(run_id=run.run_id, attempt=phase.attempt, failure_reason=reason, epoch=self.epoch)
            self.by_dispatcher(failed)
