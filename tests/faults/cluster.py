"""A whole cluster as users have it: nats-server and every service as a process of its own, started again when it ends.

Owns processes, folders and environments; what is done to them is `faults`', what must hold is `checks`'.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from services import failpoints
from services.access.local_realm import Unconfined
from services.agent.processes import memory_cgroups, sweep
from services.agent.processes.sweep import Marks
from services.nats_server.embedded_nats import EmbeddedNats
from services.nats_server.nats_supervisor import NatsSupervisor
from tests.faults import launch, processes
from tests.faults.processes import MARK, Marked
from tests.faults.proxy import Proxy
from tests.support.stack import clean_environment
from trainshed_client.endpoint import Endpoint

AGAIN_AFTER_S = 0.1
NODES = ("a", "b")
GPUS = 2
SMALL_DISK_MB = 24
SERVER_DISK_MB = 64
"""A server that met a full disk is started again once 16 MiB are free."""
LAUNCHER = Path(__file__).with_name("launch.py")
NODE_LOST_S = 7
"""Above the 5 s at which a node is heard, so that a stopped agent counts as lost soon and a running one does not."""


class Role(enum.StrEnum):
    """What a process of the cluster is."""

    SERVER = "nats-server"
    GATEWAY = "gateway"
    DISPATCHER = "dispatcher"
    PROJECTOR = "projector"
    AGENT = "agent"


class Part:
    """One process that is started again whenever it ends, as a service manager does.

    ``own_ends`` are exit codes of ends that nobody asked for. `more` goes into the environment of the next start.
    """

    def __init__(self, name: str, role: Role, folder: Path) -> None:
        self.name = name
        self.role = role
        self.folder = folder
        self.wanted = True
        self.asked = False
        self.own_ends: list[str] = []
        self.more: dict[str, str] = {}
        self._held = asyncio.Event()
        self._held.set()

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        raise NotImplementedError

    async def keep(self) -> None:
        """Keep it running until cancelled."""
        raise NotImplementedError

    def hold(self) -> None:
        """Do not start it again until `release`."""
        self._held.clear()

    def release(self) -> None:
        """Start it again."""
        self._held.set()

    def kill(self, number: signal.Signals = signal.SIGKILL) -> bool:
        """Signal it; False where it does not run. From then on its end is asked for."""
        pid = self.pid
        if pid is None:
            return False
        self.asked = self.asked or number in (signal.SIGKILL, signal.SIGTERM)
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return False
        return True


class Server(Part):
    """The embedded nats-server, on the same store and port at each start, kept as `trainshed up` keeps it."""

    def __init__(self, folder: Path) -> None:
        super().__init__("nats-server", Role.SERVER, folder)
        self.embedded = EmbeddedNats(folder, Unconfined())
        self.ready = asyncio.Event()

    @property
    def pid(self) -> int | None:
        return self.embedded.pid

    async def keep(self) -> None:
        await self.embedded.start()
        self.ready.set()
        await NatsSupervisor(self.embedded).run()


class Service(Part):
    """One `trainshed gateway|dispatcher|projector|agent`."""

    def __init__(
        self, name: str, role: Role, folder: Path, words: tuple[str, ...], environment: Mapping[str, str]
    ) -> None:
        super().__init__(name, role, folder)
        self.log = folder.parent / f"{name}.log"
        self._words = words
        self._environment = dict(environment)
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def keep(self) -> None:
        while True:
            await self._held.wait()
            self.asked = False
            how = await self._once()
            if not self.asked and failpoints.ARMED not in self.more:
                self.own_ends.append(how)
            await asyncio.sleep(AGAIN_AFTER_S)

    async def _once(self) -> str:
        """Start it and wait for its end; how it ended."""
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", str(LAUNCHER), str(os.getpid()), *self._words),
                env={**self._environment, **self.more},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )
        try:
            code = await self._process.wait()
        except asyncio.CancelledError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            raise
        return f"exit code {code}: {_last_words(self.log)}"


class Cluster:
    """The processes under one folder. Everything they start bears `mark`."""

    def __init__(
        self, root: Path, *, dispatchers: int, small_disk: bool = False, bug: str | None = None
    ) -> None:
        self.root = root
        self.mark = secrets.token_hex(8)
        self.secret = f"sesame-{secrets.token_hex(12)}"
        self.witness = root / "witness"
        (self.witness / "locks").mkdir(parents=True)
        (root / "secret.txt").write_text(self.secret + "\n")
        self.server = Server(root / "server")
        self.server.folder.mkdir()
        self.proxies: dict[str, Proxy] = {}
        self.services: list[Service] = []
        self.disks: list[Path] = []
        self.skipped: dict[str, str] = {}
        self._dispatchers = dispatchers
        self._small_disk = small_disk
        self._bug = bug
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def endpoint(self) -> Endpoint:
        """The server, with credentials."""
        return self.server.embedded.endpoint

    @property
    def secret_file(self) -> Path:
        """Where workers' secret comes from: the one file that may hold it."""
        return self.root / "secret.txt"

    async def start(self) -> None:
        """Start everything; agents are behind proxies."""
        self._mount(self.server.folder, SERVER_DISK_MB)
        self._tasks.append(asyncio.create_task(self.server.keep()))
        async with asyncio.timeout(60):
            await self.server.ready.wait()
        port = int(self.endpoint.url.rpartition(":")[2])
        self._add("gateway", Role.GATEWAY, ("gateway",), port)
        for number in range(1, self._dispatchers + 1):
            self._add(f"dispatcher{number}", Role.DISPATCHER, ("dispatcher",), port)
        self._add("projector", Role.PROJECTOR, ("projector", "--records"), port)
        for node in NODES:
            self.proxies[node] = Proxy(port)
            await self.proxies[node].start()
            has = ("--gpus", str(GPUS), "--cpus", "4", "--memory", "4096")
            words = ("agent", "--node", node, *has)
            self._add(f"agent-{node}", Role.AGENT, words, self.proxies[node].port)
        self._tasks += [asyncio.create_task(each.keep()) for each in self.services]

    def _add(self, name: str, role: Role, words: tuple[str, ...], port: int) -> None:
        folder = self.root / name
        folder.mkdir()
        if role is Role.PROJECTOR or name == f"agent-{NODES[-1]}":
            self._mount(folder, SMALL_DISK_MB)
        environment = clean_environment(
            folder,
            {
                MARK: self.mark,
                "TRAINSHED_WORKER_ENV": MARK,
                "TRAINSHED_NATS_URL": f"nats://127.0.0.1:{port}",
                "TRAINSHED_NATS_USER": self.endpoint.user or "",
                "TRAINSHED_NATS_PASSWORD": self.endpoint.password or "",
                "TRAINSHED_NODE_LOST_S": str(NODE_LOST_S),
                "TRAINSHED_LOG_FORMAT": "json",
                "TRAINSHED_MIN_FREE_MB": "0",
                "PYTHONPATH": f"{launch.ROOT}:{launch.ROOT}/client",  # the code beside this suite, in every child
                **({launch.SEEDED_BUG: self._bug} if self._bug is not None else {}),
            },
        )
        self.services.append(Service(name, role, folder, words, environment))

    def _mount(self, folder: Path, mib: int) -> None:
        """Put it on a small disk, if there are to be any and this process may."""
        if self._small_disk:
            try:
                mount(folder, mib)
                self.disks.append(folder)
            except OSError as error:
                self.skipped["disk full"] = str(error)

    def of(self, role: Role) -> list[Service]:
        """The services of that role."""
        return [each for each in self.services if each.role is role]

    @property
    def parts(self) -> list[Part]:
        """Everything that is kept running."""
        return [self.server, *self.services]

    def marked(self) -> Iterator[Marked]:
        """Every living process of the cluster that bears its mark (nats-server does not)."""
        return processes.marked(self.mark)

    async def close(self) -> None:
        """End everything, whatever state it is in."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for part in self.parts:
            if (pid := part.pid) is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        await self.server.embedded.stop(within_s=0)
        logs = {each.variables.get("TRAINSHED_LOG_ID", "") for each in self.marked()} - {""}
        await asyncio.to_thread(processes.end_all, self.mark)
        for marks in (Marks(log_id, node) for log_id in logs for node in NODES):
            _remove_cgroups(sweep.cgroups_of(marks))
            _remove_cgroups(memory_cgroups.of_v1(marks))
        for proxy in self.proxies.values():
            await proxy.close()
        for disk in self.disks:
            unmount(disk)

    def delete(self) -> None:
        """Delete what it has written."""
        shutil.rmtree(self.root, ignore_errors=True)


def _last_words(log: Path) -> str:
    """The last line of a log, or where it ends in a traceback the error and the last place of ours in it."""
    lines = log.read_bytes()[-20_000:].decode(errors="replace").splitlines() or ["no words"]
    plain = [line for line in lines[-3:] if not line.startswith("{")]
    last = (plain or lines)[-1][:300]
    for line in reversed(lines) if not last.startswith("Error: ") else ():
        if line.startswith("{"):
            break
        if (
            place := re.search(r'File ".*/((?:services|projections|events|client)/[^"]+)", line (\d+)', line)
        ) is not None:
            return f"{last} ({place[1]}:{place[2]})"
    return last


def _remove_cgroups(parent: str) -> None:
    """What agents that were killed have left there: empty folders by now."""
    for folder, _, _ in os.walk(parent, topdown=False) if parent else ():
        with contextlib.suppress(OSError):
            os.rmdir(folder)


def mount(folder: Path, mib: int) -> None:
    """A small disk at that folder. Raises OSError where that is not permitted."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "faults", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(done.stderr.strip() or f"mount: exit code {done.returncode}")


def unmount(folder: Path) -> None:
    """Take it away again, whoever still has a file open there."""
    subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)
