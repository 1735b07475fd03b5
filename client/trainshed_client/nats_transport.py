"""The socket under a NATS connection: as nats-py's, and with TLS it neither hangs nor warns.

Owns what nats-py's transport lacks there; knows no endpoint and no message.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import nats.errors
from nats.aio.transport import TcpTransport

CLOSE_WITHIN_S = 1.0


class HungUpUngreeted(nats.errors.Error):
    """The server shook hands and hung up at once: so it refuses a certificate whose key it does not list (any more)."""


class SafeTransport(TcpTransport):
    """One that a failed handshake, or a server that stands still, does not keep from closing."""

    _ungreeted = False
    """After TLS's handshake, until the server's first line."""

    async def connect_tls(
        self, uri: Any, ssl_context: ssl.SSLContext, buffer_size: int, connect_timeout: float
    ) -> None:
        """Shake hands on the socket that is connected; after a failure there is none any more.

        nats-py would wait for the end of a socket that has ended already, with a protocol that hears nothing of it.
        """
        plain = self._io_writer
        assert plain is not None, "connected first"
        self._io_reader = self._io_writer = None
        reader = asyncio.StreamReader(limit=buffer_size)
        protocol = _TlsProtocol(reader)
        loop = asyncio.get_running_loop()
        shaking = loop.start_tls(
            plain.transport,
            protocol,
            ssl_context,
            server_hostname=uri if isinstance(uri, str) else uri.hostname,
        )
        try:
            transport = await asyncio.wait_for(shaking, connect_timeout)
        except BaseException:
            plain.transport.abort()
            raise
        assert transport is not None
        self._io_reader, self._io_writer = reader, asyncio.StreamWriter(transport, protocol, reader, loop)
        self._ungreeted = True

    async def readline(self) -> bytes:
        """As nats-py's. Raises `HungUpUngreeted` where the connection ends right after the handshake."""
        line: bytes = await super().readline()  # type: ignore[no-untyped-call]
        if self._ungreeted and not line:
            raise HungUpUngreeted
        self._ungreeted = False
        return line

    async def wait_closed(self) -> None:
        """TLS waits for the other side's farewell, for 30 s or (before Python 3.11) for ever: here it is CLOSE_WITHIN_S."""
        if (writer := self._io_writer) is None:
            return
        late = asyncio.get_running_loop().call_later(CLOSE_WITHIN_S, writer.transport.abort)
        try:
            await writer.wait_closed()
        finally:
            late.cancel()


class _TlsProtocol(asyncio.StreamReaderProtocol):
    """One that does not ask for half a connection at its end, which TLS has not and asyncio warns of each time."""

    def eof_received(self) -> bool:
        super().eof_received()
        return False
