"""A stack that listens on a network of its own, and other machines' agents and people that join it by what is printed."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from services.enrol.roster import Roster
from services.enrol.roster_file import read_roster
from tests.integration.cluster.lan import Lan, Machine
from tests.support.stack import TRAINSHED, Done, Stack, clean_environment, marked, run_trainshed, until

QUICK = {"TRAINSHED_NODE_LOST_S": "2"}


class Site:
    """`trainshed cluster init` and `up --listen` on ``lan``'s address of this machine, whose own node has no GPU."""

    def __init__(self, folder: Path, lan: Lan) -> None:
        self.folder = folder
        self.lan = lan
        self.stack = Stack(
            folder / "control", gpus=0, node="control", options=("--listen", lan.address), environment=QUICK
        )
        self.agents: list[Agent] = []
        self.port, self.enrol_port = free_ports(lan.address)

    def initialise(self) -> Done:
        """`trainshed cluster init`."""
        ports = ("--port", str(self.port), "--enrol-port", str(self.enrol_port))
        made: Done = self.stack.trainshed(
            "cluster", "init", "--host", self.lan.address, "--node", "control", *ports
        )
        return made

    def close(self) -> None:
        """End it, its agents first."""
        for agent in self.agents:
            agent.end()
        self.stack.close()

    def token(self, node: str) -> str:
        """The line that `trainshed node add` prints."""
        return self._line("node", "add", node)

    def person_token(self, name: str, role: str) -> str:
        """The line that `trainshed user add` prints."""
        return self._line("user", "add", name, "--role", role)

    def _line(self, *words: str) -> str:
        (line,) = self.stack.trainshed(*words).lines
        return str(line)

    def agent(self, machine: Machine, name: str, *options: str, gpus: int = 2) -> Agent:
        """An agent on that machine, with a state folder called ``name``. Not started."""
        agent = Agent(self, machine, name, ["--gpus", str(gpus), "--cpus", "4", "--memory", "1000", *options])
        self.agents.append(agent)
        return agent

    def nodes(self) -> dict[str, dict[str, Any]]:
        """`trainshed nodes`, by name."""
        return {node["node"]: node for node in self.stack.trainshed("nodes", json=True)["nodes"]}

    def until_status(self, node: str, status: str, within: float = 30.0) -> None:
        """Wait until the node is that."""
        until(lambda: self.nodes().get(node, {}).get("status") == status, within, what=f"{node} is {status}")

    @property
    def roster(self) -> Roster:
        """Who is enrolled."""
        return read_roster(self.stack.state_dir / "cluster")


class Agent:
    """`trainshed agent` on a machine, its state folder there."""

    def __init__(self, site: Site, machine: Machine, name: str, options: Sequence[str]) -> None:
        self.machine = machine
        self.state_dir = site.folder / name
        self.log = site.folder / f"{name}.log"
        self.environment = clean_environment(self.state_dir)
        self._mark = site.stack.mark
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *words: str) -> None:
        """`trainshed agent` with these words."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.machine.inside(str(TRAINSHED), "agent", *self._options, *words),
                env=marked(self.environment, self._mark),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """Its process."""
        assert self._process is not None
        return self._process

    def said(self) -> str:
        """What it wrote."""
        return self.log.read_text(errors="replace")

    def ended(self, within: float = 20.0) -> int:
        """Wait for it to end by itself; its exit code."""
        return self.process.wait(within)

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it, if it runs; its workers go on."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
                return
            self._process.kill()
            self._process.wait()

    def trainshed(self, *words: str, code: int | None = 0) -> Done:
        """A command of somebody on that machine, with the agent's state folder."""
        return on_machine(self.machine, *words, environment=self.environment, code=code)


def on_machine(machine: Machine, *words: str, environment: dict[str, str], code: int | None = 0) -> Done:
    """One command on another machine, to its end."""
    return run_trainshed(*words, environment=environment, code=code, by=machine.inside())


def free_ports(address: str) -> tuple[int, int]:
    """Two ports that nobody has at that address."""
    with contextlib.ExitStack() as open_now:
        ports = [
            open_now.enter_context(socket.create_server((address, 0))).getsockname()[1] for _ in range(2)
        ]
    return ports[0], ports[1]


@contextlib.contextmanager
def listening_site(folder: Path, **environment: str) -> Iterator[Site]:
    """One that is up."""
    with Lan() as lan:
        site = Site(folder, lan)
        site.stack.environment.update(environment)
        try:
            site.initialise()
            site.stack.start()
            yield site
        finally:
            site.close()
