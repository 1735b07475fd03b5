"""Event logs made in memory, as the stream would hold them: for folds that need no server."""

from __future__ import annotations

import msgspec

from events.canonical import digest_of_json
from events.codec import NewEvent, Writer, uuid7
from events.rules import KNOWN
from events.types import (
    AttemptRef,
    Completed,
    Device,
    Dispatched,
    Elected,
    Event,
    LastHeartbeat,
    NodeJoined,
    SchedulerInfo,
    Started,
    Submitted,
    View,
    Why,
)
from trainshed_client.direct_get import Message
from trainshed_client.provenance import Provenance
from trainshed_client.subjects import Role

BASE_NS = 1_790_000_000_000_000_000
STEP_NS = 1_000_000
FIFO = SchedulerInfo(name="fifo", version=1)
"""A scheduler of no release."""


class LogMaker:
    """Appends events to ``messages`` with the project's codec; each is stored 1 ms after the one before."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.seq = 0
        self.epoch = 0
        self._gateway = Writer(Role.GATEWAY, lambda: self.now_ns, uuid7)
        self._dispatcher = Writer(Role.DISPATCHER, lambda: self.now_ns, uuid7)

    @property
    def now_ns(self) -> int:
        """When the next event is stored."""
        return BASE_NS + (self.seq + 1) * STEP_NS

    def by_gateway(self, event: Event) -> int:
        """Append what the gateway says; returns its sequence."""
        return self.append(self._gateway.new(event))

    def by_dispatcher(self, event: Event) -> int:
        """Append what the dispatcher says."""
        return self.append(self._dispatcher.new(event))

    def by_agent(self, event: Event, node: str) -> int:
        """Append what a node's agent says."""
        return self.append(Writer(Role.AGENT, lambda: self.now_ns, uuid7, node).new(event))

    def append(self, new: NewEvent) -> int:
        """Append an event as its writer made it; returns its sequence."""
        return self.raw(new.subject, new.body)

    def raw(self, subject: str, body: bytes) -> int:
        """Append a message as it stands."""
        stored_ns = self.now_ns
        self.seq += 1
        self.messages.append(Message(self.seq, stored_ns, subject, body))
        return self.seq

    # --- a few words that most logs need ------------------------------------------------------------------

    def elect(
        self,
        name: str = "dispatcher-1",
        *,
        rules: int = KNOWN,
        scheduler: SchedulerInfo = FIFO,
    ) -> int:
        """A dispatcher's election."""
        self.epoch = self.by_dispatcher(Elected(name=name, scheduler=scheduler, rules=rules))
        return self.epoch

    def join(
        self,
        node: str = "gpu01",
        *,
        slots: int = 2,
        cpus: int = 8,
        incarnation: str | None = None,
        attempts: tuple[AttemptRef, ...] = (),
        borrowed: bool = False,
    ) -> int:
        """A node with ``slots`` devices joins."""
        return self.by_agent(
            NodeJoined(
                node=node,
                incarnation=incarnation or f"{node}-a",
                host=f"{node}.lab",
                cpus=cpus,
                memory_mb=64_000,
                gpus=tuple(
                    Device(index=i, uuid=f"GPU-{node}-{i}", name="Tesla T4", memory_mb=15_360)
                    for i in range(slots)
                ),
                attempts=attempts,
                borrowed=borrowed,
            ),
            node,
        )

    def submit(
        self,
        config: dict[str, object] | None = None,
        *,
        by: str = "local",
        caller_path: str | None = None,
        provenance: Provenance | None = None,
        named: bool | None = None,
    ) -> str:
        """Submit a config; returns the run's id."""
        config = config if config is not None else {"entry_point": "/bin/true", "submission_key": uuid7()}
        digest = digest_of_json(config)
        event = Submitted(
            run_id=digest.run_id,
            config=msgspec.Raw(msgspec.json.encode(config)),
            digest=digest.hex,
            submitted_by=by,
            caller_path=caller_path,
            provenance=provenance,
            named=named,
        )
        self.by_gateway(event)
        return digest.run_id

    def dispatch(
        self,
        run_id: str,
        attempt: int = 1,
        node: str = "gpu01",
        slots: tuple[int, ...] = (0,),
        **fields: object,
    ) -> int:
        """A grant of the present epoch."""
        event = Dispatched(
            run_id=run_id,
            attempt=attempt,
            epoch=self.epoch,
            node=node,
            incarnation=f"{node}-a",
            slots=slots,
            cpus=1,
            memory_mb=0,
            launch=msgspec.Raw(b'{"entry_point":"/bin/true"}'),
            view=View(seq=self.seq, now="2026-11-24T08:00:00.000000Z"),
            why=Why(free=2),
        )
        return self.by_dispatcher(msgspec.structs.replace(event, **fields))

    def start(self, run_id: str, attempt: int = 1, node: str = "gpu01", slots: tuple[int, ...] = (0,)) -> int:
        """The worker's start."""
        return self.by_agent(
            Started(
                run_id=run_id,
                attempt=attempt,
                pid=4242,
                host=f"{node}.lab",
                slots=slots,
                folder=f"/srv/runs/{run_id}",
            ),
            node,
        )

    def complete(self, run_id: str, attempt: int = 1, node: str = "gpu01") -> int:
        """The worker's exit with 0, and what it told last."""
        return self.by_agent(
            Completed(
                run_id=run_id,
                attempt=attempt,
                duration_s=12.5,
                last_heartbeat=LastHeartbeat(
                    last_heartbeat_at="2026-11-24T08:00:12.000000Z",
                    step=1200,
                    progress=1.0,
                    metrics={"reward": 195.5},
                    seq=7,
                ),
            ),
            node,
        )
