"""An ordered reader of a stream that survives gaps, lost consumers and server restarts by reading again from its place.

Owns the ephemeral push consumer behind it (ADR-17's ordered consumer, with flow control); knows no event.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import msgspec
import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from events.codec import uuid7
from trainshed_client import subjects
from trainshed_client.direct_get import Message
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.nats_client import SafeClient

IDLE_HEARTBEAT_S = 2.0
API_TIMEOUT_S = 5.0
BATCH_LIMIT = 4_000


TRANSIENT_FROM = 500
"""JetStream's refusals from this code on are its own trouble (restarting, no leader): they pass."""


class Feed:
    """Delivers a stream's messages in order, each once, from ``start_seq`` on; an async context manager.

    ``last_per_subject`` begins with the last message of each subject instead, and does so again after a loss: for
    readers that keep no position. A lost connection is waited out for ever.
    """

    def __init__(
        self,
        nc: SafeClient,
        stream: str,
        filters: tuple[str, ...],
        *,
        start_seq: int = 1,
        last_per_subject: bool = False,
    ) -> None:
        self._nc = nc
        self._stream = stream
        self._filters = filters
        self._next = start_seq
        self._last_per_subject = last_per_subject
        self._inbox: Subscription | None = None
        self._consumer = ""
        self._delivered = 0
        self._queue: deque[Message | str] = deque()  # a str is the reply subject of a flow control request
        self._arrived = asyncio.Event()
        self._broken = False
        self._generation = 0
        self._left = 0

    async def __aenter__(self) -> Self:
        self._nc.reconnect_hooks.add(self._break)
        await self._begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._nc.reconnect_hooks.discard(self._break)
        await self._end()

    @property
    def position(self) -> int:
        """The sequence below which everything was handed out (meaningless with ``last_per_subject``)."""
        return self._next

    async def batch(
        self, limit: int = BATCH_LIMIT, *, to_end: bool = False, linger_s: float = 0.0
    ) -> list[Message]:
        """What has arrived, at least one message and at most ``limit``; waits for it.

        ``to_end``: once everything that is stored has been handed out it does not wait, but returns an empty list.
        ``linger_s``: after a wait it leaves so long for what follows closely.
        """
        while True:
            if self._broken:
                await self._begin()
            queue = self._queue
            while queue and isinstance(item := queue[0], str):
                queue.popleft()  # all before it was handed out: the server may send on
                await self._nc.publish(item)
            out: list[Message] = []
            while queue and len(out) < limit and isinstance(item := queue[0], Message):
                queue.popleft()
                out.append(item)
            if out:
                self._next = out[-1].seq + 1
                return out
            self._arrived.clear()
            if queue or self._broken:
                continue
            if to_end and not self._left:
                return []
            try:
                async with asyncio.timeout(2.5 * IDLE_HEARTBEAT_S):
                    await self._arrived.wait()
            except TimeoutError:
                self._broken = True  # the server's idle heartbeats no longer come: the consumer is gone
            if queue and linger_s:
                await asyncio.sleep(linger_s)

    # --- the consumer behind it ---------------------------------------------------------------------------

    def _break(self) -> None:
        self._broken = True
        self._arrived.set()

    async def _begin(self) -> None:
        """Make a consumer from the present place, as often as it takes."""
        while True:
            await self._end()
            self._broken = False
            self._queue.clear()
            self._delivered = self._left = 0
            self._generation += 1
            try:
                await self._create()
                return
            except ApiError as error:
                if error.http_code < TRANSIENT_FROM:
                    raise
            except (TimeoutError, nats.errors.Error):
                pass
            await self._reachable()

    async def _reachable(self) -> None:
        """Wait until the server answers again: told by a reconnection, and tried every second besides."""
        self._arrived.clear()
        try:
            async with asyncio.timeout(1.0):
                await self._arrived.wait()
        except TimeoutError:
            pass

    async def _create(self) -> None:
        inbox = self._nc.new_inbox()
        generation = self._generation
        self._inbox = await self._nc.listen(inbox, self._receiver(generation))
        self._consumer = f"feed-{uuid7()}"
        if self._last_per_subject:
            start: dict[str, Any] = {"deliver_policy": "last_per_subject"}
        else:
            start = {"deliver_policy": "by_start_sequence", "opt_start_seq": max(1, self._next)}
        config = {
            "name": self._consumer,
            "deliver_subject": inbox,
            "ack_policy": "none",
            "max_deliver": 1,
            "flow_control": True,
            "idle_heartbeat": int(IDLE_HEARTBEAT_S * 1e9),
            "inactive_threshold": 30_000_000_000,
            "mem_storage": True,
            "num_replicas": 1,
            "replay_policy": "instant",
            **start,
        }
        if len(self._filters) == 1:
            config["filter_subject"] = self._filters[0]
        else:
            config["filter_subjects"] = list(self._filters)
        made = await api_call(
            self._nc,
            f"CONSUMER.CREATE.{self._stream}.{self._consumer}",
            {"stream_name": self._stream, "config": config},
        )
        if self._delivered == 0:  # else what was delivered meanwhile knows better
            self._left = int(made.get("num_pending", 0))

    async def _end(self) -> None:
        inbox, self._inbox = self._inbox, None
        if inbox is None or self._nc.is_closed:
            return
        try:
            await inbox.unsubscribe()
            if self._nc.is_connected:
                # no answer is awaited: the server removes an unheard consumer after its inactive threshold anyway
                await self._nc.publish(f"$JS.API.CONSUMER.DELETE.{self._stream}.{self._consumer}")
        except nats.errors.Error:
            pass

    def _receiver(self, generation: int) -> Callable[[Msg], None]:
        queue, arrived = self._queue, self._arrived

        def receive(msg: Msg) -> None:
            if generation != self._generation:
                return
            reply = msg.reply
            if not reply.startswith(subjects.ACKS):
                headers = msg.headers or {}
                if stalled := reply or headers.get("Nats-Consumer-Stalled", ""):
                    queue.append(stalled)
                # an idle heartbeat tells what was delivered: by it a loss shows that no later message shows
                if int(headers.get("Nats-Last-Consumer", self._delivered)) != self._delivered:
                    self._broken = True
                arrived.set()
                return
            tokens = reply.split(".")
            at = 5 if len(tokens) == 9 else 7
            self._delivered += 1
            if int(tokens[at + 1]) != self._delivered:
                self._break()
                return
            self._left = int(tokens[at + 3])
            queue.append(Message(int(tokens[at]), int(tokens[at + 2]), msg.subject, msg.data))
            arrived.set()

        return receive


class ApiError(TrainshedError):
    """JetStream's own refusal of a call; ``err_code`` is its number."""

    def __init__(self, err_code: int, code: int, description: str) -> None:
        super().__init__(ErrorCode.UNAVAILABLE, f"JetStream: {description} ({err_code})")
        self.err_code = err_code
        self.http_code = code


async def api_call(nc: SafeClient, call: str, request: object = None) -> dict[str, Any]:
    """One call of the JetStream API. Raises ApiError on a refusal, TimeoutError or nats' NoRespondersError on silence."""
    payload = b"" if request is None else msgspec.json.encode(request)
    return read_answer((await nc.request(f"$JS.API.{call}", payload, timeout=API_TIMEOUT_S)).data)


def read_answer(data: bytes) -> dict[str, Any]:
    """What JetStream's API answered. Raises ApiError for a refusal."""
    body: dict[str, Any] = msgspec.json.decode(data)
    error = body.get("error")
    if error is not None:
        raise ApiError(
            int(error.get("err_code", 0)), int(error.get("code", 0)), str(error.get("description", ""))
        )
    return body
