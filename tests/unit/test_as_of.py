"""`--at`: how a moment is named, what is refused and in whose words, and by which clock a past listing is told."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from bench.log_maker import LogMaker
from services.cli import as_of as module
from services.cli import audit_at, audit_diff
from services.cli.as_of import PastMoment, as_of, asked
from tests.support.past_stack import PastStack
from trainshed_client.errors import ErrorCode, TrainshedError

pytestmark = pytest.mark.usefixtures("zone")
NOW = "2026-11-24T10:00:00.000000Z"


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "now", lambda: NOW)


def _stack() -> PastStack:
    log = LogMaker()
    log.elect()
    log.join()
    log.submit()
    return PastStack(log.messages)


@pytest.mark.parametrize(
    ("text", "seq", "time"),
    [
        ("1234", 1234, ""),
        ("1,234", 1234, ""),
        (" 7 ", 7, ""),
        ("-2h", None, "2026-11-24T08:00:00.000000Z"),
        ("\N{MINUS SIGN}2h", None, "2026-11-24T08:00:00.000000Z"),
        ("2026-11-24T10:32", None, "2026-11-24T09:32:00.000000Z"),
        ("2026-11-24T09:32Z", None, "2026-11-24T09:32:00.000000Z"),
        ("2026-11-24", None, "2026-11-23T23:00:00.000000Z"),
        ("-0s", None, NOW),
    ],
)
def test_a_moment_is_a_sequence_or_a_time(text: str, seq: int | None, time: str) -> None:
    found = asked(text)
    assert found is not None
    assert (found.seq, found.time) == (seq, time)


def test_no_moment_is_now() -> None:
    assert asked(None) is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("0", "the log begins with event 1"),
        ("12a", "or the sequence of an event (1234)"),
        ("1,23", "or the sequence of an event (1234)"),
        ("", "or the sequence of an event (1234)"),
        ("yesterday", "write a time (2026-11-24T10:32"),
        ("2026-11-24T11:01", "yet to come"),
        ("2026-11-31", "write a time"),
    ],
)
def test_what_is_no_moment_of_the_past_is_refused_by_its_option(text: str, told: str) -> None:
    with pytest.raises(TrainshedError) as refused:
        asked(text, given_by="--at")
    assert refused.value.code is ErrorCode.INVALID
    assert told in refused.value.message
    assert refused.value.message.startswith("--at is ")


async def test_a_sequence_is_told_with_its_time_of_storing() -> None:
    found = await as_of(_stack().client(), asked("2"))
    assert found is not None
    assert (found.seq, found.time, found.clock) == (2, "2026-09-21T14:13:20.002000Z", found.time)
    assert found.text == "event 2, stored 2026-09-21 15:13:20"


async def test_a_time_is_the_last_event_by_then_and_durations_are_told_by_that_time() -> None:
    stack = _stack()
    found = await as_of(stack.client(), asked("2026-11-24T10:30"))
    assert found is not None
    assert stack.asked == [("audit.at", {"time": "2026-11-24T09:30:00.000000Z"})]
    assert (found.seq, found.clock) == (3, "2026-11-24T09:30:00.000000Z")
    assert found.text == "event 3, stored 2026-09-21 15:13:20 (the last by 2026-11-24 10:30:00)"


@pytest.mark.parametrize("text", ["4", "2020-01-01"])
async def test_a_moment_that_the_log_does_not_have_is_refused_by_its_option(text: str) -> None:
    with pytest.raises(TrainshedError) as refused:
        await as_of(_stack().client(), asked(text, given_by="B"))
    assert refused.value.code is ErrorCode.INVALID
    assert refused.value.message.startswith(f"B is '{text}': ")


def test_a_span_of_time_as_an_argument_is_no_option(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str | None] = []

    def take(text: str | None, *, given_by: str) -> None:
        taken.append(None if text is None else text.replace("\N{MINUS SIGN}", "-"))
        raise TrainshedError(ErrorCode.INVALID, given_by)

    monkeypatch.setattr(audit_at, "asked", take)
    monkeypatch.setattr(audit_diff, "asked", take)
    CliRunner().invoke(audit_at.at, ["-2h", "--json"])
    CliRunner().invoke(audit_diff.diff, ["-2h", "--json", "7"])
    assert taken == ["-2h", "-2h"]
    assert CliRunner().invoke(audit_at.at, ["-x"]).exit_code == 2


def test_a_time_and_its_event_are_the_same_clock() -> None:
    moment = PastMoment(1, NOW, "", NOW)
    assert "the last by" not in moment.text
