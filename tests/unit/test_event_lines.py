"""The lines of `trainshed events` for people, and which events its options choose."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from events.codec import Writer
from events.times import nanoseconds
from events.types import EVENT_KINDS
from services.cli.event_filter import EventFilter, chosen
from services.cli.event_lines import SEQUENCE, STORED_TIME, line, with_place
from services.cli.main import run
from services.cli.moment import parse_moment
from services.cli.table import PLAIN, Screen
from services.simulation.log_lines import messages_of
from tests.support.builders import EXAMPLES, START_NS
from trainshed_client.direct_get import Message
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.subjects import Role

NOW_NS = nanoseconds("2026-11-24T12:00:00Z")


@pytest.fixture
def in_tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = os.environ.get("TZ")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    yield
    monkeypatch.undo()
    assert os.environ.get("TZ") == before
    time.tzset()


def message(name: str, seq: int = 7) -> Message:
    role, event = EXAMPLES[name]
    new = Writer(role, lambda: START_NS, node="gpu01" if role is Role.AGENT else None).new(event)
    return Message(seq, START_NS, new.subject, new.body)


@pytest.mark.parametrize("name", EVENT_KINDS)
def test_each_event_has_a_line_with_its_place_type_and_words(name: str) -> None:
    shown = line(message(name), PLAIN)
    seq, _, _, type_, about, *words = shown.split()
    assert (seq, type_) == ("7", name)
    assert about == message(name).subject.split(".")[3]
    assert words and "unreadable" not in shown


def test_the_tree_of_the_log_can_be_made_of_its_lines_of_json() -> None:
    names = [name for name in EVENT_KINDS if name != "elected"]
    stored = [
        message(name, seq)._replace(stored_ns=START_NS + seq * 1_000_001) for seq, name in enumerate(names, 1)
    ]
    lines = [with_place(one) or b"" for one in stored]
    read = []
    for text, found in zip(lines, messages_of(lines, "log.jsonl"), strict=True):
        event = json.loads(text)
        place = f',"sequence":"{event[SEQUENCE]}","storedtime":"{event[STORED_TIME]}"}}'
        body = text.removesuffix(place.encode()) + b"}"
        read.append(Message(found.seq, found.stored_ns, str(found.subject), body))
    assert read == stored


def test_a_log_of_an_older_release_has_its_writers_times() -> None:
    text = with_place(message("failed")._replace(stored_ns=START_NS + 5)) or b""
    (found,) = messages_of([text], "log.jsonl")
    assert found.stored_ns == START_NS + 5
    older = text.partition(b',"storedtime"')[0] + b"}"
    (found,) = messages_of([older], "log.jsonl")
    assert found.stored_ns == START_NS


def test_a_line_is_cut_to_the_terminal_and_coloured_by_how_it_ended() -> None:
    shown = line(message("failed"), Screen(60, colour=True))
    assert shown.startswith("\x1b[31m") and len(shown) <= 60 + len("\x1b[31m\x1b[0m")


def test_what_is_no_event_has_a_line_that_says_so() -> None:
    shown = line(Message(3, START_NS, "trainshed.events.run.r1.gateway.submitted._", b"noise\x1b[2J"), PLAIN)
    assert "unreadable" in shown and "in quarantine" in shown and "\x1b" not in shown


@pytest.mark.usefixtures("in_tokyo")
def test_a_line_has_the_time_of_storing_in_the_callers_zone() -> None:
    in_utc = datetime.fromtimestamp(START_NS / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S")
    shown = line(message("started"), PLAIN).split()
    assert f"{shown[1]} {shown[2]}" != in_utc
    assert datetime.fromisoformat(f"{shown[1]}T{shown[2]}+09:00").timestamp() == START_NS // 10**9


@pytest.mark.usefixtures("in_tokyo")
@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("2026-11-24T10:32", "2026-11-24T01:32:00Z"),
        ("2026-11-24 10:32:05.5", "2026-11-24T01:32:05.5Z"),
        ("2026-11-24", "2026-11-23T15:00:00Z"),
        ("2026-11-24T10:32Z", "2026-11-24T10:32:00Z"),
        ("2026-11-24T10:32+01:00", "2026-11-24T09:32:00Z"),
        ("-2h", "2026-11-24T10:00:00Z"),
        ("-90", "2026-11-24T11:58:30Z"),
    ],
)
def test_a_moment_is_in_the_callers_zone_unless_it_bears_one(text: str, means: str) -> None:
    assert parse_moment(text, NOW_NS, given_by="--since") == nanoseconds(means)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "soon",
        "2h",
        "10:32",
        "2026-13-01",
        "2026-11-24T25:00",
        "-",
        "-9999999d",
        "0001-01-01T00:00+14:00",
        "20261124",
    ],
)
def test_what_is_no_moment_is_refused_by_its_option(text: str) -> None:
    with pytest.raises(TrainshedError, match="--since is .*; write a time .*2026-11-24T10:32") as refused:
        parse_moment(text, NOW_NS, given_by="--since")
    assert refused.value.code is ErrorCode.INVALID


def test_filters_name_what_was_asked_for() -> None:
    assert EventFilter().subjects(None) == ("trainshed.events.>",)
    assert EventFilter(run="x").subjects("abc") == ("trainshed.events.run.abc.*.*.*",)
    assert EventFilter(types=("failed", "timed_out", "failed"), node="gpu01").subjects(None) == (
        "trainshed.events.*.*.*.failed.gpu01",
        "trainshed.events.*.*.*.timed_out.gpu01",
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--since", "2999-01-01"), "--since is '2999-01-01', which is yet to come"),
        (("--since", "-1h", "--until", "-2h"), "--until is '-2h', which is not after --since '-1h'"),
        (("--from", "5", "--to", "4"), "--to is 4, which is before --from 5"),
        (("--type", "crashed"), "--type is 'crashed'; write one of artifacts_hashed, "),
        (("--node", "gpu.*"), "--node is 'gpu.*'; write the name of a node"),
        (("--until", "tomorrow"), "--until is 'tomorrow'; write a time"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
@pytest.mark.parametrize("verb", [("events",), ("audit", "export")], ids=" ".join)
def test_what_can_fit_nothing_is_refused_before_anybody_is_asked(
    verb: tuple[str, ...], words: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run((*verb, *words)) == 2
    assert capsys.readouterr().err.startswith(f"Error: {told}")


def test_an_end_and_to_follow_contradict_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(("events", "-f", "--to", "9")) == 2
    assert "--to ends what -f goes on with" in capsys.readouterr().err


def test_day_begins_where_the_option_says() -> None:
    asked = chosen(1, 2, "2026-11-24T00:00Z", "2026-11-25T00:00Z", None, (), None)
    assert asked.until_ns is not None and asked.since_ns is not None
    assert asked.until_ns - asked.since_ns == 86_400 * 10**9
