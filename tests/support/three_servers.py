"""Three real nats-servers as docs/three-servers.md sets them up, by its own lines; only that they are on loopback here.

Owns their processes and ports, and what is read from the page; who connects to them is the test's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import shutil
import signal
import socket
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

import nats.errors

from events.feed import ApiError, api_call, read_answer
from services.access.identities import ControlRole
from services.three_servers.layout import three
from trainshed_client import subjects
from trainshed_client.endpoint import Endpoint, read_credentials, write_private
from trainshed_client.nats_client import SafeClient, connect

_SERVER = Path(sysconfig.get_path("scripts")) / "nats-server"


_PAGE = (Path(__file__).resolve().parents[2] / "docs" / "three-servers.md").read_text()
_RUN = re.compile(
    r"^TRAINSHED_CREDENTIALS=/etc/trainshed/credentials/(\S+)\.json (?:TRAINSHED_REPLICAS=(\d) )?trainshed (.+)$",
    re.MULTILINE,
)


class ServiceLine(NamedTuple):
    """A line of the page that runs a service."""

    stem: str
    replicas: str
    words: tuple[str, ...]


def page_services() -> list[ServiceLine]:
    """The services that the page starts."""
    return [ServiceLine(stem, copies, tuple(words.split())) for stem, copies, words in _RUN.findall(_PAGE)]


def _page_words(command: str) -> list[str]:
    """What follows ``python -m services.three_servers COMMAND three`` on the page."""
    (line,) = re.findall(
        rf"^\.venv/bin/python -m services\.three_servers {command} three(.*)$", _PAGE, re.MULTILINE
    )
    return shlex.split(line)


class ThreeServers:
    """The files, made as the page has it, in ``folder``; `start` and `kill` are of one server by its name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.machines = folder.with_name("etc")
        """Where those have their credentials who connect."""
        words = _page_words("make")
        self.words = [f"{word}:{_ports()}" if "=" in word else word for word in words]
        self.words = [re.sub(r"=10\.0\.0\.\d", "=127.0.0.1", word) for word in self.words]
        self.words[words.index("--at") + 1] = str(self.machines)
        self.servers = three([word for word in self.words if "=" in word])
        self.names = [server.name for server in self.servers]
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._clients: list[SafeClient] = []

    async def make(self, *more: str) -> None:
        """Make the files by the command of the page, and ``more``, and copy the credentials to where they are used."""
        await self._command("make", str(self.folder), *self.words, *more)
        for file in (self.folder / "credentials").iterdir():
            if not file.stem.startswith("operator"):
                write_private(self.machines / "credentials" / file.name, file.read_bytes())

    async def make_streams(self) -> None:
        """Make the streams, likewise."""
        await self._command("streams", str(self.folder), *_page_words("streams"))

    async def _command(self, *words: str) -> None:
        command = (sys.executable, "-m", "services.three_servers", *words)
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        _, said = await process.communicate()
        assert process.returncode == 0, said.decode()

    async def start(self, *names: str) -> None:
        """Start servers (all, if none is named), each in its folder."""
        for name in names or self.names:
            with (self.folder / name / "stderr").open("ab") as stderr:
                self._processes[name] = await asyncio.create_subprocess_exec(
                    *(str(_SERVER), "-c", "server.conf"),
                    cwd=self.folder / name,
                    stdout=stderr,
                    stderr=stderr,
                    start_new_session=True,
                )

    def read_again(self) -> None:
        """Have each server read its configuration again."""
        for process in self._processes.values():
            process.send_signal(signal.SIGHUP)

    async def kill(self, *names: str) -> None:
        """SIGKILL servers, and see them gone."""
        for name in names:
            os.kill(self._processes[name].pid, signal.SIGKILL)
        for name in names:
            await self._processes[name].wait()

    def lose_disk(self, name: str) -> None:
        """What a server that does not run has stored is gone."""
        shutil.rmtree(self.folder / name / "store")

    def credentials(self, stem: str) -> Path:
        """The file by which somebody connects; the operator's stays where it was made."""
        folder = self.folder if stem == "operator" else self.machines
        return folder / "credentials" / f"{stem}.json"

    def endpoint(self, stem: str) -> Endpoint:
        """The same as an endpoint."""
        return read_credentials(self.credentials(stem), given_by="the test")

    async def client(self, stem: str) -> SafeClient:
        """A connection of somebody, closed with the rest."""
        nc = await connect(self.endpoint(stem), name=f"test-{stem}", forever=True, on_error=lambda _: None)
        self._clients.append(nc)
        return nc

    async def leader(self, nc: SafeClient, stream: str = subjects.EVENTS_STREAM) -> str:
        """Who leads a stream now, asked until somebody does."""
        while True:
            with contextlib.suppress(TimeoutError, nats.errors.Error, ApiError):
                answer = await nc.request(f"$JS.API.STREAM.INFO.{stream}", b"", timeout=0.5)
                info = read_answer(answer.data)
                if leader := (info.get("cluster") or {}).get("leader"):
                    return str(leader)
            await asyncio.sleep(0.05)

    async def whole(self, nc: SafeClient, stream: str = subjects.EVENTS_STREAM) -> None:
        """Return once every copy of a stream is current."""
        while True:
            with contextlib.suppress(TimeoutError, nats.errors.Error, ApiError):
                cluster = (await api_call(nc, f"STREAM.INFO.{stream}")).get("cluster") or {}
                replicas = cluster.get("replicas") or []
                if (
                    cluster.get("leader")
                    and len(replicas) == 2
                    and all(one.get("current") for one in replicas)
                ):
                    return
            await asyncio.sleep(0.1)

    async def close(self) -> None:
        """End connections and servers."""
        for client in self._clients:
            with contextlib.suppress(Exception):
                await client.close()
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def operator_stem() -> str:
    """Whose connection may make streams."""
    return ControlRole.OPERATOR.value


def _ports() -> str:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(3)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return ":".join(str(one.getsockname()[1]) for one in sockets)
