"""The roster: who is enrolled, which keys count, and its file."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from services.access.identities import Control, ControlRole, NodeIdentity, Person, PersonRole
from services.enrol.roster import (
    MOST_KEYS,
    MOST_MACHINES,
    NOBODYS_KEY,
    EnrolledPerson,
    IssuedCertificate,
    Member,
    Roster,
    asked_to_renew,
    enrolled,
    expiring,
    in_use,
    on_older_authority,
    removed,
    renewed,
    revoked,
)
from services.enrol.roster_file import change, read_roster, state, write_roster
from services.enrol.tokens import ForNode, ForPerson, invited
from trainshed_client.errors import ErrorCode, TrainshedError

NOW = datetime(2026, 11, 30, 9, tzinfo=UTC)
DAY = timedelta(days=1)
NODE = NodeIdentity("gpu01")
SAM = Person("sam", PersonRole.SUBMITTER)


def issued(
    key: str, at: datetime = NOW, life: timedelta = 90 * DAY, authority: str = "a1"
) -> IssuedCertificate:
    return IssuedCertificate(serial="1f", key=key, issued_at=at, not_after=at + life, authority=authority)


def with_node(key: str = "k1") -> Roster:
    return enrolled(Roster(), NODE, issued(key), now=NOW)


def keys(roster: Roster, identity: Member = NODE, now: datetime = NOW) -> list[str]:
    entry = roster.find(identity)
    assert entry is not None
    return entry.keys(now)


def test_everybody_is_found_by_name_whatever_his_role() -> None:
    roster = enrolled(with_node(), SAM, issued("k2"), now=NOW, rate=5, queued=100)
    roster = enrolled(roster, Control(ControlRole.GATEWAY), issued("k3"), now=NOW)
    sam = roster.find(Person("sam", PersonRole.ADMIN))
    assert isinstance(sam, EnrolledPerson)
    assert (sam.role, sam.rate, sam.queued, sam.not_after) == (PersonRole.SUBMITTER, 5, 100, NOW + 90 * DAY)
    assert roster.find(NodeIdentity("sam")) is None
    assert roster.find(Control(ControlRole.ENROL)) is None
    assert roster.pinned_keys(NOW) == ["k1", "k2", "k3"]
    assert roster.pinned_keys(NOW + 90 * DAY) == Roster().pinned_keys(NOW) == [NOBODYS_KEY]


def test_who_is_enrolled_anew_has_the_new_key_alone() -> None:
    assert keys(enrolled(with_node("k1"), NODE, issued("k2"), now=NOW)) == ["k2"]
    promoted = enrolled(
        enrolled(Roster(), SAM, issued("k1"), now=NOW), Person("sam", PersonRole.ADMIN), issued("k2"), now=NOW
    )
    assert [(one.name, one.role) for one in promoted.people] == [("sam", PersonRole.ADMIN)]


def test_a_person_has_several_machines_and_each_renews_for_itself() -> None:
    roster = enrolled(Roster(), SAM, issued("laptop"), now=NOW)
    roster = enrolled(roster, SAM, issued("box", NOW + DAY), now=NOW + DAY)
    assert keys(roster, SAM) == ["laptop", "box"]
    later = NOW + 60 * DAY
    [sam] = roster.people
    assert sam.must_renew(later, "laptop") and not sam.must_renew(later, "box")
    roster = renewed(roster, sam, issued("laptop2", later, authority="a2"), now=later, of="laptop")
    [sam] = roster.people
    assert not sam.must_renew(later, "laptop2")
    assert [one.key for one in sam.of_each_machine(later)] == ["box", "laptop2"]
    assert on_older_authority(roster, "a2", now=later) == [sam], "the box still hangs on the older authority"
    roster = in_use(roster, sam, "laptop2", now=later)
    assert sorted(keys(roster, SAM, later)) == ["box", "laptop2"]
    roster = enrolled(roster, SAM, issued("box3", NOW + 92 * DAY), now=NOW + 92 * DAY)
    assert sorted(keys(roster, SAM, NOW + 92 * DAY)) == ["box3", "laptop2"], "what has expired is dropped"
    assert keys(revoked(roster, SAM, now=later), SAM, later) == []
    assert keys(enrolled(revoked(roster, SAM, now=later), SAM, issued("new"), now=later), SAM, later) == [
        "new"
    ]


def test_a_person_has_not_any_number_of_machines() -> None:
    roster = Roster()
    for number in range(MOST_MACHINES):
        roster = enrolled(roster, SAM, issued(f"k{number}"), now=NOW)
    with pytest.raises(TrainshedError, match="is on 8 machines, and on no more"):
        enrolled(roster, SAM, issued("one more"), now=NOW)
    assert enrolled(roster, SAM, issued("k3"), now=NOW), "one that has joined before"


def test_a_renewal_adds_a_key_until_the_new_one_is_in_use() -> None:
    roster = with_node("k1")
    for number in range(2, 9):
        entry = roster.find(NODE)
        assert entry is not None
        roster = renewed(roster, entry, issued(f"k{number}"), now=NOW)
    assert keys(roster) == ["k5", "k6", "k7", "k8"]
    assert len(keys(roster)) == MOST_KEYS
    entry = roster.find(NODE)
    assert entry is not None
    assert keys(in_use(roster, entry, "k8", now=NOW)) == ["k8"]
    assert keys(in_use(roster, entry, "k6", now=NOW)) == ["k6", "k7", "k8"]
    with pytest.raises(TrainshedError, match="not enrolled"):
        in_use(roster, entry, "foreign", now=NOW)


def test_a_renewal_with_the_same_key_counts_once() -> None:
    roster = with_node("k1")
    entry = roster.find(NODE)
    assert entry is not None
    assert keys(renewed(roster, entry, issued("k1", NOW + DAY), now=NOW + DAY)) == ["k1"]


def test_who_was_revoked_or_expired_renews_nothing() -> None:
    roster = with_node()
    entry = roster.find(NODE)
    assert entry is not None
    out = revoked(roster, NODE, now=NOW)
    assert keys(out) == []
    for old, now in ((out, NOW), (roster, NOW + 90 * DAY), (Roster(), NOW)):
        with pytest.raises(TrainshedError, match=r"gpu01\.node\.trainshed is not enrolled") as raised:
            renewed(old, entry, issued("k2"), now=now)
        assert raised.value.code is ErrorCode.DENIED


def test_revoking_takes_open_tokens_back_and_says_when_there_is_nobody() -> None:
    with pytest.raises(TrainshedError, match="node gpu01 is not enrolled"):
        revoked(Roster(), NODE, now=NOW)
    tokens = invited(
        invited((), ForNode("gpu01"), bytes(20), now=NOW),
        ForPerson(name="sam", role=PersonRole.ADMIN),
        bytes(20),
        now=NOW,
    )
    roster = msgspec.structs.replace(with_node(), tokens=tokens)
    out = revoked(roster, NODE, now=NOW)
    assert [one.whom for one in out.tokens] == [tokens[1].whom]
    with pytest.raises(TrainshedError, match="revoked already, at 2026-11-30 09:00 UTC"):
        revoked(out, NODE, now=NOW + DAY)
    assert revoked(out, SAM, now=NOW).tokens == ()  # never enrolled: the open token alone


def test_a_renewal_is_due_at_two_thirds_of_the_life_or_when_asked_for() -> None:
    roster = with_node()
    entry = roster.find(NODE)
    assert entry is not None
    assert not entry.must_renew(NOW + 59 * DAY)
    assert entry.must_renew(NOW + 60 * DAY)
    asked = asked_to_renew(roster, now=NOW + DAY).find(NODE)
    assert asked is not None
    assert asked.must_renew(NOW + DAY)
    after = renewed(
        asked_to_renew(roster, now=NOW + DAY, only=NODE),
        asked,
        issued("k2", NOW + 2 * DAY),
        now=NOW + 2 * DAY,
    )
    entry = after.find(NODE)
    assert entry is not None
    assert not entry.must_renew(NOW + 2 * DAY)
    with pytest.raises(TrainshedError, match="user sam is not enrolled"):
        asked_to_renew(roster, now=NOW, only=SAM)


def test_who_still_hangs_on_an_older_authority() -> None:
    roster = enrolled(with_node(), SAM, issued("k2", authority="a2"), now=NOW)
    assert [one.identity for one in on_older_authority(roster, "a2", now=NOW)] == [NODE]
    assert on_older_authority(revoked(roster, NODE, now=NOW), "a2", now=NOW) == []


def test_the_local_person_cannot_be_put_out() -> None:
    roster = enrolled(Roster(), Person("local", PersonRole.ADMIN), issued("k1"), now=NOW)
    with pytest.raises(TrainshedError, match="cannot be put out"):
        revoked(roster, Person("local", PersonRole.VIEWER), now=NOW)


def test_a_node_that_was_removed_is_put_out_where_it_came_with_a_token_for_any() -> None:
    roster = enrolled(with_node(), NodeIdentity("c1"), issued("k2"), now=NOW, by_reusable=True)
    for node in ("gpu01", "gpu09", "../"):
        assert removed(roster, node, now=NOW) == roster
    out = removed(roster, "c1", now=NOW)
    assert (keys(out, NodeIdentity("c1")), keys(out)) == ([], ["k1"])
    assert removed(out, "c1", now=NOW + DAY) == out


def test_a_token_alone_is_nothing_that_the_server_must_know(tmp_path: Path) -> None:
    write_roster(tmp_path, with_node())
    before = state(tmp_path)
    write_roster(
        tmp_path, msgspec.structs.replace(with_node(), tokens=invited((), ForNode("b"), bytes(20), now=NOW))
    )
    assert state(tmp_path) == before
    write_roster(tmp_path, revoked(with_node(), NODE, now=NOW))
    assert state(tmp_path) != before


def test_who_is_near_his_end() -> None:
    roster = enrolled(with_node(), SAM, issued("k2", life=20 * DAY), now=NOW)
    assert expiring(roster, now=NOW, within=14 * DAY) == {}
    assert expiring(roster, now=NOW + 6 * DAY, within=14 * DAY) == {"sam.user.trainshed": NOW + 20 * DAY}
    assert len(expiring(roster, now=NOW + 100 * DAY, within=14 * DAY)) == 2
    assert expiring(revoked(roster, SAM, now=NOW), now=NOW + 20 * DAY, within=14 * DAY) == {}


def test_the_file_reads_back_and_is_private(tmp_path: Path) -> None:
    assert read_roster(tmp_path) == Roster()
    roster = msgspec.structs.replace(
        enrolled(with_node(), SAM, issued("k2"), now=NOW, rate=3),
        tokens=invited((), ForNode("gpu02"), bytes(20), now=NOW),
    )
    write_roster(tmp_path, roster)
    assert read_roster(tmp_path) == roster
    assert [file.name for file in tmp_path.iterdir()] == ["roster.json"]
    assert (tmp_path / "roster.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b'{"v": 2, "nodes": [], "robots": []}', "written by a newer release"),
        (b'{"v": 1, "robots": []}', "robots"),
        (b'{"v": 1, "nodes": [{"name": "a"}]}', "enrolled_at"),
        (b"", "damaged"),
        (b'{"nodes": []}', "damaged"),
    ],
)
def test_a_file_that_cannot_be_understood_is_refused(tmp_path: Path, content: bytes, error: str) -> None:
    (tmp_path / "roster.json").write_bytes(content)
    with pytest.raises(TrainshedError, match=error):
        read_roster(tmp_path)


def test_two_who_change_the_file_at_once_lose_nothing(tmp_path: Path) -> None:
    """The command line makes tokens while the enrolment takes them."""

    def make(begin: int) -> None:
        for number in range(begin, begin + 20):

            def step(roster: Roster, number: int = number) -> tuple[Roster, None]:
                secret = number.to_bytes(20, "big")
                tokens = invited(roster.tokens, ForNode(f"n{number}"), secret, now=NOW)
                return msgspec.structs.replace(roster, tokens=tokens), None

            change(tmp_path, step)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(make, range(0, 80, 20)))
    assert len(read_roster(tmp_path).tokens) == 80


def test_a_step_that_refuses_writes_nothing(tmp_path: Path) -> None:
    def step(roster: Roster) -> tuple[Roster, None]:
        return revoked(roster, NODE, now=NOW), None

    with pytest.raises(TrainshedError):
        change(tmp_path, step)
    assert not (tmp_path / "roster.json").exists()
    change(tmp_path, lambda roster: (with_node(), None))  # the lock was let go
