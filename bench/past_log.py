"""A long log whose past is worth asking for: at every moment some hundred runs wait and dozens run, and they end in any order.

Owns how such a lab goes on; measures nothing.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator

from bench.log_maker import LogMaker
from events.codec import NewEvent, uuid7
from events.types import CancelRequested, Failed, RetryRequested
from trainshed_client.direct_get import Message
from trainshed_client.statuses import FailureReason

NODES, SLOTS = 8, 8
QUEUED = 300
"""So many runs wait at every moment."""


class BusyLab(LogMaker):
    """A lab of 64 GPUs, always taken, with a queue before them. ``events`` hands its log out in pieces."""

    def __init__(self, seed: int = 7) -> None:
        super().__init__()
        self._random = random.Random(seed)
        self._queue: deque[tuple[str, int]] = deque()
        self._running: list[tuple[str, int, str, int]] = []
        self._made = 0
        self.appended: list[NewEvent] = []
        """What was appended since whoever stores it took it."""

    def events(self, count: int) -> Iterator[list[Message]]:
        """The log's first ``count`` events (a few more), in pieces of about a thousand."""
        self.elect()
        for node in range(NODES):
            self.join(f"gpu{node:02}", slots=SLOTS, cpus=64)
        for _ in range(QUEUED):
            self._submit()
        for node in range(NODES):
            for slot in range(SLOTS):
                self._grant(f"gpu{node:02}", slot)
        while self.seq < count:
            for _ in range(250):
                self._step()
            yield self._taken()
        yield self._taken()

    def append(self, new: NewEvent) -> int:
        """See LogMaker."""
        self.appended.append(new)
        return super().append(new)

    def _taken(self) -> list[Message]:
        made, self.messages = self.messages, []
        return made

    def _step(self) -> None:
        """One attempt ends, its slot is granted again, and another run is submitted where none is tried again."""
        place = self._random.randrange(len(self._running))
        run_id, attempt, node, slot = self._running[place]
        self._running[place] = self._running[-1]
        self._running.pop()
        self._end(run_id, attempt, node)
        if len(self._queue) < QUEUED:
            self._submit()
        self._grant(node, slot)

    def _end(self, run_id: str, attempt: int, node: str) -> None:
        """Of a hundred attempts 95 complete; most of the others fail, and every second of these is tried again by hand."""
        chance = self._random.random()
        if chance < 0.95:
            self.complete(run_id, attempt, node)
            return
        if chance < 0.96:
            self.by_gateway(CancelRequested(run_id=run_id, reason="too slow"))
        failed = Failed(
            run_id=run_id,
            attempt=attempt,
            failure_reason=FailureReason.EXIT_CODE,
            exit_code=1,
            duration_s=3.5,
            output_tail="Traceback (most recent call last):\n  ...\nRuntimeError: CUDA error\n",
        )
        self.by_agent(failed, node)
        if chance > 0.98:
            self.by_gateway(RetryRequested(run_id=run_id, attempt=attempt))
            self._queue.append((run_id, attempt + 1))

    def _grant(self, node: str, slot: int) -> None:
        run_id, attempt = self._queue.popleft()
        self.dispatch(run_id, attempt, node, (slot,))
        self.start(run_id, attempt, node, (slot,))
        self._running.append((run_id, attempt, node, slot))

    def _submit(self) -> None:
        self._made += 1
        run_id = self.submit(
            {
                "run_name": f"sweep-{self._made // 100}",
                "entry_point": "/usr/bin/python3",
                "arguments": ["-m", "train", "--seed", str(self._made)],
                "labels": {"sweep": "lr", "user": "ada"},
                "resources": {"gpus": {"requested": 1}},
                "submission_key": uuid7(),
            }
        )
        self._queue.append((run_id, 1))
