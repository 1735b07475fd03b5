"""What a renewal makes of the roster: the name is the caller's, the older keys end, nobody renews as often as he likes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from services.access.identities import NodeIdentity, Person, PersonRole
from services.enrol.authority import Authorities, hosts_of, make_authority, read_certificates
from services.enrol.decisions import AGAIN_AFTER, enrolled_by, renewed_by
from services.enrol.keys import key_fingerprint, make_key, make_request
from services.enrol.roster import Roster, asked_to_renew, revoked
from services.enrol.tokens import ForPerson, Invited, invited, to_base32
from services.enrol.wire import EnrolQuestion, RenewAnswer
from trainshed_client.endpoint import Endpoint
from trainshed_client.errors import ErrorCode, TrainshedError

NOW = datetime(2026, 11, 30, 9, tzinfo=UTC)
LIFE = timedelta(days=90)
AUTHORITIES = Authorities((make_authority(now=NOW),))
SAM = Person("sam", PersonRole.VIEWER)
SECRET = bytes(20)


def request(key: ec.EllipticCurvePrivateKey) -> str:
    return make_request(key).decode()


def print_of(key: ec.EllipticCurvePrivateKey) -> str:
    return key_fingerprint(key.public_key())


def with_sam(key: ec.EllipticCurvePrivateKey, roster: Roster = Roster(), name: str = "sam") -> Roster:  # noqa: B008
    whom: Invited = ForPerson(name=name, role=PersonRole.SUBMITTER, rate=3)
    roster = msgspec.structs.replace(roster, tokens=invited((), whom, SECRET, now=NOW))
    question = EnrolQuestion(secret=to_base32(SECRET), request=request(key), kind="person")
    where = Endpoint("tls://c:4222", inbox_prefix="_INBOX_sam")
    after, answer = enrolled_by(roster, question, AUTHORITIES, now=NOW, life=LIFE, where=lambda _: where)
    assert (answer.url, answer.inbox_prefix, answer.role) == (
        where.url,
        where.inbox_prefix,
        PersonRole.SUBMITTER,
    )
    return after


def renew(
    roster: Roster,
    key: ec.EllipticCurvePrivateKey | None,
    now: datetime,
    *,
    using: str | None = None,
    authorities: Authorities = AUTHORITIES,
) -> tuple[Roster, RenewAnswer]:
    given = None if key is None else request(key)
    return renewed_by(roster, SAM, given, using, authorities, now=now, life=LIFE)


def keys(roster: Roster, now: datetime) -> list[str]:
    entry = roster.find(SAM)
    assert entry is not None
    return entry.keys(now)


def test_a_look_changes_nothing_and_tells_what_is_due() -> None:
    roster = with_sam(make_key())
    for days, due in ((0, False), (59, False), (60, True), (89, True)):
        after, answer = renew(roster, None, NOW + timedelta(days=days))
        assert after == roster
        assert (answer.due, answer.certificate) == (due, None)
    younger = AUTHORITIES.with_younger(make_authority(now=NOW))
    _, answer = renew(roster, None, NOW, authorities=younger)
    assert answer.due, "a younger authority signs now"
    assert len(read_certificates(answer.authorities.encode())) == 2


def test_a_renewal_is_by_the_name_and_role_of_the_roster() -> None:
    first, second, later = make_key(), make_key(), NOW + timedelta(days=61)
    roster, answer = renew(with_sam(first), second, later)
    certificate = read_certificates((answer.certificate or "").encode())[0]
    assert hosts_of(certificate) == ["sam.user.trainshed"]
    assert certificate.public_key() == second.public_key()
    assert not answer.due
    assert keys(roster, later) == [print_of(first), print_of(second)]
    [sam] = roster.people
    assert (sam.role, sam.rate) == (PersonRole.SUBMITTER, 3)
    roster, _ = renew(roster, None, later, using=print_of(second))
    assert keys(roster, later) == [print_of(second)]


def test_another_key_soon_after_the_last_is_too_many_and_the_same_one_is_not() -> None:
    first, second = make_key(), make_key()
    roster = with_sam(first)
    soon = NOW + AGAIN_AFTER - timedelta(seconds=1)
    with pytest.raises(TrainshedError, match="10 minutes after that") as raised:
        renew(roster, second, soon)
    assert raised.value.code is ErrorCode.TOO_MANY
    after, answer = renew(roster, first, soon)
    assert after == roster, "no write, and no reload of the server"
    assert answer.certificate is not None
    assert keys(renew(roster, second, NOW + AGAIN_AFTER)[0], NOW) == [print_of(first), print_of(second)]
    asked = asked_to_renew(roster, now=NOW + timedelta(seconds=1))
    assert keys(renew(asked, second, soon)[0], NOW) == [print_of(first), print_of(second)]


def test_who_is_out_renews_nothing() -> None:
    roster = with_sam(make_key())
    for out, now in (
        (revoked(roster, SAM, now=NOW), NOW),
        (roster, NOW + LIFE),
        (Roster(), NOW),
    ):
        for key in (None, make_key()):
            with pytest.raises(TrainshedError, match="is not enrolled") as raised:
                renew(out, key, now)
            assert raised.value.code is ErrorCode.DENIED


def test_a_node_of_the_same_name_is_somebody_else() -> None:
    roster = with_sam(make_key())
    with pytest.raises(TrainshedError, match=r"sam\.node\.trainshed is not enrolled"):
        renewed_by(roster, NodeIdentity("sam"), None, None, AUTHORITIES, now=NOW, life=LIFE)


def test_a_key_of_somebody_else_is_not_taken() -> None:
    first = make_key()
    roster = with_sam(make_key(), with_sam(first, name="ann"))
    with pytest.raises(TrainshedError, match="this key is that of user ann"):
        renew(roster, first, NOW + timedelta(days=61))


def test_a_key_that_is_not_his_is_not_in_use() -> None:
    with pytest.raises(TrainshedError, match="is not enrolled"):
        renew(with_sam(make_key()), None, NOW, using="f" * 64)
