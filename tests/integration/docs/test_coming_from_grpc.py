"""docs/coming-from-grpc.md: its program as it stands there, and each call by plain nats-py, as an older client's sender would."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import nats
import nats.errors
import pytest
from nats.aio.client import Client

from tests.support.stack import Stack
from trainshed_client.answers import decode_run
from trainshed_client.older_statuses import OlderStatus, older_outcome, older_status

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/coming-from-grpc.md").read_text()
WITHIN_S = 30.0
NewStack = Callable[..., Stack]


def file_of_the_page(name: str) -> str:
    (found,) = re.findall(rf"(?ms)^```python\n(# {name}: .*?)^```", PAGE)
    return str(found)


@pytest.fixture
def stack(new_stack: NewStack, tmp_path: Path) -> Stack:
    """One whose workers can import trainshed_client."""
    (tmp_path / "project").mkdir()
    return new_stack(environment={"PYTHONPATH": str(ROOT / "client"), "TRAINSHED_WORKER_ENV": "PYTHONPATH"})


async def test_the_pages_program_does_what_it_prints(stack: Stack, tmp_path: Path) -> None:
    project = tmp_path / "project"
    for name in ("worker.py", "trainer.py"):
        (project / name).write_text(file_of_the_page(name).replace("/home/me/project", str(project)))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "trainer.py"),
        cwd=project,
        env=stack.environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await asyncio.wait_for(process.communicate(), WITHIN_S)
    assert process.returncode == 0, errors.decode()
    lines = re.sub(r"since \d+", "since N", out.decode()).splitlines()
    (shown,) = re.findall(r"(?ms)^```\n(healthy.*?)^```", PAGE)
    assert [line for line in shown.splitlines() if line in lines] == lines
    assert set(shown.splitlines()) - set(lines) <= {"INIT", "HANDSHAKE"}


OLDER: dict[str, Any] = {
    "run_name": "ppo-cartpole-form",
    "entry_point": "python3",
    "arguments": ["-m", "older_worker.cli"],
    "environment": {"OLDER_FASTLANE": "0"},
    "resources": {"cpus": 1, "memory_mb": 512, "gpus": {"requested": 0, "mandatory": False}},
    "artifacts": {"output_prefix": "runs/ppo-cartpole-form", "persist_logs": True, "keep_checkpoints": False},
    "schedule": {"max_duration_seconds": 3600, "max_steps": 10000},
    "metadata": {
        "ui": {
            "worker_id": "cartpole_worker",
            "algo": "ppo",
            "env_id": "CartPole-v1",
            "dry_run": False,
            "tabs": ["tensorboard"],
        },
        "artifacts": {
            "tensorboard": {"enabled": True, "relative_path": "tensorboard"},
            "wandb": {"enabled": False, "run_path": None},
        },
        "worker": {
            "worker_id": "cartpole_worker",
            "module": "older_worker.cli",
            "script": None,
            "use_grpc": True,
            "grpc_target": "127.0.0.1:50055",
            "agent_id": "agent_1",
            "worker_type": "rl",
            "schema_version": 2,
            "supports_pause": True,
            "arguments": ["--seed", "1"],
            "config": {
                "run_id": "ppo-cartpole-form",
                "algo": "ppo",
                "env_id": "CartPole-v1",
                "total_timesteps": 10000,
                "schema_id": "telemetry.step.cartpole",
                "schema_definition": {"type": "object", "properties": {}},
                "extras": {"video": None},
            },
        },
    },
}
"""As an older GUI's form sends it, with what its own daemon reads in `metadata` and nobody here knows."""


class Sender:
    """A client that has nats-py and nothing of ours."""

    def __init__(self, nc: Client) -> None:
        self.nc = nc

    async def call(self, name: str, request: object) -> dict[str, Any]:
        reply = await self.nc.request(f"trainshed.api.{name}", json.dumps(request).encode(), timeout=10)
        answer: dict[str, Any] = json.loads(reply.data)
        return answer

    async def present(self, since_seq: int) -> list[dict[str, Any]]:
        """The records of the bucket that changed after an event, by one page of direct gets."""
        inbox = self.nc.new_inbox()
        replies = await self.nc.subscribe(inbox)
        page = {"seq": 1, "batch": 500, "next_by_subj": "$KV.trainshed_runs.>"}
        await self.nc.publish("$JS.API.DIRECT.GET.KV_trainshed_runs", json.dumps(page).encode(), reply=inbox)
        found: list[dict[str, Any]] = []
        while True:
            message = await replies.next_msg(10)
            if (message.headers or {}).get("Status") is not None:
                await replies.unsubscribe()
                return [record for record in found if record["seq"] > since_seq]
            if message.data:
                found.append(json.loads(message.data))


