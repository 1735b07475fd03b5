"""Reading a stream by JetStream's batched direct gets (ADR-31): all that a reader needs beside its subscriptions.

Owns how a page is asked for, where it ends and when it is asked for again; knows nothing of what is stored.
"""

from __future__ import annotations

import asyncio
import calendar
import functools
import re
import time
from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import nats.errors

from trainshed_client._compat_asyncio import timeout
from trainshed_client.errors import ErrorCode, NobodyAnswers, TrainshedError
from trainshed_client.os_errors import cause

if TYPE_CHECKING:
    from typing import Self

    from trainshed_client.nats_client import SafeClient

PAGE = 1_000
"""Messages of one request; the server ends a page earlier at `PAGE_BYTES`."""
PAGE_BYTES = 4 * 1024 * 1024
ANSWER_WITHIN_S = 5.0
"""So long nothing of a page may arrive before it is asked for again."""
PATIENCE_S = 10.0
"""So long nobody need answer before that is an error."""
ABSENT_S = 1.0
"""So long a stream that is not there is waited for."""
RETRY_S = 0.25


_PLACE = re.compile(
    rb"\r\nNats-Subject: ([^\r\n]*)\r\nNats-Sequence: (\d+)\r\nNats-Time-Stamp: ([^\r\n]*)\r\n"
)
"""Where a message is stored, as the server writes it."""
_STATUS = re.compile(rb"NATS/1\.0 (\d{3})([^\r\n]*)")
_PENDING = re.compile(rb"\r\nNats-Num-Pending: (\d+)\r\n")


class Message(NamedTuple):
    """One stored message: its sequence and the stream's time of storing (ns since 1970)."""

    seq: int
    stored_ns: int
    subject: str
    body: bytes


class NoStream(NobodyAnswers):
    """There is no such stream (or no JetStream) at all."""


