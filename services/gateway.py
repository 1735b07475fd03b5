"""The gateway: takes commands, and appends what follows from them or says why not.

Owns submission (idempotent by digest) and the commands on runs and nodes; decides by ``events.decide`` alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

from events import decide as decisions
from events.canonical import Digest
from events.codec import NewEvent, Writer, uuid7
from events.config import RunConfig, digest_of
from events.config_input import run_config
from events.log import Appended, Conflict, EventLog, Guard, UnknownOutcome
from events.state import Ended, Run
from events.types import Event, NodeRemoved, Submitted
from services.api import ApiServer, Call
from services.fold import SharedFold
from services.logging import get_logger
from trainshed_client import subjects
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.statuses import NodeStatus, RunStatus
from trainshed_client.subjects import Role

_log = get_logger("gateway")

MAX_BATCH_RUNS = 1_000
MAX_BATCH_BYTES = 1_000_000
SETTLE_S = 60.0
FOLD_WAIT_S = 5.0


class Gateway:
    """A Service that answers ``trainshed.api.run.submit`` and the other commands."""

    name = "gateway"

    def __init__(
        self,
        log: EventLog,
        fold: SharedFold,
        *,
        allow_credentials: bool = False,
        clock: Callable[[], int] = time.time_ns,
        ids: Callable[[], str] = uuid7,
    ) -> None:
        self._log = log
        self._fold = fold
        self._allow_credentials = allow_credentials
        self._writer = Writer(Role.GATEWAY, clock, ids)
        self._stop = asyncio.Event()
        self.ready = asyncio.Event()

    async def run(self) -> None:
        """Serve until stopped. What is under way is answered first."""
        await self._fold.ready.wait()
        calls = {
            "run.submit": self._submit,
            "run.submit_batch": self._submit_batch,
            "run.cancel": self._cancel,
            "run.retry": self._retry,
            "node.drain": self._drain,
            "node.resume": self._resume,
            "node.remove": self._remove,
        }
        async with ApiServer(self._log.nc, self.name, calls, max_bytes=MAX_BATCH_BYTES):
            self.ready.set()
            await self._stop.wait()

    def stop(self) -> None:
        """See Service."""
        self._stop.set()

    # --- submission ---------------------------------------------------------------------------------------

    async def _submit(self, call: Call) -> dict[str, Any]:
        config = self._checked(call.body, "")
        submission = self._submission(config, call.by)
        refusal = await self._refusal(config)
        if refusal is not None:
            existing = await self._existing(submission)
            if existing is None:
                raise refusal
            return existing
        return await self._append(submission)

    async def _submit_batch(self, call: Call) -> dict[str, Any]:
        """One bad config refuses all; those that exist answer so; the rest is one atomic batch."""
        runs = call.fields(runs=list)["runs"]
        if not runs:
            raise TrainshedError(ErrorCode.INVALID, "name at least one run config", "runs")
        if len(runs) > MAX_BATCH_RUNS:
            raise TrainshedError(
                ErrorCode.TOO_LARGE,
                f"{len(runs)} runs, at most {MAX_BATCH_RUNS} in one batch: split the file",
                "runs",
            )
        wanted: dict[str, _Submission] = {}
        order: list[str] = []
        for place, raw in enumerate(runs):
            config = self._checked(raw, f"runs[{place}]")
            submission = self._submission(config, call.by)
            order.append(submission.digest.run_id)
            if submission.digest.run_id in wanted:
                continue
            refusal = await self._refusal(config)
            if refusal is not None and await self._existing(submission) is None:
                path = f"runs[{place}].{refusal.path}" if refusal.path else f"runs[{place}]"
                raise TrainshedError(refusal.code, refusal.message, path)
            wanted[submission.digest.run_id] = submission
        answers = await self._append_batch(wanted)
        told: set[str] = set()
        out = []
        for run_id in order:
            out.append(answers[run_id] if run_id not in told else {**answers[run_id], "created": False})
            told.add(run_id)
        return {"runs": out}

    def _checked(self, raw: object, path: str) -> RunConfig:
        try:
            return run_config(raw, allow_credentials=self._allow_credentials)
        except TrainshedError as error:
            if not path:
                raise
            raise TrainshedError(
                error.code, error.message, f"{path}.{error.path}" if error.path else path
            ) from None

    def _submission(self, config: RunConfig, by: str) -> _Submission:
        digest = digest_of(config)
        event = Submitted(
            run_id=digest.run_id,
            config=msgspec.Raw(msgspec.json.encode(config.normalised(), order="sorted")),
            digest=digest.hex,
            submitted_by=by,
        )
        return _Submission(digest, self._writer.new(event))

    async def _refusal(self, config: RunConfig) -> TrainshedError | None:
        """Why this config cannot be accepted now; what exists is answered all the same."""
        try:
            decisions.refuse_impossible(self._fold.state, config)
        except TrainshedError as error:
            return error
        for place, run_id in enumerate(config.after):
            if run_id in self._fold.state.runs:
                continue
            seq, _ = await self._settled_last(subjects.submitted(run_id))
            if seq == 0:
                return TrainshedError(
                    ErrorCode.INVALID, f"no run {run_id!r}; see: trainshed ls --all", f"after[{place}]"
                )
        return None

    async def _append(self, submission: _Submission) -> dict[str, Any]:
        """Append, or answer with the run that is there. An unknown outcome is settled by what is stored."""
        async with _settling():
            while True:
                try:
                    stored = await self._log.append(submission.event, submission.guard)
                except UnknownOutcome as error:
                    _log.warning(
                        "no answer to a Submitted; reading back",
                        run_id=submission.digest.run_id,
                        why=str(error),
                    )
                except Conflict as error:
                    if error.transient:
                        continue
                else:
                    return self._created(submission, stored.seq)
                existing = await self._existing(submission)
                if existing is not None:
                    return existing
        raise AssertionError("unreachable")

    async def _append_batch(self, wanted: dict[str, _Submission]) -> dict[str, dict[str, Any]]:
        answers: dict[str, dict[str, Any]] = {}
        rest = dict(wanted)
        async with _settling():
            while rest:
                batch = list(rest.values())
                if sum(len(s.event.body) for s in batch) > MAX_BATCH_BYTES:
                    raise TrainshedError(
                        ErrorCode.TOO_LARGE,
                        "more than 1 MB of run configs in one batch: split the file",
                        "runs",
                    )
                try:
                    seqs = await self._log.append_batch([s.event for s in batch], [s.guard for s in batch])
                except UnknownOutcome as error:
                    _log.warning("no answer to a batch; reading back", runs=len(batch), why=str(error))
                except Conflict:
                    pass  # it does not say which: look each up, and try with those that are left
                else:
                    for submission, seq in zip(batch, seqs, strict=True):
                        answers[submission.digest.run_id] = self._created(submission, seq)
                    return answers
                for submission in batch:
                    existing = await self._existing(submission)
                    if existing is not None:
                        answers[submission.digest.run_id] = existing
                        del rest[submission.digest.run_id]
        return answers

    async def _existing(self, submission: _Submission) -> dict[str, Any] | None:
        """The answer for a run that the log has; None where it has none. ``created``: it is the event we sent."""
        run_id = submission.digest.run_id
        seq, id_ = await self._settled_last(subjects.submitted(run_id))
        if seq == 0:
            return None
        if id_ == submission.event.id:
            return self._created(submission, seq)
        run = await self._run(run_id, submitted_seq=seq)
        return self._answer(submission, False, run.status if run is not None else RunStatus.PENDING, seq)

    def _created(self, submission: _Submission, seq: int) -> dict[str, Any]:
        _log.info("submitted", run_id=submission.digest.run_id, seq=seq)
        return self._answer(submission, True, RunStatus.PENDING, seq)

    def _answer(self, submission: _Submission, created: bool, status: RunStatus, seq: int) -> dict[str, Any]:
        digest = submission.digest
        return {
            "run_id": digest.run_id,
            "digest": digest.hex,
            "created": created,
            "status": status,
            "seq": seq,
        }

    # --- commands on runs and nodes -----------------------------------------------------------------------

    async def _cancel(self, call: Call) -> dict[str, Any]:
        fields = call.fields(run_id=str, reason=str)
        run_id = _required(fields, "run_id")
        return await self._command_run(decisions.Cancel(run_id=run_id, reason=fields["reason"], by=call.by))

    async def _retry(self, call: Call) -> dict[str, Any]:
        fields = call.fields(run_id=str, reason=str)
        run_id = _required(fields, "run_id")
        return await self._command_run(decisions.Retry(run_id=run_id, reason=fields["reason"], by=call.by))

    async def _drain(self, call: Call) -> dict[str, Any]:
        fields = call.fields(node=str, reason=str)
        command = decisions.Drain(node=_required(fields, "node"), reason=fields["reason"], by=call.by)
        return await self._command_node(command)

    async def _resume(self, call: Call) -> dict[str, Any]:
        fields = call.fields(node=str, reason=str)
        command = decisions.Resume(node=_required(fields, "node"), reason=fields["reason"], by=call.by)
        return await self._command_node(command)

    async def _remove(self, call: Call) -> dict[str, Any]:
        fields = call.fields(node=str, reason=str)
        command = decisions.Remove(node=_required(fields, "node"), reason=fields["reason"], by=call.by)
        return await self._command_node(command)

    async def _command_run(self, command: decisions.Cancel | decisions.Retry) -> dict[str, Any]:
        run_id = command.run_id
        run = self._fold.state.runs.get(run_id)
        submitted_seq = 0
        if run is None:
            if not subjects.is_token(run_id):
                raise TrainshedError(ErrorCode.NOT_FOUND, f"no run {run_id!r}", "run_id")
            submitted_seq, _ = await self._settled_last(subjects.submitted(run_id))
            run = await self._run(run_id, submitted_seq=submitted_seq) if submitted_seq else None
        wanted = decisions.decide(self._fold.state, command, run)
        assert run is not None  # decide refuses a run that is not there
        if not wanted:
            return {"run_id": run_id, "status": run.status, "seq": self._fold.position}
        seq = await self._append_all(wanted)
        after = self._fold.state.runs.get(run_id)
        status = after.status if after is not None else (await self._status_at(run_id, seq))
        return {"run_id": run_id, "status": status, "seq": seq}

    async def _command_node(
        self, command: decisions.Drain | decisions.Resume | decisions.Remove
    ) -> dict[str, Any]:
        wanted = decisions.decide(self._fold.state, command)
        seq = await self._append_all(wanted) if wanted else self._fold.position
        node = self._fold.state.nodes[command.node]
        if isinstance(command, decisions.Remove) and node.status is not NodeStatus.REMOVED:
            raise TrainshedError(
                ErrorCode.CONFLICT,
                f"{command.node} came back meanwhile ({node.status}): nothing was removed",
                "node",
            )
        return {"node": node.name, "status": node.status, "seq": seq}

    async def _append_all(self, wanted: list[Event]) -> int:
        seq = 0
        for event in wanted:
            new = self._writer.new(event)
            appended = await self._append_guarded(event, new)
            seq = appended.seq
            _log.info("appended", subject=new.subject, seq=seq)
        try:
            async with asyncio.timeout(FOLD_WAIT_S):
                await self._fold.reached(seq)
        except TimeoutError:
            _log.warning("the fold is behind; the answer tells an older status", seq=seq)
        return seq

    async def _append_guarded(self, event: Event, new: NewEvent) -> Appended:
        if not isinstance(event, NodeRemoved):
            async with _settling():
                return await self._log.append_surely(new)
        # docs/protocol.md rule 12: only while the join that was folded is still the last one
        node = self._fold.state.nodes[event.node]
        guard = Guard(subjects.node_event(node.name, Role.AGENT, "node_joined"), node.joined_seq)
        async with _settling():
            while True:
                try:
                    return await self._log.append(new, guard)
                except Conflict as error:
                    if error.transient:
                        continue
                    raise TrainshedError(
                        ErrorCode.CONFLICT,
                        f"{node.name} has joined again meanwhile: nothing was removed",
                        "node",
                    ) from None
                except UnknownOutcome:
                    seq, id_ = await self._settled_last(new.subject)
                    if id_ == new.id:
                        return Appended(seq, duplicate=True)
        raise AssertionError("unreachable")

    # --- what is there --------------------------------------------------------------------------------------

    async def _run(self, run_id: str, *, submitted_seq: int) -> Run | None:
        """A run's present value, whether live or ended long ago."""
        async with asyncio.timeout(SETTLE_S):
            await self._fold.reached(submitted_seq)
        live = self._fold.state.runs.get(run_id)
        if live is not None:
            return live
        return await self._fold.history.run_before(run_id, self._fold.position + 1)

    async def _status_at(self, run_id: str, seq: int) -> RunStatus:
        run = await self._fold.history.run_before(run_id, max(seq, self._fold.position) + 1)
        if run is None or not isinstance(run.phase, Ended):
            return RunStatus.UNSPECIFIED
        return run.phase.status

    async def _settled_last(self, subject: str) -> tuple[int, str | None]:
        """The last (sequence, id) on a subject, asked until somebody answers."""
        async with _settling():
            while True:
                try:
                    return await self._log.last_id(subject)
                except UnknownOutcome:
                    continue  # each try has its own time-out
        raise AssertionError("unreachable")


class _Submission(msgspec.Struct, frozen=True):
    digest: Digest
    event: NewEvent

    @property
    def guard(self) -> Guard:
        return Guard(subjects.run_events(self.digest.run_id), 0)


@contextlib.asynccontextmanager
async def _settling() -> AsyncIterator[None]:
    """Bounds how long an unknown outcome is settled; past it the caller hears that it stays unknown."""
    try:
        async with asyncio.timeout(SETTLE_S):
            yield
    except (TimeoutError, UnknownOutcome):
        raise TrainshedError(
            ErrorCode.UNAVAILABLE,
            "the event log does not answer: it is not known whether this was stored. Submitting the same config "
            "again is safe",
        ) from None


def _required(fields: dict[str, Any], name: str) -> str:
    value = fields[name]
    if not value:
        raise TrainshedError(ErrorCode.INVALID, "must be given", name)
    return str(value)
