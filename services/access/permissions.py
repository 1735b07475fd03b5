"""What each may do at the stack's NATS server: the one table from which the server's accounts are generated.

Owns who may send, ask, hear and answer what; knows nothing of how the server is told.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias, assert_never

from services.access.identities import (
    Control,
    ControlRole,
    Known,
    NodeIdentity,
    PageUser,
    Person,
    PersonRole,
)
from services.enrol.server_reload import SUBJECTS as RELOAD_SUBJECTS
from services.parent import CALLS as WORKERS_CALLS
from trainshed_client import subjects
from trainshed_client.subjects import Role


class Way(enum.StrEnum):
    """How a subject is used."""

    SEND = "send"
    """It is published to, and one answer at the most comes back: an append, a question to JetStream."""
    READ = "read"
    """The like, answered by many messages: a direct get of a whole page."""
    CALL = "call"
    """A call of the API: the server says who calls, in the subject's fourth token."""
    CALL_PEER = "call_peer"
    """The like, of a node's to other nodes: it answers the same call itself."""
    HEAR = "hear"
    ANSWER = "answer"
    SHOW = "show"
    """It is published to for whoever may hear it, and nobody answers."""


class Permission(NamedTuple):
    """One row: the subject may have wildcards."""

    way: Way
    subject: str


Permissions: TypeAlias = tuple[Permission, ...]

READ_CALLS = (
    "health",
    "run.get",
    "run.list",
    "run.explain",
    "slot.list",
    "node.list",
    "audit.at",
    "audit.checkpoint",
    "audit.consistency",
    "audit.inclusion",
    "audit.rows",
)
SUBMIT_CALLS = ("run.check", "run.submit", "run.submit_batch", "run.cancel", "run.retry")
ADMIN_CALLS = ("node.drain", "node.resume", "node.remove", "audit.accept", "audit.rebuild")
ENROL_CALLS = ("cert.renew",)
_ANSWERED_BY_MANY = frozenset({"audit.rows", "audit.rebuild"})
NODE_READ_CALLS = ("output", "folder", "artifacts", "files")
NODE_ADMIN_CALLS = ("prune",)
NODE_CALLS = NODE_READ_CALLS + NODE_ADMIN_CALLS
WITNESS_CALLS = ("audit.consistency", "audit.inclusion")
"""What an agent asks for itself, as a witness of the log."""
LOG_INFO = f"$JS.API.STREAM.INFO.{subjects.EVENTS_STREAM}"
"""A node asks it at `subjects.LOG_INFO`."""
_BUCKET_STREAMS = tuple(f"KV_{bucket}" for bucket in subjects.BUCKETS)
_STREAMS = (subjects.EVENTS_STREAM, subjects.HEARTBEATS_STREAM, *_BUCKET_STREAMS)


def is_answered_by_many(call: str) -> bool:
    """Whether the answer of a call of the API may be many messages."""
    return call in _ANSWERED_BY_MANY or call.startswith("node.")


def permissions_of(identity: Known) -> Permissions:
    """All that this one may do, and nothing else."""
    match identity:
        case Control(role):
            return tuple(_of_control(role))
        case NodeIdentity(node):
            return tuple(_of_node(node))
        case Person(_, role):
            return tuple(_of_person(role))
        case PageUser():
            return tuple(_of_page())
        case _ as never:
            assert_never(never)


def _of_control(role: ControlRole) -> Iterator[Permission]:
    if role is ControlRole.RELOADER:  # in the system account, where there are no streams
        yield from (Permission(Way.SEND, subject) for subject in RELOAD_SUBJECTS)
        return
    for stream in _STREAMS:
        yield _api(f"STREAM.INFO.{stream}")
    match role:
        case ControlRole.OPERATOR:
            yield _api("INFO")
            for stream in _STREAMS:
                yield _api(f"STREAM.CREATE.{stream}")
                yield _api(f"STREAM.UPDATE.{stream}")
            yield Permission(Way.HEAR, "trainshed.>")
        case ControlRole.GATEWAY:
            yield from _reads_in_order(subjects.EVENTS_STREAM)
            yield from _appends(Role.GATEWAY)
            yield _api(f"STREAM.MSG.GET.{subjects.EVENTS_STREAM}")
            yield Permission(Way.SEND, f"$SRV.PING.{role}")
            yield from _answers_calls()
        case ControlRole.DISPATCHER:
            yield from _reads_in_order(subjects.EVENTS_STREAM)
            yield from _appends(Role.DISPATCHER)
            yield _api(f"CONSUMER.LIST.{subjects.EVENTS_STREAM}")
            yield _api(f"CONSUMER.INFO.{subjects.EVENTS_STREAM}.*")
            yield Permission(Way.HEAR, f"$JS.EVENT.ADVISORY.CONSUMER.DELETED.{subjects.EVENTS_STREAM}.*")
            yield Permission(Way.HEAR, subjects.ALL_NODE_HEARTBEATS)
            yield Permission(Way.SEND, subjects.ALIVE_DISPATCHER)
            yield Permission(Way.HEAR, subjects.ALIVE_DISPATCHER)
        case ControlRole.PROJECTOR:
            yield from _reads_in_order(subjects.EVENTS_STREAM)
            yield from _reads_in_order(subjects.HEARTBEATS_STREAM)
            for bucket in subjects.BUCKETS:
                yield _api(f"STREAM.CREATE.KV_{bucket}")
                yield _api(f"STREAM.UPDATE.KV_{bucket}")
                yield Permission(Way.READ, f"$JS.API.DIRECT.GET.KV_{bucket}")
                yield Permission(Way.SEND, f"$KV.{bucket}.>")
                yield Permission(Way.HEAR, subjects.leader_elected(f"KV_{bucket}"))
            yield Permission(Way.HEAR, subjects.ALL_HEARTBEATS)
            yield Permission(Way.SEND, subjects.WATCH_CHECKPOINT)
            yield Permission(Way.HEAR, subjects.WATCH_CHECKPOINT)
            yield from _answers_calls()
        case ControlRole.ENROL:
            yield from _answers_calls()
            yield Permission(
                Way.HEAR, f"{subjects.LOG}.{subjects.Scope.NODE}.*.{Role.GATEWAY}.node_removed.*"
            )
        case _ as never:
            assert_never(never)


