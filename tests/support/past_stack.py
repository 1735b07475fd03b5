"""A stack that has only a log: it answers queries of any moment of it, as time travel should, by folding it anew.

Owns the calls' form; what was true at a moment is tests/support/replayed_at.py's.
"""

from __future__ import annotations

import bisect
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from events.times import nanoseconds
from services.api import error_answer
from tests.support.replayed_at import ReplayedAt
from trainshed_client import subjects
from trainshed_client.client import Trainshed
from trainshed_client.connection import ABSENT_S, Reply
from trainshed_client.direct_get import Message
from trainshed_client.errors import ErrorCode, TrainshedError

KEPT = 4


class PastStack:
    """Answers `run.list`, `run.get`, `run.explain`, `slot.list`, `node.list` and `audit.at`, by default at the log's end.

    See trainshed_client.connection.Connection; nothing can be followed here.
    """

    where = "a log"

    def __init__(self, messages: Sequence[Message]) -> None:
        self.messages = list(messages)
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self._kept: dict[int, ReplayedAt] = {}
        self._times = [message.stored_ns for message in self.messages]

    def at(self, seq: int) -> ReplayedAt:
        """A moment; some are kept, for a command asks of few of them."""
        if seq not in self._kept:
            while len(self._kept) >= KEPT:
                self._kept.pop(next(iter(self._kept))).close()
            self._kept[seq] = ReplayedAt(self.messages).at(seq)
        return self._kept[seq]

    async def request(
        self, subject: str, payload: bytes, *, timeout: float, tries: int = 1, absent_s: float = ABSENT_S
    ) -> Reply:
        """See Connection."""
        call, fields = subject.removeprefix(f"{subjects.API}."), msgspec.json.decode(payload)
        self.asked.append((call, dict(fields)))
        try:
            return Reply(msgspec.json.encode(self._answer(call, fields)), {})
        except TrainshedError as error:
            return Reply(msgspec.json.encode(error_answer(error)), {})

    def _answer(self, call: str, fields: dict[str, Any]) -> dict[str, Any]:
        if call == "audit.at":
            return self._moment(**fields)
        then = self.at(self._checked(fields.pop("at", len(self.messages)), "at"))
        match call:
            case "run.list":
                return then.runs(**fields)
            case "run.get":
                return then.run(fields["run_id"])
            case "run.explain":
                return then.explain(fields["run_id"])
            case "slot.list":
                return then.slots()
            case "node.list":
                return then.nodes()
            case _:
                raise TrainshedError(ErrorCode.UNAVAILABLE, f"{call}: nobody answers")

    def _moment(self, seq: int | None = None, time: str | None = None) -> dict[str, Any]:
        if time is not None:
            seq = bisect.bisect_right(self._times, nanoseconds(time))
            if seq == 0:
                raise TrainshedError(ErrorCode.INVALID, "is before the log's first event", "time")
        assert seq is not None
        then = self.at(self._checked(seq, "seq"))
        return {"v": 1, "seq": seq, "time": then.time, "state_hash": then.state_hash()}

    def _checked(self, seq: int, path: str) -> int:
        if 1 <= seq <= len(self.messages):
            return seq
        raise TrainshedError(
            ErrorCode.INVALID, f"must be 1 to {len(self.messages)}, the events of the log, not {seq}", path
        )

    async def watch_runs(self, *_: Any) -> Any:
        """See Connection."""
        raise NotImplementedError

    async def watch_output(self, *_: Any) -> Any:
        """See Connection."""
        raise NotImplementedError

    async def close(self) -> None:
        """See Connection."""

    async def abandon(self) -> None:
        """See Connection."""

    def client(self) -> Trainshed:
        """A client of it."""
        return Trainshed(self)

    @asynccontextmanager
    async def connected(self, **_: Any) -> AsyncIterator[Trainshed]:
        """In place of services.cli.common's."""
        yield self.client()
