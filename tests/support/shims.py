"""Real workers in a state folder of their own: prepares attempts, collects their events, and looks at processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from services.agent.folders import files
from services.agent.folders.files import ExitFile, IntentFile, StopReason
from services.agent.processes import sweep
from services.agent.processes.workers import (
    ShimExited,
    WorkerEvent,
    WorkerHeartbeat,
    Workers,
    WorkerStarted,
    boot_id,
)
from tests.support.deadline import eventually

T = TypeVar("T", WorkerStarted, ShimExited)

DAEMON = """
import os, sys, time
def daemonise(path):
    if os.fork():
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    import signal
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with open(path + ".tmp", "w") as file:
        file.write(str(os.getpid()))
    os.rename(path + ".tmp", path)
    time.sleep(600)
    os._exit(0)
"""
"""Python text with a `daemonise(path)` that leaves a grandchild in a session of its own, deaf to SIGTERM."""

NOTIFY = """
import os, socket
_notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
def notify(text):
    _notify.sendto(text.encode() if isinstance(text, str) else text, os.environ["NOTIFY_SOCKET"])
"""
"""Python text with a `notify(text)` as any sd_notify client has it."""


class Box:
    """One agent's `Workers` with its attempts; `close` ends every process that it started."""

    def __init__(self, state_dir: Path, environment: dict[str, str] | None = None) -> None:
        self.state_dir = state_dir
        state_dir.mkdir(parents=True, exist_ok=True)
        # Unlike any other test's: the sweep looks at every process of the machine.
        self.log_id, self.node = f"log-{os.getpid()}-{id(self)}", "box"
        self._environment = environment
        self.events: list[WorkerEvent] = []
        self.workers = self._new()
        self._reader: asyncio.Task[None] | None = None

    def _new(self) -> Workers:
        return Workers(
            state_dir=self.state_dir, log_id=self.log_id, node=self.node, environment=self._environment
        )

    async def open(self) -> None:
        """Start the workers' side and collect its events."""
        await self.workers.start()
        self._reader = asyncio.create_task(self._collect())

    async def let_go(self) -> None:
        """Stop the agent's side; workers live on."""
        await self.workers.stop()
        if self._reader is not None:
            await self._reader
            self._reader = None

    async def restart(self) -> None:
        """Another agent on the same state folder."""
        await self.let_go()
        self.events.clear()
        self.workers = self._new()
        await self.open()

    async def close(self) -> None:
        """End everything."""
        await self.workers.sweep([])
        await self.let_go()

    async def _collect(self) -> None:
        async for event in self.workers.events():
            self.events.append(event)

    def prepare(
        self,
        run: str,
        *,
        attempt: int = 1,
        node_timeout_s: float | None = None,
        memory_mb: int = 0,
        **config: Any,
    ) -> Path:
        """An attempt's folder with its intent; `config` is the launch."""
        run_id = run.ljust(26, "a")
        folder = self.state_dir / "attempts" / run_id / str(attempt)
        run_dir = self.state_dir / "runs" / run_id
        output = run_dir / "attempts" / str(attempt)
        output.mkdir(parents=True, exist_ok=True)
        files.prepare_folder(folder)
        files.write_intent(
            folder,
            IntentFile(
                seq=1,
                boot_id=boot_id(),
                run_id=run_id,
                attempt=attempt,
                node=self.node,
                host="here",
                log_id=self.log_id,
                launch=config,
                memory_mb=memory_mb,
                run_dir=str(run_dir),
                output_dir=str(output),
                sockets=str(self.workers.sockets_dir),
                heartbeat_timeout_s=node_timeout_s,
            ),
        )
        return folder

    async def launch(self, run: str, **config: Any) -> Path:
        """Prepare and launch."""
        folder = self.prepare(run, **config)
        await self.workers.launch(folder)
        return folder

    async def python(self, run: str, code: str, **config: Any) -> Path:
        """Launch a worker that runs `code`."""
        return await self.launch(run, entry_point=sys.executable, arguments=["-S", "-c", code], **config)

    def marked(self, folder: Path | None = None) -> list[int]:
        """Pids with this box's log id in their environment, and the run of an attempt where one is named."""
        marks = {f"TRAINSHED_LOG_ID={self.log_id}".encode()}
        if folder is not None:
            marks.add(f"TRAINSHED_RUN_ID={folder.parent.name}".encode())
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if marks <= set(path.read_bytes().split(b"\0")):
                    found.append(int(path.parent.name))
            except OSError:
                continue
        return found

    def run_dir(self, folder: Path) -> Path:
        """The run's folder of an attempt."""
        return self.state_dir / "runs" / folder.parent.name

    def output(self, folder: Path, stream: str = "stdout") -> str:
        """What the worker wrote so far."""
        path = self.run_dir(folder) / "attempts" / folder.name / f"{stream}.log"
        return path.read_text() if path.exists() else ""

    async def said(self, folder: Path, text: str = "") -> str:
        """Wait until the worker's stdout holds `text`, and return all of it."""
        return await eventually(lambda: self.output(folder) if text in self.output(folder) else "", 10.0)

    async def started(self, folder: Path) -> WorkerStarted:
        """Wait for its start."""
        return await self._event(folder, WorkerStarted)

    async def heartbeat(
        self, folder: Path, when: Callable[[files.HeartbeatFields], object]
    ) -> files.HeartbeatFields:
        """Wait for a heartbeat of that kind."""

        def found() -> WorkerHeartbeat | None:
            beats = [
                each for each in self.events if isinstance(each, WorkerHeartbeat) and each.folder == folder
            ]
            return next((each for each in beats if when(each.heartbeat)), None)

        event = await eventually(found, 10.0)
        assert event is not None
        return event.heartbeat

    async def gone(self, folder: Path) -> ExitFile | None:
        """Wait for its shim's end."""
        return (await self._event(folder, ShimExited)).exit

    async def ended(self, folder: Path) -> ExitFile:
        """Wait for its end, which must be written."""
        record = await self.gone(folder)
        assert record is not None, (self.state_dir / "spawner.log").read_text()
        return record

    async def stop(self, folder: Path, reason: StopReason = StopReason.CANCEL) -> None:
        """Write stop.json and wake the shim."""
        files.write_stop(folder, reason, 7)
        await self.workers.ask_stop(folder)

    async def _event(self, folder: Path, kind: type[T]) -> T:
        def found() -> T | None:
            return next(
                (each for each in self.events if isinstance(each, kind) and each.folder == folder), None
            )

        event = await eventually(found, 15.0)
        assert event is not None
        return event


@contextlib.asynccontextmanager
async def box(state_dir: Path, environment: dict[str, str] | None = None) -> AsyncIterator[Box]:
    """A box that is open in the block, and nothing of it is left afterwards."""
    made = Box(state_dir, environment)
    await made.open()
    try:
        yield made
    finally:
        await made.close()


def alive(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def pid_in(path: Path) -> int:
    """Wait for a file with a pid, and read it."""
    await eventually(path.exists, 10.0)
    return int(path.read_text())


def kill(pid: int) -> None:
    """SIGKILL."""
    os.kill(pid, signal.SIGKILL)


@pytest.fixture(params=["cgroup", "walk"])
def found_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to find a worker's processes: in its cgroup (skipped where none can be had), and without one."""
    if request.param == "walk":
        monkeypatch.setattr(sweep, "cgroups_of", lambda _marks: "")
    elif not sweep.cgroups_of(sweep.Marks("", "")):
        pytest.skip("no cgroup v2 can be had here")
