"""What pages in a browser are given of the stack: a listener, and a user who reads records, events and live output.

Owns what is asked for, which origins it takes and `<state>/websocket.json`; must not know how the server is started.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import msgspec

from trainshed_client.endpoint import write_private

WEB_SOCKET_FILE = "websocket.json"
WEB_USER = "trainshed-web"
INBOX_PREFIX = "_INBOX_web"
"""Replies to that user come below it; those to anybody else lie elsewhere."""
DEFAULT_ORIGINS = ("http://localhost:8080", "http://127.0.0.1:8080")
"""Where examples/browser is served."""
_ORIGIN = re.compile(r"https?://(?:[a-z0-9][a-z0-9.-]*|\[[0-9a-f:]+\])(?::(\d{1,5}))?\Z")
_ACCEPTED = "http://HOST:PORT or https://HOST, as a browser shows it, without a path"


class WebSocketOptions(msgspec.Struct, frozen=True):
    """The listener that `up --websocket` asks for. ``port`` None: a free one, kept from then on."""

    port: int | None = None
    origins: tuple[str, ...] = DEFAULT_ORIGINS


class WebSocketListener(msgspec.Struct, frozen=True):
    """The listener as it is: its port on loopback, the user's password, and the origins of the pages that it takes."""

    port: int
    password: str
    origins: tuple[str, ...]


class WebSocketEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """What a page has to know (``websocket.json``, mode 0600). Its text form leaves the password out."""

    v: int = 1
    url: str
    user: str = WEB_USER
    password: str
    inbox_prefix: str = INBOX_PREFIX
    origins: tuple[str, ...]

    def __repr__(self) -> str:
        return f"WebSocketEndpoint({self.url!r}, user={self.user!r})"


def checked_origin(text: str) -> str:
    """An origin as a browser sends it. Raises ValueError with what is accepted."""
    if text == "null" or text.startswith("file:"):
        raise ValueError(
            f"{_ACCEPTED}; a page that was opened from a file has no origin of its own (it sends null, as the "
            "frames of any site may): serve it on localhost"
        )
    found = _ORIGIN.match(text.lower())
    if found is None or not text.isascii() or not 0 < int(found[1] or 80) < 65536:
        raise ValueError(_ACCEPTED)
    return found[0]


def write_web_socket(state_dir: Path, endpoint: WebSocketEndpoint | None) -> None:
    """Write ``websocket.json`` (0600, whole or not at all); with None there is none. Raises OSError."""
    path = state_dir / WEB_SOCKET_FILE
    if endpoint is not None:
        write_private(path, msgspec.json.encode(endpoint) + b"\n")
        return
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
