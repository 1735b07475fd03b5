"""The configuration of the embedded nats-server, as text: its settings, and whom it lets in.

Owns the settings; who gets in is a Realm's to say. Writes no file and runs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import msgspec

from services.nats_server.web_socket import WebSocketListener
from trainshed_client.endpoint import Endpoint

LOG_BYTES = 8 * 1024 * 1024
_LOG_FILES = 3
REALM_FILE = "realm.conf"
"""Who gets in: read anew by the server at each SIGHUP."""

CONFIG = """\
# Written by `trainshed up` at each start; changes made here are lost.
server_name: {server_name}
listen: {listen}
http: "127.0.0.1:{monitor_port}"
pid_file: {pid_file}
max_payload: 1MB
max_control_line: 4KB
max_pending: 64MB
write_deadline: "5s"
ping_interval: "20s"
ping_max: 2
log_file: {log_file}
logfile_size_limit: {log_bytes}
logfile_max_num: {log_files}
jetstream {{
  store_dir: {store_dir}
  sync_interval: always
  max_memory_store: 256MB
  # Not the default, three quarters of what is free at start: that shrinks as the log grows.
  max_file_store: 1TB
  limits {{ batch {{ max_inflight_per_stream: 400, max_inflight_total: 2000, timeout: "2s" }} }}
}}
"""

_PAGES = """\
websocket {{
  listen: "127.0.0.1:{web_port}"
  no_tls: true
  allowed_origins: [{origins}]
}}
"""


class Realm(Protocol):
    """Who gets in. ``password`` is the one that the server keeps with its ports."""

    store_account: str
    """The account that the store belongs to: its folder in the store bears that name."""
    tls: bool
    """Whether everybody connects by TLS, its handshake first."""

    def text(self, password: str, web: WebSocketListener | None) -> str:
        """The ``accounts`` block, and ``tls`` where that is. ``web``: the listener for pages, where there is one."""
        ...

    def operator(self, url: str, password: str) -> Endpoint:
        """How he connects who makes the streams."""
        ...


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the text is made of. ``listen``: HOST:PORT. A Realm's text is a file of its own beside it (`REALM_FILE`)."""

    server_name: str
    listen: str
    monitor_port: int
    pid_file: Path
    log_file: Path
    store_dir: Path
    web_socket: WebSocketListener | None = None

    @property
    def text(self) -> str:
        """The configuration."""
        text = CONFIG.format(
            server_name=_quoted(self.server_name),
            listen=_quoted(self.listen),
            monitor_port=self.monitor_port,
            pid_file=_quoted(str(self.pid_file)),
            log_file=_quoted(str(self.log_file)),
            log_bytes=LOG_BYTES,
            log_files=_LOG_FILES,
            store_dir=_quoted(str(self.store_dir)),
        )
        if self.web_socket is not None:
            text += _PAGES.format(web_port=self.web_socket.port, origins=_listed(self.web_socket.origins))
        return text + f"include {_quoted(REALM_FILE)}\n"


def _listed(texts: Iterable[str]) -> str:
    return ", ".join(_quoted(text) for text in texts)


def _quoted(text: str) -> str:
    """A string of nats-server's configuration language; JSON's escapes are its own, non-ASCII stays as it is."""
    return json.dumps(text, ensure_ascii=False)
