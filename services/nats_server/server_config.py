"""The configuration of the embedded nats-server, as text: its settings, and who may do what there.

Owns these words and nats-server's quoting; writes no file and runs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import msgspec

from services.nats_server.web_socket import INBOX_PREFIX, WEB_USER, WebSocketListener
from trainshed_client import subjects

USER = "trainshed"
GLOBAL_ACCOUNT = "$G"
"""Where nats-server puts a user of no account."""
STACK_ACCOUNT = "TRAINSHED"
PAGES_ACCOUNT = "PAGES"
LOG_BYTES = 8 * 1024 * 1024
_LOG_FILES = 3

CONFIG = """\
# Written by `trainshed up` at each start; changes made here are lost.
server_name: {server_name}
listen: "127.0.0.1:{port}"
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

_ALONE = """\
authorization {{ user: {user}, password: {password} }}
"""

# Pages have an account of their own. In the stack's, a direct get's reply subject would let them send what is stored to
# any subject, a run's record into the log as an event, whatever they may publish: the server checks no reply subject.
_WITH_PAGES = """\
websocket {{
  listen: "127.0.0.1:{web_port}"
  no_tls: true
  allowed_origins: [{origins}]
}}
accounts {{
  {stack}: {{
    jetstream: enabled
    users: [ {{ user: {user}, password: {password}, allowed_connection_types: [STANDARD] }} ]
    exports: [
      {exports}
    ]
  }}
  {pages}: {{
    limits {{ max_connections: 100, max_subscriptions: 1000, max_payload: 64KB }}
    users: [ {{
      user: {web_user}, password: {web_password}, allowed_connection_types: [WEBSOCKET]
      permissions {{ publish: [{publish}], subscribe: [{subscribe}] }}
    }} ]
    imports: [
      {imports}
    ]
  }}
}}
"""

_READ = (subjects.EVENTS_STREAM,) + tuple(
    f"KV_{bucket}"
    for bucket in (
        subjects.RUNS_BUCKET,
        subjects.SLOTS_BUCKET,
        subjects.NODES_BUCKET,
        subjects.QUEUE_BUCKET,
    )
)
_DIRECT_GETS = tuple(f"$JS.API.DIRECT.GET.{stream}{rest}" for stream in _READ for rest in ("", ".>"))
_HEARD = (f"{subjects.WATCH}.>", f"{subjects.LOG}.>")
_HEALTH = "health"
"""The one call: it names the log and its last sequence."""


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the text is made of."""

    server_name: str
    port: int
    monitor_port: int
    password: str
    pid_file: Path
    log_file: Path
    store_dir: Path
    web_socket: WebSocketListener | None = None

    @property
    def account(self) -> str:
        """The account that the store belongs to: its folder in ``store_dir`` bears that name."""
        return GLOBAL_ACCOUNT if self.web_socket is None else STACK_ACCOUNT

    @property
    def text(self) -> str:
        """The configuration."""
        text = CONFIG.format(
            server_name=_quoted(self.server_name),
            port=self.port,
            monitor_port=self.monitor_port,
            pid_file=_quoted(str(self.pid_file)),
            log_file=_quoted(str(self.log_file)),
            log_bytes=LOG_BYTES,
            log_files=_LOG_FILES,
            store_dir=_quoted(str(self.store_dir)),
        )
        if self.web_socket is None:
            return text + _ALONE.format(user=_quoted(USER), password=_quoted(self.password))
        return text + self._with_pages(self.web_socket)

    def _with_pages(self, listener: WebSocketListener) -> str:
        may_publish = (*_DIRECT_GETS, subjects.api(_HEALTH))
        return _WITH_PAGES.format(
            web_port=listener.port,
            origins=_listed(listener.origins),
            stack=STACK_ACCOUNT,
            pages=PAGES_ACCOUNT,
            user=_quoted(USER),
            password=_quoted(self.password),
            web_user=_quoted(WEB_USER),
            web_password=_quoted(listener.password),
            publish=_listed(may_publish),
            subscribe=_listed((*_HEARD, f"{INBOX_PREFIX}.>")),
            exports="\n      ".join(_exports()),
            imports="\n      ".join(_imports()),
        )


def _exports() -> Iterable[str]:
    to = f"accounts: [{PAGES_ACCOUNT}]"
    for subject in _HEARD:
        yield f"{{ stream: {_quoted(subject)}, {to} }}"
    for subject in _DIRECT_GETS:  # answered by many messages: without `response` the first alone would arrive
        yield f"{{ service: {_quoted(subject)}, {to}, response: stream }}"
    # The account is the fourth token: who asks is known by it.
    yield f"{{ service: {_quoted(subjects.api_as(_HEALTH))}, {to}, account_token_position: 4 }}"


def _imports() -> Iterable[str]:
    for subject in _HEARD:
        yield f"{{ stream: {{ account: {STACK_ACCOUNT}, subject: {_quoted(subject)} }} }}"
    for subject in _DIRECT_GETS:
        yield f"{{ service: {{ account: {STACK_ACCOUNT}, subject: {_quoted(subject)} }} }}"
    asked = _quoted(subjects.api_as(_HEALTH).replace("*", PAGES_ACCOUNT))
    yield f"{{ service: {{ account: {STACK_ACCOUNT}, subject: {asked} }}, to: {_quoted(subjects.api(_HEALTH))} }}"


def _listed(texts: Iterable[str]) -> str:
    return ", ".join(_quoted(text) for text in texts)


def _quoted(text: str) -> str:
    """A string of nats-server's configuration language; JSON's escapes are its own, non-ASCII stays as it is."""
    return json.dumps(text, ensure_ascii=False)
