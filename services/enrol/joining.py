"""The joining side: from a token's line to a key that was made here, its certificate, and where the server answers.

Owns what is checked before anything secret is sent, and the files that are written; knows no roster. The authority of the
token is the one thing that is trusted: neither names nor addresses are.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from services.agent.identity import kept_name
from services.enrol.authority import authority_fingerprint, read_certificates
from services.enrol.keys import key_pem, make_key, make_request, read_key
from services.enrol.tokens import TokenLine, digest
from services.enrol.wire import (
    MAX_ANSWER_BYTES,
    AuthorityAnswer,
    AuthorityQuestion,
    EnrolAnswer,
    enrol_question,
    line_of,
    refused_or,
)
from services.settings import default_node_name
from trainshed_client.endpoint import Endpoint, write_credentials, write_private
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.os_errors import why

A = TypeVar("A")
CREDENTIALS_DIR = "credentials"
JOINED_FILE = "agent.joined.json"
"""By which token, as its hash, and as which node this folder joined."""
CONNECT_WITHIN_S = 5.0
ANSWER_WITHIN_S = 40.0
RETRY_EVERY_S = 0.5
_NOT_YET_VALID, _EXPIRED = 9, 10
"""OpenSSL's numbers."""


class NewMember(NamedTuple):
    """Who this machine or person is from now on, and the file (of endpoint.json's shape) that services or the client read."""

    answer: EnrolAnswer
    credentials: Path


