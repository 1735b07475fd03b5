"""nats-server's monitoring pages: asked over HTTP, each question bounded.

Owns that one request and what its answers mean; knows neither who supervises the server nor what is done about it.
"""

from __future__ import annotations

import asyncio
import enum
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

ASK_WITHIN_S = 3.0
_MAX_BYTES = 1 << 20


class Health(enum.StrEnum):
    """How a server is."""

    OK = "ok"
    FAILING = "failing"  # it answers that something is wrong: a stream that could not be written, for one
    SLOW = "slow"  # it answers, but not what it knows of its streams: a disk that takes its time
    SILENT = "silent"


class HealthAnswer(NamedTuple):
    """What ``/healthz`` came to; ``why`` is the server's own word where it is failing."""

    health: Health
    why: str = ""


class _Healthz(msgspec.Struct):
    status: str = ""
    error: str = ""


async def health(monitor_url: str, *, within_s: float = ASK_WITHIN_S) -> HealthAnswer:
    """Ask how the server is. Never raises: no answer within ``within_s`` seconds (twice at most) is an answer too."""
    answer = await get(monitor_url, "/healthz", within_s=within_s)
    if answer is None:
        # That page waits for every stream's lock, and so for a disk; this one for none.
        alive = await get(monitor_url, "/healthz?js-server-only=true", within_s=within_s)
        return HealthAnswer(Health.SILENT if alive is None else Health.SLOW)
    status, body = answer
    if status == 200:
        return HealthAnswer(Health.OK)
    try:
        why = msgspec.json.decode(body, type=_Healthz).error
    except msgspec.MsgspecError:
        why = ""
    return HealthAnswer(Health.FAILING, why or f"HTTP status {status}")


async def storage_left(monitor_url: str, *, within_s: float = ASK_WITHIN_S) -> int | None:
    """Bytes that JetStream may still store: ``max_storage`` less ``storage`` of ``/jsz``; None where it does not say."""
    answer = await get(monitor_url, "/jsz", within_s=within_s)
    if answer is None or answer[0] != 200:
        return None
    try:
        body: dict[str, Any] = msgspec.json.decode(answer[1], type=dict[str, Any])
        return int(body["config"]["max_storage"]) - int(body["storage"])
    except (msgspec.MsgspecError, KeyError, TypeError, ValueError):
        return None


async def get(base_url: str, path: str, *, within_s: float) -> tuple[int, bytes] | None:
    """(status, body) of an HTTP GET, plain and without redirects; None where no whole answer came in time."""
    parts = urlsplit(base_url)
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(within_s):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 80)
            writer.write(f"GET {path} HTTP/1.0\r\nHost: {parts.netloc}\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.read(_MAX_BYTES)
            while len(body) < _MAX_BYTES and (more := await reader.read(_MAX_BYTES)):
                body += more
            return int(head.split(b" ", 2)[1]), body
    except (TimeoutError, OSError, EOFError, asyncio.LimitOverrunError, ValueError, IndexError):
        return None
    finally:
        if writer is not None:
            writer.close()
