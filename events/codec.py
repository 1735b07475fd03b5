"""Events to and from the CloudEvents 1.0 JSON that the log stores, and old versions to the present one.

Owns the envelope and the upcasters; what it cannot read it returns as Unreadable, so that no consumer stops.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol
from uuid import UUID

import msgspec

from events.times import rfc3339
from events.types import (
    EVENT_KINDS,
    EVENT_NAMES,
    Event,
    NodeEvent,
    NodeHeartbeat,
    RunEvent,
    RunHeartbeat,
)
from trainshed_client import subjects
from trainshed_client.subjects import EventSubject, Role, Scope

SPEC_VERSION = "1.0"
MAX_EVENT_BYTES = 512 * 1024
_TYPE_PREFIX = "trainshed."

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]
UPCASTERS: Mapping[tuple[str, int], Upcaster] = {}
"""(event name, version) → its data as the next version has it. The one place for old versions."""


class Envelope(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """CloudEvents 1.0, structured mode."""

    specversion: str
    id: str
    type: str
    source: str
    subject: str
    time: str
    datacontenttype: str = "application/json"
    data: msgspec.Raw


class NewEvent(msgspec.Struct, frozen=True):
    """An event about to be appended: where, under which id (also its ``Nats-Msg-Id``), and the body."""

    subject: str
    id: str
    body: bytes
    event: Event


class StoredEvent(msgspec.Struct, frozen=True):
    """An event as the log has it; ``stored_ns`` is the stream's time of storing (ns since 1970)."""

    seq: int
    stored_ns: int
    subject: EventSubject
    id: str
    source: str
    event: Event


class Unreadable(msgspec.Struct, frozen=True):
    """A message of the event log that is no event we know: kept in quarantine, never in the way."""

    seq: int
    stored_ns: int
    subject: str
    reason: str
    body: bytes


class Ids(Protocol):
    """Makes event ids (UUIDv7)."""

    def __call__(self) -> str: ...


def uuid7() -> str:
    """A UUIDv7 of now (RFC 9562 section 5.7)."""
    ms = time.time_ns() // 1_000_000
    value = (ms & ((1 << 48) - 1)) << 80 | int.from_bytes(os.urandom(10))
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(UUID(int=value))


class Writer(msgspec.Struct, frozen=True):
    """Makes events of one role ready to append; the clock (ns) and the ids are passed in."""

    role: Role
    clock: Callable[[], int]
    ids: Ids = uuid7
    node: str | None = None

    @property
    def source(self) -> str:
        """The CloudEvents source: ``gateway``, ``dispatcher`` or ``agent/<node>``."""
        return f"{self.role}/{self.node}" if self.node else self.role

    def new(self, event: Event) -> NewEvent:
        """``event`` with its subject, id and body."""
        name = EVENT_NAMES[type(event)]
        subject = event_subject(event, self.role, self.node)
        envelope = Envelope(
            specversion=SPEC_VERSION,
            id=self.ids(),
            type=event_type(name),
            source=self.source,
            subject=subject.id,
            time=rfc3339(self.clock()),
            data=msgspec.Raw(_ENCODER.encode(event)),
        )
        return NewEvent(str(subject), envelope.id, _ENCODER.encode(envelope), event)

    def heartbeat(self, heartbeat: RunHeartbeat | NodeHeartbeat) -> tuple[str, str, bytes]:
        """(subject, id, body) of a heartbeat, which is encoded like every event."""
        match heartbeat:
            case RunHeartbeat():
                assert self.node is not None
                subject, about, scope = (
                    subjects.run_heartbeat(heartbeat.run_id, self.node),
                    heartbeat.run_id,
                    "run",
                )
            case NodeHeartbeat():
                subject, about, scope = subjects.node_heartbeat(heartbeat.node), heartbeat.node, "node"
        envelope = Envelope(
            specversion=SPEC_VERSION,
            id=self.ids(),
            type=f"{_TYPE_PREFIX}{scope}.heartbeat.v1",
            source=self.source,
            subject=about,
            time=rfc3339(self.clock()),
            data=msgspec.Raw(_ENCODER.encode(heartbeat)),
        )
        return subject, envelope.id, _ENCODER.encode(envelope)


def event_type(name: str) -> str:
    """The CloudEvents type that this release writes for an event."""
    return _PRESENT[name][0]


def event_subject(event: Event, role: Role, agent_node: str | None = None) -> EventSubject:
    """Where ``event`` of this role is appended (docs: "Subjects")."""
    name = EVENT_NAMES[type(event)]
    match event:
        case NodeEvent():
            return EventSubject(Scope.NODE, event.node, role, name, event.node)
        case RunEvent():
            if role is Role.AGENT:
                assert agent_node is not None
                node = agent_node
            elif name in _OF_A_NODE:
                node = getattr(event, "node")  # noqa: B009 — both have it; saves two imports on the hot path
            else:
                node = subjects.NO_NODE
            return EventSubject(Scope.RUN, event.run_id, role, name, node)
        case _:
            return _OF_CONTROL[name]


