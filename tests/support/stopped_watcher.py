"""A watcher that stops reading, and more than a server keeps for it.

Owns that connection, byte by byte; knows nothing of who looks for it.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

from trainshed_client.endpoint import Endpoint
from trainshed_client.nats_client import SafeClient
from trainshed_client.tls import client_context

PENDING_MIB = 64
"""What the server keeps for one connection (its `max_pending`)."""
_FLOOD = "flood"
"""Beside the records, so that no other watcher meets what is none."""


@contextlib.contextmanager
def stopped_watcher(endpoint: Endpoint, name: str) -> Iterator[socket.socket]:
    """A client that has subscribed to every run and to the flood, and reads nothing any more."""
    url = urlsplit(endpoint.url)
    with contextlib.ExitStack() as opened:
        sock = opened.enter_context(socket.create_connection((url.hostname, url.port), timeout=5))
        if endpoint.tls:
            context = client_context(endpoint, now=time.time())
            sock = opened.enter_context(context.wrap_socket(sock, server_hostname=url.hostname))
        known = {"user": endpoint.user, "pass": endpoint.password} if endpoint.user else {}
        hello = json.dumps({"verbose": False, "pedantic": False, "lang": "test", "name": name, **known})
        subscribe = f"SUB trainshed.watch.runs.* 1\r\nSUB {_FLOOD} 2\r\nPING\r\n"
        sock.sendall(f"CONNECT {hello}\r\n{subscribe}".encode())
        heard = b""
        while b"PONG" not in heard:
            heard += sock.recv(4096)
        yield sock


async def flood(nc: SafeClient) -> None:
    """More than the server keeps for who does not read it."""
    for _ in range(3 * PENDING_MIB):
        await nc.publish(_FLOOD, b"x" * 512 * 1024)
        await nc.flush()
