"""What a witness makes of a checkpoint, as one pure step (docs/protocol.md rule 20).

Owns what is taken, what is objected to and what is asked; knows no clock, no file and no connection.
"""

from __future__ import annotations

from typing import assert_never

from msgspec.structs import replace

from events.codec import StoredEvent, decode
from events.types import LogAccepted, NodeObjection
from projections.transparency.checkpoint import TreeHead
from projections.transparency.fold import leaf_of
from projections.transparency.tree import is_extended, is_included, leaf_hash
from services.agent.reports.own_reports import StrangeEvent
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
    LogAcceptance,
    NotAppended,
    Object,
    ObjectionKind,
    OwnEvent,
    OwnEventsFound,
    Published,
    SeenCheckpoint,
    Stage,
    Trust,
    Wanted,
    WitnessState,
)
from trainshed_client.subjects import LOG_ACCEPTED

TRIES = 3
"""So many answers that prove nothing, and it is the log that has no proof: who alters a log may answer with anything."""
KNOWN_KEYS = 20
_OF_THE_TREE = (ObjectionKind.ROLLED_BACK, ObjectionKind.FORKED, ObjectionKind.NOT_EXTENDED)


def step(state: WitnessState, given: Input) -> tuple[WitnessState, Wanted | None]:
    """The next state, and what is wanted next."""
    match given:
        case Published(seen, time):
            return _published(state, seen, time)
        case Again():
            return state, _ask(state)
        case Answered(None, _):
            return state, None  # unknown is not failed: asked again, or the next checkpoint is looked at
        case Answered(Consistency() as answer, time) if state.stage is Stage.CONSISTENCY:
            return _consistent(state, answer, time)
        case Answered(OwnEventsFound() as answer, time) if state.stage is Stage.OWN_EVENTS:
            return _own_events(state, answer, time)
        case Answered(Inclusion() as answer, _) if state.stage is Stage.ACCEPTANCE:
            return _acceptance(state, answer)
        case Answered(_, _):
            return state, None
        case NotAppended(event, time):
            return _not_appended(state, event, time)
        case _:
            assert_never(given)


def is_proven(event: OwnEvent, answer: Inclusion, head: TreeHead, first: int | None) -> bool:
    """Whether the answer shows the event in the tree, where its sequence says."""
    if answer.event != event.seq or answer.size != head.size:
        return False
    if first is not None and answer.index != event.seq - first:
        return False
    return is_included(event.leaf, answer.index, head.size, head.root, answer.proof)


def _published(state: WitnessState, seen: SeenCheckpoint, time: str) -> tuple[WitnessState, Wanted | None]:
    trust, kept = state.trust, state.trust.kept
    state = replace(state, looking=None, tries=0, proven=None)
    if trust.objection is not None:
        if not _may_begin_anew(trust, seen):
            return state, None
        return _look(state, seen, Stage.ACCEPTANCE)
    if seen.head.origin != trust.origin:
        text = f"the checkpoint is of another log: {seen.head.origin}"
        return _object(state, seen, ObjectionKind.OTHER_LOG, text, time)
    if kept is None:
        return _look(state, seen, Stage.OWN_EVENTS)
    if seen.head.size < kept.size:
        text = f"the log was rolled back: its checkpoint has {seen.head.size} events, and this node has seen {kept.size}"
        return _object(state, seen, ObjectionKind.ROLLED_BACK, text, time)
    if seen.head.size > kept.size:
        return _look(state, seen, Stage.CONSISTENCY)
    if seen.head.root != kept.root:
        text = f"there are two logs: this node has seen another checkpoint of {kept.size} events"
        return _object(state, seen, ObjectionKind.FORKED, text, time)
    return _look(state, seen, Stage.OWN_EVENTS)


def _look(state: WitnessState, seen: SeenCheckpoint, stage: Stage) -> tuple[WitnessState, Wanted | None]:
    state = replace(state, looking=seen, stage=stage, tries=0)
    return state, _ask(state)


def _ask(state: WitnessState, *, pause: bool = False) -> Wanted | None:
    seen = state.looking
    if seen is None:
        return None
    match state.stage:
        case Stage.CONSISTENCY:
            assert state.trust.kept is not None
            return AskConsistency(state.trust.kept.size, seen.head.size, pause)
        case Stage.OWN_EVENTS:
            return AskOwnEvents(seen.head, state.trust.first)
        case Stage.ACCEPTANCE:
            assert seen.accepted is not None
            return AskAcceptance(seen.accepted.seq, seen.head.size)
        case _:
            assert_never(state.stage)


def _consistent(state: WitnessState, answer: Consistency, time: str) -> tuple[WitnessState, Wanted | None]:
    seen, kept = state.looking, state.trust.kept
    if seen is None or kept is None or (answer.first, answer.second) != (kept.size, seen.head.size):
        return state, None
    if is_extended(kept.size, kept.root, seen.head.size, seen.head.root, answer.proof):
        return _look(state, seen, Stage.OWN_EVENTS)
    if answer.first_root != kept.root and is_extended(
        kept.size, answer.first_root, seen.head.size, seen.head.root, answer.proof
    ):
        text = f"events were altered: the {seen.head.size} of the checkpoint do not begin with the {kept.size} that this node has seen"
        return _object(state, seen, ObjectionKind.NOT_EXTENDED, text, time)
    state = replace(state, tries=state.tries + 1)
    if state.tries < TRIES:
        return state, _ask(state, pause=True)
    text = f"nothing proves that the checkpoint's {seen.head.size} events begin with the {kept.size} that this node has seen"
    return _object(state, seen, ObjectionKind.NOT_EXTENDED, text, time)


