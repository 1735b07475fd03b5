"""The way to the stack over NATS: requests, how their errors read, and what is republished of runs and output.

Owns which subject is asked and heard; the connection itself is nats_client's. Importing this costs 0.1 s (nats-py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from trainshed_client import subjects
from trainshed_client.connection import ABSENT_S, ReceiveOutput, ReceiveRun, Reply, answered_by, no_answer
from trainshed_client.direct_get import StreamReader
from trainshed_client.errors import ErrorCode, NobodyAnswers, TrainshedError
from trainshed_client.nats_client import SafeClient
from trainshed_client.roles import LEAST, lacking, needed_role

HEALTH_WITHIN_S = 2.0
SPELLED_OUT = 64
"""Up to so many runs are subscribed to one by one; for more, all runs are."""


class NatsConnection:
    """See Connection. ``where`` names the server in errors; it is made anew for ever when it is lost."""

    def __init__(self, nc: SafeClient, where: str) -> None:
        self.nc = nc
        self._where = where

    @property
    def where(self) -> str:
        """See Connection."""
        return self._where

    @property
    def of_several(self) -> bool:
        """Whether its server is one of a cluster: then a direct get may be answered by a copy that lags."""
        return bool(self.nc._server_info.get("cluster"))

    async def request(
        self, subject: str, payload: bytes, *, timeout: float, tries: int = 1, absent_s: float = ABSENT_S
    ) -> Reply:
        """See Connection."""
        loop = asyncio.get_running_loop()
        give_up, asked = loop.time() + absent_s, 0
        while True:
            try:
                msg = await self.nc.request(subject, payload, timeout=timeout / tries)
                return Reply(msg.data, msg.headers or {})
            except nats.errors.NoRespondersError:
                if loop.time() >= give_up:
                    raise await self._nobody(subject) from None
                await asyncio.sleep(0.1)
            except nats.errors.MaxPayloadError:
                raise TrainshedError(
                    ErrorCode.TOO_LARGE,
                    f"the request is {len(payload):,} bytes and the server takes {self.nc.max_payload:,}; "
                    "split it into several",
                ) from None
            except asyncio.TimeoutError:
                asked += 1
                if asked < tries:
                    continue
                raise no_answer(self._where, subject, timeout) from None
            except nats.errors.Error as error:
                raise NobodyAnswers(
                    f"the connection to {self._where} failed ({str(error).removeprefix('nats: ')})",
                ) from None

    async def _nobody(self, subject: str) -> TrainshedError:
        """Why no service hears what is asked there: that of a role, whose account has no such call, or that there is none."""
        if needed_role(subject) != LEAST:
            try:
                health = await self.nc.request(subjects.api("health"), b"{}", timeout=HEALTH_WITHIN_S)
            except (nats.errors.Error, asyncio.TimeoutError):
                pass
            else:
                if (denied := lacking(subject, health.data)) is not None:
                    return denied
        service = answered_by(subject)
        if service.startswith("the agent"):
            return TrainshedError(
                ErrorCode.UNAVAILABLE, f"{service} does not answer. See how it is: trainshed nodes"
            )
        service = service.removeprefix("the ")
        return NobodyAnswers(
            f"no {service} answers at {self._where}. Start one: trainshed up (or: trainshed {service})",
        )

    async def watch_runs(
        self, run_ids: frozenset[str] | None, receive: ReceiveRun, again: Callable[[], None]
    ) -> _Subscribed:
        """See Connection."""

        async def hear(msg: Msg) -> None:
            receive(msg.subject.rpartition(".")[2], msg.data)

        spelled_out = run_ids is not None and len(run_ids) <= SPELLED_OUT
        tokens = sorted(run_ids or ()) if spelled_out else ["*"]
        return await self._subscribe([subjects.watch_run(token) for token in tokens], hear, again)

    async def watch_output(
        self, run_id: str, attempt: int, node: str, receive: ReceiveOutput, again: Callable[[], None]
    ) -> _Subscribed:
        """See Connection."""

        async def hear(msg: Msg) -> None:
            receive(msg.subject.rpartition(".")[2], msg.headers or {}, msg.data)

        return await self._subscribe([subjects.output(run_id, attempt, node, "*")], hear, again)

    async def hear(
        self, to: Sequence[str], listener: Callable[[Msg], None], again: Callable[[], None]
    ) -> _Subscribed:
        """Hear what is published on these subjects, in its order, from the return on; ``again`` as in Connection.

        The listener is called while the connection is read, and must not block.
        """
        subscribed = _Subscribed(self.nc, again)
        self.nc.reconnect_hooks.add(again)
        for subject in to:
            subscribed.subscriptions.append(await self.nc.listen(subject, listener))
        await self.nc.flush()
        return subscribed

    def reader(self, stream: str) -> StreamReader:
        """Reads what is stored in a stream."""
        return StreamReader(self.nc, stream, where=self._where)

    async def _subscribe(
        self, to: list[str], hear: Callable[[Msg], object], again: Callable[[], None]
    ) -> _Subscribed:
        """Subscribe, and be sure that the server knows it, before anything is read."""
        self.nc.reconnect_hooks.add(again)
        subscribed = _Subscribed(self.nc, again)
        for subject in to:
            subscribed.subscriptions.append(
                await self.nc.subscribe(
                    subject,
                    cb=hear,  # type: ignore[arg-type]
                    pending_msgs_limit=-1,
                    pending_bytes_limit=-1,
                )
            )
        await self.nc.flush()
        return subscribed

    async def close(self) -> None:
        """See Connection."""
        await self.nc.close()

    async def abandon(self) -> None:
        """See Connection."""
        await self.nc.abandon()


class _Subscribed:
    """Subscriptions, and what is called after a reconnection."""

    def __init__(self, nc: SafeClient, again: Callable[[], None]) -> None:
        self.subscriptions: list[Subscription] = []
        self._nc = nc
        self._again = again

    async def close(self) -> None:
        """See Watching."""
        self._nc.reconnect_hooks.discard(self._again)
        for subscription in self.subscriptions:
            if not self._nc.is_closed:
                await subscription.unsubscribe()
