"""Enrolment tokens: the line, what counts once, what counts for whom, and when one ends."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from services.access.identities import NodeIdentity, Person, PersonRole
from services.enrol.tokens import (
    KEPT,
    LIFE,
    MOST_OPEN,
    Asked,
    EnrolmentToken,
    ForAnyNode,
    ForNode,
    ForPerson,
    Invited,
    TokenLine,
    TokenUse,
    admitted,
    invited,
    parse_line,
    used,
)
from trainshed_client.errors import ErrorCode, TrainshedError

NOW = datetime(2026, 11, 30, 9, tzinfo=UTC)
SECRET = bytes(range(20))
KEY, OTHER = "aa" * 32, "bb" * 32
GPU01 = ForNode("gpu01")
SAM = ForPerson(name="sam", role=PersonRole.SUBMITTER)


def out(whom: Invited = GPU01, secret: bytes = SECRET) -> tuple[EnrolmentToken, ...]:
    return invited((), whom, secret, now=NOW)


def refused(tokens: tuple[EnrolmentToken, ...], asked: Asked, now: datetime = NOW) -> TrainshedError:
    with pytest.raises(TrainshedError) as raised:
        admitted(tokens, asked, now=now)
    return raised.value


@pytest.mark.parametrize("host", ["control.lab", "10.0.0.1", "fd00::1"])
def test_a_line_reads_back_as_it_was_printed(host: str) -> None:
    line = TokenLine(SECRET, "ab" * 32, host, 4224)
    assert parse_line(f" {line}\n", given_by="--join") == line
    assert parse_line(str(line).upper().replace(host.upper(), host), given_by="--join") == line
    assert not str(line).startswith("-")
    assert len(str(line).split()) == 1


def test_the_text_form_of_a_line_for_logs_has_no_secret() -> None:
    line = TokenLine(SECRET, "ab" * 32, "control", 4224)
    assert str(line).partition("@")[0] not in repr(line)
    assert f"{line!r}" == "TokenLine(***@control:4224)"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "@a:1",
        "ts1-abc@a:1",
        "{token}",
        "{token}@",
        "{token}@a",
        "{token}@a:0",
        "{token}@a:70000",
        "{token}@a b:1",
        "{token}@:1",
        "{token}@../x:1",
    ],
)
def test_what_is_no_line_is_refused_without_showing_it(text: str) -> None:
    token = str(TokenLine(SECRET, "ab" * 32, "a", 1)).partition("@")[0]
    with pytest.raises(TrainshedError, match="--join .* accepted is TOKEN@HOST:PORT") as raised:
        parse_line(text.format(token=token), given_by="--join")
    assert token not in str(raised.value)


def test_the_secret_is_not_kept() -> None:
    kept = msgspec.json.encode(out())
    assert SECRET not in kept
    assert SECRET.hex().encode() not in kept
    assert str(TokenLine(SECRET, "ab" * 32, "a", 1))[4:36].encode() not in kept


def test_a_token_counts_for_whom_it_names() -> None:
    assert admitted(out(), Asked(SECRET, KEY, as_node=True), now=NOW).identity == NodeIdentity("gpu01")
    assert admitted(out(), Asked(SECRET, KEY, True, "gpu01"), now=NOW).identity == NodeIdentity("gpu01")
    assert admitted(out(SAM), Asked(SECRET, KEY, as_node=False), now=NOW).identity == Person(
        "sam", PersonRole.SUBMITTER
    )
    assert "for the node gpu01, not for 'gpu02'" in str(refused(out(), Asked(SECRET, KEY, True, "gpu02")))


def test_a_persons_token_makes_no_node_and_a_nodes_no_person() -> None:
    assert "for the user sam" in str(refused(out(SAM), Asked(SECRET, KEY, as_node=True)))
    assert "trainshed agent --join" in str(refused(out(), Asked(SECRET, KEY, as_node=False)))
    assert "trainshed agent --join" in str(refused(out(ForAnyNode()), Asked(SECRET, KEY, as_node=False)))


def test_an_unknown_token_is_denied() -> None:
    error = refused(out(), Asked(SECRET[::-1], KEY, as_node=True))
    assert error.code is ErrorCode.DENIED
    assert "not known" in str(error)


def test_a_token_ends_after_15_minutes() -> None:
    asked = Asked(SECRET, KEY, as_node=True)
    assert admitted(out(), asked, now=NOW + LIFE - timedelta(seconds=1))
    assert "expired at 2026-11-30 09:15:00 UTC" in str(refused(out(), asked, NOW + LIFE))


def test_a_used_token_gives_its_user_the_same_again_and_another_nothing() -> None:
    [token] = out()
    after = used(out(), token, TokenUse(at=NOW, key=KEY, certificate="PEM"))
    again = admitted(after, Asked(SECRET, KEY, as_node=True), now=NOW + timedelta(hours=1))
    assert again.certificate == "PEM"
    error = refused(after, Asked(SECRET, OTHER, as_node=True))
    assert error.code is ErrorCode.DENIED
    assert "used already, at 2026-11-30 09:00:00 UTC, by another key" in str(error)


def test_a_token_for_any_node_stays_open_and_takes_names_that_can_be_some() -> None:
    [token] = tokens = out(ForAnyNode())
    assert used(tokens, token, TokenUse(at=NOW, key=KEY, certificate="")) == tokens
    assert admitted(tokens, Asked(SECRET, KEY, True, "c1"), now=NOW).identity == NodeIdentity("c1")
    unnamed = Asked(SECRET, KEY, True, None, "host7")
    assert admitted(tokens, unnamed, now=NOW).identity == NodeIdentity("host7")
    assert admitted(out(), unnamed, now=NOW).identity == NodeIdentity("gpu01")
    for name in ("../", "", "A", "a.b", "*", None, "a" * 64, "a\n"):
        assert "1 to 63 of a-z" in str(refused(tokens, Asked(SECRET, KEY, True, name)))


def test_a_new_token_for_the_same_takes_the_open_one_back() -> None:
    tokens = invited(out(), ForNode("gpu01"), SECRET[::-1], now=NOW)
    assert "another since" in str(refused(tokens, Asked(SECRET, KEY, as_node=True)))
    assert admitted(tokens, Asked(SECRET[::-1], KEY, as_node=True), now=NOW)
    assert len(invited(tokens, ForNode("gpu02"), bytes(20), now=NOW)) == 2


def test_names_that_can_be_none_get_no_token() -> None:
    for whom in (
        ForNode("../"),
        ForNode(""),
        ForPerson(name="Ada", role=PersonRole.ADMIN),
        ForPerson(name="a.b", role=PersonRole.ADMIN),
        ForPerson(name="a\n", role=PersonRole.ADMIN),
    ):
        with pytest.raises(TrainshedError, match="cannot name a"):
            out(whom)


def test_what_is_long_past_is_dropped_and_the_number_of_open_ones_is_bounded() -> None:
    assert len(invited(out(), ForNode("gpu02"), bytes(20), now=NOW + LIFE + KEPT)) == 1
    assert len(invited(out(), ForNode("gpu02"), bytes(20), now=NOW + KEPT)) == 2
    [token] = out()
    many = tuple(msgspec.structs.replace(token, whom=ForNode(f"n{n}")) for n in range(MOST_OPEN))
    with pytest.raises(TrainshedError, match="1,000 tokens are open"):
        invited(many, ForNode("gpu02"), bytes(20), now=NOW)


def test_the_local_person_is_nobody_elses_name() -> None:
    with pytest.raises(TrainshedError, match="choose another name"):
        out(ForPerson(name="local", role=PersonRole.VIEWER))
