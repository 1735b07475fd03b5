"""Enrolment tokens: what one is for, how long it counts, and the line that an operator hands on.

Owns these rules, all pure (the clock and the secret are passed in); the roster keeps the tokens, by the hash of the secret
alone.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Annotated, NamedTuple, TypeAlias

import msgspec

from services.access.identities import (
    LOCAL,
    PERSON_NAME,
    Identity,
    NodeIdentity,
    Person,
    PersonRole,
    user_name,
)
from services.setting_values import NODE_NAME
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.times import Time

SECRET_BYTES = 20
LIFE = timedelta(minutes=15)
KEPT = timedelta(days=7)
"""So long one that was used or expired is kept, to be able to report that."""
MOST_OPEN = 1000
DEFAULT_PORT = 4224
_LINE = re.compile(r"ts1-(?P<secret>[a-z2-7]{32})-(?P<authority>[a-z2-7]{52})")
ACCEPTED = "TOKEN@HOST:PORT, the whole line that `trainshed node add` or `trainshed user add` printed"


class ForNode(msgspec.Struct, frozen=True, tag_field="kind", tag="node", forbid_unknown_fields=True):
    """For one node."""

    name: str


class ForAnyNode(msgspec.Struct, frozen=True, tag_field="kind", tag="any-node", forbid_unknown_fields=True):
    """For nodes whose names are not enrolled yet, as often as may be: a group of containers."""


class ForPerson(
    msgspec.Struct,
    frozen=True,
    tag_field="kind",
    tag="person",
    forbid_unknown_fields=True,
    kw_only=True,
    omit_defaults=True,
):
    """For one person; what he may do is fixed with the token."""

    name: str
    role: PersonRole
    rate: Annotated[int, msgspec.Meta(ge=1)] | None = None
    queued: Annotated[int, msgspec.Meta(ge=0)] | None = None


Invited: TypeAlias = ForNode | ForAnyNode | ForPerson


class TokenUse(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Its one use: when, by which public key (SHA-256, hex), and the certificate that was made."""

    at: Time
    key: str
    certificate: str


class EnrolmentToken(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """A token as it is kept: ``digest`` is the SHA-256, hex, of its secret."""

    digest: str
    whom: Invited
    made_at: Time
    expires_at: Time
    used: TokenUse | None = None

    def is_for(self, identity: Identity) -> bool:
        """Whether it names that one."""
        match self.whom:
            case ForNode(name):
                return identity == NodeIdentity(name)
            case ForPerson(name=name, role=role):
                return user_name(identity) == user_name(Person(name, role))
            case _:
                return False


class TokenLine(NamedTuple):
    """What an operator hands on: the secret, the authority (SHA-256 of its certificate, hex) and where the listener is."""

    secret: bytes
    authority: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ts1-{to_base32(self.secret)}-{to_base32(bytes.fromhex(self.authority))}@{host}:{self.port}"

    def __repr__(self) -> str:
        return f"TokenLine(***@{self.host}:{self.port})"


class Asked(NamedTuple):
    """What a joining machine asks with its token: its public key (SHA-256, hex), of a node its name, if it has one already,
    and what it would be called else."""

    secret: bytes
    key: str
    as_node: bool
    name: str | None = None
    default: str | None = None

    def __repr__(self) -> str:
        return f"Asked(key={self.key!r}, as_node={self.as_node}, name={self.name!r})"


class Admitted(NamedTuple):
    """What a token gives: whom to enrol, and ``certificate`` where that was done already and its answer may be lost."""

    token: EnrolmentToken
    identity: NodeIdentity | Person
    certificate: str | None = None


def parse_line(text: str, *, given_by: str) -> TokenLine:
    """Read ``TOKEN@HOST:PORT``. ``given_by`` names the option or argument. Raises TrainshedError (INVALID), never with the token."""
    token, at, where = text.strip().rpartition("@")
    found = _LINE.fullmatch(token.lower())
    address = re.fullmatch(
        r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[^\[\]:@\s/]+)):(?P<port>\d{1,5})", where, re.ASCII
    )
    if not at or found is None or address is None or not 0 < int(address["port"]) < 65536:
        what = "is no enrolment token" if found is None else "names no HOST:PORT after the @"
        raise TrainshedError(ErrorCode.INVALID, f"{given_by} {what}; accepted is {ACCEPTED}")
    return TokenLine(
        from_base32(found["secret"]),
        from_base32(found["authority"]).hex(),
        address["six"] or address["host"],
        int(address["port"]),
    )


def digest(secret: bytes) -> str:
    """What is kept of a secret. It has 160 random bits: a plain hash of it cannot be searched."""
    return hashlib.sha256(b"trainshed enrolment token\0" + secret).hexdigest()


def invited(
    tokens: Iterable[EnrolmentToken], whom: Invited, secret: bytes, *, now: datetime, life: timedelta = LIFE
) -> tuple[EnrolmentToken, ...]:
    """The tokens with a new one; an open one for the same node or person counts no more, and what is long past is dropped.

    Raises TrainshedError: INVALID for a name that can be none, CONFLICT where too many are open.
    """
    _check_name(whom)
    assert len(secret) >= 16
    new = EnrolmentToken(digest=digest(secret), whom=whom, made_at=now, expires_at=now + life)
    kept = [
        one
        for one in current(tokens, now=now)
        if one.used is not None or isinstance(whom, ForAnyNode) or not _of_the_same(one.whom, whom)
    ]
    if sum(one.used is None and one.expires_at > now for one in kept) >= MOST_OPEN:
        raise TrainshedError(
            ErrorCode.CONFLICT,
            f"{MOST_OPEN:,} tokens are open, and more are not given out; each counts for a while only",
        )
    return (*kept, new)


