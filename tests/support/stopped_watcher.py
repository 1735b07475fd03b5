"""A watcher that stops reading, and more than a server keeps for it.

Owns that connection, byte by byte; knows nothing of who looks for it.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from trainshed_client.endpoint import Endpoint
from trainshed_client.nats_client import SafeClient

PENDING_MIB = 64
"""What the server keeps for one connection (its `max_pending`)."""
_FLOOD = "flood"
"""Beside the records, so that no other watcher meets what is none."""


@contextlib.contextmanager
def stopped_watcher(endpoint: Endpoint, name: str) -> Iterator[socket.socket]:
    """A client that has subscribed to every run and to the flood, and reads nothing any more."""
    host, port = endpoint.url.removeprefix("nats://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as sock:
        hello = f'{{"verbose":false,"pedantic":false,"lang":"test","name":"{name}","user":"{endpoint.user}","pass":"{endpoint.password}"}}'
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
