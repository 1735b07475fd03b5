"""Who is enrolled: nodes, people and the control side's processes, the keys of each, and the tokens that are out.

Owns these and what changes them, each change pure; knows neither the certificate authority nor the server. One value, so
that a token is used and its holder enrolled in one write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from typing import Literal, TypeAlias, TypeVar, assert_never

import msgspec

from services.access.identities import (
    LOCAL,
    Control,
    ControlRole,
    NodeIdentity,
    Person,
    PersonRole,
    user_name,
)
from services.enrol.tokens import EnrolmentToken
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.times import Time

Member: TypeAlias = Control | NodeIdentity | Person
"""Who may be enrolled."""
VERSION = 1
NOBODYS_KEY = "0" * 64
MOST_KEYS = 4
"""So many keys of one machine count at a time: the one that it uses and those of renewals whose answer may be lost."""
MOST_MACHINES = 8
"""Of a person."""


class IssuedCertificate(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """A certificate as the roster keeps it. ``key`` and ``authority``: SHA-256 in hex, of the public key and of the
    authority's certificate. ``machine``: the key that its holder had on that machine at first; a person may have several."""

    serial: str
    key: str
    issued_at: Time
    not_after: Time
    authority: str
    machine: str = ""


class _Enrolled(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What is kept of everybody. ``certificates``: the youngest last; ``renew_asked_at``: when an operator asked for a new key."""

    enrolled_at: Time
    certificates: tuple[IssuedCertificate, ...] = ()
    renew_asked_at: Time | None = None
    revoked_at: Time | None = None

    @property
    def not_after(self) -> datetime | None:
        """When the last of its certificates expires."""
        return max((one.not_after for one in self.certificates), default=None)

    def keys(self, now: datetime) -> list[str]:
        """The public keys (SHA-256, hex) that may connect: of certificates that have not expired, of nobody revoked."""
        if self.revoked_at is not None:
            return []
        return list(dict.fromkeys(one.key for one in self.certificates if one.not_after > now))

    def youngest(self, key: str | None = None) -> IssuedCertificate:
        """The youngest certificate of the machine that has ``key``, else of all. There must be one."""
        machine = next((one.machine for one in self.certificates if one.key == key), None)
        return [one for one in self.certificates if machine is None or one.machine == machine][-1]

    def of_each_machine(self, now: datetime) -> list[IssuedCertificate]:
        """The youngest of each machine that may still connect."""
        return list({one.machine: one for one in self.certificates if one.not_after > now}.values())

    def must_renew(self, now: datetime, key: str | None = None) -> bool:
        """Whether a renewal is due on the machine that has ``key``, else of the youngest: two thirds of the life are over, or
        an operator asked for it."""
        if not self.certificates:
            return True
        youngest = self.youngest(key)
        asked = self.renew_asked_at is not None and self.renew_asked_at >= youngest.issued_at
        return asked or now >= youngest.issued_at + (youngest.not_after - youngest.issued_at) * 2 / 3


class EnrolledControl(_Enrolled, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A process of the control side."""

    role: ControlRole

    @property
    def identity(self) -> Member:
        """Who that is."""
        return Control(self.role)


class EnrolledNode(_Enrolled, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A node. ``by_reusable``: it came with a token for any node, as containers do, and is put out once it was removed."""

    name: str
    by_reusable: bool = False

    @property
    def identity(self) -> Member:
        """Who that is."""
        return NodeIdentity(self.name)


class EnrolledPerson(_Enrolled, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A person. ``rate``: requests a second that he may send; ``queued``: runs that he may have queued (None: the default)."""

    name: str
    role: PersonRole
    rate: int | None = None
    queued: int | None = None

    @property
    def identity(self) -> Member:
        """Who that is."""
        return Person(self.name, self.role)


Enrolled: TypeAlias = EnrolledControl | EnrolledNode | EnrolledPerson
E = TypeVar("E", bound=_Enrolled)


class Roster(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everybody who is enrolled, and the tokens."""

    v: int = VERSION
    control: tuple[EnrolledControl, ...] = ()
    nodes: tuple[EnrolledNode, ...] = ()
    people: tuple[EnrolledPerson, ...] = ()
    tokens: tuple[EnrolmentToken, ...] = ()

    def everybody(self) -> Iterator[Enrolled]:
        """All of them, those that were revoked too."""
        yield from self.control
        yield from self.nodes
        yield from self.people

    def find(self, identity: Member) -> Enrolled | None:
        """The entry of the same name and kind, whatever its role."""
        wanted = user_name(identity)
        return next((one for one in self.everybody() if user_name(one.identity) == wanted), None)

    def pinned_keys(self, now: datetime) -> list[str]:
        """Every public key that may connect, sorted: what nats-server's ``pinned_certs`` lists. Never empty: an empty list
        there lets every certificate of the authority in."""
        return sorted({key for one in self.everybody() for key in one.keys(now)}) or [NOBODYS_KEY]


def enrolled(
    roster: Roster,
    identity: Member,
    issued: IssuedCertificate,
    *,
    now: datetime,
    rate: int | None = None,
    queued: int | None = None,
    by_reusable: bool = False,
) -> Roster:
    """The roster once ``identity`` has that certificate: of a node, or one who was revoked, no other counts any more; a person
    goes on on his other machines. Raises TrainshedError (CONFLICT) where these are too many."""
    issued = msgspec.structs.replace(issued, machine=issued.key)
    before = roster.find(identity)
    certificates: tuple[IssuedCertificate, ...] = (issued,)
    if isinstance(identity, Person) and before is not None and before.revoked_at is None:
        others = tuple(one for one in before.certificates if one.not_after > now and one.key != issued.key)
        certificates = (*others, issued)
        if len({one.machine for one in certificates}) > MOST_MACHINES:
            raise TrainshedError(
                ErrorCode.CONFLICT,
                f"{shown(identity)} is on {MOST_MACHINES} machines, and on no more. Put him out and let him in anew on those that "
                f"he has: trainshed user revoke {identity.name}",
            )
    match identity:
        case Control(role):
            control = EnrolledControl(role=role, enrolled_at=now, certificates=certificates)
            return msgspec.structs.replace(roster, control=_put(roster.control, control))
        case NodeIdentity(node):
            entry = EnrolledNode(
                name=node, enrolled_at=now, certificates=certificates, by_reusable=by_reusable
            )
            return msgspec.structs.replace(roster, nodes=_put(roster.nodes, entry))
        case Person(name, person_role):
            person = EnrolledPerson(
                name=name,
                role=person_role,
                rate=rate,
                queued=queued,
                enrolled_at=now,
                certificates=certificates,
            )
            return msgspec.structs.replace(roster, people=_put(roster.people, person))
        case _ as never:
            assert_never(never)


def renewed(
    roster: Roster, entry: Enrolled, issued: IssuedCertificate, *, now: datetime, of: str | None = None
) -> Roster:
    """The roster once ``entry`` has a further certificate on the machine that has the key ``of``, else on that of the youngest.
    Its other keys go on: it is connected by one of them.

    Raises TrainshedError (DENIED) for one that was revoked or has let all of its certificates expire.
    """
    current = roster.find(entry.identity)
    if current is None or not current.keys(now):
        raise not_enrolled(user_name(entry.identity))
    machine = current.youngest(of).machine
    kept = [one for one in current.certificates if one.not_after > now and one.key != issued.key]
    of_it = [one for one in kept if one.machine == machine][-(MOST_KEYS - 1) :]
    others = [one for one in kept if one.machine != machine]
    issued = msgspec.structs.replace(issued, machine=machine)
    return _replaced(roster, current, certificates=(*others, *of_it, issued))


def in_use(roster: Roster, entry: Enrolled, key: str, *, now: datetime) -> Roster:
    """The roster once ``entry`` is known to use the certificate of ``key``: those that are older on that machine count no more."""
    if entry.revoked_at is not None or key not in entry.keys(now):
        raise not_enrolled(user_name(entry.identity))
    machine = entry.youngest(key).machine
    of_it = [one for one in entry.certificates if one.machine == machine]
    place = next(place for place, one in enumerate(of_it) if one.key == key)
    others = [one for one in entry.certificates if one.machine != machine]
    return _replaced(roster, entry, certificates=(*others, *of_it[place:]))


def revoked(roster: Roster, identity: Member, *, now: datetime) -> Roster:
    """The roster without that one: no key of his connects, and no token that is out for him counts.

    Raises TrainshedError: NOT_FOUND where there is nobody of that name, CONFLICT where he was revoked before.
    """
    if isinstance(identity, Person) and identity.name == LOCAL:
        raise TrainshedError(
            ErrorCode.INVALID,
            f"{LOCAL} is whoever has this machine's state folder, and cannot be put out. A new key for him: trainshed user rotate {LOCAL}",
        )
    entry = roster.find(identity)
    tokens = tuple(one for one in roster.tokens if one.used is not None or not one.is_for(identity))
    if entry is None and len(tokens) == len(roster.tokens):
        raise TrainshedError(ErrorCode.NOT_FOUND, f"{shown(identity)} is not enrolled. {_who(identity)}")
    if entry is not None and entry.revoked_at is not None and len(tokens) == len(roster.tokens):
        raise TrainshedError(
            ErrorCode.CONFLICT,
            f"{shown(identity)} was revoked already, at {entry.revoked_at:%Y-%m-%d %H:%M} UTC. {_who(identity)}",
        )
    if entry is not None and entry.revoked_at is None:
        roster = _replaced(roster, entry, certificates=(), revoked_at=now)
    return msgspec.structs.replace(roster, tokens=tokens)


def removed(roster: Roster, node: str, *, now: datetime) -> Roster:
    """The roster once an operator has said that the machine is off for good: a container comes back under another name, a
    machine that has a token of its own perhaps under its own."""
    entry = roster.find(NodeIdentity(node))
    if not isinstance(entry, EnrolledNode) or not entry.by_reusable or entry.revoked_at is not None:
        return roster
    return revoked(roster, entry.identity, now=now)


def asked_to_renew(roster: Roster, *, now: datetime, only: Member | None = None) -> Roster:
    """The roster once everybody, or that one alone, is asked for a new key. Raises TrainshedError (NOT_FOUND)."""
    if only is not None:
        entry = roster.find(only)
        if entry is None or entry.revoked_at is not None:
            raise TrainshedError(ErrorCode.NOT_FOUND, f"{shown(only)} is not enrolled. {_who(only)}")
        return _replaced(roster, entry, renew_asked_at=now)
    for entry in list(roster.everybody()):
        if entry.revoked_at is None:
            roster = _replaced(roster, entry, renew_asked_at=now)
    return roster


def on_older_authority(roster: Roster, authority: str, *, now: datetime) -> list[Enrolled]:
    """Who still may connect from a machine whose youngest certificate is by another authority than ``authority``."""
    return [
        one
        for one in roster.everybody()
        if one.keys(now) and any(each.authority != authority for each in one.of_each_machine(now))
    ]


def ends(roster: Roster) -> dict[str, datetime]:
    """When the youngest certificate of each expires, or has, by the names that the server knows them by."""
    return {
        user_name(one.identity): one.not_after
        for one in roster.everybody()
        if one.revoked_at is None and one.not_after is not None
    }


def expiring(roster: Roster, *, now: datetime, within: timedelta) -> dict[str, datetime]:
    """Whose youngest certificate expires soon or has, with that time."""
    return {user: not_after for user, not_after in ends(roster).items() if not_after <= now + within}


def not_enrolled(name: str) -> TrainshedError:
    """What to print to one whose certificates count no more."""
    return TrainshedError(
        ErrorCode.DENIED,
        f"{name} is not enrolled (any more): it was revoked, or its certificate expired. An operator makes a new token "
        "for it: trainshed node add NODE, or trainshed user add NAME",
    )


def _put(entries: Iterable[E], entry: E) -> tuple[E, ...]:
    name = _key(entry)
    return tuple(sorted([*(one for one in entries if _key(one) != name), entry], key=_key))


def _key(entry: _Enrolled) -> str:
    assert isinstance(entry, EnrolledControl | EnrolledNode | EnrolledPerson)
    return user_name(entry.identity)


_Kind = Literal["control", "nodes", "people"]


def _replaced(roster: Roster, entry: Enrolled, **changes: object) -> Roster:
    place: _Kind
    match entry:
        case EnrolledControl():
            place = "control"
        case EnrolledNode():
            place = "nodes"
        case EnrolledPerson():
            place = "people"
        case _ as never:
            assert_never(never)
    replace: Callable[..., _Enrolled] = msgspec.structs.replace
    return msgspec.structs.replace(roster, **{place: _put(getattr(roster, place), replace(entry, **changes))})


def shown(identity: Member) -> str:
    """As a person calls it."""
    match identity:
        case Control(role):
            return f"the {role}"
        case NodeIdentity(node):
            return f"node {node}"
        case Person(name):
            return f"user {name}"
        case _ as never:
            assert_never(never)


def _who(identity: Member) -> str:
    return f"Who is: trainshed {'node' if isinstance(identity, NodeIdentity) else 'user'} list"
