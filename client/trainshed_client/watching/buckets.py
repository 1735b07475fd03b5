"""Where watched records come from over NATS: a bucket, read by direct gets, and what is republished of it.

Owns how what left a bucket unheard is found; knows nothing of what is handed out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Generic, TypeVar

from trainshed_client.direct_get import PATIENCE_S, Message, NoStream, stored_message
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.records import RunRecord
from trainshed_client.watching.kinds import RUNS, RecordKind
from trainshed_client.watching.newest import Newest
from trainshed_client.watching.present_runs import PresentRuns

if TYPE_CHECKING:
    from nats.aio.msg import Msg

    from trainshed_client.connection import Watching
    from trainshed_client.nats_connection import NatsConnection

R = TypeVar("R")

LAGS_S = 2.0
"""So far a copy of a bucket may lag behind."""


class BucketSource(Generic[R]):
    """See RecordSource. Of a bucket whose keys never leave it."""

    def __init__(self, connection: NatsConnection, kind: RecordKind[R]) -> None:
        self._connection = connection
        self._kind = kind
        self._timer: asyncio.TimerHandle | None = None
        self._last_look = False

    async def listen(
        self, newest: Newest[R], changed: Callable[[], None], again: Callable[[], None]
    ) -> Watching:
        """See RecordSource."""
        kind = self._kind
        self._again = again

        def hear(msg: Msg) -> None:
            message = stored_message(msg.headers or {}, msg.subject, msg.data)
            key = kind.live_key(message.subject)
            if message.body:
                self._take(newest, key, message, of_present=False)
            elif self._left(newest, key, message.stored_ns):
                again()
            changed()

        return await self._connection.hear([kind.live], hear, again)

    async def read(self, newest: Newest[R], *, again: bool, patient: bool) -> None:
        """See RecordSource. Raises UNAVAILABLE where there is no bucket, or nobody answers."""
        kind = self._kind
        present: set[str] = set()
        reader = self._connection.reader(kind.stream)
        try:
            async for page in reader.pages(patience_s=None if patient else PATIENCE_S):
                for message in page:
                    key = kind.stored_key(message.subject)
                    if message.body:
                        present.add(key)
                        self._take(newest, key, message, of_present=True)
                    else:
                        self._left(newest, key, message.stored_ns)
        except NoStream:
            raise TrainshedError(
                ErrorCode.UNAVAILABLE,
                f"{self._connection.where} has no records of {kind.name}s to watch (bucket {kind.bucket}). Either no "
                "projector keeps records there (`trainshed up` has one), or the stack is of an older release, which must be "
                "stopped and started again with this one",
            ) from None
        if again:
            await self._resolve(newest, newest.keys - present)
        if self._connection.of_several:
            self._look_once_more()

    def _look_once_more(self) -> None:
        """What was put just before may be missing on the server that answered: a little later the present is read again."""
        last_look, self._last_look = self._last_look, False
        if last_look:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(LAGS_S, self._after_the_lag)

    def _after_the_lag(self) -> None:
        self._last_look = True
        self._again()

    def _take(self, newest: Newest[R], key: str, message: Message, *, of_present: bool) -> None:
        record = self._kind.record(key, message.body)
        if record is not None:
            newest.arrived(key, record, stored_ns=message.stored_ns, of_present=of_present)

    def _left(self, newest: Newest[R], key: str, stored_ns: int) -> bool:
        """The key has left; whether the present is to be read again for it."""
        return False

    async def _resolve(self, newest: Newest[R], missing: AbstractSet[str]) -> None:
        """Find out what became of keys that were known and are not in the bucket, which may only be being filled."""


class MemberBucket(BucketSource[R]):
    """Of nodes or slots: what leaves is gone. ``listed`` asks for the keys of all that there are."""

    def __init__(
        self,
        connection: NatsConnection,
        kind: RecordKind[R],
        listed: Callable[[], Awaitable[AbstractSet[str]]],
    ) -> None:
        super().__init__(connection, kind)
        self._listed = listed

    def _left(self, newest: Newest[R], key: str, stored_ns: int) -> bool:
        newest.gone(key, stored_ns=stored_ns)
        return False

    async def _resolve(self, newest: Newest[R], missing: AbstractSet[str]) -> None:
        if missing:
            newest.only(await self._listed(), of=missing)


class RunBucket(BucketSource[RunRecord]):
    """Of runs, which leave long after they ended: an end that was not heard is asked for."""

    def __init__(self, connection: NatsConnection, present: PresentRuns) -> None:
        super().__init__(connection, RUNS)
        self._present = present
        self._live: set[str] = set()
        """What was live when it was last heard of."""

    def _take(self, newest: Newest[RunRecord], key: str, message: Message, *, of_present: bool) -> None:
        record = self._kind.record(key, message.body)
        if record is not None and newest.arrived(
            key, record, stored_ns=message.stored_ns, of_present=of_present
        ):
            self._heard(record)

    def _heard(self, record: RunRecord) -> None:
        if record.status.ended:
            self._live.discard(record.run_id)
        else:
            self._live.add(record.run_id)

    def _left(self, newest: Newest[RunRecord], key: str, stored_ns: int) -> bool:
        return key in self._live

    async def _resolve(self, newest: Newest[RunRecord], missing: AbstractSet[str]) -> None:
        for record in await self._present.of(self._live.intersection(missing)):
            if newest.arrived(record.run_id, record):
                self._heard(record)
