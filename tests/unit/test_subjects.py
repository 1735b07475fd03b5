"""How subjects are spelled and read back, and which tokens they may bear."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainshed_client import subjects
from trainshed_client.subjects import EventSubject, Role, Scope, parse_event_subject

TOKEN = st.text(alphabet="abcxyz0189_-", min_size=1, max_size=26)


def matches(pattern: str, subject: str) -> bool:
    """NATS's own matching of a subject by a filter."""
    wanted, tokens = pattern.split("."), subject.split(".")
    for place, token in enumerate(wanted):
        if token == ">":
            return len(tokens) > place
        if place >= len(tokens) or token not in ("*", tokens[place]):
            return False
    return len(wanted) == len(tokens)


@given(st.sampled_from(Scope), TOKEN, st.sampled_from(Role), TOKEN, TOKEN)
def test_an_event_subject_is_read_as_it_is_spelled(
    scope: Scope, about: str, role: Role, type_: str, node: str
) -> None:
    subject = EventSubject(scope, about, role, type_, node)
    assert parse_event_subject(str(subject)) == subject


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "trainshed.events.run.r1.agent.started",
        "trainshed.events.run.r1.agent.started.gpu01.x",
        "trainshed.log.run.r1.agent.started.gpu01",
        "trainshed.events.run.*.agent.started.gpu01",
        "trainshed.events.run.r1.agent.started.>",
        "trainshed.events.run.r1*.agent.started.gpu01",
        "trainshed.events.run.r>1.agent.started.gpu01",
        "trainshed.events..r1.agent.started.gpu01",
        "trainshed.events.run.r1.agent.started.",
    ],
)
def test_rule_15_wildcards_empty_tokens_and_other_forms_are_no_event_subject(subject: str) -> None:
    assert parse_event_subject(subject) is None


def test_an_agent_is_pushed_the_dispatchers_decisions_for_it_and_nothing_else() -> None:
    pushed = subjects.pushed_to("gpu01")
    assert matches(pushed, "trainshed.events.run.r1.dispatcher.dispatched.gpu01")
    assert matches(pushed, "trainshed.events.run.r1.dispatcher.stopping.gpu01")
    assert matches(pushed, "trainshed.events.node.gpu01.dispatcher.node_lost.gpu01")
    assert not matches(pushed, "trainshed.events.run.r1.dispatcher.dispatched.gpu02")
    assert not matches(pushed, "trainshed.events.run.r1.dispatcher.failed._")
    assert not matches(pushed, "trainshed.events.run.r1.agent.completed.gpu01")
    assert not matches(pushed, subjects.ELECTED)


def test_the_guard_of_a_submission_covers_all_that_is_said_of_its_run() -> None:
    guard = subjects.run_events("r1")
    assert matches(guard, subjects.submitted("r1"))
    assert matches(guard, "trainshed.events.run.r1.agent.completed.gpu01")
    assert not matches(guard, subjects.submitted("r2"))


def test_rule_13_the_guard_of_an_agents_word_covers_its_own_words_on_that_run_alone() -> None:
    guard = subjects.agent_events("r1", "gpu01")
    assert matches(guard, "trainshed.events.run.r1.agent.started.gpu01")
    assert not matches(guard, "trainshed.events.run.r1.agent.started.gpu02")
    assert not matches(guard, "trainshed.events.run.r1.dispatcher.dispatched.gpu01")


def test_a_call_is_served_plainly_and_for_accounts() -> None:
    assert subjects.api("run.submit") == "trainshed.api.run.submit"
    assert matches(subjects.api_as("run.submit"), "trainshed.api.u.ann.run.submit")
    assert not matches(subjects.api_as("run.submit"), subjects.api("run.submit"))


@pytest.mark.parametrize(
    ("subject", "read"),
    [
        (subjects.run_heartbeat("r1", "gpu01"), ("run", "r1", "gpu01")),
        (subjects.node_heartbeat("gpu01"), ("node", "gpu01", "gpu01")),
        ("trainshed.heartbeats.node.gpu01", None),
        ("trainshed.events.node.gpu01.gpu01", None),
    ],
)
def test_a_heartbeats_subject_is_read_back(subject: str, read: tuple[str, str, str] | None) -> None:
    assert subjects.parse_heartbeat_subject(subject) == read


@pytest.mark.parametrize("text", ["", "a.b", "*", ">", "a b", "ä", "a\n", "$JS", "a" * 65])
def test_what_would_not_stay_one_token_is_none(text: str) -> None:
    assert not subjects.is_token(text)
    assert subjects.is_token("mfrgg2-_A9" * 6)
