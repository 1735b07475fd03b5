"""What an error of a NATS connection means for people, and the log that repeats itself seldom.

Owns these texts; makes no connection.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import time

import nats.errors

from trainshed_client.endpoint import Endpoint
from trainshed_client.errors import ErrorCode, NobodyAnswers, TrainshedError, UnknownHost
from trainshed_client.os_errors import why

_log = logging.getLogger("trainshed.nats")

REPEAT_QUIET_S = 30.0


def unreachable(endpoint: Endpoint, error: Exception) -> TrainshedError:
    """The error for people when no server answers or the server says no; the credentials are not in it."""
    if "authorization violation" in str(error).lower() or isinstance(error, nats.errors.AuthorizationError):
        who = f"user {endpoint.user}" if endpoint.user else "a client without credentials"
        return TrainshedError(
            ErrorCode.DENIED,
            f"the server at {endpoint.url} refuses {who}. Give TRAINSHED_NATS_USER and TRAINSHED_NATS_PASSWORD, "
            "or leave --nats and NATS_URL out to use this machine's own stack",
        )
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)) and getattr(error, "errno", None) is None:
        return NobodyAnswers(
            f"no Trainshed answers at {endpoint.url} (no answer in time): what listens there stands still. "
            "`trainshed up` starts its server again when that goes on; try again soon, or name another stack: "
            "--nats nats://HOST:4222",
        )
    if isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME:
        return UnknownHost(f"no host has the name in {endpoint.url}. Name another: --nats nats://HOST:4222")
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return NobodyAnswers(f"no connection to {endpoint.url}: {why(error)}")
    return NobodyAnswers(
        f"no Trainshed answers at {endpoint.url} ({why(error)}). Start one here: trainshed up. "
        "Or name another: --nats nats://HOST:4222",
    )


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