def _own_events(state: WitnessState, found: OwnEventsFound, time: str) -> tuple[WitnessState, Wanted | None]:
    seen, trust = state.looking, state.trust
    if seen is None:
        return state, None
    if found.missing is not None:
        return _object(state, seen, ObjectionKind.OWN_EVENTS, found.missing, time)
    first = trust.first if trust.first is not None else found.first
    proven = replace(trust, first=first, newest_ns=max(trust.newest_ns, found.newest_ns))
    state = replace(state, proven=proven)
    if seen.accepted is not None and seen.accepted.stored_ns > proven.newest_ns:
        return _look(state, seen, Stage.ACCEPTANCE)
    return _take(state, proven, seen)


def _acceptance(state: WitnessState, answer: Inclusion) -> tuple[WitnessState, Wanted | None]:
    seen, trust = state.looking, state.proven or state.trust
    if seen is None or seen.accepted is None:
        return state, None
    acceptance = seen.accepted
    leaf = leaf_of(acceptance.seq, acceptance.stored_ns, acceptance.subject, acceptance.body)
    event = OwnEvent(acceptance.seq, acceptance.stored_ns, acceptance.subject, leaf_hash(leaf))
    if is_proven(event, answer, seen.head, trust.first):
        known = replace(trust, newest_ns=max(trust.newest_ns, acceptance.stored_ns))
        if trust.objection is None:
            return _take(state, known, seen)
        anew = _with(replace(known, objection=None, accepted_ns=acceptance.stored_ns), seen)
        return WitnessState(trust=anew), BeginAnew(seen, acceptance, trust)
    if trust.objection is None:  # what came with the checkpoint is not signed: it is passed over
        return _take(state, trust, seen)
    return replace(state, looking=None), None


def _may_begin_anew(trust: Trust, seen: SeenCheckpoint) -> bool:
    """Whether the LogAccepted could be one that was stored after all that this witness knows: an older one was made for
    something else, and who rolls a log back to it must not be let off by it."""
    acceptance = seen.accepted
    return (
        acceptance is not None
        and acceptance.stored_ns > trust.newest_ns
        and seen.head.origin == trust.origin
        and _is_readable(acceptance)
    )


def is_too_old(trust: Trust, seen: SeenCheckpoint) -> bool:
    """Whether there is an objection, and a LogAccepted that does not end it for when it was stored: after the log went back to
    it, or by a server whose clock did."""
    acceptance = seen.accepted
    return (
        trust.objection is not None
        and acceptance is not None
        and acceptance.stored_ns <= trust.newest_ns
        and _is_readable(acceptance)
    )


def _is_readable(acceptance: LogAcceptance) -> bool:
    """Whether every audit shows it: what cannot be read is in quarantine, says who answers for it to nobody, and ends nothing."""
    found = decode(acceptance.subject, acceptance.body, acceptance.seq, acceptance.stored_ns)
    return (
        acceptance.subject == LOG_ACCEPTED
        and isinstance(found, StoredEvent)
        and isinstance(found.event, LogAccepted)
    )


def _take(state: WitnessState, trust: Trust, seen: SeenCheckpoint) -> tuple[WitnessState, Wanted]:
    new_key = bool(trust.vkeys) and seen.vkey not in trust.vkeys
    return WitnessState(trust=_with(trust, seen)), Keep(seen, new_key)


def _with(trust: Trust, seen: SeenCheckpoint) -> Trust:
    kept = KeptCheckpoint(seen.head.size, seen.head.root, seen.note)
    others = [vkey for vkey in trust.vkeys if vkey != seen.vkey]
    return replace(trust, kept=kept, vkeys=(*others, seen.vkey)[-KNOWN_KEYS:])


def _object(
    state: WitnessState, seen: SeenCheckpoint, kind: ObjectionKind, text: str, time: str
) -> tuple[WitnessState, Wanted]:
    trust = state.trust
    if trust.vkeys and seen.vkey not in trust.vkeys and kind in _OF_THE_TREE:
        kind, text = ObjectionKind.OTHER_KEY, f"{text}; it is signed with another key, {seen.vkey}"
    objection = NodeObjection(
        kind=kind,
        kept_size=0 if trust.kept is None else trust.kept.size,
        size=seen.head.size,
        since=time,
        text=text,
    )
    return WitnessState(trust=replace(trust, objection=objection)), Object(objection, seen)


def _not_appended(state: WitnessState, event: StrangeEvent, time: str) -> tuple[WitnessState, Wanted | None]:
    """The first objection stands, and of others it is said once that they came. What was accepted is no objection any more."""
    trust = state.trust
    before = trust.objection
    if event.stored_ns <= trust.accepted_ns or (before is not None and before.event == event.seq):
        return state, None
    objection = NodeObjection(
        kind=ObjectionKind.NOT_APPENDED,
        kept_size=0 if trust.kept is None else trust.kept.size,
        size=event.seq - (trust.first or 1) + 1,
        since=time,
        text=event.text,
        event=event.seq,
    )
    known = replace(trust, objection=before or objection, newest_ns=max(trust.newest_ns, event.stored_ns))
    if before is not None:
        return replace(state, trust=known), Object(objection, None)
    return WitnessState(trust=known), Object(objection, None)
