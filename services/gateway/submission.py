"""Submission: each accepted run config becomes one run, however often and in however many ways it is sent.

Owns the guard that decides it and the answers; knows nothing of what a config means or of a run's later life.
"""

from __future__ import annotations

from typing import Any

import msgspec

from events import decide as decisions
from events.canonical import Digest
from events.codec import NewEvent, Writer
from events.config import RunConfig
from events.config_input import accepted_config
from events.log import Conflict, EventLog, Guard, UnknownOutcome
from events.types import Submitted
from services.api import Call
from services.callers import Caller
from services.failpoints import failpoint
from services.fold import SharedFold
from services.gateway.beside import NOTHING, SentBeside, beside_in, in_config, unwrapped
from services.gateway.lookup import Lookup, resolving
from services.gateway.queued import QueuedRuns
from services.logging import get_logger
from services.nats_server.room import RoomWatch
from services.parent import with_parent
from services.requests import BatchRequest
from trainshed_client import subjects
from trainshed_client.errors import ErrorCode, Refusals, TrainshedError
from trainshed_client.json_limits import invalid
from trainshed_client.statuses import RunStatus

_log = get_logger("gateway")

MAX_BATCH_RUNS = 1_000
FOREIGN_TRIES = 5
"""How often a conflict without a Submitted is looked at again: a cluster's replica may be behind for a moment."""

Answer = dict[str, Any]


