"""What an enrolment or a renewal makes of the roster, and what is answered: the rules, without files and clock.

Owns who gets a certificate under which name; knows neither the network nor how the roster is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import assert_never

import msgspec

from services.access.identities import NodeIdentity, Person, user_name
from services.enrol.authority import Authorities, Authority
from services.enrol.keys import key_fingerprint, requested_key
from services.enrol.roster import Enrolled, Member, Roster, enrolled, in_use, not_enrolled, renewed, shown
from services.enrol.tokens import Asked, ForAnyNode, ForPerson, TokenUse, admitted, used
from services.enrol.wire import EnrolAnswer, EnrolQuestion, RenewAnswer, secret_of
from trainshed_client.endpoint import Endpoint
from trainshed_client.errors import ErrorCode, TrainshedError

AGAIN_AFTER = timedelta(minutes=10)
"""Each key that is taken is a write and a reload of the server: nobody causes these as often as he likes."""
Where = Callable[[Member], Endpoint]
"""How one of these reaches the server: its address and its inbox prefix."""


def enrolled_by(
    roster: Roster,
    question: EnrolQuestion,
    authorities: Authorities,
    *,
    now: datetime,
    life: timedelta,
    where: Where,
) -> tuple[Roster, EnrolAnswer]:
    """The roster after an enrolment, and its answer; the same roster where it was done before by the same key.

    Raises TrainshedError: DENIED for a token that does not count or a holder who was revoked since, INVALID for a request
    or a name that is not accepted, CONFLICT where the name or the key is somebody else's.
    """
    key = key_fingerprint(requested_key(question.request))
    asked = Asked(secret_of(question), key, question.kind == "node", question.name, question.default)
    found = admitted(roster.tokens, asked, now=now)
    entry = roster.find(found.identity)
    if found.certificate is not None:
        if entry is None or key not in entry.keys(now):
            raise not_enrolled(user_name(found.identity))
        return roster, _answer(found.identity, found.certificate, authorities, where)
    _check_key(roster, found.identity, key)
    whom = found.token.whom
    if isinstance(whom, ForAnyNode) and entry is not None:
        _check_same(entry, key)
    signed = authorities.for_clients.sign_client(question.request, found.identity, now=now, life=life)
    rate, queued = (whom.rate, whom.queued) if isinstance(whom, ForPerson) else (None, None)
    reusable = isinstance(whom, ForAnyNode)
    after = enrolled(
        roster,
        found.identity,
        signed.issued,
        now=now,
        rate=rate,
        queued=queued,
        by_reusable=reusable,
    )
    use = TokenUse(at=now, key=key, certificate=signed.pem)
    after = msgspec.structs.replace(after, tokens=used(after.tokens, found.token, use))
    return after, _answer(found.identity, signed.pem, authorities, where)


def renewed_by(
    roster: Roster,
    member: NodeIdentity | Person,
    request: str | None,
    using: str | None,
    authorities: Authorities,
    *,
    now: datetime,
    life: timedelta,
) -> tuple[Roster, RenewAnswer]:
    """The roster after ``member`` asked for a certificate (``request``), or whether it should, and the answer.

    Raises TrainshedError: DENIED for one that is not enrolled any more, INVALID for a request that is not accepted, CONFLICT
    where its key is somebody else's, TOO_MANY for another key soon after the last, with none due.
    """
    entry = roster.find(member)
    if entry is None or not entry.keys(now):
        raise not_enrolled(user_name(member))
    if using is not None:
        roster = in_use(roster, entry, using, now=now)
    signer = authorities.for_clients
    pem = None
    if request is not None:
        key = key_fingerprint(requested_key(request))
        _check_key(roster, entry.identity, key)
        signed = signer.sign_client(request, entry.identity, now=now, life=life)
        pem = signed.pem
        last = entry.youngest(using)
        recent = now < last.issued_at + AGAIN_AFTER and not _is_due(entry, using, signer, now)
        if recent and last.key != key:
            raise TrainshedError(
                ErrorCode.TOO_MANY,
                f"{shown(entry.identity)} got a certificate at {last.issued_at:%H:%M:%S} UTC; another key is taken "
                f"{AGAIN_AFTER.total_seconds() / 60:.0f} minutes after that, or when one is due",
            )
        if not recent:
            roster, using = renewed(roster, entry, signed.issued, now=now, of=using), key
    current = roster.find(member)
    assert current is not None
    due = _is_due(current, using, signer, now)
    return roster, RenewAnswer(due=due, authorities=authorities.bundle.decode(), certificate=pem)


def _is_due(entry: Enrolled, key: str | None, signer: Authority, now: datetime) -> bool:
    return entry.must_renew(now, key) or entry.youngest(key).authority != signer.fingerprint


def _check_key(roster: Roster, identity: Member, key: str) -> None:
    """A key is one holder's: else it would go on counting as the other's once he is revoked."""
    wanted = user_name(identity)
    for one in roster.everybody():
        if user_name(one.identity) != wanted and any(issued.key == key for issued in one.certificates):
            raise TrainshedError(
                ErrorCode.CONFLICT,
                f"this key is that of {shown(one.identity)}; each machine and each person makes its own. Was the state folder "
                "copied? Take an empty one (TRAINSHED_STATE_DIR)",
                "request",
            )


def _check_same(entry: Enrolled, key: str) -> None:
    """A token for any node displaces nobody: it takes a name again from the key that has it alone."""
    if entry.revoked_at is None and any(issued.key == key for issued in entry.certificates):
        return
    who = shown(entry.identity)
    what = "was revoked" if entry.revoked_at is not None else "is enrolled with another key"
    raise TrainshedError(
        ErrorCode.CONFLICT,
        f"{who} {what}, and this token takes new names alone. Take another name (--node), or make a token for this one: "
        f"trainshed node add {who.removeprefix('node ')}",
        "name",
    )


def _answer(
    identity: NodeIdentity | Person, certificate: str, authorities: Authorities, where: Where
) -> EnrolAnswer:
    endpoint = where(identity)
    answer = EnrolAnswer(
        kind="node",
        name="",
        certificate=certificate,
        authorities=authorities.bundle.decode(),
        url=endpoint.url,
        inbox_prefix=endpoint.inbox_prefix,
    )
    match identity:
        case NodeIdentity(node):
            return msgspec.structs.replace(answer, name=node)
        case Person(name, role):
            return msgspec.structs.replace(answer, kind="person", name=name, role=role)
        case _ as never:
            assert_never(never)
