"""A NATS client that says exactly the bytes it is told to, as no well-behaved library would."""

from __future__ import annotations

import asyncio
import json
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from trainshed_client.endpoint import Endpoint


class RawNats:
    """``async with RawNats(endpoint) as raw: await raw.send(b"PUB x 0\\r\\n\\r\\n")``."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def __aenter__(self) -> Self:
        url = urlsplit(self._endpoint.servers[0])
        self._reader, self._writer = await asyncio.wait_for(
            asyncio.open_connection(url.hostname, url.port), 5
        )
        await asyncio.wait_for(self._reader.readline(), 5)  # INFO
        options = {"verbose": False, "headers": True, "no_responders": True, "lang": "raw", "version": "0"}
        if self._endpoint.user:
            options |= {"user": self._endpoint.user, "pass": self._endpoint.password or ""}
        await self.send(b"CONNECT " + json.dumps(options).encode() + b"\r\n")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    async def send(self, data: bytes) -> None:
        """Send bytes, then PING, and return when the server has answered: it has read all of them."""
        self._writer.write(data + b"PING\r\n")
        while (line := await asyncio.wait_for(self._reader.readline(), 5)) != b"PONG\r\n":
            if not line or line.startswith(b"-ERR"):
                raise ConnectionError(f"the server refuses {data!r}: {line!r}")

    async def publish(
        self, subject: bytes, data: bytes = b"", *, headers: bytes = b"", reply: bytes = b""
    ) -> None:
        """PUB, or HPUB with a header block given byte for byte."""
        words = [subject, reply] if reply else [subject]
        if headers:
            words = [b"HPUB", *words, str(len(headers)).encode(), str(len(headers) + len(data)).encode()]
        else:
            words = [b"PUB", *words, str(len(data)).encode()]
        await self.send(b" ".join(words) + b"\r\n" + headers + data + b"\r\n")
