"""This node as a witness of the event log: what it hears, asks and says (docs/protocol.md rule 20).

Owns the witness's connection and pace; what a checkpoint means for it is `machine.py`'s, its files are `keeping.py`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, assert_never

import msgspec
import nats.errors
from msgspec.structs import replace
from nats.aio.msg import Msg

from events.feed import ApiError
from events.log import EventLog, UnknownOutcome
from events.times import rfc3339
from events.types import NodeCosignature, NodeObjection
from projections.transparency.checkpoint import TreeHead, origin_of
from projections.transparency.note import SignerKey
from services.agent.reports.own_reports import StrangeEvent
from services.agent.witness import machine
from services.agent.witness.keeping import HOURLY_FILE, Keeping, Noted
from services.agent.witness.key import witness_key
from services.agent.witness.live_reports import LiveAttempts, LiveReports
from services.agent.witness.own_events import OwnEvents
from services.agent.witness.published import cosign, has_signed, read_published
from services.agent.witness.values import (
    Again,
    Answered,
    AskAcceptance,
    AskConsistency,
    AskOwnEvents,
    BeginAnew,
    Consistency,
    Inclusion,
    Input,
    Keep,
    KeptCheckpoint,
    NotAppended,
    Object,
    OwnEvent,
    OwnEventsFound,
    Published,
    SeenCheckpoint,
    Trust,
    Wanted,
    WitnessState,
)
from services.daemon_thread import in_daemon_thread
from services.failpoints import failpoint
from services.file_writer import FileWriter
from services.logging import get_logger
from trainshed_client import subjects
from trainshed_client.answers import error_in
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.os_errors import cause

_log = get_logger("agent")

KEY_WITHIN_S = 2.0
"""Seconds that a join waits for the key's storage."""
ANSWER_WITHIN_S = 3.0
AGAIN_S = 5.0
PAUSE_S = 1.0
SPREAD_S = 1.0
"""All nodes hear of a checkpoint at once: each waits a part of this before it asks."""
HOUR_S = 3_600
WAITING = 8
MAX_STRANGE = 100
"""Events in the node's name that are told, one by one; who forges more is known by these."""

A = TypeVar("A", Consistency, Inclusion)


