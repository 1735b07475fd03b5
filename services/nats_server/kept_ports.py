"""What of the embedded nats-server stays the same from one start to the next: its ports and its passwords.

Owns `server.json` and how a port is chosen; knows neither the server's process nor its configuration.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import socket
from pathlib import Path

import msgspec

from services.nats_server.web_socket import WebSocketOptions
from services.setting_values import Listen
from trainshed_client.endpoint import write_private
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.os_errors import why

_log = logging.getLogger("trainshed.embedded_nats")

_WEB_SOCKET = "WebSocket port"


class KeptPorts(msgspec.Struct, frozen=True):
    """What stays the same from one start to the next (`<state>/nats/server.json`, mode 0600).

    ``web_port`` and ``web_password``: of the listener for pages, from the first start that asked for one (None) on.
    """

    port: int
    monitor_port: int
    password: str
    v: int = 1
    web_port: int | None = None
    web_password: str | None = None


def kept_at(path: Path) -> KeptPorts | None:
    """What an earlier start wrote; None where there is none, or it cannot be understood, which is logged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=KeptPorts)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        _log.warning("%s is damaged (%s): ports and password are chosen anew", path, error)
        return None


def choose(
    path: Path,
    kept: KeptPorts | None,
    web_socket: WebSocketOptions | None,
    *,
    listen: Listen | None = None,
    restart: bool,
) -> KeptPorts:
    """The kept ports where they are free, else new ones with a warning; what is new is written to ``path``.

    ``listen``: the server's own address, where it is not loopback and a kept port: that one is not kept.

    A port that was asked for, and each in a ``restart`` with clients connected to it, must be had. Raises
    TrainshedError (UNAVAILABLE), OSError.
    """
    with contextlib.ExitStack() as probes:
        if listen is None:
            port = _free_port(probes, kept.port if kept else 0, "port", must=restart)
        else:
            port = _free_port(probes, listen.port, "port", must=True, host=listen.host)
        monitor = _free_port(probes, kept.monitor_port if kept else 0, "monitoring port", must=restart)
        web_port, web_password = (kept.web_port, kept.web_password) if kept else (None, None)
        if web_socket is not None:
            asked = web_socket.port
            must = restart or asked is not None
            web_port = _free_port(probes, asked or web_port or 0, _WEB_SOCKET, must=must)
            web_password = web_password or secrets.token_urlsafe(24)
        password = kept.password if kept else secrets.token_urlsafe(24)
        chosen = KeptPorts(port, monitor, password, web_port=web_port, web_password=web_password)
    if chosen != kept:
        write_private(path, msgspec.json.encode(chosen) + b"\n")
    return chosen


def _free_port(
    probes: contextlib.ExitStack, kept: int, what: str, *, must: bool, host: str = "127.0.0.1"
) -> int:
    """Bind to find out, and keep bound until all are chosen, so that no two are the same."""
    probe = probes.enter_context(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET))
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind((host, kept))
    except OSError as error:
        if must or not kept:
            hint = "; name another: trainshed up --websocket PORT" if what == _WEB_SOCKET else ""
            raise TrainshedError(
                ErrorCode.UNAVAILABLE, f"nats-server's {what} {kept} cannot be had ({why(error)}){hint}"
            ) from None
        probe.bind(("127.0.0.1", 0))
        _log.warning(
            "nats-server's %s is now %d: another program has taken %d", what, probe.getsockname()[1], kept
        )
    port: int = probe.getsockname()[1]
    return port
