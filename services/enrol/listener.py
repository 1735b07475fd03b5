"""The listener where machines and people enrol: TLS 1.3 with a server certificate alone, one request a connection.

Owns sockets, bounds and time-outs of it; what is granted is services.enrol.enrolment's. Whoever reaches the port may send
anything: each step has an end, and what is too much is hung up on before a handshake is paid for.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import traceback
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from services.api import error_answer
from services.enrol.authority import read_authorities
from services.enrol.cluster import server_certificate
from services.enrol.enrolment import Enrolment
from services.enrol.limits import ConnectionLimits
from services.enrol.wire import (
    MAX_REQUEST_BYTES,
    AuthorityAnswer,
    AuthorityQuestion,
    EnrolQuestion,
    line_of,
    read_question,
)
from services.logging import get_logger
from services.setting_values import Listen
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.os_errors import cause, why

_log = get_logger("enrol")

HANDSHAKE_WITHIN_S = 5.0
REQUEST_WITHIN_S = 5.0
ANSWER_WITHIN_S = 30.0
LOOK_EVERY_S = 1.0
MEMBERS_EVERY_S = 60.0
REPORT_EVERY_S = 12 * 3600.0
QUIET_S = 30.0
BACKLOG = 64


class EnrolListener:
    """A Service that answers on ``listen``. ``hosts``: the names and addresses that its certificate is for.

    ``members`` is called in a thread, at its start and every minute: this machine's own members get new certificates when
    they are due (`provide`).
    """

    name = "enrol"

    def __init__(
        self,
        listen: Listen,
        enrolment: Enrolment,
        hosts: Sequence[str],
        *,
        members: Callable[[datetime], object] = lambda _: None,
    ) -> None:
        self._members = members
        self._listen = listen
        self._enrolment = enrolment
        self._hosts = list(hosts)
        self._stop = asyncio.Event()
        self._turned_away = 0
        self._reported_at = -QUIET_S
        self.port = 0
        """The one it serves on, once it is ready."""
        self.ready = asyncio.Event()

    async def run(self) -> None:
        """See Service. Raises TrainshedError where the address is taken or is none of this machine, and where the
        authority cannot be read."""
        certificate = ListenerContext(self._enrolment.folder, self._hosts)
        await asyncio.to_thread(certificate.refresh, self._enrolment.clock())
        await asyncio.to_thread(self._members, self._enrolment.clock())
        await self._enrolment.apply_changes()
        with _bound(self._listen) as listening:
            self.port = listening.getsockname()[1]
            async with asyncio.TaskGroup() as tasks:
                work = [
                    tasks.create_task(self._accept(listening, certificate.context)),
                    tasks.create_task(self._look(certificate)),
                ]
                self.ready.set()
                await self._stop.wait()
                for task in work:
                    task.cancel()

    def stop(self) -> None:
        """See Service."""
        self._stop.set()

    async def _accept(self, listening: socket.socket, context: ssl.SSLContext) -> None:
        loop = asyncio.get_running_loop()
        limits = ConnectionLimits(loop.time())
        async with asyncio.TaskGroup() as tasks:
            while True:
                try:
                    accepted, address = await loop.sock_accept(listening)
                except OSError as error:  # no descriptor is left, or who called has gone
                    _log.warning("a connection could not be accepted", error=why(error))
                    await asyncio.sleep(0.2)
                    continue
                host = str(address[0])
                if limits.begin(host, loop.time()):
                    tasks.create_task(self._serve(accepted, context, host, limits))
                else:
                    accepted.close()
                    self._turn_away(host, loop.time())

    async def _look(self, certificate: ListenerContext) -> None:
        """Whatever another process changed in the files (an operator's command) is made known to the server."""
        loop = asyncio.get_running_loop()
        members_at, report_at = loop.time() + MEMBERS_EVERY_S, loop.time()
        while True:
            try:
                if loop.time() >= report_at:
                    report_at = loop.time() + REPORT_EVERY_S
                    await self._enrolment.report_expiring()
                await asyncio.sleep(LOOK_EVERY_S)
                await asyncio.to_thread(certificate.refresh, self._enrolment.clock())
                if loop.time() >= members_at:
                    members_at = loop.time() + MEMBERS_EVERY_S
                    await asyncio.to_thread(self._members, self._enrolment.clock())
                await self._enrolment.apply_changes()
            except (TrainshedError, OSError) as error:
                _log.error("the files of the cluster cannot be used", error=cause(error))
                await asyncio.sleep(QUIET_S)

    async def _serve(
        self, accepted: socket.socket, context: ssl.SSLContext, host: str, limits: ConnectionLimits
    ) -> None:
        try:
            await self._talk(accepted, context, host)
        except (
            OSError,
            TimeoutError,
        ) as error:  # an ssl.SSLError is one; whoever asked has gone, or speaks no TLS 1.3
            _log.debug("a connection ended early", address=host, error=cause(error))
        except Exception:  # noqa: BLE001 — one connection must not take the others with it
            _log.error("a connection failed", address=host, trace=traceback.format_exc())
        finally:
            limits.end(host)
            accepted.close()

    async def _talk(self, accepted: socket.socket, context: ssl.SSLContext, host: str) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=MAX_REQUEST_BYTES, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol, accepted, ssl=context, ssl_handshake_timeout=HANDSHAKE_WITHIN_S
        )
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        try:
            answer = await self._answer(reader, host)
            if answer is None:
                return
            async with asyncio.timeout(REQUEST_WITHIN_S):
                writer.write(answer)
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        finally:
            transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, host: str) -> bytes | None:
        try:
            async with asyncio.timeout(REQUEST_WITHIN_S):
                try:
                    line = await reader.readuntil(b"\n")
                except asyncio.LimitOverrunError:
                    raise TrainshedError(
                        ErrorCode.TOO_LARGE, f"a request has at most {MAX_REQUEST_BYTES:,} bytes"
                    ) from None
            async with asyncio.timeout(ANSWER_WITHIN_S):
                return line_of(await self._asked(line))
        except (asyncio.IncompleteReadError, OSError):
            return None
        except TrainshedError as error:
            _log.warning("refused", address=host, code=error.code, error=error.message)
            return line_of(error_answer(error))
        except Exception:  # noqa: BLE001 — whatever it is, the caller gets an answer and the log the trace
            # without the variables that a trace for people shows: a token's secret is among them
            _log.error("a request failed", address=host, trace=traceback.format_exc())
            failed = TrainshedError(ErrorCode.UNAVAILABLE, "it failed here; see the log of `enrol`")
            return line_of(error_answer(failed))

    async def _asked(self, line: bytes) -> object:
        match read_question(line):
            case AuthorityQuestion():
                authorities = await asyncio.to_thread(read_authorities, self._enrolment.folder)
                return AuthorityAnswer(authorities=authorities.bundle.decode(), now=self._enrolment.clock())
            case EnrolQuestion() as question:
                return await self._enrolment.enrol(question)

    def _turn_away(self, host: str, now: float) -> None:
        self._turned_away += 1
        if now - self._reported_at >= QUIET_S:
            _log.warning("too many connections; hung up on some", number=self._turned_away, last=host)
            self._turned_away, self._reported_at = 0, now


