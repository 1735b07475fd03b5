"""The compose stack as a user has it: compose.yaml and its image, on whatever Docker engine is here."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import docker
from docker.models.containers import Container

from tests.support.stack import Done, clean_environment, run_trainshed, until
from tests.support.wire import Wire
from trainshed_client.endpoint import Endpoint, read_endpoint

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("nats", "gateway", "dispatcher", "projector", "enrol", "agent")
RUNS = "/srv/trainshed/runs"
PERSON = "ada"
_KILL = "import os, sys; os.kill(int(sys.argv[1]), 9)"


def compose_command() -> list[str] | None:
    """`docker compose`, else `docker-compose`; None where neither is here."""
    for words in (["docker", "compose"], ["docker-compose"]):
        try:
            ended = subprocess.run([*words, "version"], capture_output=True, timeout=30, check=False)
        except FileNotFoundError:
            continue
        if ended.returncode == 0:
            return words
    return None


def build_environment() -> dict[str, str]:
    """What docker and compose need of ours; the classic builder where this client has no other."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "DOCKER_HOST")}
    buildx = subprocess.run(["docker", "buildx", "version"], capture_output=True, timeout=30, check=False)
    return (
        kept if buildx.returncode == 0 else {**kept, "DOCKER_BUILDKIT": "0", "COMPOSE_DOCKER_CLI_BUILD": "0"}
    )


