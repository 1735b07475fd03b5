"""A service's own page: `/healthz` (it lives), `/readyz` (it serves) and `/metrics`, over HTTP/1.1 on asyncio.

Owns the HTTP of it, which is GET and nothing else; knows no service and no metric.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from services.logging import get_logger
from services.setting_values import Listen
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.os_errors import why

_log = get_logger("http")

REQUEST_WITHIN_S = 5.0
MAX_HEAD_BYTES = 16 * 1024
MAX_CONNECTIONS = 32
_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class Page(NamedTuple):
    """One answer."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


class HealthServer:
    """A Service that answers for the process it is in.

    ``lacking`` says what keeps the process from serving (empty: it serves); ``metrics`` makes the page of
    `/metrics` with its content type. It is ready at once: what it tells is whether the others are.
    """

    name = "http"

    def __init__(
        self,
        listen: Listen,
        lacking: Callable[[], Sequence[str]],
        metrics: Callable[[], Awaitable[tuple[bytes, str]]],
    ) -> None:
        self._listen = listen
        self._lacking = lacking
        self._metrics = metrics
        self._stop = asyncio.Event()
        self._open = 0
        self.port = 0
        """The one it serves on, once it is ready."""
        self.ready = asyncio.Event()

    async def run(self) -> None:
        """See Service. Raises TrainshedError where the address is taken or is none of this machine."""
        try:
            server = await asyncio.start_server(
                self._serve, self._listen.host, self._listen.port, limit=MAX_HEAD_BYTES
            )
        except OSError as error:
            raise TrainshedError(
                ErrorCode.UNAVAILABLE,
                f"TRAINSHED_HTTP_LISTEN: {self._listen} {_why_not(error)}. Name another (`up` takes that port and, for "
                "its projector, the next one): TRAINSHED_HTTP_LISTEN=HOST:PORT trainshed up",
            ) from None
        async with server:
            self.port = server.sockets[0].getsockname()[1]
            self.ready.set()
            await self._stop.wait()

    def stop(self) -> None:
        """See Service."""
        self._stop.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open > MAX_CONNECTIONS:
                return
            async with asyncio.timeout(REQUEST_WITHIN_S):
                try:
                    head = await reader.readuntil(b"\r\n\r\n")
                except asyncio.LimitOverrunError:
                    head = b""
                method, page = await self._answer(head)
                writer.write(_response(page, with_body=method != "HEAD"))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            pass  # whoever asked has gone, or never finished asking
        finally:
            self._open -= 1
            writer.close()

    async def _answer(self, head: bytes) -> tuple[str, Page]:
        text = head.partition(b"\r\n")[0].decode("latin-1").split(" ")
        if len(text) != 3 or not text[2].startswith("HTTP/1."):
            return "", Page(400, b"an HTTP/1.1 GET is answered here\n")
        method, path = text[0], text[1].partition("?")[0]
        if method not in ("GET", "HEAD"):
            return method, Page(405, b"GET is answered here\n")
        match path:
            case "/healthz":
                return method, Page(200, b"ok\n")
            case "/readyz":
                return method, self._readiness()
            case "/metrics":
                return method, await self._measured()
            case _:
                return method, Page(404, b"here are /healthz, /readyz and /metrics\n")

    def _readiness(self) -> Page:
        lacking = self._lacking()
        if lacking:
            return Page(503, f"not ready: {', '.join(lacking)}\n".encode())
        return Page(200, b"ready\n")

    async def _measured(self) -> Page:
        try:
            body, content_type = await self._metrics()
        except Exception:  # noqa: BLE001 — a metric that fails must not take the service with it
            _log.exception("the metrics could not be made")
            return Page(500, b"the metrics could not be made; see the service's log\n")
        return Page(200, body, content_type)


def _why_not(error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return "is taken by another program"
        case errno.EADDRNOTAVAIL:
            return "is no address of this machine"
        case _:
            return f"cannot be listened on ({why(error)})"


def _response(page: Page, *, with_body: bool) -> bytes:
    head = (
        f"HTTP/1.1 {page.status} {_REASONS[page.status]}\r\n"
        f"Content-Type: {page.content_type}\r\n"
        f"Content-Length: {len(page.body)}\r\n"
        "Cache-Control: no-store\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + (page.body if with_body else b"")
