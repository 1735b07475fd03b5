"""docs/from-one-box-to-five.md, typed from its first line to its last: each machine is a state folder, all on loopback."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.played_page import blocks
from tests.support.stack import Stack, clean_environment, marked

FIVE = (Path(__file__).resolve().parents[3] / "docs/from-one-box-to-five.md").read_text()
PROMPT = re.compile(r"^(\w+)\$ ", re.MULTILINE)
TOKEN = re.compile(r"ts1-[a-z0-9-]+@[\w.:]+")
ADDRESS = "10.0.0.1"
"""That of the page; it is 127.0.0.1 here."""
OF_A_MACHINE = "--cpus 2 --memory 1000"


class Reader:
    """Who types, on all of the machines. ``line``: what `node add` or `user add` printed last."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stack = Stack(folder / "hub", node="hub", environment={"TRAINSHED_NODE_LOST_S": "2"})
        self.line = ""
        self.agents: list[int] = []
        with contextlib.ExitStack() as probes:
            bound = [probes.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
            self.port, self.enrol_port = (one.getsockname()[1] for one in bound)

    def here(self, command: str) -> str:
        """A command as it is typed on a machine that shares this one's ports, GPUs and memory with the others."""
        command = command.replace("ts1-…@10.0.0.1:4224", self.line).replace(ADDRESS, "127.0.0.1")
        command = command.replace(
            "cluster init", f"cluster init --port {self.port} --enrol-port {self.enrol_port}"
        )
        command = re.sub(r"\bup\b", f"up --node hub --gpus 0 {OF_A_MACHINE}", command)
        return command.replace("agent --detach", f"agent --detach --gpus 2 {OF_A_MACHINE}")

    def type(self, machine: str, command: str) -> str:
        """What the terminal shows."""
        folder = self.folder / machine
        folder.mkdir(exist_ok=True, mode=0o700)
        own = clean_environment(folder, {"PATH": f"{sysconfig.get_path('scripts')}:/usr/bin:/bin"})
        environment = marked({**self.stack.environment, **own, "NO_COLOR": "1"}, self.stack.mark)
        output = self.folder / "typed.out"
        with output.open("wb") as file:  # what goes on in the background keeps it open
            subprocess.run(
                ["/bin/sh", "-c", self.here(command)],
                env=environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                timeout=90,
                check=False,
            )
        shown = output.read_text()
        if found := TOKEN.search(shown):
            self.line = found[0]
        if started := re.search(r"the agent runs \(pid (\d+)\)", shown):
            self.agents.append(int(started[1]))
        for ours, theirs in ((self.port, 4222), (self.enrol_port, 4224), ("127.0.0.1", ADDRESS)):
            shown = shown.replace(str(ours), str(theirs))
        return shown.strip("\n")

    def close(self) -> None:
        """End all of it."""
        for pid in self.agents:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        self.stack.trainshed("down", "--stop-workers", code=None)
        self.stack.close()


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    one = Reader(tmp_path)
    try:
        yield one
    finally:
        one.close()


def typed() -> Iterator[tuple[str, str, str]]:
    """Machine, command, and what the page shows below it."""
    for block in blocks(FIVE):
        if block.kind == "console":
            _, *parts = PROMPT.split(block.text)
            for machine, text in zip(parts[::2], parts[1::2], strict=True):
                command, _, shown = text.partition("\n")
                yield machine, command, shown.strip("\n")


def as_shown(page: str) -> re.Pattern[str]:
    """Where the page has ``…`` there is anything; spaces may be more or fewer."""
    parts = (r"\s+".join(map(re.escape, re.split(r"\s+", part))) for part in page.split("…"))
    return re.compile(r"\s*" + ".*".join(parts) + r"\s*", re.DOTALL)


@pytest.mark.timeout(300)
def test_the_page_is_typed_as_it_stands(reader: Reader) -> None:
    assert {machine for machine, _, _ in typed()} == {"hub", "laptop", "gpu01", "gpu02", "gpu03", "gpu04"}
    for machine, command, shown in typed():
        said = reader.type(machine, command)
        if command.startswith("trainshed node remove"):  # the page's reader waits until it counts as lost
            deadline = time.monotonic() + 30
            while "is up: its agent was heard" in said and time.monotonic() < deadline:
                said = reader.type(machine, command)
        assert as_shown(shown).fullmatch(said), f"{machine}$ {command}\n{said}\nthe page has:\n{shown}"
        assert "Traceback" not in said
        if command.startswith("trainshed ls --label"):
            assert set(re.findall(r"\bgpu0\d\b", said)) == {"gpu01", "gpu02", "gpu03", "gpu04"}, "over all"