def free_port() -> int:
    """A port that is free now; kept by a stack over restarts of its server."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ComposeStack:
    """One project of compose.yaml, which is not changed for it but by compose.test.yaml."""

    def __init__(self, project: str, tag: str, folder: Path) -> None:
        self.project = project
        self.tag = tag
        self.port = free_port()
        self.enrol_port = free_port()
        self.client = docker.from_env()
        self._folder = folder
        command = compose_command()
        assert command is not None
        files = ("compose.yaml", "tests/containers/compose.test.yaml")
        self._compose = [
            *command,
            "-p",
            project,
            *(word for file in files for word in ("-f", str(ROOT / file))),
        ]
        self._wire: Wire | None = None

    # --- its life -----------------------------------------------------------------------------------------

    def compose(self, *words: str, within: float = 150.0, stdin: bytes = b"") -> bytes:
        """A compose command on this project; its stdout."""
        ended = subprocess.run(
            [*self._compose, *words],
            env={
                **build_environment(),
                "TRAINSHED_TAG": self.tag,
                "TRAINSHED_PORT": str(self.port),
                "TRAINSHED_ENROL_PORT": str(self.enrol_port),
            },
            input=stdin,
            capture_output=True,
            timeout=within,
            cwd=ROOT,
            check=False,
        )
        assert ended.returncode == 0, f"compose {words}: {ended.stderr.decode()[-3000:]}\n{self.logs()}"
        return ended.stdout

    def up(self, *words: str) -> None:
        """`up -d`, and wait until everything is healthy."""
        self.compose("up", "-d", *words)
        self.healthy()
        if self._wire is None:
            self._wire = Wire(self.operator)

    def down(self) -> None:
        """Remove it with its volumes; fails the test where a message was none of the contract's."""
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.stop()
        self.compose("down", "-v", "--remove-orphans", "-t", "5")
        if wire is not None:
            wire.check()

    def logs(self, service: str | None = None) -> str:
        """The last lines that its containers wrote."""
        found = (
            self.containers(service) if service else self.client.containers.list(True, filters=self._mine())
        )
        return "\n".join(f"== {one.name}\n{one.logs(tail=25).decode(errors='replace')}" for one in found)

    def _mine(self, service: str | None = None) -> dict[str, list[str]]:
        labels = [f"com.docker.compose.project={self.project}"]
        return {"label": [*labels, f"com.docker.compose.service={service}"] if service else labels}

    def containers(self, service: str) -> list[Container]:
        """A service's containers, in order of their number."""
        found = self.client.containers.list(True, filters=self._mine(service))
        return sorted(found, key=lambda one: int(one.labels["com.docker.compose.container-number"]))

    def container(self, service: str) -> Container:
        """The one container of a service, as it is now."""
        (one,) = self.containers(service)
        return one

    def healthy(self, *services: str, within: float = 60.0) -> None:
        """Wait until every container of these services (all) is healthy."""

        def look() -> bool:
            found = [one for service in services or SERVICES for one in self.containers(service)]
            return bool(found) and all(
                one.attrs["State"].get("Health", {}).get("Status") == "healthy" for one in found
            )

        until(look, within, what=f"{services or SERVICES} healthy\n{self.logs()}")

    def kill(self, container: Container) -> None:
        """SIGKILL to its main process from outside, as the kernel does: Docker does not know who did it."""
        container.reload()
        began = container.attrs["State"]["StartedAt"]
        pid = container.attrs["State"]["Pid"]
        self.client.containers.run(
            f"trainshed:{self.tag}",
            ["-c", _KILL, str(pid)],
            entrypoint=["python3"],
            user="0:0",
            pid_mode="host",
            cap_add=["KILL"],
            network_mode="none",
            remove=True,
        )

        def started_again() -> bool:
            container.reload()
            return bool(
                container.attrs["State"]["Running"] and container.attrs["State"]["StartedAt"] != began
            )

        until(started_again, 30.0, what=f"{container.name} is started again")

    def inside(self, service: str, *words: str) -> str:
        """What a command in a service's container prints."""
        code, output = self.container(service).exec_run(list(words))
        text: str = output.decode()
        assert code == 0, text
        return text

    def get(self, service: str, path: str) -> str:
        """A page of a service, asked for in its container."""
        ask = f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:8080{path}').read().decode())"
        return self.inside(service, "python3", "-c", ask)

    # --- the command line on the host -----------------------------------------------------------------------

    @property
    def environment(self) -> dict[str, str]:
        """What a shell on the host has once somebody has logged in there, as docs/compose.md tells it."""
        environment = clean_environment(self._folder)
        if not (self._folder / "endpoint.json").exists():
            run_trainshed("login", self.token(PERSON, "admin"), environment=environment)
        return environment

    def token(self, person: str, role: str) -> str:
        """A line by which that person logs in."""
        command = ("trainshed", "user", "add", person, "--role", role, "--json")
        return str(json.loads(self.inside("enrol", *command))["token"])

    @property
    def endpoint(self) -> Endpoint:
        """The server as who has logged in on the host reaches it."""
        return read_endpoint(Path(self.environment["TRAINSHED_STATE_DIR"]))

    @property
    def operator(self) -> Endpoint:
        """The same as who hears everything."""
        folder = self._folder / "operator"
        folder.mkdir(exist_ok=True)
        own, trusted = folder / "operator.pem", folder / "operator-ca.crt"
        for file in (own, trusted):
            file.write_text(self.inside("enrol", "cat", f"/etc/trainshed/operator/{file.name}"))
        url = f"tls://localhost:{self.port}"
        return Endpoint(url, ca=str(trusted), cert=str(own), key=str(own), inbox_prefix="_INBOX_operator")

    def trainshed(self, *words: str, code: int | None = 0, within: float = 60.0) -> Done:
        """A command on the host."""
        return run_trainshed(*words, environment=self.environment, code=code, within=within)

    def json(self, *words: str) -> Any:
        """The answer of a command with `--json`."""
        return self.trainshed(*words, "--json").json

    def submit(self, script: str, **fields: Any) -> str:
        """Submit a shell script as a run; its id."""
        file = self._folder / "config.json"
        file.write_text(json.dumps(config(script, **fields)))
        return str(self.json("submit", "-f", str(file))["run_id"])

    def tell(self, *runs: str) -> None:
        """Let runs that wait to be told go on (each agent has its own folder of a run: told wherever it is)."""
        for run in runs:
            folder = f"{RUNS}/{run}"
            for agent in self.containers("agent"):
                code, output = agent.exec_run(["sh", "-c", f"mkdir -p {folder} && touch {folder}/go"])
                assert code == 0, output

    def record(self, run: str) -> Mapping[str, Any]:
        """A run's record."""
        record: Mapping[str, Any] = self.json("show", run)["run"]
        return record

    def running(self, *runs: str) -> None:
        """Wait until these runs run."""
        until(lambda: all(self.record(run)["status"] == "RUNNING" for run in runs), 30.0, what=f"{runs} run")

    def ended(self, *runs: str, within: float = 90.0) -> list[Mapping[str, Any]]:
        """The records of runs once they have ended."""
        words = ("wait", "-q", "--timeout", str(int(within)), *runs, "--json")
        records: list[Mapping[str, Any]] = self.trainshed(*words, code=None, within=within + 20).json["runs"]
        return records

    def events(self) -> list[dict[str, Any]]:
        """The event log."""
        return [json.loads(line) for line in self.trainshed("events").lines]

    def node(self, agent: Container) -> str:
        """The name that the node of an agent's container keeps in its state."""
        code, output = agent.exec_run(["cat", "/var/lib/trainshed/node.json"])
        assert code == 0, output
        return str(json.loads(output)["node"])

    def nodes(self) -> dict[str, str]:
        """The status of each node by name."""
        return {node["node"]: node["status"] for node in self.json("nodes")["nodes"]}

    def holds(self) -> None:
        """The invariants that the log can show (`audit verify`, and no slot with two holders)."""
        self.trainshed("audit", "verify")
        holders: dict[tuple[str, int], str] = {}
        grants = 0
        for event in self.events():
            data, kind = event["data"], event["type"].split(".")[2]  # trainshed.run.dispatched.v1
            if kind == "dispatched":
                grants += 1
                for slot in data["slots"]:
                    place = (data["node"], slot)
                    assert place not in holders, f"{place} is held by {holders[place]}: {event}"
                    holders[place] = f"{data['run_id']}/{data['attempt']}"
            elif kind in ("completed", "failed", "cancelled", "timed_out"):
                run = f"{data['run_id']}/{data.get('attempt')}"
                holders = {place: holder for place, holder in holders.items() if holder != run}
        assert grants


def config(script: str, **fields: Any) -> dict[str, Any]:
    """A run config for a shell script; each is a run of its own."""
    return {
        "run_name": fields.pop("run_name", "script"),
        "entry_point": "/bin/sh",
        "arguments": ["-c", script],
        "resources": {"gpus": {"requested": 1}},
        "submission_key": os.urandom(8).hex(),
        **fields,
    }


def series(page: str) -> Iterator[tuple[str, float]]:
    """Name with labels, and value, of each series of a Prometheus page."""
    for line in page.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            yield name, float(value)
