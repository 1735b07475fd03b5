"""What passes between a machine that joins and the listener: one JSON object on one line each way, over TLS 1.3.

Owns these objects and their bounds; knows neither sockets nor what is granted.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, TypeVar

import msgspec

from services.access.identities import NodeIdentity, Person, PersonRole
from services.enrol.tokens import from_base32, to_base32
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.times import Time

A = TypeVar("A")
RENEW_CALL = "cert.renew"
MAX_REQUEST_BYTES = 64 * 1024
MAX_ANSWER_BYTES = 256 * 1024


class AuthorityQuestion(
    msgspec.Struct, frozen=True, tag_field="call", tag="authority", forbid_unknown_fields=True
):
    """Which certificates the listener's authorities have: asked before anything secret is sent."""


class EnrolQuestion(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="call", tag="enrol", forbid_unknown_fields=True
):
    """A token's secret and a signing request. ``name``: the node's, where it has one already; ``default``: what it would be
    called where the token names none."""

    secret: str
    request: str
    kind: Literal["node", "person"]
    name: str | None = None
    default: str | None = None

    def __repr__(self) -> str:
        return f"EnrolQuestion(kind={self.kind!r}, name={self.name!r})"


class AuthorityAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The authorities' certificates (PEM), and the listener's clock, to explain certificates that are not valid yet."""

    authorities: str
    now: Time


class EnrolAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who was enrolled, his certificate, the authorities (both PEM) and where the server answers."""

    kind: Literal["node", "person"]
    name: str
    certificate: str
    authorities: str
    url: str
    role: PersonRole | None = None
    inbox_prefix: str | None = None

    @property
    def identity(self) -> NodeIdentity | Person:
        """Who was enrolled."""
        return NodeIdentity(self.name) if self.role is None else Person(self.name, self.role)


class RenewAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer to ``cert.renew``. ``certificate``: where one was asked for; ``due``: whether one should be."""

    due: bool
    authorities: str
    certificate: str | None = None


Question: TypeAlias = AuthorityQuestion | EnrolQuestion


def read_question(line: bytes) -> Question:
    """What is asked. Raises TrainshedError (INVALID), never with what was sent."""
    try:
        question: Question = msgspec.json.decode(line, type=Question)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise TrainshedError(
            ErrorCode.INVALID, "this is no request of an enrolment; a JSON object on one line is taken here"
        ) from None
    return question


def secret_of(question: EnrolQuestion) -> bytes:
    """The secret of its token; one that can be none is some other secret."""
    try:
        return from_base32(question.secret)
    except ValueError:
        return b""


def enrol_question(
    secret: bytes, request: bytes, *, as_node: bool, name: str | None, default: str | None = None
) -> bytes:
    """The line that asks for a certificate."""
    question = EnrolQuestion(
        secret=to_base32(secret),
        request=request.decode(),
        kind="node" if as_node else "person",
        name=name,
        default=default,
    )
    return line_of(question)


def refused_or(content: bytes, kind: type[A]) -> A:
    """An answer of that kind. Raises TrainshedError where it is a refusal, and msgspec's errors where it is neither."""
    if (refused := msgspec.json.decode(content, type=_Refused).error) is not None:
        raise TrainshedError(refused.code, refused.message, refused.path)
    return msgspec.json.decode(content, type=kind)


def line_of(value: Any) -> bytes:
    """An object as a line."""
    return msgspec.json.encode(value) + b"\n"


class _RefusedError(msgspec.Struct, frozen=True):
    code: ErrorCode
    message: str
    path: str | None = None


class _Refused(msgspec.Struct, frozen=True):
    error: _RefusedError | None = None