@pytest.fixture
async def sender(stack: Stack) -> AsyncIterator[Sender]:
    endpoint = json.loads((stack.state_dir / "endpoint.json").read_text())
    nc = await nats.connect(endpoint["url"], user=endpoint.get("user"), password=endpoint.get("password"))
    yield Sender(nc)
    await nc.close()


async def test_plain_nats_py_submits_watches_cancels_lists_and_asks_for_health(
    stack: Stack, sender: Sender, tmp_path: Path
) -> None:
    worker = "import sys\n" + file_of_the_page("worker.py") + "\n"
    (tmp_path / "project/older_worker").mkdir()
    (tmp_path / "project/older_worker/cli.py").write_text(
        worker.replace(
            "notify.ready()", "print(*sys.argv[1:], open(sys.argv[-3]).read(), flush=True)\nnotify.ready()"
        )
    )
    config = {**OLDER, "working_dir": str(tmp_path / "project"), "submission_key": uuid.uuid4().hex}

    health = await sender.call("health", {})  # GetHealth
    assert (health["ok"], health["v"]) == (True, 1)
    before = health["seq"]

    heard = await sender.nc.subscribe("trainshed.watch.runs.>")  # WatchRuns
    await sender.nc.flush()
    submitted = await sender.call("run.submit", config)  # SubmitRun
    assert submitted["created"] is True
    run = submitted["run_id"]
    assert await sender.call("run.submit", config) == {**submitted, "created": False, "status": ANY}

    seen: list[OlderStatus] = []
    last: dict[str, Any] = {}
    async with asyncio.timeout(WITHIN_S):
        while not last.get("ended_at"):
            message = await heard.next_msg(WITHIN_S)
            assert message.subject == f"trainshed.watch.runs.{run}"
            last = json.loads(message.data)
            status = older_status(decode_run(message.data))
            if status not in seen:
                seen.append(status)
                if status is OlderStatus.EXECUTING:
                    again = await sender.call("run.cancel", {"run_id": run, "reason": "seen enough"})
                    assert (again["run_id"], again["status"]) == (run, "RUNNING")
    order = list(OlderStatus)
    assert seen == sorted(seen, key=order.index)
    assert set(seen) >= {OlderStatus.READY, OlderStatus.EXECUTING, OlderStatus.TERMINATED}
    assert older_outcome(decode_run(json.dumps(last).encode())) == "canceled"
    assert last["step"] >= 1
    assert last["primary_metric"] is None

    assert [record["run_id"] for record in await sender.present(before)] == [run]
    assert await sender.present(last["seq"]) == []  # nothing is shown twice
    ended = await sender.call("run.cancel", {"run_id": run})
    assert ended["status"] == "CANCELLED"
    listed = await sender.call("run.list", {"status": ["CANCELLED"]})  # ListRuns
    assert [record["run_id"] for record in listed["runs"]] == [run]

    view = await sender.call("run.get", {"run_id": run})
    assert view["config"]["metadata"] == OLDER["metadata"]  # what nobody here knows is kept
    told = stack.stdout(run)
    assert "--grpc" not in told
    assert told.startswith("--seed 1 --config ")
    assert "--worker-id cartpole_worker" in told
    assert json.loads(told[told.index("{") :]) == {**OLDER["metadata"]["worker"]["config"], "run_id": run}


async def test_what_has_no_equal_or_is_wrong_is_answered_at_once(sender: Sender) -> None:
    with pytest.raises(nats.errors.NoRespondersError):
        await sender.call("worker.register", {"run_id": "x", "worker_id": "w"})
    refused = await sender.call("run.submit", {**OLDER, "run_id": "01J0000000000000000000000"})
    assert (refused["error"]["code"], refused["error"]["path"]) == ("invalid", "run_id")
    missing = await sender.call("run.cancel", {"run_id": "a" * 26})
    assert missing["error"]["code"] == "not_found"
