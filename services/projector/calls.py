"""What a projector answers when it is asked: each call, once the read model has all that was acknowledged before it.

Owns how long a query waits and what it answers while the read model lags or is in trouble; knows no table.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, Protocol, TypeVar

import msgspec
import nats.errors
from sqlalchemy.exc import SQLAlchemyError

from events.feed import ApiError
from events.log import EventLog
from projections.queries.answers import FoundOne, Queries
from projections.queries.listing import run_query
from services.api import Call
from services.parent import LABEL, seen_by, unseen
from services.position import Position
from services.projector.trouble import Trouble
from services.projector.waiting import WaitingRuns
from trainshed_client.errors import ErrorCode, TrainshedError

_log = logging.getLogger("trainshed.projector")

FRESH_WITHIN_S = 2.0

T = TypeVar("T")


class InReader(Protocol):
    """Runs a query's work beside the loop."""

    async def __call__(self, work: Callable[[], T], /) -> T:
        """See the class."""
        ...


class Answers:
    """The projector's calls."""

    def __init__(
        self,
        queries: Queries,
        waiting: WaitingRuns,
        log: EventLog,
        position: Position,
        trouble: Trouble,
        in_reader: InReader,
        *,
        keeps_records: bool,
    ) -> None:
        self._queries = queries
        self._waiting = waiting
        self._log = log
        self._position = position
        self._trouble = trouble
        self._in_reader = in_reader
        self._keeps_records = keeps_records
        self._lags = False

    def calls(self) -> dict[str, Callable[[Call], Awaitable[object]]]:
        return {
            "run.get": self._run_get,
            "run.list": self._run_list,
            "run.explain": self._run_explain,
            "slot.list": self._slot_list,
            "node.list": self._node_list,
            "audit.rows": self._audit_rows,
            "health": self._health,
        }

    async def _run_get(self, call: Call) -> object:
        run_id = _run_id(call)
        return await self._answer(lambda: self._waiting.run(_seen(self._queries.run(run_id), call.parent)))

    async def _run_explain(self, call: Call) -> object:
        run_id = _run_id(call)
        return await self._answer(lambda: self._waiting.explain(self._queries.run(run_id)))

    async def _run_list(self, call: Call) -> object:
        fields = call.fields(
            status=list,
            labels=dict,
            name=str,
            run=str,
            prefix=str,
            live=bool,
            ended=bool,
            ended_before=str,
            limit=int,
            before_seq=int,
        )
        if call.parent is not None:
            fields["labels"] = {**(fields["labels"] or {}), LABEL: call.parent}
        query = run_query(**fields)
        return await self._answer(lambda: self._waiting.listing(self._queries.runs(query)))

    async def _slot_list(self, call: Call) -> object:
        call.fields()
        return await self._answer(self._queries.slots)

    async def _node_list(self, call: Call) -> object:
        call.fields()
        return await self._answer(self._queries.nodes)

    async def _audit_rows(self, call: Call) -> AsyncIterator[bytes]:
        call.fields()
        self._trouble.refuse_damaged()
        await self._is_fresh()
        return self._parts()

    async def _parts(self) -> AsyncIterator[bytes]:
        parts = self._queries.audit_rows()
        try:
            while (part := await self._read(partial(next, parts, None))) is not None:
                yield part
            yield b""
        finally:
            parts.close()

    async def _health(self, call: Call) -> object:
        call.fields()
        self._trouble.refuse_damaged()
        fresh = await self._is_fresh()
        answer = await self._read(self._queries.health)
        return {**answer, "ok": fresh, "records": self._keeps_records}

    async def _answer(self, query: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Ask the database once it has all that was acknowledged before; after 2 s answer without, marked stale."""
        self._trouble.refuse_damaged()
        fresh = await self._is_fresh()
        try:
            answer = await self._read(query)
        except TrainshedError as error:
            if fresh or error.code is not ErrorCode.NOT_FOUND:
                raise
            raise TrainshedError(
                ErrorCode.UNAVAILABLE,
                "the read side is behind the event log and does not know yet; ask again",
            ) from None
        return answer if fresh else {**answer, "stale": True}

    async def _read(self, query: Callable[[], T]) -> T:
        """Ask the database. Raises UNAVAILABLE where it fails."""
        self._trouble.refuse_damaged()
        try:
            return await self._in_reader(query)
        except (SQLAlchemyError, msgspec.MsgspecError) as error:
            self._trouble.query_failed(error)

    async def _is_fresh(self) -> bool:
        try:
            async with asyncio.timeout(FRESH_WITHIN_S):
                await self._position.reached(await self._log.end())
        except (TimeoutError, nats.errors.Error, ApiError):
            if not self._lags:
                self._lags = True
                _log.warning("the read model lags: it is at %d and answers so", self._position.seq)
            return False
        self._lags = False
        return True


def _seen(found: FoundOne, parent: str | None) -> FoundOne:
    """The run, if whoever asks sees it. Raises TrainshedError (not_found)."""
    if parent is not None:
        seen = seen_by(found.run.record)
        if parent not in seen:
            raise unseen(seen.run_id, parent)
    return found


def _run_id(call: Call) -> str:
    run_id = call.fields(run_id=str)["run_id"]
    if not run_id:
        raise TrainshedError(ErrorCode.INVALID, "required: the id of a run", "run_id")
    return str(run_id)
