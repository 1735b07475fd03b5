"""A nats-server on which each person and node has an account of its own, as a cluster's has: for floods, and for tests.

Owns its configuration, which is as small as these need; what a stack's server is really given is generated elsewhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from services.access.identities import CONTROL_ACCOUNT, PAGES_ACCOUNT
from services.parent import CALLS as WORKERS_CALLS
from trainshed_client import subjects
from trainshed_client.endpoint import Endpoint

CONTROL_USER = "control"
READS = ("run.get", "run.list", "run.explain", "slot.list", "node.list", "health")
COMMANDS = ("run.submit", "run.submit_batch", "run.check", "run.cancel", "run.retry", "node.drain")
START_WITHIN_S = 10.0


class AccountsServer:
    """A running server. Every user's password is his name."""

    def __init__(self, port: int) -> None:
        self.port = port

    def endpoint(self, user: str) -> Endpoint:
        """How this user connects; `CONTROL_USER`, a person's name, or a node's account."""
        return Endpoint(f"nats://127.0.0.1:{self.port}", user, user)


@contextlib.contextmanager
def accounts_server(people: Sequence[str], nodes: Sequence[str] = ()) -> Iterator[AccountsServer]:
    """A server for these, on a new folder; ended with the block. Raises RuntimeError where it does not start."""
    folder = Path(tempfile.mkdtemp(prefix="tsa-"))
    try:
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            port = int(bound.getsockname()[1])
        config = folder / "server.conf"
        config.write_text(_config(port, folder / "store", people, nodes))
        binary = Path(sysconfig.get_path("scripts")) / "nats-server"
        process = subprocess.Popen(
            [binary, "-c", config], stderr=(folder / "log").open("wb"), env=dict(os.environ)
        )
        try:
            _wait(process, port, folder / "log")
            yield AccountsServer(port)
        finally:
            process.terminate()
            process.wait(10)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    give_up = time.monotonic() + START_WITHIN_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if process.poll() is not None or time.monotonic() > give_up:
            raise RuntimeError(log.read_text())
        time.sleep(0.02)


def _config(port: int, store: Path, people: Sequence[str], nodes: Sequence[str]) -> str:
    exports = [
        f"{{ service: {_text(subject)}, account_token_position: 4 }}"
        for subject in (
            *(subjects.api_as(call) for call in READS + COMMANDS),
            *(subjects.api_as_for(call) for call in WORKERS_CALLS),
        )
    ]
    accounts = [
        f"{CONTROL_ACCOUNT}: {{ jetstream: enabled, users: [ {_user(CONTROL_USER)} ], exports: [ {', '.join(exports)} ] }}"
    ]
    named = [(f"P_{name}", name) for name in people] + [(PAGES_ACCOUNT, PAGES_ACCOUNT)]
    for account, user in named:
        imports = [
            _import(f"{subjects.API}.u.{account}.{call}", subjects.api(call)) for call in READS + COMMANDS
        ]
        accounts.append(f"{account}: {{ users: [ {_user(user)} ], imports: [ {', '.join(imports)} ] }}")
    for node in nodes:
        account = f"NODE_{node}"
        imports = [
            _import(f"{subjects.API}.u.{account}.w.*.{call}", subjects.api_for("$1", call))
            for call in WORKERS_CALLS
        ]
        accounts.append(f"{account}: {{ users: [ {_user(account)} ], imports: [ {', '.join(imports)} ] }}")
    separator = "\n  "
    return (
        f'server_name: accounts\nlisten: "127.0.0.1:{port}"\nmax_payload: 1MB\nmax_control_line: 4KB\n'
        f"jetstream {{ store_dir: {_text(str(store))}, sync_interval: always }}\n"
        f"accounts {{\n  {separator.join(accounts)}\n}}\n"
    )


def _user(name: str) -> str:
    return f"{{ user: {_text(name)}, password: {_text(name)} }}"


def _import(subject: str, to: str) -> str:
    return f"{{ service: {{ account: {CONTROL_ACCOUNT}, subject: {_text(subject)} }}, to: {_text(to)} }}"


def _text(text: str) -> str:
    return json.dumps(text)