def _of_node(node: str) -> Iterator[Permission]:
    own_run = subjects.agent_events("*", node)
    own_node = f"{subjects.EVENTS}.node.{node}.{Role.AGENT}.*.{node}"
    heartbeats = (subjects.run_heartbeat("*", node), subjects.node_heartbeat(node))
    for subject in (own_run, own_node, *heartbeats):
        yield Permission(Way.SEND, subject)
    yield Permission(Way.SHOW, f"{subjects.WATCH}.output.*.*.{node}.*")
    yield Permission(Way.SHOW, f"{subjects.WATCH}.telemetry.*.*.{node}")
    yield Permission(Way.HEAR, subjects.push_delivery(node))
    yield Permission(Way.SEND, f"{subjects.ACKS}{subjects.EVENTS_STREAM}.{node}.>")
    yield Permission(Way.SEND, LOG_INFO)
    for stream, own in (
        (
            subjects.EVENTS_STREAM,
            (own_run, f"{subjects.EVENTS}.node.{node}.*.*.{node}"),
        ),
        (subjects.HEARTBEATS_STREAM, heartbeats),
    ):
        for subject in own:
            yield Permission(Way.SEND, f"$JS.API.DIRECT.GET.{stream}.{subject}")
    yield Permission(Way.HEAR, subjects.WATCH_CHECKPOINT)
    for call in (*WITNESS_CALLS, *ENROL_CALLS, *(f"w.*.{call}" for call in WORKERS_CALLS)):
        yield Permission(Way.CALL, call)
    for call in NODE_CALLS:
        yield Permission(Way.ANSWER, f"node.{node}.{call}")
    # What the workers of a node watch: runs that they submitted, wherever these run.
    yield Permission(Way.HEAR, subjects.watch_run("*"))
    for call in ("output", "folder", "artifacts"):
        yield Permission(Way.CALL_PEER, f"node.*.{call}")


def _of_person(role: PersonRole) -> Iterator[Permission]:
    yield from _of_reader()
    for call in NODE_READ_CALLS:
        yield Permission(Way.CALL, f"node.*.{call}")
    yield _direct_get(subjects.HEARTBEATS_STREAM)
    yield _direct_get(subjects.HEARTBEATS_STREAM, ".>")
    for call in (*READ_CALLS, *ENROL_CALLS):
        yield Permission(Way.CALL, call)
    if role in (PersonRole.SUBMITTER, PersonRole.ADMIN):
        for call in SUBMIT_CALLS:
            yield Permission(Way.CALL, call)
    if role is PersonRole.ADMIN:
        for call in ADMIN_CALLS:
            yield Permission(Way.CALL, call)
        for call in NODE_ADMIN_CALLS:
            yield Permission(Way.CALL, f"node.*.{call}")


def _of_page() -> Iterator[Permission]:
    yield from _of_reader()
    yield Permission(Way.CALL, "health")


def _of_reader() -> Iterator[Permission]:
    """Records, events and live output, by subscription and direct get alone."""
    yield Permission(Way.HEAR, f"{subjects.WATCH}.>")
    yield Permission(Way.HEAR, f"{subjects.LOG}.>")
    for stream in (subjects.EVENTS_STREAM, *_BUCKET_STREAMS):
        yield _direct_get(stream)
        yield _direct_get(stream, ".>")


def _appends(role: Role) -> Iterator[Permission]:
    """The events that this role writes; an event's subject ends in the node that it is for."""
    for scope in subjects.Scope:
        yield Permission(Way.SEND, f"{subjects.EVENTS}.{scope}.*.{role}.*.*")


def _reads_in_order(stream: str) -> Iterator[Permission]:
    """By an ordered consumer, with its flow control, and by direct gets."""
    yield _api(f"CONSUMER.CREATE.{stream}.>")
    yield _api(f"CONSUMER.DELETE.{stream}.*")
    yield Permission(Way.SEND, f"$JS.FC.{stream}.>")
    yield _direct_get(stream)
    yield _direct_get(stream, ".>")


def _answers_calls() -> Iterator[Permission]:
    yield Permission(Way.ANSWER, f"{subjects.API}.>")
    yield Permission(Way.HEAR, "$SRV.>")


def _direct_get(stream: str, of: str = "") -> Permission:
    return Permission(Way.READ, f"$JS.API.DIRECT.GET.{stream}{of}")


def _api(call: str) -> Permission:
    return Permission(Way.SEND, f"$JS.API.{call}")
