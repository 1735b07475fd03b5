"""The running nats-server of a state folder, told by another process to read anew who gets in, and nobody dropped by it.

Owns that order (checked first, read twice, tried as a stranger); must not know who gets in.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import sysconfig
from pathlib import Path

from services.nats_server.kept_ports import KeptPorts, kept_at
from services.nats_server.monitor import get
from services.nats_server.server_config import REALM_FILE, Realm
from services.nats_server.web_socket import WebSocketListener
from services.setting_values import Listen
from trainshed_client.endpoint import write_private
from trainshed_client.errors import ErrorCode, TrainshedError

CHECK_WITHIN_S = 10.0
READ_WITHIN_S = 10.0
STRANGER_WITHIN_S = 3.0
_POLL_S = 0.01
_CANDIDATE, _CANDIDATE_REALM = "candidate.conf", "candidate-realm.conf"


class RunningServer:
    """`apply` has it read who gets in. ``at``: where it listens; ``pages``: whether it has a listener for pages in a browser."""

    def __init__(self, state_dir: Path, realm: Realm, at: Listen, *, pages: bool = False) -> None:
        self._folder = state_dir / "nats"
        self._realm = realm
        self._at = at
        self._pages = pages

    async def apply(self) -> None:
        """Returns once what the realm has now counts, for who connects from now on and for who is connected.

        Raises TrainshedError (UNAVAILABLE) where the server does not run or did not take it, and OSError; what counted
        before counts on then.
        """
        kept = kept_at(self._folder / "server.json")
        if kept is None:
            raise _not("it has never been started here")
        await self._check(kept)
        monitor_url = f"http://127.0.0.1:{kept.monitor_port}"
        # What a new account imports is answered from the second time on (docs/attacks.md).
        for _ in range(2):
            before = await _loaded_at(monitor_url)
            os.kill(self._pid(), signal.SIGHUP)
            await _until_loaded(monitor_url, before)
        await refuse_open_to_strangers(self._at)

    async def _check(self, kept: KeptPorts) -> None:
        """Put it in place where the server would take it. An empty or broken file would open the server or end it."""
        candidate = self._folder / _CANDIDATE

        def write() -> str:
            text = self._realm.text(kept.password, self._listener(kept))
            write_private(self._folder / _CANDIDATE_REALM, text.encode())
            server = (self._folder / "server.conf").read_text()
            write_private(
                candidate, server.replace(json.dumps(REALM_FILE), json.dumps(_CANDIDATE_REALM)).encode()
            )
            return text

        await asyncio.to_thread(write)
        await check_configuration(candidate)
        await asyncio.to_thread(os.replace, self._folder / _CANDIDATE_REALM, self._folder / REALM_FILE)

    def _listener(self, kept: KeptPorts) -> WebSocketListener | None:
        if not self._pages or kept.web_port is None or kept.web_password is None:
            return None
        return WebSocketListener(kept.web_port, kept.web_password, ())

    def _pid(self) -> int:
        try:
            pid = int((self._folder / "server.pid").read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            raise _not("it does not run") from None
        if str(self._folder / "server.conf").encode() not in command.split(b"\0"):
            raise _not("it does not run")
        return pid


async def check_configuration(candidate: Path) -> None:
    """Have nats-server read a configuration without serving it. Raises TrainshedError (UNAVAILABLE) with what it finds."""
    binary = Path(sysconfig.get_path("scripts")) / "nats-server"
    checking = await asyncio.create_subprocess_exec(
        *(str(binary), "-t", "-c", str(candidate)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(CHECK_WITHIN_S):
            found, _ = await checking.communicate()
    except TimeoutError:
        checking.kill()
        await checking.wait()
        raise _not(f"its check took over {CHECK_WITHIN_S:g} s") from None
    if checking.returncode != 0:
        raise _not(f"it does not take what is to count: {found.decode(errors='replace').strip()[-500:]}")


async def refuse_open_to_strangers(at: Listen) -> None:
    """Try as one who has no certificate. Raises TrainshedError (UNAVAILABLE) where he is let in."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    heard = b""
    try:
        async with asyncio.timeout(STRANGER_WITHIN_S):
            reader, writer = await asyncio.open_connection(at.host, at.port, ssl=context)
            try:
                heard = await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return
    if heard.startswith(b"INFO"):
        raise _not("it lets in who has no certificate: stop it (trainshed down), and see its realm.conf")


async def _loaded_at(monitor_url: str) -> str:
    answer = await get(monitor_url, "/varz", within_s=2.0)
    if answer is None:
        raise _not("its monitoring does not answer")
    try:
        return str(json.loads(answer[1])["config_load_time"])
    except (ValueError, KeyError):
        raise _not("its monitoring does not say when it read its configuration") from None


async def _until_loaded(monitor_url: str, before: str) -> None:
    try:
        async with asyncio.timeout(READ_WITHIN_S):
            while await _loaded_at(monitor_url) == before:
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise _not(f"it did not take it within {READ_WITHIN_S:g} s; see its log") from None


def _not(why: str) -> TrainshedError:
    return TrainshedError(ErrorCode.UNAVAILABLE, f"nats-server cannot be made to know who gets in: {why}")