def decode(subject: str, body: bytes, seq: int, stored_ns: int) -> StoredEvent | Unreadable:
    """One message of the event log. Total: what is wrong with it is returned, never raised."""
    where = subjects.parse_event_subject(subject)
    kind = EVENT_KINDS.get(where.type) if where is not None else None
    if where is None or (kind is not None and (where.scope != kind.scope or where.role not in kind.roles)):
        return Unreadable(seq, stored_ns, subject, "the subject is none of an event's", body)
    if kind is None:
        return Unreadable(seq, stored_ns, subject, f"unknown event type {where.type!r}", body)
    try:
        envelope = _ENVELOPE.decode(body)
        present, version = _PRESENT[where.type]
        if envelope.type != present:
            version = _version(envelope.type, where)
        if version == kind.version:
            event = _DECODERS[where.type].decode(envelope.data)
        else:
            event = _upcast(where.type, version, envelope.data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        return Unreadable(seq, stored_ns, subject, str(error), body)
    wrong = _disagreement(where, envelope, event)
    if wrong is not None:
        return Unreadable(seq, stored_ns, subject, wrong, body)
    return StoredEvent(seq, stored_ns, where, envelope.id, envelope.source, event)


def decode_heartbeat(subject: str, body: bytes) -> RunHeartbeat | NodeHeartbeat | None:
    """One message of the heartbeat stream; None where it is none or speaks for somebody else."""
    where = subjects.parse_heartbeat_subject(subject)
    if where is None:
        return None
    scope, about, node = where
    try:
        data = _ENVELOPE.decode(body).data
        if scope == "run":
            run_heartbeat = _RUN_HEARTBEAT.decode(data)
            return run_heartbeat if run_heartbeat.run_id == about else None
        node_heartbeat = _NODE_HEARTBEAT.decode(data)
        return node_heartbeat if node_heartbeat.node == about == node else None
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def event_id(body: bytes) -> str | None:
    """The id of a stored message, to resolve an unknown outcome (docs/protocol.md rule 2)."""
    try:
        return _ENVELOPE.decode(body).id
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


_OF_A_NODE = frozenset({"dispatched", "stopping"})
"""The dispatcher's run events that are pushed to a node, which their subjects name."""
_OF_CONTROL = {
    where.type: where
    for where in map(subjects.parse_event_subject, (subjects.ELECTED, subjects.LOG_ACCEPTED))
    if where is not None
}
"""Of each control event the one subject that it has."""
_ENCODER = msgspec.json.Encoder()
_ENVELOPE = msgspec.json.Decoder(Envelope)
_RUN_HEARTBEAT = msgspec.json.Decoder(RunHeartbeat)
_NODE_HEARTBEAT = msgspec.json.Decoder(NodeHeartbeat)
_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    name: msgspec.json.Decoder(kind.type) for name, kind in EVENT_KINDS.items()
}
_PRESENT = {
    name: (f"{_TYPE_PREFIX}{kind.scope}.{name}.v{kind.version}", kind.version)
    for name, kind in EVENT_KINDS.items()
}
"""Event name → the CloudEvents type that this release writes, and its version."""
_AGENT, _DISPATCHER = Role.AGENT, Role.DISPATCHER  # up to Python 3.11 an enum looks its members up slowly


def _version(type_: str, where: EventSubject) -> int:
    head, _, version = type_.rpartition(".v")
    if head != f"{_TYPE_PREFIX}{where.scope}.{where.type}" or not version.isdigit():
        raise ValueError(f"type {type_!r} does not fit the subject")
    return int(version)


def _upcast(name: str, version: int, data: msgspec.Raw) -> Event:
    fields = msgspec.json.decode(data, type=dict[str, Any])
    while version != EVENT_KINDS[name].version:
        step = UPCASTERS.get((name, version))
        if step is None:
            raise ValueError(f"{name} version {version} is not one this release can read")
        try:
            fields = step(fields)
        except (LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"{name} version {version} cannot be brought up to date: {error!r}") from error
        version += 1
    return msgspec.convert(fields, EVENT_KINDS[name].type)


def _disagreement(where: EventSubject, envelope: Envelope, event: Event) -> str | None:
    """Why subject and body contradict each other; None where they agree (docs/protocol.md rule 15)."""
    if envelope.specversion != SPEC_VERSION:
        return f"CloudEvents specversion {envelope.specversion!r} is not {SPEC_VERSION!r}"
    if envelope.subject != where.id:
        return f"the body is about {envelope.subject!r}"
    by_agent = where.role == _AGENT
    if envelope.source != (f"agent/{where.node}" if by_agent else where.role):
        return f"the body is from {envelope.source!r}"
    match event:
        case RunEvent():
            if event.run_id != where.id:
                return f"the data is about run {event.run_id!r}"
            if by_agent:
                return "an agent's word without its node" if where.node == subjects.NO_NODE else None
            granted = where.type in _OF_A_NODE
            node = getattr(event, "node", None) if granted else subjects.NO_NODE
            if where.node != node:
                return f"the data is for node {node!r}" if granted else "a node where none belongs"
        case NodeEvent():
            if not (event.node == where.id == where.node):
                return f"the data is about node {event.node!r}"
        case _:
            own = _OF_CONTROL[where.type]
            return None if where == own else f"the one subject of {where.type} is {own}"
    if where.role == _DISPATCHER and getattr(event, "epoch", None) is None:
        return "a dispatcher's event without an epoch"
    return None