class Witness:
    """One agent's. Without a key it is none, and the agent works on; so it does whatever becomes of this here.

    ``report_soon`` is called where it has something to say that the next heartbeat should not wait for; ``live``: the attempts
    that are the node's own.
    """

    def __init__(
        self,
        log: EventLog,
        folder: Path,
        *,
        log_id: str,
        node: str,
        clock: Callable[[], int],
        report_soon: Callable[[], None],
        live: LiveAttempts,
    ) -> None:
        self._nc = log.nc
        self._folder = folder
        self._origin = origin_of(log_id)
        self._log_id = log_id
        self._node = node
        self._clock = clock
        self._report_soon = report_soon
        self._chance = random.Random()  # no secret: which events are looked for, and when
        self._own_events = OwnEvents(log, self._chance)
        self.acknowledged = self._own_events.acknowledged
        """To be called with each event of this node that the log acknowledged."""
        self._live_reports = LiveReports(log, node, self._chance, live=live, objects=self.objects)
        self._strange: deque[StrangeEvent] = deque(maxlen=MAX_STRANGE)
        self._objected_to: deque[int] = deque(maxlen=MAX_STRANGE)
        """Sequences of events that were objected to."""
        self._keeping = Keeping(folder)
        self._writer = FileWriter(_not_kept)
        self._vkey: str | None = None
        self._key_read = asyncio.Event()
        self._state = WitnessState(trust=Trust(origin=self._origin))
        self._cosigned: NodeCosignature | None = None
        self._heard: deque[bytes] = deque(maxlen=WAITING)
        self._came = asyncio.Event()
        self._unreadable = False
        self._too_old: int | None = None

    async def vkey(self) -> str | None:
        """Its key for whoever verifies its cosignatures; None where it has none, or its storage does not answer."""
        try:
            async with asyncio.timeout(KEY_WITHIN_S):
                await self._key_read.wait()
        except TimeoutError:
            _log.warning("the storage of the witness's key does not answer", folder=str(self._folder))
        return self._vkey

    def witnessed(self) -> tuple[NodeCosignature | None, NodeObjection | None]:
        """What the node's heartbeat bears: the last cosignature that is kept, and what it objects to."""
        return self._cosigned, self._state.trust.objection

    def objects(self, event: StrangeEvent) -> None:
        """The log has this event in the node's name, and the node did not say it; once or more often."""
        if event.seq not in self._objected_to:
            self._objected_to.append(event.seq)
            self._strange.append(event)
            self._came.set()

    async def run(self) -> None:
        """Witness until cancelled."""
        try:
            key, self._vkey, trust = await in_daemon_thread(self._read)
        except OSError as error:
            _log.warning("this node is no witness: its state folder takes nothing", error=cause(error))
            return
        finally:
            self._key_read.set()
        self._state = WitnessState(trust=trust)
        if trust.kept is not None and has_signed(key, trust.kept.note):
            self._cosigned = trust.cosignature
        if trust.objection is not None:
            self._log_objection(trust.objection)
        hearing = await self._nc.listen(subjects.WATCH_CHECKPOINT, self._hear)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._own_events.run())
                tasks.create_task(self._writer.run())
                tasks.create_task(self._live_reports.run())
                await self._look(key)
        finally:
            with contextlib.suppress(nats.errors.Error):
                await hearing.unsubscribe()

    def _read(self) -> tuple[SignerKey, str, Trust]:
        key = witness_key(self._folder, self._log_id, self._node)
        return key, str(key.verifier), self._keeping.trust(self._origin)

    # --- what it is given ----------------------------------------------------------------------------------

    def _hear(self, msg: Msg) -> None:
        self._heard.append(msg.data)
        self._came.set()

    async def _look(self, key: SignerKey) -> None:
        while True:
            given: Input | None = await self._next()
            while given is not None:
                self._state, wanted = machine.step(self._state, given)
                given = None if wanted is None else await self._do(wanted, key)

    async def _next(self) -> Input:
        """What is not this node's, a checkpoint that came in; or that it is time to ask again of the last one."""
        while True:
            if self._strange:
                return NotAppended(self._strange.popleft(), self._now())
            while self._heard:
                seen = self._seen(self._heard.popleft())
                if seen is not None:
                    self._look_at_acceptance(seen)
                    self._live_reports.grew()
                    await asyncio.sleep(self._chance.uniform(0, SPREAD_S))
                    return Published(seen, self._now())
            self._came.clear()
            try:
                async with asyncio.timeout(AGAIN_S if self._state.looking is not None else None):
                    await self._came.wait()
            except TimeoutError:
                return Again()

    def _seen(self, data: bytes) -> SeenCheckpoint | None:
        """What is no signed checkpoint says nothing of the log: anybody on the server may have written it."""
        try:
            seen = read_published(data)
        except TrainshedError as error:
            if not self._unreadable:
                _log.warning("what was published as a checkpoint of the log is none", reason=str(error))
            self._unreadable = True
            return None
        self._unreadable = False
        return seen

    def _look_at_acceptance(self, seen: SeenCheckpoint) -> None:
        """Whoever accepted the log, and still sees the objection, finds here why."""
        acceptance, newest_ns = seen.accepted, self._state.trust.newest_ns
        if acceptance is None or not machine.is_too_old(self._state.trust, seen):
            return
        if acceptance.seq != self._too_old:
            _log.warning(
                "the log's last LogAccepted was stored before what this node knows to have been in the log, and ends no "
                "objection. Accept the log again; where the server's clock was set back, once it is past that time",
                seq=acceptance.seq,
                past=rfc3339(newest_ns),
            )
        self._too_old = acceptance.seq

    def _now(self) -> str:
        return rfc3339(self._clock())

    # --- what it wants ------------------------------------------------------------------------------------

    async def _do(self, wanted: Wanted, key: SignerKey) -> Input | None:
        match wanted:
            case AskConsistency(first, second, pause):
                if pause:
                    await asyncio.sleep(PAUSE_S)
                nothing = Consistency(first, second, b"", ())
                asked = await self._ask("audit.consistency", {"from": first, "to": second}, nothing)
                return Answered(asked, self._now())
            case AskOwnEvents(head, first):
                return Answered(await self._find_own_events(head, first), self._now())
            case AskAcceptance(event, size):
                return Answered(await self._ask_inclusion(event, size), self._now())
            case Keep(seen, new_key):
                if new_key:
                    self._note_key(seen)
                self._own_events.taken((self._state.trust.first or 1) + seen.head.size)
                self._keep(seen, key)
            case Object(objection, seen):
                self._object(objection, seen)
            case BeginAnew():
                self._begin_anew(wanted)
                self._keep(wanted.seen, key)
                self._report_soon()
            case _:
                assert_never(wanted)
        return None

    async def _ask(self, call: str, fields: dict[str, Any], nothing: A) -> A | None:
        """The answer; ``nothing`` where it is one that proves nothing, None where there is none."""
        asked = msgspec.json.encode(fields)
        try:
            answer = await self._nc.request(subjects.api(call), asked, timeout=ANSWER_WITHIN_S)
        except (TimeoutError, nats.errors.Error):
            return None
        if (error := error_in(answer.data)) is not None:
            # a projector that has not this tree yet knows nothing; one that has it, and not this event, does
            return nothing if error.code is ErrorCode.INVALID and error.path == "event" else None
        try:
            return msgspec.json.decode(answer.data, type=type(nothing))
        except (msgspec.MsgspecError, RecursionError):
            return nothing

    async def _ask_inclusion(self, event: int, size: int) -> Inclusion | None:
        nothing = Inclusion(event, -1, size, b"", ())
        return await self._ask("audit.inclusion", {"event": event, "size": size}, nothing)

    async def _find_own_events(self, head: TreeHead, first: int | None) -> OwnEventsFound | None:
        """Whether the tree has this node's events, as far as they are remembered; None where that cannot be known now."""
        end = (first or 1) + head.size
        try:
            if (gone := await self._own_events.still_gone(end)) is not None:
                return OwnEventsFound(missing=_missing(gone.seq, gone.subject, "the log no longer holds it"))
        except (UnknownOutcome, ApiError):
            return None
        newest_ns = 0
        for event in self._own_events.to_be_proven(end):
            answer = await self._prove(event, head, first)
            if answer is None:
                return None
            if not machine.is_proven(event, answer, head, first):
                return OwnEventsFound(
                    missing=_missing(
                        event.seq, event.subject, f"its checkpoint of {head.size} events lacks it"
                    )
                )
            first = event.seq - answer.index
            newest_ns = max(newest_ns, event.stored_ns)
        return OwnEventsFound(first=first, newest_ns=newest_ns)

    async def _prove(self, event: OwnEvent, head: TreeHead, first: int | None) -> Inclusion | None:
        """The answer that proves it; after a few that do not the last of these."""
        answer: Inclusion | None = None
        for tried in range(machine.TRIES):
            if tried:
                await asyncio.sleep(PAUSE_S)
            answer = await self._ask_inclusion(event.seq, head.size)
            if answer is None or machine.is_proven(event, answer, head, first):
                break
        return answer

    # --- what it keeps and says ---------------------------------------------------------------------------

    def _keep(self, seen: SeenCheckpoint, key: SignerKey) -> None:
        """Cosign; and say so once it is kept: who forgets what it signed could sign another log of that size."""
        now_s = self._clock() // 1_000_000_000
        note, cosignature = cosign(seen, key, now_s)
        trust = self._state.trust
        hourly = not 0 <= now_s - trust.hourly_at < HOUR_S
        trust = replace(
            trust,
            kept=KeptCheckpoint(seen.head.size, seen.head.root, note),
            cosignature=cosignature,
            hourly_at=now_s if hourly else trust.hourly_at,
        )
        self._state = replace(self._state, trust=trust)
        if hourly:
            self._writer.write(partial(self._keeping.keep_hourly, note))
        failpoint("agent.witness_cosigned")
        self._writer.write(
            partial(self._keeping.keep, trust), partial(self._kept, cosignature), latest="trust"
        )

    def _kept(self, cosignature: NodeCosignature) -> None:
        failpoint("agent.witness_kept")
        self._cosigned = cosignature

    def _object(self, objection: NodeObjection, seen: SeenCheckpoint | None) -> None:
        trust = self._state.trust
        self._log_objection(objection)
        self._report_soon()
        noted = replace(
            self._noted("objected", seen, trust),
            kind=objection.kind,
            text=objection.text,
            event=objection.event,
        )
        self._writer.write(partial(self._keeping.object, noted, trust))

    def _log_objection(self, objection: NodeObjection) -> None:
        look, accept = "trainshed audit verify", "trainshed audit accept --reason TEXT"
        _log.error(
            "this node objects to the event log",
            kind=objection.kind,
            since=objection.since,
            reason=objection.text,
            look=look if objection.event is not None else f"{look} --against {self._folder / HOURLY_FILE}",
            **{"after_a_restore" if objection.event is None else "once_it_is_known_who_wrote_it": accept},
        )

    def _begin_anew(self, wanted: BeginAnew) -> None:
        self._own_events.forget()
        self._cosigned = None  # it is of the log that was given up, and would speak against this one
        objection = wanted.before.objection
        _log.warning(
            "an operator accepted the event log as it is: this node begins anew with it",
            seq=wanted.acceptance.seq,
            size=wanted.seen.head.size,
            objected=objection.text if objection else "",
        )
        noted = self._noted("accepted", wanted.seen, wanted.before)
        if objection is not None:
            noted = replace(noted, kind=objection.kind, text=objection.text)
        self._writer.write(partial(self._keeping.begin_anew, replace(noted, accepted=wanted.acceptance)))
        self._state = replace(self._state, trust=replace(self._state.trust, hourly_at=0))

    def _note_key(self, seen: SeenCheckpoint) -> None:
        _log.warning(
            "another key signs the log's checkpoints; this one extends what was seen before, and is taken",
            vkey=seen.vkey,
            size=seen.head.size,
        )
        self._writer.write(partial(self._keeping.note, self._noted("new_key", seen, self._state.trust)))

    def _noted(self, what: str, seen: SeenCheckpoint | None, trust: Trust) -> Noted:
        kept = None if trust.kept is None else trust.kept.note
        noted = Noted(1, self._now(), what, kept=kept)
        return noted if seen is None else replace(noted, seen=seen.note, vkey=seen.vkey)


def _not_kept(error: OSError) -> None:
    _log.warning("what this node witnessed cannot be kept; trying again", error=cause(error))


def _missing(seq: int, subject: str, how: str) -> str:
    return f"event {seq} ({subject}) was acknowledged to this node, and {how}"