class StreamReader:
    """Reads one stream. ``where`` names the server in errors.

    Its methods raise NoStream where no such stream is there for a second, UNAVAILABLE where no answer comes for
    ``patience_s`` seconds (None: both are waited for without end), and DENIED where the server refuses to answer.
    """

    def __init__(self, nc: SafeClient, stream: str, *, where: str) -> None:
        self._nc = nc
        self._stream = stream
        self._where = where

    async def pages(
        self,
        subject: str = ">",
        *,
        first: int = 1,
        size: int = PAGE,
        patience_s: float | None = PATIENCE_S,
    ) -> AsyncGenerator[list[Message], None]:
        """What is stored from sequence ``first`` on, page by page in its order, to the end as it is when it is reached.

        ``subject``: only what is stored on it (wildcards allowed). A lost connection is made good by asking again from
        where it was. No page is empty.
        """
        async with _Answers(self._nc) as answers:
            more = True
            while more:
                asked = {"seq": first, "next_by_subj": subject, "batch": size, "max_bytes": PAGE_BYTES}
                page, more = await self._page(answers, msgspec.json.encode(asked), patience_s)
                if page:
                    first = page[-1].seq + 1
                    yield page

    async def last(self, subject: str = ">", *, patience_s: float | None = PATIENCE_S) -> Message | None:
        """The last message on a subject (wildcards allowed); None where there is none."""
        return await self._one({"last_by_subj": subject}, patience_s)

    async def next(
        self, seq: int, subject: str = ">", *, patience_s: float | None = PATIENCE_S
    ) -> Message | None:
        """The message at ``seq``, or the first after it, on a subject (wildcards allowed); None where there is none."""
        return await self._one({"seq": seq, "next_by_subj": subject}, patience_s)

    async def _one(self, asked: Mapping[str, object], patience_s: float | None) -> Message | None:
        async with _Answers(self._nc, alone=True) as answers:
            page, _ = await self._page(answers, msgspec.json.encode(asked), patience_s)
        return page[0] if page else None

    async def _page(
        self, answers: _Answers, asked: bytes, patience_s: float | None
    ) -> tuple[list[Message], bool]:
        """The page, and whether there is more behind it."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            status, why = await answers.ask(f"$JS.API.DIRECT.GET.{self._stream}", asked)
            page = answers.messages
            if status in ("204", "404"):
                return page, answers.pending > 0
            if page:  # what came before the connection was lost is in order
                return page, True
            if status not in ("", "503"):
                raise TrainshedError(
                    ErrorCode.DENIED, f"{self._where} does not give {self._stream} to be read: {why}"
                )
            patience = ABSENT_S if status == "503" else patience_s
            if patience_s is not None and patience is not None and loop.time() - began >= patience:
                raise self._given_up(status, why)
            await answers.pause(RETRY_S)

    def _given_up(self, status: str, why: str) -> TrainshedError:
        if status == "503":
            return NoStream(
                f"there is no stream {self._stream} at {self._where}. Is the stack up? trainshed up"
            )
        return NobodyAnswers(
            f"{self._stream} at {self._where} cannot be read ({why}). Is the stack up, and may this user publish to "
            f"$JS.API.DIRECT.GET.{self._stream}?"
        )


class _Answers:
    """What one request after the other is answered with; an async context manager. ``alone``: one message is an answer."""

    def __init__(self, nc: SafeClient, *, alone: bool = False) -> None:
        self.messages: list[Message] = []
        self.pending = 0
        self._nc = nc
        self._alone = alone
        self._inbox = nc.new_inbox()
        self._number = 0
        self._reply = b""
        self._status = ""
        self._why = ""
        self._over = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._listening = await self._nc.listen_raw(f"{self._inbox}.*", self._receive)
        self._nc.reconnect_hooks.add(self._lost)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._nc.reconnect_hooks.discard(self._lost)
        try:
            await self._listening.unsubscribe()
        except nats.errors.Error:
            pass  # the connection is closed, and the subscription with it

    async def ask(self, subject: str, payload: bytes) -> tuple[str, str]:
        """Ask and wait; the status that the answer ends with ('': it did not end), and what that means."""
        self._number += 1
        reply = f"{self._inbox}.{self._number}"
        self._reply = reply.encode()
        self.messages, self.pending = [], 0
        self._status, self._why = "", "no answer in time"
        self._over.clear()
        try:
            await self._nc.publish(subject, payload, reply=reply)
            await self._answered()
        except nats.errors.Error as error:
            self._why = cause(error)
        return self._status, self._why

    async def _answered(self) -> None:
        arrived = -1
        while arrived < len(self.messages):  # a page that goes on arriving is waited for
            arrived = len(self.messages)
            try:
                async with timeout(ANSWER_WITHIN_S):
                    await self._over.wait()
                return
            except TimeoutError:
                pass

    async def pause(self, seconds: float) -> None:
        """Wait so long, or until the connection is made anew."""
        self._over.clear()
        try:
            async with timeout(seconds):
                await self._over.wait()
        except TimeoutError:
            pass

    def _lost(self) -> None:
        self._why = "the connection was lost"
        self._over.set()

    def _receive(self, subject: bytes, headers: bytes, body: bytes) -> None:
        if subject != self._reply:
            return  # of a request that was given up
        places = _PLACE.findall(headers)
        if places:  # a message, whatever status was stored with it; the server's own headers are the last
            stored_on, seq, stored = places[-1]
            self.messages.append(
                Message(int(seq), stored_ns(stored.decode()), stored_on.decode(errors="replace"), bytes(body))
            )
            if not self._alone:
                return
            self._status = "204"
        else:
            status = _STATUS.match(headers)
            self._status, self._why = (
                (part.decode(errors="replace").strip() for part in status.groups()) if status else ("", "")
            )
            pending = _PENDING.search(headers)
            self.pending = int(pending.group(1)) if pending else 0
        self._over.set()


def stored_message(headers: Mapping[str, str], subject: str, body: bytes) -> Message:
    """The message that these headers are of. Raises KeyError or ValueError where they are not JetStream's."""
    return Message(int(headers["Nats-Sequence"]), stored_ns(headers["Nats-Time-Stamp"]), subject, body)


def stored_ns(text: str) -> int:
    """JetStream's time of storing, RFC 3339 in UTC with up to nine digits, in ns since 1970. Raises ValueError."""
    return _second(text[:19]) * 1_000_000_000 + int(text[20:-1].ljust(9, "0"))


@functools.lru_cache(maxsize=16)
def _second(text: str) -> int:
    return calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))
