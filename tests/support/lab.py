"""A lab as users have it: a nats-server and each service as a process of its own, to be stopped and killed one by one."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.nats import NatsServer
from tests.support.stack import TRAINSHED, Stack, clean_environment, marked, until
from tests.support.wire import Wire
from trainshed_client.client import Trainshed
from trainshed_client.endpoint import Endpoint
from trainshed_client.errors import TrainshedError
from trainshed_client.nats_client import connect
from trainshed_client.nats_connection import NatsConnection


class Lab(Stack):
    """The command line of `Stack` on processes that the test starts by name; each has a state folder of its own."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        super().__init__(root / "client")
        self.root = root
        self._runner = asyncio.Runner()
        self._server = NatsServer(root / "nats")
        self._runner.run(self._server.embedded.start())
        self.wire = Wire(self.endpoint)
        endpoint = self.endpoint
        self._endpoint = {
            "NATS_URL": endpoint.url,
            "TRAINSHED_NATS_USER": endpoint.user or "",
            "TRAINSHED_NATS_PASSWORD": endpoint.password or "",
        }
        self.environment |= self._endpoint
        self._services: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def endpoint(self) -> Endpoint:
        """Where its server listens."""
        return self._server.endpoint

    def launch(
        self,
        name: str,
        *words: str,
        state: str | None = None,
        program: Sequence[str] = (str(TRAINSHED),),
        **more: str,
    ) -> None:
        """Start `trainshed WORDS`, as ``program``; ``more`` goes into its environment."""
        environment = clean_environment(self.root / (state or name), {**self._endpoint, **more})
        with (self.root / f"{name}.log").open("ab") as log:
            self._services[name] = subprocess.Popen(
                [*program, *words],
                env=marked(environment, self.mark),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def of(self, name: str) -> subprocess.Popen[bytes]:
        """A process."""
        return self._services[name]

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal; after SIGKILL wait for its end."""
        process = self._services[name]
        process.send_signal(number)
        if number is signal.SIGKILL:
            process.wait(10)

    def log_of(self, name: str) -> str:
        """What it has written."""
        return (self.root / f"{name}.log").read_text(errors="replace")

    def call(self, call: str, request: Mapping[str, Any]) -> Any:
        """One call of the API from this process: for what is asked again and again."""

        async def ask() -> bytes:
            nc = await connect(self.endpoint, name="test")
            try:
                return await Trainshed(NatsConnection(nc, self.endpoint.url)).call(call, request)
            finally:
                await nc.close()

        return json.loads(self._runner.run(ask()))

    def show(self, run: str) -> dict[str, Any]:
        """What `trainshed show` is made of."""
        view: dict[str, Any] = self.call("run.get", {"run_id": run})
        return view

    def status(self, node: str) -> str | None:
        """A node's status; None while it is not known, or nobody answers yet."""
        try:
            nodes = self.call("node.list", {})["nodes"]
        except TrainshedError:
            return None
        return next((str(one["status"]) for one in nodes if one["node"] == node), None)

    def placed(self, run: str, node: str, attempt: int = 1) -> int:
        """Wait until the attempt runs there; its worker's pid."""

        def look() -> int:
            found = [one for one in self.show(run)["attempts"] if one["attempt"] == attempt]
            return int(found[0]["pid"] or 0) if found and found[0]["node"] == node else 0

        return until(look, 30.0, what=f"attempt {attempt} of {run} on {node}")

    def close(self) -> None:
        """End everything that it ever started; fails the test where a message was none of the contract's."""
        assert self.wire is not None
        self.wire.stop()
        try:
            for process in self._services.values():
                if process.poll() is None:
                    os.kill(process.pid, signal.SIGKILL)
                    process.wait(10)
            until(self._swept, 20.0, what="no process of the lab left")
        finally:
            self._runner.run(self._server.close())
            self._runner.close()
        self.wire.check()