class ListenerContext:
    """The TLS context of the listener, which takes the server's certificate anew when that was made anew."""

    def __init__(self, folder: Path, hosts: Sequence[str]) -> None:
        self._folder = folder
        self._hosts = hosts
        self._loaded: bytes | None = None
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_3
        self.context.num_tickets = 0

    def refresh(self, now: datetime) -> None:
        """Have the certificate made where that is due. Blocks. Raises TrainshedError and OSError."""
        path = server_certificate(self._folder, self._hosts, now=now)
        if (content := path.read_bytes()) != self._loaded:
            self.context.load_cert_chain(path)
            self._loaded = content


def _bound(listen: Listen) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
        dual = listen.host == "::" and socket.has_dualstack_ipv6()
        bound = socket.create_server(
            (listen.host, listen.port), family=family, backlog=BACKLOG, dualstack_ipv6=dual
        )
    except OSError as error:
        match error.errno:
            case errno.EADDRINUSE:
                what = "is taken by another program"
            case errno.EADDRNOTAVAIL:
                what = "is no address of this machine"
            case _:
                what = f"cannot be listened on ({why(error)})"
        raise TrainshedError(ErrorCode.UNAVAILABLE, f"the address {listen} for enrolments {what}") from None
    bound.setblocking(False)
    return bound
