"""What a projector answers when it is asked: each call, once the read model has all that was acknowledged before it.

Owns how long a query waits and what it answers while the read model lags or is in trouble; knows no table.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Protocol, TypeVar

import msgspec
import nats.errors
from sqlalchemy.exc import SQLAlchemyError

from events.feed import ApiError
from events.log import EventLog, LogIdentity
from events.times import rfc3339
from projections.queries.answers import FoundOne, Queries
from projections.queries.listing import run_query
from projections.queries.proofs import Proofs, StoredTree
from projections.read_model.database import DatabaseGone
from projections.transparency.checkpoint import TreeHead
from projections.transparency.cosignatures import most_cosigned, valid_cosignatures
from projections.transparency.tiles import TileMissing
from services.api import Call
from services.callers import PersonCaller, WorkerCaller
from services.parent import LABEL, not_there, seen_by, unseen
from services.people import People, rights_of
from services.position import Position
from services.projector.backlog import Backlog
from services.projector.past import Answering, PastMoments, Then
from services.projector.signer import Signer
from services.projector.trouble import Trouble
from services.projector.waiting import WaitingRuns
from services.requests import (
    AtRequest,
    CheckpointRequest,
    ConsistencyRequest,
    InclusionRequest,
    ListRequest,
    MomentRequest,
    NoFields,
    RunQuestion,
)
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.fold_progress import FoldProgress

_log = logging.getLogger("trainshed.projector")

FRESH_WITHIN_S = 2.0

T = TypeVar("T")


class AskAgain(TrainshedError):
    """The database was opened again while it was asked: what is there now is another moment's."""


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
        opened: asyncio.Event,
        backlog: Callable[[], Backlog | None],
        trouble: Trouble,
        in_reader: InReader,
        *,
        past: PastMoments,
        proofs: Proofs,
        tiles_lost: Callable[[], None],
        signer: Callable[[], Signer | None],
        rebuild: Callable[[], AsyncIterator[bytes]],
        keeps_records: bool,
        people: People | None,
    ) -> None:
        self._queries = queries
        self._now = Answering(queries, waiting)
        self._past = past
        self._log = log
        self._position = position
        self._opened = opened
        self._backlog = backlog
        self._trouble = trouble
        self._in_reader = in_reader
        self._proofs = proofs
        self._tiles_lost = tiles_lost
        self._signer = signer
        self._rebuild = rebuild
        self._keeps_records = keeps_records
        self._people = people
        self._lags = False

    def calls(self) -> dict[str, Callable[[Call], Awaitable[object]]]:
        """Each call's name, and what answers it. Only who keeps the records signs."""
        calls: dict[str, Callable[[Call], Awaitable[object]]] = {
            "run.get": self._run_get,
            "run.list": self._run_list,
            "run.explain": self._run_explain,
            "slot.list": self._slot_list,
            "node.list": self._node_list,
            "audit.rows": self._audit_rows,
            "audit.rebuild": self._audit_rebuild,
            "audit.at": self._audit_at,
            "audit.consistency": self._audit_consistency,
            "audit.inclusion": self._audit_inclusion,
            "health": self._health,
        }
        if self._keeps_records:
            calls["audit.checkpoint"] = self._audit_checkpoint
        return calls

    async def _run_get(self, call: Call) -> object:
        await self._require_there(call)
        run_id, at = _run_id(call)
        return await self._of(at, lambda of: of.waiting.run(_seen(of.queries.run(run_id), call.parent)))

    async def _run_explain(self, call: Call) -> object:
        run_id, at = _run_id(call)
        return await self._of(at, lambda of: of.waiting.explain(of.queries.run(run_id)))

    async def _run_list(self, call: Call) -> object:
        await self._require_there(call)
        fields = call.fields(ListRequest)
        at = fields.pop("at")
        if call.parent is not None:
            fields["labels"] = {**(fields["labels"] or {}), LABEL: call.parent}
        query = run_query(**fields)
        return await self._of(at, lambda of: of.waiting.listing(of.queries.runs(query)))

    async def _slot_list(self, call: Call) -> object:
        return await self._of(call.fields(AtRequest)["at"], lambda of: of.queries.slots())

    async def _node_list(self, call: Call) -> object:
        await self._require_there(call)
        return await self._of(call.fields(AtRequest)["at"], lambda of: of.queries.nodes())

    async def _require_there(self, call: Call) -> None:
        """A node asks for the workers that it has, and for no others. Raises DENIED."""
        match call.caller:
            case WorkerCaller(run_id, str() as node):
                await self._answer(partial(self._there, run_id, node))

    def _there(self, run_id: str, node: str) -> dict[str, Any]:
        if self._queries.node_of(run_id) != node:
            raise not_there(run_id, node)
        return {}

    async def _audit_at(self, call: Call) -> object:
        fields = call.fields(MomentRequest)
        try:
            return await self._moment(**fields)
        except AskAgain:
            return await self._moment(**fields)

    async def _moment(self, seq: int | None, time: str | None) -> dict[str, Any]:
        if (seq is None) == (time is None):
            wanted = "the sequence of an event, or in its place a time"
            raise TrainshedError(ErrorCode.INVALID, f"required: {wanted}", "seq")
        if time is not None:
            seq = await self._past.last_at(time)
        assert seq is not None, "there is one of the two"
        then = await self._found(seq, "seq")
        return {
            "v": 1,
            "seq": seq,
            "time": rfc3339(then.moment.stored_ns),
            "state_hash": f"{then.moment.live.state_hash:064x}",
        }

    async def _audit_rows(self, call: Call) -> AsyncIterator[bytes]:
        call.fields(NoFields)
        await self._is_open()
        await self._behind()
        return self._parts()

    async def _parts(self) -> AsyncIterator[bytes]:
        parts = self._queries.audit_rows()
        try:
            while (part := await self._read(partial(next, parts, None))) is not None:
                yield part
            yield b""
        finally:
            parts.close()

    async def _audit_rebuild(self, call: Call) -> AsyncIterator[bytes]:
        """Have this very read model built again beside itself; of several projectors it is the one that answers."""
        call.fields(NoFields)
        await self._is_open()
        self._trouble.refuse_any()
        behind = await self._behind()
        if behind is not None:
            raise TrainshedError(
                ErrorCode.UNAVAILABLE,
                f"the read model is only being built from the log ({behind.text}): ask again when it has everything",
            )
        return self._rebuild()

    async def _audit_checkpoint(self, call: Call) -> object:
        fields = call.fields(CheckpointRequest)
        if fields["size"] is not None and fields["cosigned"]:
            raise TrainshedError(ErrorCode.INVALID, "goes without a size: it asks for one", "cosigned")
        await self._is_open()
        signer = self._signer()
        assert signer is not None, "the database is open, and whoever opened it made the signer"
        return await self._prove(partial(self._checkpoint, signer, fields["size"], bool(fields["cosigned"])))

    def _checkpoint(self, signer: Signer, size: int | None, cosigned: bool) -> dict[str, Any]:
        """A signed checkpoint of one size, or of that which most nodes have cosigned, by default of the whole tree; with
        all cosignatures of it that there are."""
        tree = self._proofs.tree()
        found = valid_cosignatures(self._queries.witnesses(), signer.origin)
        head = signer.head(tree)
        if size is not None:
            head = TreeHead(signer.origin, size, self._proofs.root_at(tree, size))
        elif cosigned:
            head = most_cosigned(found, partial(self._fits, tree)) or head
        return signer.answer(tree, head, found)

    def _fits(self, tree: StoredTree, head: TreeHead) -> bool:
        return head.size <= tree.edge.size and self._proofs.root(tree, head.size) == head.root

    async def _audit_consistency(self, call: Call) -> object:
        fields = call.fields(ConsistencyRequest)
        first = _required(fields, "from", "a size of the tree, in leaves")
        return await self._prove(partial(self._proofs.consistency, first, fields["to"]))

    async def _audit_inclusion(self, call: Call) -> object:
        fields = call.fields(InclusionRequest)
        event = _required(fields, "event", "the sequence of an event")
        return await self._prove(partial(self._proofs.inclusion, event, fields["size"]))

    async def _prove(self, proof: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        try:
            return await self._answer(proof)
        except TileMissing as error:
            self._tiles_lost()
            raise TrainshedError(
                ErrorCode.UNAVAILABLE,
                f"the log's tree lacks a tile, which is made again now ({error}); ask again",
            ) from None

    async def _health(self, call: Call) -> object:
        call.fields(NoFields)
        await self._is_open()
        behind = await self._behind()
        answer = await self._read(lambda: {**self._queries.health(), "gap": self._proofs.tree().gap})
        log = await self._log_now()
        return {
            **answer,
            "log_id": log and log.log_id,
            "last_seq": log and log.last_seq,
            "ok": behind is None,
            "records": self._keeps_records,
            **self._of_caller(call),
            **_stale(behind),
        }

    def _of_caller(self, call: Call) -> dict[str, str]:
        """Who asks, and his role, where people are enrolled: he may want to know why he is not heard elsewhere."""
        if self._people is None or not isinstance(call.caller, PersonCaller):
            return {}
        rights = rights_of(self._people, call.caller.name)
        return {} if rights is None else {"person": call.caller.name, "role": rights.role.value}

    async def _log_now(self) -> LogIdentity | None:
        """Which log it is and how far it goes, asked now: who reads the log may not ask JetStream himself."""
        try:
            async with asyncio.timeout(FRESH_WITHIN_S):
                return await self._log.identity()
        except (TimeoutError, nats.errors.Error, ApiError):
            return None

    async def _of(self, at: int | None, question: Callable[[Answering], dict[str, Any]]) -> dict[str, Any]:
        """Ask of the present, or of how things were after an event."""
        if at is None:
            return await self._answer(partial(question, self._now))
        try:
            return await self._of_then(at, question)
        except AskAgain:
            return await self._of_then(at, question)

    async def _of_then(self, at: int, question: Callable[[Answering], dict[str, Any]]) -> dict[str, Any]:
        then = await self._found(at, "at")
        try:
            return await self._read(partial(question, then.source), self._past.beside)
        except TrainshedError as error:
            if error.code is not ErrorCode.NOT_FOUND:
                raise
            raise TrainshedError(
                ErrorCode.NOT_FOUND,
                f"there was no such run after event {at}. List those that were: trainshed ls --all --at {at}",
            ) from None

    async def _found(self, seq: int, field: str) -> Then:
        """How things were after an event. Raises what :meth:`_read` does, and INVALID by that field."""
        await self._is_open()
        async with self._asking():
            return await self._past.at(seq, field)

    async def _answer(self, query: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Ask the database once it has all that was acknowledged before; where that takes more than 2 s answer without,
        marked stale. Raises UNAVAILABLE where it has nothing yet."""
        try:
            return await self._answer_now(query)
        except AskAgain:
            return await self._answer_now(query)

    async def _answer_now(self, query: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        await self._is_open()
        openings = self._trouble.openings
        behind = await self._behind()
        if behind is not None and behind.folded == 0:
            self._trouble.refuse_any()
            raise TrainshedError(
                ErrorCode.UNAVAILABLE,
                f"the read model is being built, and there is nothing to show yet: {behind.text}. Ask again soon: trainshed ls",
                progress=behind,
            )
        try:
            answer = await self._read(query)
        except TrainshedError as error:
            self._require_no_other_since(openings)
            if behind is None or error.code not in (ErrorCode.NOT_FOUND, ErrorCode.DENIED):
                raise
            raise TrainshedError(
                ErrorCode.UNAVAILABLE,
                f"the read side is behind the event log ({behind.text}) and does not know yet; ask again",
                progress=behind,
            ) from None
        self._require_no_other_since(openings)
        return {**answer, **_stale(behind)}

    def _require_no_other_since(self, openings: int) -> None:
        """Raises AskAgain where how far the read model is was asked of another one than was read."""
        if self._trouble.openings != openings:
            raise AskAgain(ErrorCode.UNAVAILABLE, "the read model was opened again meanwhile; ask again")

    async def _is_open(self) -> None:
        """Raises UNAVAILABLE while the database is damaged, or cannot be opened in time."""
        try:
            async with asyncio.timeout(FRESH_WITHIN_S):
                await self._opened.wait()
        except TimeoutError:
            raise TrainshedError(
                ErrorCode.UNAVAILABLE,
                "the read model is being opened, which takes long; ask again: trainshed ls",
            ) from None
        self._trouble.refuse_damaged()

    async def _read(self, query: Callable[[], T], in_reader: InReader | None = None) -> T:
        """Ask the database. Raises UNAVAILABLE where it fails; AskAgain where somebody deleted it and there is another."""
        async with self._asking():
            return await (in_reader or self._in_reader)(query)

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[None]:
        self._trouble.refuse_damaged()
        openings = self._trouble.openings
        try:
            yield
        except DatabaseGone as error:
            await self._trouble.opened_after(openings, FRESH_WITHIN_S)
            raise AskAgain(
                ErrorCode.UNAVAILABLE, f"the read model was opened again ({error}); ask again"
            ) from None
        except (SQLAlchemyError, msgspec.MsgspecError) as error:
            self._trouble.query_failed(error)

    async def _behind(self) -> FoldProgress | None:
        """None once all that was acknowledged before is there; else how far it is: at once where it is far."""
        end = self._position.seq
        try:
            async with asyncio.timeout(FRESH_WITHIN_S):
                end = await self._log.end()
                if self._is_worth_waiting_for(end):
                    await self._position.reached(end)
                    self._lags = False
                    return None
                await self._position.reached(1)  # the first batch: something to show
        except (TimeoutError, nats.errors.Error, ApiError):
            pass
        if not self._lags:
            self._lags = True
            _log.warning("the read model lags: it is at %d and answers so", self._position.seq)
        return FoldProgress(self._position.seq, max(end, self._position.seq))

    def _is_worth_waiting_for(self, end: int) -> bool:
        backlog = self._backlog()
        return backlog is None or backlog.is_near(
            self._position.seq, end, asyncio.get_running_loop().time(), FRESH_WITHIN_S
        )


def _stale(behind: FoldProgress | None) -> dict[str, Any]:
    """What an answer bears that has not everything yet."""
    return {} if behind is None else {"stale": True, "progress": behind}


def _seen(found: FoundOne, parent: str | None) -> FoundOne:
    """The run, if whoever asks sees it. Raises TrainshedError (not_found)."""
    if parent is not None:
        seen = seen_by(found.run.record)
        if parent not in seen:
            raise unseen(seen.run_id, parent)
    return found


def _required(fields: dict[str, Any], name: str, what: str) -> int:
    if fields[name] is None:
        raise TrainshedError(ErrorCode.INVALID, f"required: {what}", name)
    return int(fields[name])


def _run_id(call: Call) -> tuple[str, int | None]:
    """The run that is asked about, and as of which event."""
    fields = call.fields(RunQuestion)
    if not fields["run_id"]:
        raise TrainshedError(ErrorCode.INVALID, "required: the id of a run", "run_id")
    return str(fields["run_id"]), fields["at"]
