"""The event log over JetStream: append against a guard, read back, follow.

Owns how outcomes are told apart (stored, conflict, unknown) and resolved; knows no rule of who may append what.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import msgspec
import nats.errors
from nats.aio.msg import Msg

from events.codec import MAX_EVENT_BYTES, NewEvent, StoredEvent, Unreadable, decode, event_id, uuid7
from events.feed import TRANSIENT_FROM, ApiError, Feed, api_call, read_answer
from trainshed_client import subjects
from trainshed_client.direct_get import Message, stored_message
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.nats_client import SafeClient
from trainshed_client.os_errors import cause

APPEND_TIMEOUT_S = 5.0
SURELY_S = 60.0
MAX_BATCH = 1_000
_CONFLICTS = frozenset({10071, 10164, 10201})  # 10201: an id of the batch was stored before
CLUSTER_CONFLICT = 10164
_NO_MESSAGE = 10037
_NO_ROOM = frozenset({10023, 10047, 10077})  # answered as 503, but certain: nothing was stored


class Guard(msgspec.Struct, frozen=True):
    """Optimistic concurrency: append only while ``subject`` (wildcards allowed) ends at sequence ``seq`` (0: empty)."""

    subject: str
    seq: int


class Conflict(Exception):
    """The guard did not hold: nothing was stored. ``transient`` (10164): a cluster asks to send the same again."""

    def __init__(self, description: str, *, transient: bool = False) -> None:
        super().__init__(description)
        self.transient = transient


class UnknownOutcome(Exception):
    """No answer came: the event may be stored or not, now or later (docs/protocol.md rule 2)."""


class Refused(TrainshedError):
    """The log took nothing, for a reason that is not a conflict (too large, storage full)."""


class Appended(msgspec.Struct, frozen=True):
    """Where an event was stored; ``duplicate``: it had been before, under the same id."""

    seq: int
    duplicate: bool = False


class LogIdentity(msgspec.Struct, frozen=True):
    """Which log it is (its own id, from the stream's metadata), and the last sequence that it has."""

    log_id: str
    last_seq: int


class _Ack(msgspec.Struct):
    seq: int = 0
    duplicate: bool = False
    error: dict[str, Any] | None = None


_ACK = msgspec.json.Decoder(_Ack)


class EventLog:
    """One connection's view of the event log. ``timeout_s``: how long an answer is awaited."""

    def __init__(
        self,
        nc: SafeClient,
        stream: str = subjects.EVENTS_STREAM,
        *,
        timeout_s: float = APPEND_TIMEOUT_S,
    ) -> None:
        self.nc = nc
        self.stream = stream
        self._timeout_s = timeout_s

    async def append(self, event: NewEvent, guard: Guard | None = None) -> Appended:
        """Append one event.

        Raises Conflict where the guard does not hold, UnknownOutcome where no answer came, Refused otherwise.
        """
        return await publish(self.nc, event.subject, event.id, event.body, guard, timeout_s=self._timeout_s)

    async def append_surely(self, event: NewEvent, *, within_s: float = SURELY_S) -> Appended:
        """Append an event without a guard; after a time-out it is sent again with the same id, for a minute.

        The stream's duplicate window (2 min) makes the repeats harmless. Raises UnknownOutcome after that minute.
        """
        try:
            async with asyncio.timeout(within_s):
                while True:
                    try:
                        return await self.append(event)
                    except UnknownOutcome:
                        await self.reachable()
        except TimeoutError:
            raise UnknownOutcome(f"no answer within {within_s} s") from None
        raise AssertionError("unreachable")

    async def append_batch(self, events: Sequence[NewEvent], guards: Sequence[Guard | None]) -> list[int]:
        """Append all or none, one after the other (ADR-50's atomic batch). Returns their sequences.

        Raises ValueError for more than 1,000, and what :meth:`append` raises; a conflict does not say which.
        """
        if len(events) > MAX_BATCH:
            raise ValueError(f"a batch holds at most {MAX_BATCH} events, not {len(events)}")
        if len(events) == 1:
            return [(await self.append(events[0], guards[0])).seq]
        batch = uuid7()
        last = len(events)
        for place, (event, guard) in enumerate(zip(events, guards, strict=True), 1):
            headers = _headers(event.id, guard)
            headers["Nats-Batch-Id"] = batch
            headers["Nats-Batch-Sequence"] = str(place)
            if place == last:
                headers["Nats-Batch-Commit"] = "1"
                ack = await _request(self.nc, event.subject, event.body, headers, self._timeout_s)
                return list(range(ack.seq - last + 1, ack.seq + 1))
            _fits(event.body)
            try:
                await self.nc.publish(event.subject, event.body, headers=headers)
            except nats.errors.Error as error:
                raise UnknownOutcome(str(error)) from error
        return []

    async def last(self, subject: str) -> StoredEvent | Unreadable | None:
        """The last event on a literal subject (a direct get: cheap, and open to a confined node)."""
        found = await last_message(self.nc, self.stream, subject, timeout_s=self._timeout_s)
        return None if found is None else decode(found.subject, found.body, found.seq, found.stored_ns)

    async def last_id(self, subject: str) -> tuple[int, str | None]:
        """(sequence, event id) of the last message on a literal subject; (0, None) where there is none."""
        found = await last_message(self.nc, self.stream, subject, timeout_s=self._timeout_s)
        return (0, None) if found is None else (found.seq, event_id(found.body))

    async def has(self, subject: str) -> tuple[int, str | None]:
        """As `last_id`, and where that finds nothing the leader is asked: on a cluster a direct get may be answered by a copy
        that lags behind what was acknowledged. For who may ask JetStream. Raises UnknownOutcome, ApiError."""
        found = await self.last_id(subject)
        if found[0]:
            return found
        try:
            answer = await api_call(self.nc, f"STREAM.MSG.GET.{self.stream}", {"last_by_subj": subject})
        except ApiError as error:
            if error.err_code == _NO_MESSAGE:
                return (0, None)
            if error.http_code >= TRANSIENT_FROM:
                raise UnknownOutcome(str(error)) from error
            raise
        except (TimeoutError, nats.errors.Error) as error:
            raise UnknownOutcome(cause(error)) from error
        message = answer["message"]
        return int(message["seq"]), event_id(base64.b64decode(message["data"]))

    async def reachable(self) -> None:
        """Return when the connection is made anew, or after a second: before a question is asked again."""
        await reconnected(self.nc)

    async def end(self) -> int:
        """The last sequence of the log."""
        info = await api_call(self.nc, f"STREAM.INFO.{self.stream}")
        return int(info["state"]["last_seq"])

    async def bounds(self) -> tuple[int, int]:
        """The first sequence of the log and the last; (1, 0) for an empty one."""
        state = (await api_call(self.nc, f"STREAM.INFO.{self.stream}"))["state"]
        return max(1, int(state["first_seq"])), int(state["last_seq"])

    async def first_since(self, ns: int) -> int:
        """The sequence of the first event stored at ``ns`` (since 1970) or later; one more than the end where none was.

        By halves: some twenty direct gets for a million events. Raises UnknownOutcome where nobody answers.
        """
        first, past = 1, await self.end() + 1
        while first < past:
            middle = (first + past) // 2
            found = await next_message(self.nc, self.stream, middle, timeout_s=self._timeout_s)
            if found is None or found.stored_ns >= ns:
                past = middle
            else:
                first = found.seq + 1
        return first

    async def log_id(self) -> str:
        """The log's own id, from the stream's metadata."""
        return (await self.identity()).log_id

    async def id_for_node(self) -> str:
        """The same as a node may ask it, in an account of its own or in the log's."""
        try:
            answer = await self.nc.request(subjects.LOG_INFO, b"", timeout=self._timeout_s)
        except nats.errors.NoRespondersError:
            return await self.log_id()
        return _identity(read_answer(answer.data)).log_id

    async def identity(self) -> LogIdentity:
        """Which log it is, and its end, both of one moment."""
        return _identity(await api_call(self.nc, f"STREAM.INFO.{self.stream}"))

    def follow(self, start_seq: int, filters: Iterable[str] = (subjects.ALL_EVENTS,)) -> Feed:
        """Everything from ``start_seq`` on, in order."""
        return Feed(self.nc, self.stream, tuple(filters), start_seq=start_seq)

    async def read(
        self,
        filters: Iterable[str] = (subjects.ALL_EVENTS,),
        *,
        start_seq: int = 1,
        end_seq: int | None = None,
    ) -> AsyncIterator[StoredEvent | Unreadable]:
        """What is stored from ``start_seq`` up to and with ``end_seq`` (the present end if left out)."""
        async for message in self.read_raw(filters, start_seq=start_seq, end_seq=end_seq):
            yield decode(message.subject, message.body, message.seq, message.stored_ns)

    async def read_raw(
        self,
        filters: Iterable[str] = (subjects.ALL_EVENTS,),
        *,
        start_seq: int = 1,
        end_seq: int | None = None,
    ) -> AsyncIterator[Message]:
        """The same, undecoded."""
        end = await self.end() if end_seq is None else end_seq
        if end < start_seq:
            return
        async with self.follow(start_seq, filters) as feed:
            while messages := await feed.batch(to_end=True):
                for message in messages:
                    if message.seq > end:
                        return
                    yield message
                    if message.seq == end:
                        return


async def publish(
    nc: SafeClient,
    subject: str,
    id_: str,
    body: bytes,
    guard: Guard | None = None,
    *,
    timeout_s: float = APPEND_TIMEOUT_S,
) -> Appended:
    """Store one message under an id (also used for heartbeats). Raises as :meth:`EventLog.append`."""
    ack = await _request(nc, subject, body, _headers(id_, guard), timeout_s)
    return Appended(ack.seq, ack.duplicate)


async def last_message(
    nc: SafeClient, stream: str, subject: str, *, timeout_s: float = APPEND_TIMEOUT_S
) -> Message | None:
    """The last message on a literal subject. Raises UnknownOutcome where nobody answers."""
    return await _direct_get(nc, f"{stream}.{subject}", b"", timeout_s)


def _identity(info: dict[str, Any]) -> LogIdentity:
    log_id = (info["config"].get("metadata") or {}).get("log_id", "")
    return LogIdentity(str(log_id), int(info["state"]["last_seq"]))


async def messages_between(
    nc: SafeClient, stream: str, first: int, last: int, *, timeout_s: float = APPEND_TIMEOUT_S
) -> list[Message]:
    """What is stored from sequence ``first`` up to and with ``last``: for some thousands, within a long stream, sooner than a
    consumer is made. Raises UnknownOutcome where nobody answers."""
    found: list[Message] = []
    arrived: list[Msg] = []
    over = asyncio.Event()

    def receive(msg: Msg) -> None:
        arrived.append(msg)
        if "Nats-Sequence" not in (msg.headers or {}):
            over.set()

    inbox = nc.new_inbox()
    listening = await nc.listen(inbox, receive)
    try:
        async with asyncio.timeout(timeout_s):
            while first <= last:
                asked = {"seq": first, "next_by_subj": ">", "batch": last - first + 1}
                await nc.publish(f"$JS.API.DIRECT.GET.{stream}", msgspec.json.encode(asked), reply=inbox)
                await over.wait()
                over.clear()
                part = [_stored(msg) for msg in arrived[:-1]]
                _none_or_end(arrived.pop())
                arrived.clear()
                found += (message for message in part if message.seq <= last)
                if not part:
                    break
                first = part[-1].seq + 1  # the server ends a batch that is large
    except (TimeoutError, nats.errors.Error) as error:
        raise UnknownOutcome(f"no answer to a direct get of {stream}: {cause(error)}") from error
    finally:
        with contextlib.suppress(nats.errors.Error):
            await listening.unsubscribe()
    return found


def _none_or_end(msg: Msg) -> None:
    """Raises ApiError for what ends a batch in any other way, UnknownOutcome where no stream answers."""
    headers = msg.headers or {}
    match headers.get("Status"):
        case "204" | "404":
            return
        case "503":
            raise UnknownOutcome("no stream answers")
        case status:
            raise ApiError(0, int(status or 0), str(headers.get("Description", "")))


async def next_message(
    nc: SafeClient, stream: str, seq: int, *, subject: str = ">", timeout_s: float = APPEND_TIMEOUT_S
) -> Message | None:
    """The message at ``seq``, or the first after it; of a ``subject``, if one is given. Raises UnknownOutcome where nobody
    answers."""
    asked = msgspec.json.encode({"seq": seq, "next_by_subj": subject})
    return await _direct_get(nc, stream, asked, timeout_s)


async def _direct_get(nc: SafeClient, of: str, asked: bytes, timeout_s: float) -> Message | None:
    try:
        answer = await nc.request(f"$JS.API.DIRECT.GET.{of}", asked, timeout=timeout_s)
    except (TimeoutError, nats.errors.Error) as error:
        raise UnknownOutcome(f"no answer to a direct get of {of}: {cause(error)}") from error
    headers = answer.headers or {}
    if "Nats-Sequence" in headers:  # of a message, whatever status was stored with it
        return _stored(answer)
    match headers.get("Status"):
        case "404":
            return None
        case status:
            raise ApiError(0, int(status or 0), str(headers.get("Description", "")))


def _stored(answer: Msg) -> Message:
    headers = answer.headers or {}
    return stored_message(headers, headers["Nats-Subject"], answer.data)


def _headers(id_: str, guard: Guard | None) -> dict[str, str]:
    headers = {"Nats-Msg-Id": id_}
    if guard is not None:
        headers["Nats-Expected-Last-Subject-Sequence"] = str(guard.seq)
        headers["Nats-Expected-Last-Subject-Sequence-Subject"] = guard.subject
    return headers


def _fits(body: bytes) -> None:
    if len(body) > MAX_EVENT_BYTES:
        raise Refused(
            ErrorCode.TOO_LARGE, f"the event is {len(body)} bytes, {MAX_EVENT_BYTES} at most are stored"
        )


async def _request(
    nc: SafeClient, subject: str, body: bytes, headers: dict[str, str], timeout_s: float
) -> _Ack:
    _fits(body)
    try:
        answer = await nc.request(subject, body, timeout=timeout_s, headers=headers)
    except nats.errors.NoRespondersError as error:
        raise UnknownOutcome("no stream answers") from error
    except (TimeoutError, nats.errors.Error) as error:
        raise UnknownOutcome(cause(error)) from error
    try:
        ack = _ACK.decode(answer.data)
    except msgspec.MsgspecError as error:
        raise UnknownOutcome(f"an answer that is none of JetStream's: {error}") from error
    if ack.error is None:
        return ack
    err_code = int(ack.error.get("err_code", 0))
    description = str(ack.error.get("description", ""))
    if err_code in _CONFLICTS:
        raise Conflict(description, transient=err_code == CLUSTER_CONFLICT)
    if int(ack.error.get("code", 0)) == 503 and err_code not in _NO_ROOM:
        raise UnknownOutcome(description)
    raise Refused(ErrorCode.UNAVAILABLE, f"the event log takes nothing: {description} ({err_code})")


async def reconnected(nc: SafeClient) -> None:
    """Wait for the connection to be made anew, a second at most."""
    again = asyncio.Event()
    nc.reconnect_hooks.add(again.set)
    try:
        async with asyncio.timeout(1.0):
            await again.wait()
    except TimeoutError:
        pass
    finally:
        nc.reconnect_hooks.discard(again.set)
