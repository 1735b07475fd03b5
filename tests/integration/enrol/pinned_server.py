"""A real nats-server that knows who is enrolled and nothing else: TLS 1.3, verify and map, the roster's keys pinned.

Its accounts are as thin as enrolment needs; those of the stack are generated elsewhere.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sysconfig
from datetime import UTC, datetime
from pathlib import Path

from services.access.identities import account, user_name
from services.enrol.roster import EnrolledControl, Roster
from trainshed_client.endpoint import Endpoint
from trainshed_client.nats_client import SafeClient, connect

CALL = "cert.renew"


class PinnedServer:
    """Runs on a state folder with a cluster folder in it."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.folder = state_dir / "cluster"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"tls://127.0.0.1:{self.port}"
        self._known: set[str] = set()
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, roster: Roster) -> None:
        self._write(roster)
        self._process = await asyncio.create_subprocess_exec(
            Path(sysconfig.get_path("scripts")) / "nats-server",
            "-c",
            "nats.conf",
            "-l",
            "nats.log",
            cwd=self.state_dir,
        )
        await self._logged("Server is ready", 1)

    async def apply(self, roster: Roster) -> None:
        """The service imports of a new account answer after a second reload."""
        before = set(self._known)
        self._write(roster)
        for _ in range(1 if self._known <= before else 2):
            await self._reload()

    async def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            await self._process.wait()

    def endpoint(self, stem: str) -> Endpoint:
        """Of a member of the control side's machine."""
        own = str(self.state_dir / f"credentials/{stem}.pem")
        return Endpoint(self.url, ca=str(self.state_dir / f"credentials/{stem}-ca.crt"), cert=own, key=own)

    async def connect(self, endpoint: Endpoint) -> SafeClient:
        return await connect(endpoint, name="test")

    async def _reload(self) -> None:
        assert self._process is not None
        done = self._log().count("Reloaded server configuration")
        self._process.send_signal(signal.SIGHUP)
        await self._logged("Reloaded server configuration", done + 1)

    async def _logged(self, text: str, times: int) -> None:
        async with asyncio.timeout(10):
            while self._log().count(text) < times:
                await asyncio.sleep(0.01)

    def _log(self) -> str:
        path = self.state_dir / "nats.log"
        return path.read_text() if path.exists() else ""

    def _write(self, roster: Roster) -> None:
        own, pem = json.dumps(str(self.folder / "ca.crt")), json.dumps(str(self.folder / "server.pem"))
        pins = ", ".join(f'"{key}"' for key in roster.pinned_keys(datetime.now(UTC)))
        live = [one for one in roster.everybody() if one.keys(datetime.now(UTC))]
        control = " ".join(
            f'{{user: "{user_name(one.identity)}"}}' for one in live if isinstance(one, EnrolledControl)
        )
        accounts = [
            f'TRAINSHED: {{ users: [ {control} ], exports: [ {{service: "trainshed.api.u.*.{CALL}", account_token_position: 4}} ] }}'
        ]
        for one in live:
            if isinstance(one, EnrolledControl):
                continue
            name = account(one.identity)
            self._known.add(name)
            accounts.append(
                f'"{name}": {{ users: [ {{user: "{user_name(one.identity)}"}} ], imports: [ {{service: {{account: TRAINSHED, '
                f'subject: "trainshed.api.u.{name}.{CALL}"}}, to: "trainshed.api.{CALL}"}} ] }}'
            )
        text = (
            f'listen: "127.0.0.1:{self.port}"\n'
            f"tls {{ cert_file: {pem}, key_file: {pem}, ca_file: {own}, verify_and_map: true, handshake_first: true, "
            f'min_version: "1.3", timeout: 3, pinned_certs: [{pins}] }}\n'
            "accounts {\n" + "\n".join(accounts) + "\n}\n"
        )
        (self.state_dir / "nats.conf").write_text(text)