class SubmissionCalls:
    """The calls ``run.submit`` and ``run.submit_batch``."""

    def __init__(
        self,
        log: EventLog,
        fold: SharedFold,
        lookup: Lookup,
        writer: Writer,
        queued: QueuedRuns,
        *,
        room: RoomWatch | None,
        allow_credentials: bool,
    ) -> None:
        self._log = log
        self._fold = fold
        self._lookup = lookup
        self._writer = writer
        self._queued = queued
        self._room = room
        self._allow_credentials = allow_credentials

    async def submit(self, call: Call) -> Answer:
        """Accept one run config. It never reads first; what could not run is answered all the same if it exists."""
        submission = self._the_submission(call)
        refusal = await self._refusal(submission.config)
        if refusal is not None:
            existing = await self._existing(submission)
            if existing is None:
                raise refusal
            return existing
        return (await self._append({submission.run_id: submission}, call.caller))[submission.run_id]

    async def check(self, call: Call) -> dict[str, Any]:
        """What `submit` would do with this config, refusals included; appends nothing."""
        submission = self._the_submission(call)
        refusal = await self._refusal(submission.config)
        existing = await self._existing(submission)
        if refusal is not None and existing is None:
            raise refusal
        await self._queued.require_room(call.caller, [submission.run_id])
        return {
            "run_id": submission.run_id,
            "digest": submission.digest.hex,
            "new": existing is None,
            "status": None if existing is None else existing["status"],
            "nodes": decisions.could_run_on(self._fold.state, submission.config),
        }

    async def submit_batch(self, call: Call) -> dict[str, Any]:
        """One bad config refuses all; those that exist answer so; the rest is one atomic batch."""
        fields = call.typed_fields(BatchRequest)
        runs, others = fields["runs"], beside_in(fields)
        if not runs:
            raise TrainshedError(ErrorCode.INVALID, "name at least one run config", "runs")
        if len(runs) > MAX_BATCH_RUNS:
            raise TrainshedError(
                ErrorCode.TOO_LARGE,
                f"{len(runs)} runs, at most {MAX_BATCH_RUNS} in one batch: split the file",
                "runs",
            )
        wanted: dict[str, NewSubmission] = {}
        order: list[str] = []
        refused = Refusals()
        if call.wrong is not None:
            refused.add(call.wrong)
        for place, raw in enumerate(runs):
            try:
                submission = self._submission(raw, call, f"runs[{place}]", others)
            except TrainshedError as error:
                refused.add(error)
                continue
            order.append(submission.run_id)
            if submission.run_id in wanted:
                continue
            refusal = await self._refusal(submission.config)
            if refusal is not None and await self._existing(submission) is None:
                if refusal.code is ErrorCode.UNAVAILABLE:
                    raise refusal  # it is of no one run
                refused.add(refusal.placed(f"runs[{place}]"))
            wanted[submission.run_id] = submission
        refused.raise_any()
        answers = await self._append(wanted, call.caller)
        answered: set[str] = set()
        out = []
        for run_id in order:
            out.append(answers[run_id] if run_id not in answered else {**answers[run_id], "created": False})
            answered.add(run_id)
        return {"runs": out}

    def _the_submission(self, call: Call) -> NewSubmission:
        """The one of a request. Raises TrainshedError with all that is wrong in its text and its config."""
        refused = Refusals()
        if call.wrong is not None:
            refused.add(in_config(call.wrong, call.body))
        with refused:
            submission = self._submission(call.body, call)
        refused.raise_any()
        return submission

    def _submission(
        self, raw: object, call: Call, path: str = "", others: SentBeside = NOTHING
    ) -> NewSubmission:
        """What is submitted with this config, if it is accepted; ``path``: where in the request it stands.

        ``raw`` is the config, or an object that holds it as ``config`` with what goes beside it, else ``others`` do.
        """
        try:
            raw, beside = unwrapped(raw, others)
            raw = with_parent(raw, call.parent)
            accepted = accepted_config(raw, allow_credentials=self._allow_credentials)
        except TrainshedError as error:
            raise error.placed(path) from None
        digest = accepted.digest
        event = Submitted(
            run_id=digest.run_id,
            config=msgspec.Raw(accepted.stored),
            digest=digest.hex,
            submitted_by=call.by,
            caller_path=beside.caller_path,
            provenance=beside.provenance,
            named=accepted.named,
        )
        return NewSubmission(accepted.config, digest, self._writer.new(event))

    async def _refusal(self, config: RunConfig) -> TrainshedError | None:
        """Why this config cannot be accepted now; what exists is answered all the same."""
        try:
            decisions.refuse_impossible(self._fold.state, config)
        except TrainshedError as error:
            return error
        unknown = Refusals()
        for place, run_id in enumerate(config.after):
            if run_id in self._fold.state.runs:
                continue
            seq, _ = await self._lookup.submitted(run_id)
            if seq == 0:
                unknown.add(invalid(f"after[{place}]", f"no run {run_id!r}; see: trainshed ls --all"))
        return unknown.error or (self._room.refusal if self._room is not None else None)

    async def _append(self, wanted: dict[str, NewSubmission], caller: Caller) -> dict[str, Answer]:
        """Append all or none of what does not exist yet, if the caller may have so many runs at once."""
        async with self._queued.place(caller, wanted) as place:
            answers = await self._append_new(wanted)
            for run_id, answer in answers.items():
                if answer["created"]:
                    place.keep(run_id)
        return answers

    async def _append_new(self, wanted: dict[str, NewSubmission]) -> dict[str, Answer]:
        """The same, whoever asks; an unknown outcome is resolved by what is stored."""
        answers: dict[str, Answer] = {}
        rest = dict(wanted)
        foreign = 0
        async with resolving():
            while rest:
                batch = list(rest.values())
                conflict = False
                try:
                    seqs = await self._log.append_batch([s.event for s in batch], [s.guard for s in batch])
                except UnknownOutcome as error:
                    _log.warning("no answer to a Submitted; reading back", runs=len(batch), why=str(error))
                except Conflict as error:
                    conflict = (
                        not error.transient
                    )  # it does not say which: look each up, go on with the others
                else:
                    failpoint("gateway.submitted")
                    for submission, seq in zip(batch, seqs, strict=True):
                        answers[submission.run_id] = _created(submission, seq)
                    return answers
                for submission in batch:
                    existing = await self._existing(submission, sure=conflict)
                    if existing is not None:
                        answers[submission.run_id] = existing
                        del rest[submission.run_id]
                if conflict and len(rest) == len(batch):
                    foreign += 1
                    if foreign == FOREIGN_TRIES:
                        raise TrainshedError(
                            ErrorCode.CONFLICT,
                            "the log has events about this run that no Submitted precedes; see: trainshed events",
                        )
                    await self._log.reachable()
        return answers

    async def _existing(self, submission: NewSubmission, *, sure: bool = True) -> Answer | None:
        """The answer for a run that the log has; None where it has none. ``created``: it is the event we sent. Not ``sure``: one
        that was stored a moment ago may be missed, and no leader of a cluster is waited for."""
        if sure:
            seq, id_ = await self._lookup.submitted(submission.run_id)
        else:
            seq, id_ = await self._lookup.last(subjects.submitted(submission.run_id))
        if seq == 0:
            return None
        if id_ == submission.event.id:
            return _created(submission, seq)
        run = await self._lookup.run(submission.run_id, seq)
        return _answer(submission, False, run.status if run is not None else RunStatus.UNSPECIFIED, seq)


class NewSubmission(msgspec.Struct, frozen=True):
    """One config about to be submitted."""

    config: RunConfig
    digest: Digest
    event: NewEvent

    @property
    def run_id(self) -> str:
        """The run that it names."""
        return self.digest.run_id

    @property
    def guard(self) -> Guard:
        """Nothing was ever appended about this run: what decides between any number of submits of one config."""
        return Guard(subjects.run_events(self.digest.run_id), 0)


def _created(submission: NewSubmission, seq: int) -> Answer:
    _log.info("submitted", run_id=submission.run_id, seq=seq)
    return _answer(submission, True, RunStatus.PENDING, seq)


def _answer(submission: NewSubmission, created: bool, status: RunStatus, seq: int) -> Answer:
    digest = submission.digest
    return {
        "run_id": digest.run_id,
        "digest": digest.hex,
        "created": created,
        "status": status,
        "seq": seq,
    }
