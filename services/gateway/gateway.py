"""The gateway: takes commands, and appends what follows from them or says why not.

Owns the commands on runs, nodes and the log (submission is a part of its own); decides by ``events.decide`` alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import nats.errors

from events import decide as decisions
from events.codec import NewEvent, Writer, uuid7
from events.log import Appended, Conflict, EventLog, Guard, UnknownOutcome
from events.types import Event, LogAccepted, NodeRemoved
from services.api import ApiServer, Call, Handler
from services.callers import Caller
from services.failpoints import failpoint
from services.fold import SharedFold
from services.gateway.lookup import Lookup, resolving
from services.gateway.ownership import Ownership, RunOwners
from services.gateway.queued import QueuedRuns
from services.gateway.submission import SubmissionCalls
from services.lifecycle import unless
from services.logging import get_logger
from services.nats_server.room import RoomWatch
from services.people import Everybody, People
from services.requests import AcceptRequest, NodeCommand, RunCommand
from trainshed_client import subjects
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.fold_progress import FoldProgress
from trainshed_client.statuses import NodeStatus
from trainshed_client.subjects import Role

_log = get_logger("gateway")

MAX_REQUEST_BYTES = 1_000_000
"""Of any call; a batch of run configs is as large as this at most."""
MAX_REASON = 2_000
"""Of an acceptance, which is published with every checkpoint from then on."""
FOLD_WAIT_S = 5.0
PING_WITHIN_S = 0.5
STARTING_WAIT_S = 1.0
"""Most starts are done by then; who asks is told of a longer one."""


class Gateway:
    """A Service that answers ``trainshed.api.run.submit`` and the other commands."""

    name = "gateway"

    def __init__(
        self,
        log: EventLog,
        fold: SharedFold,
        *,
        allow_credentials: bool = False,
        room: RoomWatch | None = None,
        people: People | None = None,
        clock: Callable[[], int] = time.time_ns,
        ids: Callable[[], str] = uuid7,
    ) -> None:
        self._log = log
        self._fold = fold
        self._writer = Writer(Role.GATEWAY, clock, ids)
        self._lookup = Lookup(log, fold)
        self._people = people or Everybody()
        self._owners = RunOwners(fold, self._lookup)
        self._ownership = Ownership(log, fold, self._owners, self._people)
        self._queued = QueuedRuns(fold, self._lookup, self._owners, self._people)
        self._submissions = SubmissionCalls(
            log,
            fold,
            self._lookup,
            self._writer,
            self._queued,
            room=room,
            allow_credentials=allow_credentials,
        )
        self._room = room
        self._stop = asyncio.Event()
        self.ready = asyncio.Event()

    async def run(self) -> None:
        """Serve until stopped; ready once the log is folded, and until then it answers how far that is. What is under
        way is answered first."""
        calls = {
            "run.submit": self._submissions.submit,
            "run.submit_batch": self._submissions.submit_batch,
            "run.check": self._submissions.check,
            "run.cancel": self._cancel,
            "run.retry": self._retry,
            "node.drain": self._drain,
            "node.resume": self._resume,
            "node.remove": self._remove,
            "audit.accept": self._accept,
        }
        async with asyncio.TaskGroup() as tasks:
            looking = None
            if self._room is not None:
                await self._room.look()
                looking = tasks.create_task(self._room.run())
            if await self._another_answers():
                await unless(self._stop, self._folded())
            once_folded = {call: partial(self._once_folded, answer) for call, answer in calls.items()}
            async with ApiServer(
                self._log.nc, self.name, once_folded, max_bytes=MAX_REQUEST_BYTES, people=self._people
            ):
                if await unless(self._stop, self._folded()):
                    self.ready.set()
                    await self._stop.wait()
            if looking is not None:
                looking.cancel()

    def stop(self) -> None:
        """See Service."""
        self._stop.set()

    async def _another_answers(self) -> bool:
        """Whether requests find another gateway: while this one starts it takes none of them away."""
        try:
            await self._log.nc.request(f"$SRV.PING.{self.name}", b"", timeout=PING_WITHIN_S)
        except (TimeoutError, nats.errors.Error):
            return False
        return True

    async def _folded(self) -> bool:
        await self._fold.ready.wait()
        return True

    async def _once_folded(self, answer: Handler, call: Call) -> object:
        """What a call answers; raises UNAVAILABLE with how far the start is where that takes longer than a moment."""
        try:
            async with asyncio.timeout(STARTING_WAIT_S):
                await self._fold.ready.wait()
        except TimeoutError:
            raise starting(self._fold.progress) from None
        await self._ownership.require_there(call.caller)
        return await answer(call)

    # --- commands on runs, nodes and the log ----------------------------------------------------------------

    async def _cancel(self, call: Call) -> dict[str, Any]:
        fields = call.fields(RunCommand)
        run_id = _required(fields, "run_id")
        command = decisions.Cancel(run_id=run_id, reason=fields["reason"], by=call.by)
        return await self._command_run(command, call.caller)

    async def _retry(self, call: Call) -> dict[str, Any]:
        fields = call.fields(RunCommand)
        run_id = _required(fields, "run_id")
        command = decisions.Retry(run_id=run_id, reason=fields["reason"], by=call.by)
        return await self._command_run(command, call.caller)

    async def _drain(self, call: Call) -> dict[str, Any]:
        fields = call.fields(NodeCommand)
        command = decisions.Drain(node=_required(fields, "node"), reason=fields["reason"], by=call.by)
        return await self._command_node(command)

    async def _resume(self, call: Call) -> dict[str, Any]:
        fields = call.fields(NodeCommand)
        command = decisions.Resume(node=_required(fields, "node"), reason=fields["reason"], by=call.by)
        return await self._command_node(command)

    async def _remove(self, call: Call) -> dict[str, Any]:
        fields = call.fields(NodeCommand)
        command = decisions.Remove(node=_required(fields, "node"), reason=fields["reason"], by=call.by)
        return await self._command_node(command)

    async def _accept(self, call: Call) -> dict[str, Any]:
        """Nothing is decided here: whether anybody objects to the log is the nodes' to know."""
        reason = (call.fields(AcceptRequest)["reason"] or "").strip()
        if not 0 < len(reason) <= MAX_REASON:
            raise TrainshedError(
                ErrorCode.INVALID,
                f"must say why the log is not what was signed before, in 1 to {MAX_REASON:,} characters",
                "reason",
            )
        return {"seq": await self._append_all([LogAccepted(reason=reason, accepted_by=call.by)])}

    async def _command_run(
        self, command: decisions.Cancel | decisions.Retry, caller: Caller
    ) -> dict[str, Any]:
        run_id = command.run_id
        run = self._fold.state.runs.get(run_id)
        if run is None:
            if not subjects.is_token(run_id):
                raise TrainshedError(ErrorCode.NOT_FOUND, f"no run {run_id!r:.60}", "run_id")
            seq, _ = await self._lookup.submitted(run_id)
            run = await self._lookup.run(run_id, seq) if seq else None
        if run is not None:
            await self._ownership.require_own(caller, run)
        if isinstance(command, decisions.Retry) and run is not None and run.after:
            after = {one: await self._lookup.status(one) for one in run.after}
            command = msgspec.structs.replace(command, after=after)
        wanted = decisions.decide(self._fold.state, command, run)
        assert run is not None  # decide refuses a run that is not there
        if not wanted:
            return {"run_id": run_id, "status": run.status, "seq": self._fold.position}
        if isinstance(command, decisions.Retry) and self._room is not None and self._room.refusal is not None:
            raise self._room.refusal  # a cancel is never refused for want of room: it ends work
        if isinstance(command, decisions.Retry):
            async with self._queued.place_again(caller, run_id) as place:
                seq = await self._append_all(wanted)
                place.keep(run_id)
        else:
            seq = await self._append_all(wanted)
        return {"run_id": run_id, "status": await self._lookup.status(run_id), "seq": seq}

    async def _command_node(
        self, command: decisions.Drain | decisions.Resume | decisions.Remove
    ) -> dict[str, Any]:
        wanted = decisions.decide(self._fold.state, command)
        before = self._fold.state.nodes[command.node]
        seq = await self._append_all(wanted, before.joined_seq) if wanted else self._fold.position
        node = self._fold.state.nodes.get(command.node, before)  # it may be forgotten by now
        # its guard held, so a NodeRemoved counts, also where the node has joined again since
        removed = isinstance(command, decisions.Remove)
        return {"node": node.name, "status": NodeStatus.REMOVED if removed else node.status, "seq": seq}

    async def _append_all(self, wanted: list[Event], joined_seq: int = 0) -> int:
        seq = 0
        for event in wanted:
            new = self._writer.new(event)
            async with resolving():
                if isinstance(event, NodeRemoved):
                    appended = await self._append_removal(event, new, joined_seq)
                else:
                    appended = await self._log.append_surely(new)
            failpoint("gateway.commanded")
            seq = appended.seq
            _log.info("appended", subject=new.subject, seq=seq)
        try:
            async with asyncio.timeout(FOLD_WAIT_S):
                await self._fold.reached(seq)
        except TimeoutError:
            _log.warning("the fold is behind; the answer tells an older status", seq=seq)
        return seq

    async def _append_removal(self, event: NodeRemoved, new: NewEvent, joined_seq: int) -> Appended:
        """Only while the join that was folded is still the last one (docs/protocol.md rule 12)."""
        guard = Guard(subjects.node_event(event.node, Role.AGENT, "node_joined"), joined_seq)
        while True:
            conflict = False
            try:
                return await self._log.append(new, guard)
            except Conflict as error:
                conflict = not error.transient
            except UnknownOutcome:
                await self._log.reachable()
            # it may be stored all the same, and a join after it (docs/protocol.md rule 2)
            seq, id_ = await self._lookup.last(new.subject)
            if id_ == new.id:
                return Appended(seq, duplicate=True)
            if conflict:
                raise TrainshedError(
                    ErrorCode.CONFLICT,
                    f"{event.node} has joined again meanwhile: nothing was removed",
                    "node",
                )


def starting(progress: FoldProgress | None) -> TrainshedError:
    """The answer of a gateway that folds a long log."""
    how_far = "the event log is read" if progress is None or not progress.events else progress.text
    return TrainshedError(ErrorCode.UNAVAILABLE, f"starting: {how_far}", progress=progress)


def _required(fields: dict[str, Any], name: str) -> str:
    value = fields[name]
    if not value:
        raise TrainshedError(ErrorCode.INVALID, "must be given", name)
    return str(value)
