"""What an error of a NATS connection means for people, and the log that repeats itself seldom.

Owns these texts; makes no connection.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
import time

import nats.errors

from trainshed_client.endpoint import Endpoint
from trainshed_client.errors import ErrorCode, NobodyAnswers, TrainshedError, UnknownHost
from trainshed_client.nats_transport import HungUpUngreeted
from trainshed_client.os_errors import why
from trainshed_client.tls import counts_no_more, handshake_refusal, no_handshake

_log = logging.getLogger("trainshed.nats")

REPEAT_QUIET_S = 30.0
_NO_GREETING = "empty response from server when expecting INFO"


class RefusedConnection(nats.errors.Error):
    """An attempt to connect that must not go on, or could not; its text, and ``refusal``, are for people."""

    def __init__(self, refusal: TrainshedError) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


def unreachable(endpoint: Endpoint, error: Exception) -> TrainshedError:
    """The error for people when no server answers or the server says no; the credentials are not in it."""
    if isinstance(error, RefusedConnection):
        return error.refusal
    if isinstance(error, ssl.SSLError):
        return handshake_refusal(endpoint, error)
    if "authorization violation" in str(error).lower() or isinstance(error, nats.errors.AuthorizationError):
        if endpoint.cert is not None:
            return TrainshedError(
                ErrorCode.DENIED,
                f"the server at {endpoint.url} has no user for the certificate {endpoint.cert}, or has one no more. Get "
                "another by: trainshed login TOKEN@HOST:PORT",
            )
        who = f"user {endpoint.user}" if endpoint.user else "a client without credentials"
        return TrainshedError(
            ErrorCode.DENIED,
            f"the server at {endpoint.url} refuses {who}. Give TRAINSHED_NATS_USER and TRAINSHED_NATS_PASSWORD, "
            "or leave --nats and NATS_URL out to use this machine's own stack",
        )
    if isinstance(error, HungUpUngreeted):
        return TrainshedError(ErrorCode.DENIED, counts_no_more(endpoint))
    if (
        _NO_GREETING in str(error) and endpoint.tls
    ):  # its greeting came too early, and was lost with the plain socket
        return NobodyAnswers(no_handshake(endpoint))
    if _NO_GREETING in str(error):
        return NobodyAnswers(
            f"no Trainshed answers at {endpoint.url} (no greeting of a NATS server). {asks_for_tls(endpoint)}. "
            "Or start a stack here: trainshed up"
        )
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)) and getattr(error, "errno", None) is None:
        tls = "" if endpoint.tls else f" {asks_for_tls(endpoint)}"
        return NobodyAnswers(
            f"no Trainshed answers at {endpoint.url} (no answer in time): what listens there stands still. "
            "`trainshed up` starts its server again when that goes on; try again soon, or name another stack: "
            f"--nats tls://HOST:4222.{tls}",
        )
    if isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME:
        return UnknownHost(f"no host has the name in {endpoint.url}. Name another: --nats tls://HOST:4222")
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return NobodyAnswers(f"no connection to {endpoint.url}: {why(error)}")
    cut = endpoint.tls and isinstance(error, ConnectionError) and error.errno is None
    cause = "it hung up during TLS's handshake" if cut else why(error)
    return NobodyAnswers(
        f"no Trainshed answers at {endpoint.url} ({cause}). Start one here: trainshed up. "
        "Or name another: --nats tls://HOST:4222",
    )


def asks_for_tls(endpoint: Endpoint) -> str:
    return (
        f"A server that asks for TLS is reached as {endpoint.url.replace('nats://', 'tls://')}, with its authority named in "
        "TRAINSHED_NATS_CA (or in endpoint.json, by: trainshed login TOKEN@HOST:PORT)"
    )


def explained(endpoint: Endpoint, error: Exception) -> Exception:
    """The error itself, but for what only a sentence of ours explains."""
    if isinstance(error, (ssl.SSLError, HungUpUngreeted)) or _NO_GREETING in str(error):
        return RefusedConnection(unreachable(endpoint, error))
    return error


class QuietLog:
    """Logs each connection error as one line, and the same words again only after a while."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._last: tuple[str, float] = ("", 0.0)

    def __call__(self, error: Exception) -> None:
        text = why(error)
        last_text, last_at = self._last
        now = time.monotonic()
        if text != last_text or now - last_at >= REPEAT_QUIET_S:
            self._last = (text, now)
            _log.warning("nats connection of %s: %s", self._name, text)