def join(
    line: TokenLine,
    *,
    state_dir: Path,
    as_node: bool,
    name: str | None = None,
    within_s: float = 20.0,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> NewMember:
    """Enrol with a token: make a key in ``state_dir``, which never leaves it, and get its certificate.

    A node's credentials become ``credentials/agent.json``, a person's ``endpoint.json``. A listener that is not there yet or
    has too much to do is tried for ``within_s`` seconds. Blocks. Raises TrainshedError: DENIED for a listener that is not the
    token's and as the listener answers, UNAVAILABLE where none answers, INVALID where the clocks differ.
    """
    stem = "agent" if as_node else "user"
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    pending = state_dir / CREDENTIALS_DIR / f"{stem}.pending.pem"
    key = _pending_key(pending)
    deadline = time.monotonic() + within_s
    authority, theirs = _authority(line, deadline)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = (
        False  # whatever it is called: the authority signs servers for the control side alone
    )
    context.load_verify_locations(cadata=authority)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    question = enrol_question(
        line.secret,
        make_request(key),
        as_node=as_node,
        name=name,
        default=default_node_name() if as_node else None,
    )
    try:
        answer = refused_or(_asked(line, context, question, deadline), EnrolAnswer)
    except ssl.SSLCertVerificationError as error:
        raise _unverified(error, line, clock(), theirs) from None
    except msgspec.MsgspecError:
        raise _no_enrolment(line) from None
    _check(answer, key, authority, clock())
    credentials = _write(state_dir, stem, answer, key, as_node=as_node)
    pending.unlink(missing_ok=True)
    return NewMember(answer, credentials)


def join_once(line: TokenLine, *, state_dir: Path, name: str | None) -> str:
    """As `join` for a node, and the node's name; nothing is done where this folder has joined by this very token before, so
    that an agent may be started by the same line for ever. Raises TrainshedError as `join`."""
    mark = state_dir / CREDENTIALS_DIR / JOINED_FILE
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        before = msgspec.json.decode(mark.read_bytes(), type=_JoinedBy)
        if before.digest == digest(line.secret) and (state_dir / CREDENTIALS_DIR / "agent.json").exists():
            return before.node
    member = join(line, state_dir=state_dir, as_node=True, name=name or kept_name(state_dir))
    write_private(mark, msgspec.json.encode(_JoinedBy(digest(line.secret), member.answer.name)) + b"\n")
    return member.answer.name


def _authority(line: TokenLine, deadline: float) -> tuple[str, datetime]:
    """The certificate (PEM) of the token's authority, and the listener's clock, as it gives them. Nothing of the token is
    sent; and nothing that is answered is printed, for nobody vouches for it yet."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # it only asks; what comes is held against the fingerprint
    try:
        answer = msgspec.json.decode(
            _asked(line, context, line_of(AuthorityQuestion()), deadline), type=AuthorityAnswer
        )
    except msgspec.MsgspecError:
        raise _no_enrolment(line) from None
    with contextlib.suppress(ValueError):
        for certificate in read_certificates(answer.authorities.encode()):
            if authority_fingerprint(certificate) == line.authority:
                return certificate.public_bytes(serialization.Encoding.PEM).decode(), answer.now
    raise TrainshedError(
        ErrorCode.DENIED,
        f"who answers at {line.host}:{line.port} is not the one that made this token: its authority has another fingerprint. "
        "Nothing was sent. Either the token is of another stack or older than its authority (make another), or somebody stands "
        "between here and there",
    )


def _asked(line: TokenLine, context: ssl.SSLContext, question: bytes, deadline: float) -> bytes:
    """One request over a connection of its own, tried again where nothing was answered: the same key gets the same answer.

    Raises TrainshedError (UNAVAILABLE), and SSLCertVerificationError.
    """
    while True:
        try:
            return _exchange(line, context, question)
        except ssl.SSLCertVerificationError:
            raise
        except socket.gaierror:
            raise TrainshedError(
                ErrorCode.UNAVAILABLE, f"the name {line.host} stands for no address here. Is the line whole?"
            ) from None
        except (OSError, EOFError) as error:
            if time.monotonic() + RETRY_EVERY_S > deadline:
                raise TrainshedError(
                    ErrorCode.UNAVAILABLE,
                    f"no enrolment is taken at {line.host}:{line.port} ({_text(error)}). There: trainshed up --listen ADDRESS; "
                    f"and the port {line.port} must be open from here",
                ) from None
        time.sleep(RETRY_EVERY_S)


def _exchange(line: TokenLine, context: ssl.SSLContext, question: bytes) -> bytes:
    """Raises OSError, or EOFError where it was hung up on us."""
    with (
        socket.create_connection((line.host, line.port), timeout=CONNECT_WITHIN_S) as plain,
        context.wrap_socket(plain, server_hostname=line.host) as connection,
    ):
        connection.settimeout(ANSWER_WITHIN_S)
        connection.sendall(question)
        received = bytearray()
        until = time.monotonic() + ANSWER_WITHIN_S
        while not received.endswith(b"\n") and len(received) <= MAX_ANSWER_BYTES:
            if time.monotonic() > until:
                raise TimeoutError
            part = connection.recv(64 * 1024)
            if not part:
                raise EOFError
            received += part
    return bytes(received)


def _no_enrolment(line: TokenLine) -> TrainshedError:
    return TrainshedError(
        ErrorCode.INVALID, f"what answers at {line.host}:{line.port} is no enrolment of this release"
    )


def _check(answer: EnrolAnswer, key: ec.EllipticCurvePrivateKey, authority: str, now: datetime) -> None:
    """That the certificate is ours and counts now. Raises TrainshedError (INVALID)."""
    try:
        certificate = read_certificates(answer.certificate.encode())[0]
        trusted = read_certificates(answer.authorities.encode())
    except ValueError as error:
        raise TrainshedError(ErrorCode.INVALID, f"the listener's answer cannot be used ({error})") from None
    if (
        certificate.public_key() != key.public_key()
        or read_certificates(authority.encode())[0] not in trusted
    ):
        raise TrainshedError(
            ErrorCode.INVALID, "the listener's certificate is for another key; try the same again"
        )
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        raise TrainshedError(
            ErrorCode.INVALID,
            f"the certificate counts from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC to "
            f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC, and this machine's clock reads {now:%Y-%m-%d %H:%M} UTC. "
            "Set the clock, and try the same again",
        )


def _write(
    state_dir: Path, stem: str, answer: EnrolAnswer, key: ec.EllipticCurvePrivateKey, *, as_node: bool
) -> Path:
    """The file that names the others comes last, and the key and its certificate are one file: a kill leaves a whole set."""
    folder = state_dir.absolute() / CREDENTIALS_DIR
    own, authorities = folder / f"{stem}.pem", folder / f"{stem}-ca.crt"
    write_private(authorities, answer.authorities.encode())
    write_private(own, key_pem(key) + answer.certificate.encode())
    endpoint = Endpoint(
        answer.url, ca=str(authorities), cert=str(own), key=str(own), inbox_prefix=answer.inbox_prefix
    )
    path = folder / "agent.json" if as_node else state_dir / "endpoint.json"
    write_credentials(path, endpoint)
    return path


def _pending_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The key of a try whose answer was lost, else a new one, kept until the answer is there."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        return read_key(path.read_bytes())
    key = make_key()
    write_private(path, key_pem(key))
    return key


def _unverified(
    error: ssl.SSLCertVerificationError, line: TokenLine, ours: datetime, theirs: datetime
) -> TrainshedError:
    where = f"{line.host}:{line.port}"
    if error.verify_code in (_NOT_YET_VALID, _EXPIRED):
        which = "is not valid yet" if error.verify_code == _NOT_YET_VALID else "has expired"
        return TrainshedError(
            ErrorCode.INVALID,
            f"the certificate of {where} {which} by this machine's clock, which reads {ours:%Y-%m-%d %H:%M} UTC; the one there "
            f"reads {theirs.astimezone(UTC):%Y-%m-%d %H:%M} UTC. Set the clock that is wrong. Nothing was sent",
        )
    return TrainshedError(
        ErrorCode.DENIED,
        f"who answers at {where} has no server certificate of the token's authority ({error.verify_message}). Nothing was "
        "sent. Somebody may stand between here and there",
    )


def _text(error: OSError | EOFError) -> str:
    match error:
        case EOFError() | ConnectionResetError() | ssl.SSLEOFError():
            return "it hangs up: it has too much to do, or does not speak TLS 1.3"
        case ssl.SSLError():
            return "it does not speak TLS 1.3"
        case _:
            return why(error)


class _JoinedBy(msgspec.Struct, frozen=True):
    digest: str
    node: str
