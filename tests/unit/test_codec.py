"""The envelope: every event survives it, and whatever is wrong with a message is told, never raised."""

from __future__ import annotations

import json
import re
import uuid
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from events import codec
from events.codec import (
    StoredEvent,
    Unreadable,
    Writer,
    decode,
    decode_heartbeat,
    event_id,
    event_subject,
    uuid7,
)
from events.types import (
    EVENT_KINDS,
    EVENT_NAMES,
    Event,
    Failed,
    GpuReading,
    NodeHeartbeat,
    RunHeartbeat,
    Started,
)
from tests.support.builders import EXAMPLES
from trainshed_client import subjects
from trainshed_client.statuses import FailureReason
from trainshed_client.subjects import EventSubject, Role, Scope

CLOCK_NS = 1_790_000_000_123_456_789
NODE = "gpu01"


def writer(role: Role) -> Writer:
    return Writer(role, lambda: CLOCK_NS, node=NODE if role is Role.AGENT else None)


def encoded(name: str) -> tuple[str, dict[str, Any]]:
    """(subject, body as plain JSON) of the example of this type."""
    role, event = EXAMPLES[name]
    new = writer(role).new(event)
    return new.subject, json.loads(new.body)


def wrong(subject: str, body: object) -> str:
    """Why it is unreadable."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    result = decode(subject, raw, 7, 8)
    assert isinstance(result, Unreadable)
    assert (result.seq, result.stored_ns, result.subject, result.body) == (7, 8, subject, raw)
    return result.reason


def test_every_event_struct_has_its_row_in_the_table() -> None:
    def leaves(kind: type[Event]) -> set[type[Event]]:
        below = {leaf for each in kind.__subclasses__() for leaf in leaves(each)}
        return below or {kind}

    assert leaves(Event) == set(EVENT_NAMES)


def test_every_event_type_has_an_example_here() -> None:
    assert EXAMPLES.keys() == EVENT_KINDS.keys()


@pytest.mark.parametrize("name", EVENT_KINDS)
def test_an_event_is_read_as_it_was_written(name: str) -> None:
    role, event = EXAMPLES[name]
    new = writer(role).new(event)
    read = decode(new.subject, new.body, 7, 8)
    assert isinstance(read, StoredEvent)
    assert (read.seq, read.stored_ns, read.id) == (7, 8, new.id)
    assert msgspec.json.encode(read.event) == msgspec.json.encode(event)
    assert type(read.event) is type(event)


@pytest.mark.parametrize("name", EVENT_KINDS)
def test_the_body_is_one_cloudevent_in_structured_mode(name: str) -> None:
    subject, body = encoded(name)
    role, _ = EXAMPLES[name]
    _, _, scope, about, written_by, type_, node = subject.split(".")
    assert body.keys() == {
        "specversion",
        "id",
        "type",
        "source",
        "subject",
        "time",
        "datacontenttype",
        "data",
    }
    assert body["specversion"] == "1.0"
    assert body["type"] == f"trainshed.{scope}.{name}.v{EVENT_KINDS[name].version}"
    assert body["source"] == (f"agent/{node}" if role is Role.AGENT else role)
    assert body["subject"] == about
    assert body["time"] == "2026-09-21T14:13:20.123456Z"
    assert (type_, written_by) == (name, role)


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        ("submitted", "trainshed.events.run.r1.gateway.submitted._"),
        ("dispatched", "trainshed.events.run.r1.dispatcher.dispatched.gpu01"),
        ("stopping", "trainshed.events.run.r1.dispatcher.stopping.gpu01"),
        ("completed", "trainshed.events.run.r1.agent.completed.gpu01"),
        ("node_joined", "trainshed.events.node.gpu01.agent.node_joined.gpu01"),
        ("node_lost", "trainshed.events.node.gpu01.dispatcher.node_lost.gpu01"),
        ("node_removed", "trainshed.events.node.gpu01.gateway.node_removed.gpu01"),
        ("elected", subjects.ELECTED),
        ("log_accepted", subjects.LOG_ACCEPTED),
    ],
)
def test_subjects_are_as_designed(name: str, subject: str) -> None:
    assert encoded(name)[0] == subject


@pytest.mark.parametrize("name", ["failed", "cancelled"])
def test_what_the_dispatcher_says_of_an_attempt_is_not_pushed_to_its_node(name: str) -> None:
    _, event = EXAMPLES[name]
    new = writer(Role.DISPATCHER).new(msgspec.structs.replace(event, epoch=3))
    assert new.subject == f"trainshed.events.run.r1.dispatcher.{name}._"
    assert isinstance(decode(new.subject, new.body, 1, 1), StoredEvent)


# --- what is no event ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "subject",
    [
        "trainshed.events",
        "trainshed.events.run.r1.gateway.submitted",
        "trainshed.events.run.r1.gateway.submitted._.more",
        "trainshed.events.run.*.gateway.submitted._",
        "trainshed.events.run.r1.gateway.submitted.>",
        "trainshed.events.run..gateway.submitted._",
        "trainshed.events.node.r1.gateway.submitted._",
        "trainshed.events.run.r1.agent.submitted._",
        "trainshed.events.run.r1.gateway.completed._",
        "trainshed.events.run.r1.nobody.submitted._",
        "other.events.run.r1.gateway.submitted._",
    ],
)
def test_a_subject_of_another_form_scope_or_role_is_unreadable(subject: str) -> None:
    assert wrong(subject, encoded("submitted")[1]) == "the subject is none of an event's"


def test_an_unknown_type_is_unreadable_by_its_name() -> None:
    assert wrong("trainshed.events.run.r1.gateway.paused._", {}) == "unknown event type 'paused'"


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff\xfe", b"[]", b"null", b"5", b'{"id":"x"}', b"[" * 100_000, b'{"a":' * 100_000],
)
def test_a_body_that_is_no_event_is_unreadable(body: bytes) -> None:
    assert wrong("trainshed.events.run.r1.gateway.submitted._", body)


@pytest.mark.parametrize("name", EVENT_KINDS)
def test_every_required_field_must_be_there_and_of_its_type(name: str) -> None:
    subject, body = encoded(name)
    for field in msgspec.structs.fields(EVENT_KINDS[name].type):
        if not field.required or field.name == "launch":
            continue
        less = {key: value for key, value in body["data"].items() if key != field.name}
        assert field.name in wrong(subject, {**body, "data": less})
        if field.type is not msgspec.Raw:
            assert wrong(subject, {**body, "data": {**body["data"], field.name: {"no": "such"}}})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"specversion": "0.3"}, "specversion"),
        ({"type": "trainshed.run.started.v1"}, "does not fit"),
        ({"type": "trainshed.node.failed.v1"}, "does not fit"),
        ({"type": "trainshed.run.failed"}, "does not fit"),
        ({"type": "trainshed.run.failed.vx"}, "does not fit"),
        ({"type": "trainshed.run.failed.v0"}, "version 0"),
        ({"type": "trainshed.run.failed.v2"}, "version 2"),
        ({"subject": "r2"}, "about 'r2'"),
        ({"source": "gateway"}, "from 'gateway'"),
        ({"source": "agent/gpu02"}, "from 'agent/gpu02'"),
        ({"data": {"run_id": "r2", "attempt": 1, "failure_reason": "signal"}}, "run 'r2'"),
        ({"data": {"run_id": "r1", "attempt": 2**53, "failure_reason": "signal"}}, "attempt"),
        ({"data": {"run_id": "r1", "attempt": True, "failure_reason": "signal"}}, "attempt"),
        ({"data": {"run_id": "r1", "attempt": 1.0, "failure_reason": "signal"}}, "attempt"),
        ({"data": None}, "object"),
    ],
)
def test_rule_15_a_body_that_disagrees_with_its_subject_is_unreadable(
    change: dict[str, object], reason: str
) -> None:
    subject, body = encoded("failed")
    assert reason in wrong(subject, {**body, **change})


@pytest.mark.parametrize(
    ("name", "subject", "reason"),
    [
        ("failed", "trainshed.events.run.r1.agent.failed.gpu02", "from 'agent/gpu01'"),
        ("failed", "trainshed.events.run.r1.agent.failed._", "from 'agent/gpu01'"),
        ("submitted", "trainshed.events.run.r1.gateway.submitted.gpu01", "a node where none belongs"),
        ("dispatched", "trainshed.events.run.r1.dispatcher.dispatched.gpu02", "for node 'gpu01'"),
        ("stopping", "trainshed.events.run.r1.dispatcher.stopping._", "for node 'gpu01'"),
        ("node_lost", "trainshed.events.node.gpu01.dispatcher.node_lost.gpu02", "about node 'gpu01'"),
        ("node_removed", "trainshed.events.node.gpu01.gateway.node_removed._", "about node 'gpu01'"),
        ("elected", "trainshed.events.control.dispatch.dispatcher.elected.gpu01", subjects.ELECTED),
        ("elected", "trainshed.events.control.other.dispatcher.elected._", "about 'dispatch'"),
        ("log_accepted", f"{subjects.LOG_ACCEPTED[:-1]}gpu01", subjects.LOG_ACCEPTED),
        ("log_accepted", "trainshed.events.control.dispatch.gateway.log_accepted._", "about 'log'"),
    ],
)
def test_rule_15_tokens_that_the_body_does_not_bear_out_are_unreadable(
    name: str, subject: str, reason: str
) -> None:
    assert reason in wrong(subject, encoded(name)[1])


def test_rule_15_one_node_cannot_speak_for_another() -> None:
    role, event = EXAMPLES["node_joined"]
    new = Writer(role, lambda: CLOCK_NS, node="gpu02").new(event)
    assert "from 'agent/gpu02'" in wrong(new.subject, new.body)
    body = json.loads(new.body)
    assert "about node 'gpu01'" in wrong(
        "trainshed.events.node.gpu02.agent.node_joined.gpu02", {**body, "subject": "gpu02"}
    )


def test_an_agents_word_needs_a_node() -> None:
    role, event = EXAMPLES["started"]
    new = Writer(role, lambda: CLOCK_NS, node=subjects.NO_NODE).new(event)
    assert wrong(new.subject, new.body) == "an agent's word without its node"


@pytest.mark.parametrize("name", ["failed", "cancelled"])
def test_a_dispatchers_event_needs_an_epoch(name: str) -> None:
    new = writer(Role.DISPATCHER).new(EXAMPLES[name][1])
    assert wrong(new.subject, new.body) == "a dispatcher's event without an epoch"


def test_an_unknown_word_of_an_enum_is_unspecified_and_stops_nobody() -> None:
    subject, body = encoded("failed")
    body["data"]["failure_reason"] = "meteorite"
    read = decode(subject, json.dumps(body).encode(), 1, 1)
    assert isinstance(read, StoredEvent) and isinstance(read.event, Failed)
    assert read.event.failure_reason is FailureReason.UNSPECIFIED


def test_fields_of_a_newer_release_are_passed_over() -> None:
    subject, body = encoded("started")
    body["data"]["colour"] = "blue"
    body["traceparent"] = "00-ab"
    assert isinstance(decode(subject, json.dumps(body).encode(), 1, 1), StoredEvent)


# --- old versions -----------------------------------------------------------------------------------------


def test_an_old_version_is_brought_up_to_date_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EVENT_KINDS, "started", msgspec.structs.replace(EVENT_KINDS["started"], version=3))
    steps = {
        ("started", 1): lambda data: {**data, "machine": data["host"]},
        ("started", 2): lambda data: {**data, "host": data.pop("machine").upper()},
    }
    monkeypatch.setattr(codec, "UPCASTERS", steps)
    subject, body = encoded("started")
    body["type"] = "trainshed.run.started.v1"
    read = decode(subject, json.dumps(body).encode(), 1, 1)
    assert isinstance(read, StoredEvent) and isinstance(read.event, Started)
    assert read.event.host == "GPU01.LAB"
    broken: list[object] = [[], {}, 5, None, {"host": 5}]
    for data in broken:
        assert wrong(subject, {**body, "data": data})


# --- totality ---------------------------------------------------------------------------------------------

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(name=st.sampled_from(sorted(EVENT_KINDS)), data=st.data())
def test_decode_is_total(name: str, data: st.DataObject) -> None:
    """Any field of envelope or data replaced by any JSON: an event or a reason, never an exception."""
    subject, body = encoded(name)
    part = data.draw(st.sampled_from([body, body["data"]]))
    field = data.draw(st.sampled_from(sorted(part)))
    part[field] = data.draw(_json)
    result = decode(subject, json.dumps(body).encode(), 1, 1)
    assert isinstance(result, StoredEvent | Unreadable)
    if isinstance(result, StoredEvent):
        assert event_subject(result.event, Role(result.subject.role), NODE) == result.subject


@given(subject=st.text(max_size=60), body=st.binary(max_size=60))
def test_decode_takes_any_bytes(subject: str, body: bytes) -> None:
    assert isinstance(decode(subject, body, 1, 1), Unreadable)


# --- ids, heartbeats, printing ------------------------------------------------------------------------------


def test_ids_are_uuids_of_version_7_and_sort_by_time() -> None:
    ids = [uuid7() for _ in range(100)]
    assert len(set(ids)) == 100
    for text in ids:
        parsed = uuid.UUID(text)
        assert (parsed.version, parsed.variant, str(parsed)) == (7, uuid.RFC_4122, text)
    assert [text[:13] for text in ids] == sorted(text[:13] for text in ids)


def test_the_id_of_a_stored_message_can_be_read_from_any_body() -> None:
    new = writer(Role.GATEWAY).new(EXAMPLES["submitted"][1])
    assert event_id(new.body) == new.id
    for body in (b"", b"{}", b"\xff", b"[" * 100_000):
        assert event_id(body) is None


def test_a_run_heartbeat_is_read_as_it_was_written() -> None:
    told = RunHeartbeat(run_id="r1", attempt=2, step=1200, progress=0.24, metrics={"reward": 195.0})
    subject, id_, body = writer(Role.AGENT).heartbeat(told)
    assert subject == "trainshed.heartbeats.run.r1.gpu01"
    assert json.loads(body)["id"] == id_
    assert decode_heartbeat(subject, body) == told


def test_a_node_heartbeat_is_read_as_it_was_written() -> None:
    alive = NodeHeartbeat(node=NODE, incarnation="a", gpus=(GpuReading(index=0, memory_used_mb=3),))
    subject, _, body = writer(Role.AGENT).heartbeat(alive)
    assert subject == "trainshed.heartbeats.node.gpu01.gpu01"
    assert decode_heartbeat(subject, body) == alive


@pytest.mark.parametrize(
    "subject",
    [
        "trainshed.heartbeats.node.gpu02.gpu02",
        "trainshed.heartbeats.node.gpu01.gpu02",
        "trainshed.heartbeats.run.r2.gpu01",
        "trainshed.heartbeats",
        "trainshed.events.run.r1.agent.started.gpu01",
    ],
)
def test_a_heartbeat_for_somebody_else_is_none(subject: str) -> None:
    for told in (NodeHeartbeat(node=NODE, incarnation="a"), RunHeartbeat(run_id="r1", attempt=1)):
        assert decode_heartbeat(subject, writer(Role.AGENT).heartbeat(told)[2]) is None


@given(body=st.binary(max_size=40))
def test_a_heartbeat_of_any_bytes_is_none(body: bytes) -> None:
    assert decode_heartbeat("trainshed.heartbeats.run.r1.gpu01", body) is None


def test_parsed_subjects_spell_themselves() -> None:
    subject = EventSubject(Scope.RUN, "r1", Role.AGENT, "started", NODE)
    assert re.fullmatch(r"trainshed\.events\.run\.r1\.agent\.started\.gpu01", str(subject))