def current(tokens: Iterable[EnrolmentToken], *, now: datetime) -> list[EnrolmentToken]:
    """Those of which something may still be reported."""
    return [
        one for one in tokens if max(one.expires_at, one.used.at if one.used else one.expires_at) + KEPT > now
    ]


def admitted(tokens: Iterable[EnrolmentToken], asked: Asked, *, now: datetime) -> Admitted:
    """What this token gives whoever asks.

    Nothing is used up by a question that is refused. Raises TrainshedError: DENIED for a token that is unknown, expired or
    used by another key, INVALID where it is for somebody else.
    """
    wanted = digest(asked.secret)
    token = next((one for one in tokens if one.digest == wanted), None)
    if token is None:
        raise TrainshedError(
            ErrorCode.DENIED,
            f"this token is not known here: an operator took it back, or made another since. {_AGAIN}",
        )
    identity = _identity(token.whom, asked)
    if token.used is not None:
        if token.used.key != asked.key:
            raise TrainshedError(
                ErrorCode.DENIED,
                f"this token was used already, at {token.used.at:%Y-%m-%d %H:%M:%S} UTC, by another key; it counts once. If "
                f"that was not you, revoke {_name(token.whom)} at once. {_AGAIN}",
            )
        return Admitted(token, identity, token.used.certificate)
    if token.expires_at <= now:
        raise TrainshedError(
            ErrorCode.DENIED, f"this token expired at {token.expires_at:%Y-%m-%d %H:%M:%S} UTC. {_AGAIN}"
        )
    return Admitted(token, identity)


def used(
    tokens: Iterable[EnrolmentToken], token: EnrolmentToken, use: TokenUse
) -> tuple[EnrolmentToken, ...]:
    """The tokens once this one was used; one for any node stays as it is."""
    if isinstance(token.whom, ForAnyNode):
        return tuple(tokens)
    after = msgspec.structs.replace(token, used=use)
    return tuple(after if one.digest == token.digest else one for one in tokens)


_AGAIN = "Make another: trainshed node add NODE, or trainshed user add NAME"


def _identity(whom: Invited, asked: Asked) -> NodeIdentity | Person:
    match whom:
        case ForPerson(name=name, role=role):
            if asked.as_node:
                raise TrainshedError(
                    ErrorCode.INVALID,
                    f"this token is for the user {name}, not for a node. There: trainshed login TOKEN@HOST:PORT",
                )
            return Person(name, role)
        case ForNode() | ForAnyNode() if not asked.as_node:
            raise TrainshedError(
                ErrorCode.INVALID,
                "this token is for a node, not for a user. There: trainshed agent --join TOKEN@HOST:PORT",
            )
        case ForNode(name):
            if asked.name not in (None, name):
                raise TrainshedError(
                    ErrorCode.INVALID,
                    f"this token is for the node {name}, not for {(asked.name or '')[:70]!r}",
                    "name",
                )
            return NodeIdentity(name)
        case ForAnyNode():
            node = asked.name or asked.default or ""
            if not NODE_NAME.fullmatch(node):
                raise TrainshedError(
                    ErrorCode.INVALID,
                    f"the node's name is {node[:70]!r}; a node's name is 1 to 63 of a-z, 0-9 and -",
                    "name",
                )
            return NodeIdentity(node)


def _check_name(whom: Invited) -> None:
    match whom:
        case ForNode(name) if not NODE_NAME.fullmatch(name):
            raise TrainshedError(
                ErrorCode.INVALID,
                f"{name[:70]!r} cannot name a node; a node's name is 1 to 63 of a-z, 0-9 and -",
            )
        case ForPerson(name=name) if name == LOCAL:
            raise TrainshedError(
                ErrorCode.INVALID, f"{LOCAL} is whoever has this machine's state folder; choose another name"
            )
        case ForPerson(name=name) if not PERSON_NAME.fullmatch(name):
            raise TrainshedError(
                ErrorCode.INVALID,
                f"{name[:70]!r} cannot name a user; a user's name is 1 to 32 of a-z, 0-9, _ and -, and begins with a letter",
            )
        case _:
            pass


def _of_the_same(one: Invited, other: Invited) -> bool:
    return type(one) is type(other) and _name(one) == _name(other)


def _name(whom: Invited) -> str:
    match whom:
        case ForNode(name) | ForPerson(name=name):
            return name
        case ForAnyNode():
            return "the node"


def to_base32(content: bytes) -> str:
    """RFC 4648, in small letters and without padding: it can be marked by two clicks, and read out."""
    return base64.b32encode(content).decode().rstrip("=").lower()


def from_base32(text: str) -> bytes:
    """Raises ValueError."""
    return base64.b32decode(text.upper() + "=" * (-len(text) % 8))
