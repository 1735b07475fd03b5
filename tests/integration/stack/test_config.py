"""What a run config makes of a worker, and what is refused, through the command line."""

from __future__ import annotations

import asyncio
import enum
import json
import math
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.support.stack import Stack
from trainshed_client import Trainshed, TrainshedError

TELL = """
import json, os, sys
config = None
if "--config" in sys.argv:
    with open(sys.argv[sys.argv.index("--config") + 1]) as file:
        config = json.load(file)
json.dump({"argv": sys.argv[1:], "config": config, "env": dict(os.environ), "cwd": os.getcwd()}, sys.stdout)
"""
"""A worker that tells what it was given."""

GUI: dict[str, Any] = {
    "run_name": "ppo-1",
    "entry_point": "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable,
    "arguments": ["-m", "my_worker.cli"],
    "environment": {},
    "resources": {"cpus": 2, "memory_mb": 2048, "gpus": {"requested": 0, "mandatory": False}},
    "artifacts": {"output_prefix": "runs/ppo-1", "persist_logs": True, "keep_checkpoints": False},
    "schedule": {"max_duration_seconds": 3600},
    "metadata": {
        "ui": {"algo": "ppo"},
        "worker": {
            "worker_id": "w1",
            "module": "my_worker.cli",
            "arguments": ["--seed", "1"],
            "config": {"run_id": "x", "env_id": "CartPole-v1", "extras": {}},
        },
    },
}
"""What an existing trainer GUI sends."""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder for PYTHONPATH that holds the package my_worker."""
    (tmp_path / "site" / "my_worker").mkdir(parents=True)
    (tmp_path / "site" / "my_worker" / "__init__.py").touch()
    (tmp_path / "site" / "my_worker" / "cli.py").write_text(TELL)
    return tmp_path / "site"


def _told(stack: Stack, run: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(stack.stdout(run))
    return told


def test_what_a_trainer_gui_sends_runs_its_module(stack: Stack, site: Path) -> None:
    run = stack.submit_config({**GUI, "environment": {"PYTHONPATH": str(site)}})
    (record,) = stack.wait(run)
    told = _told(stack, run)
    assert record["name"] == "ppo-1"
    assert (record["cpus"], record["gpus"], record["slots"]) == (2, 0, [])
    assert told["argv"][:2] == ["--seed", "1"]
    assert told["argv"][-2:] == ["--worker-id", "w1"]
    assert told["config"] == {"run_id": run, "env_id": "CartPole-v1", "extras": {}}
    assert told["env"]["TRAINER_WORKER_CONFIG_PATH"] == told["argv"][told["argv"].index("--config") + 1]
    assert told["env"]["WORKER_ID"] == "w1"
    assert told["env"]["CUDA_VISIBLE_DEVICES"] == ""
    assert stack.show(run)["config"]["metadata"] == GUI["metadata"]


def test_the_older_worker_wins_over_entry_point_and_arguments(stack: Stack, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(TELL)
    run = stack.submit_config(
        {
            "entry_point": "/bin/false",
            "arguments": ["--passed-over"],
            "metadata": {"worker": {"script": str(script), "arguments": ["--seed", "7"]}},
        }
    )
    (record,) = stack.wait(run)
    assert record["name"] == "train.py"
    assert _told(stack, run)["argv"] == ["--seed", "7"]


class Algorithm(enum.StrEnum):
    """As programs have such words."""

    PPO = "ppo"


async def test_a_config_is_one_run_in_yaml_json_and_python_and_the_worker_gets_what_was_sent(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tell.py").write_text(TELL)
    key = uuid.uuid4().hex
    (tmp_path / "run.yaml").write_text(f"""\
entry_point: {sys.executable}
working_dir: {tmp_path}
submission_key: {key}
metadata:
  worker:
    script: tell.py
    use_grpc: true
    arguments: [--lr, 1e-4, --on, yes, 012]
    config: {{lr: 1e-4, betas: [.9, 999e-3], steps: 1E5, algorithm: ppo, clip: null}}
""")
    worker: dict[str, Any] = {
        "script": "tell.py",
        "use_grpc": True,
        "arguments": ["--lr", "1e-4", "--on", "yes", "012"],
        "config": {"lr": 0.0001, "betas": [0.9, 0.999], "steps": 100000.0, "algorithm": "ppo", "clip": None},
    }
    config = {
        "entry_point": sys.executable, "working_dir": str(tmp_path), "submission_key": key, "metadata": {"worker": worker},
    }  # fmt: skip
    (tmp_path / "run.json").write_text(json.dumps(config))
    answers = [
        await asyncio.to_thread(stack.trainshed, "submit", "-f", str(tmp_path / name), json=True)
        for name in ("run.yaml", "run.json")
    ]
    monkeypatch.setenv("TRAINSHED_STATE_DIR", str(stack.state_dir))
    worker["config"] |= {"betas": (0.9, 0.999), "algorithm": Algorithm.PPO}
    async with await Trainshed.connect() as trainshed:
        again = await trainshed.submit(config)
        worker["config"] |= {"clip": math.inf, "data": b"x"}
        with pytest.raises(TrainshedError) as refused:
            await trainshed.submit(config)
    assert [wrong.path for wrong in refused.value.errors] == [
        "metadata.worker.config.clip",
        "metadata.worker.config.data",
    ]
    run = again.run_id
    assert [answer["run_id"] for answer in answers] == [run, run]
    assert (answers[0]["created"], answers[1]["created"], again.created) == (True, False, False)
    await asyncio.to_thread(stack.wait, run)
    told = await asyncio.to_thread(_told, stack, run)
    assert told["argv"][:5] == ["--lr", "1e-4", "--on", "yes", "012"]
    sent = {"lr": 0.0001, "betas": [0.9, 0.999], "steps": 100000.0, "algorithm": "ppo", "clip": None}
    assert told["config"] == {**sent, "run_id": run}


def test_a_command_is_no_shell_text_and_placeholders_alone_are_filled_in(stack: Stack) -> None:
    text = "{{run_id}} {{attempt}} {{run_dir}} {{node}} {{other}} {run_id} $HOME `id` *; exit 3"
    run = stack.submit_config(
        {
            "entry_point": sys.executable,
            "arguments": ["-c", TELL, text],
            "environment": {"WHERE": "{{run_dir}}/ckpt", "{{node}}": "a name is no place for one"},
        }
    )
    stack.wait(run)
    told = _told(stack, run)
    folder = str(stack.run_dir(run))
    assert told["argv"] == [f"{run} 1 {folder} box {{{{other}}}} {{run_id}} $HOME `id` *; exit 3"]
    assert told["env"]["WHERE"] == f"{folder}/ckpt"
    assert told["env"]["{{node}}"] == "a name is no place for one"
    assert told["cwd"] == folder


def test_the_workers_environment_is_the_contracts(stack: Stack) -> None:
    run = stack.submit("--gpus", "1", "--", sys.executable, "-c", TELL, cwd=stack.state_dir)
    stack.wait(run)
    env = _told(stack, run)["env"]
    ours = {name for name in env if name.startswith(("TRAINSHED_", "NATS_"))}
    assert ours == {
        *("TRAINSHED_LOG_ID", "TRAINSHED_RUN_ID", "TRAINSHED_ATTEMPT", "TRAINSHED_NODE", "TRAINSHED_RUN_DIR"),
        *("TRAINSHED_CPUS", "TRAINSHED_MEMORY_MB", "TRAINSHED_SLOTS", "TRAINSHED_SOCKET"),
    }
    assert (env["TRAINSHED_CPUS"], env["TRAINSHED_MEMORY_MB"]) == ("1", "0")
    assert env["TRAINSHED_SLOTS"] == env["CUDA_VISIBLE_DEVICES"]
    assert env["TRAINSHED_RUN_ID"] == run
    assert env["TRAINSHED_ATTEMPT"] == "1"
    assert env["TRAINSHED_NODE"] == "box"
    assert env["TRAINSHED_RUN_DIR"] == str(stack.run_dir(run))
    assert env["CUDA_VISIBLE_DEVICES"] in ("0", "1")
    assert env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert "NOTIFY_SOCKET" in env


def test_secrets_reach_the_worker_and_nothing_else(stack: Stack, tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("t0k3n-in-a-file\n")
    # What is submitted is in the log, so it does not spell them out.
    check = 'test "$A" = "t0k3n"-in-a-file && test "$B" = "s3cr3t"-of-the-node'
    run = stack.submit("--secret", f"A=file:{secret}", "--secret", "B=env:STACK_SECRET", shell=check)
    (record,) = stack.wait(run)
    assert record["status"] == "COMPLETED"
    values = (b"t0k3n-in-a-file", b"s3cr3t-of-the-node")
    told = [
        stack.trainshed("events").stdout,
        stack.trainshed("show", run).stdout,
        stack.trainshed("ls", "--json").stdout,
        stack.said().encode(),
    ]
    # A worker's own output is its own affair (another test's tells all of its environment).
    paths = [path for path in stack.state_dir.rglob("*") if path.is_file() and path.name != "stdout.log"]
    files = [path.read_bytes() for path in paths]
    assert len(files) > 10
    assert [value for value in values for text in (*told, *files) if value in text] == []


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ({"file": "/no/such/secret"}, "/no/such/secret: no such file"),
        ({"env": "NOT_SET_ON_THE_NODE"}, "NOT_SET_ON_THE_NODE is not set"),
    ],
)
def test_a_secret_that_the_node_lacks_fails_the_run_and_says_why(
    stack: Stack, source: dict[str, str], why: str
) -> None:
    run = stack.submit_config({"entry_point": "/bin/true", "secrets": {"TOKEN": source}})
    (record,) = stack.wait(run, code=125)
    assert record["failure_reason"] == "spawn_error"
    assert why in stack.trainshed("show", run).text


def test_a_working_dir_that_does_not_exist_is_named(stack: Stack) -> None:
    run = stack.submit_config({"entry_point": "/bin/true", "working_dir": "/no/such/folder"}, "--no-check")
    (record,) = stack.wait(run, code=125)
    assert record["failure_reason"] == "spawn_error"
    assert "working_dir /no/such/folder: no such folder" in stack.trainshed("show", run).text


BAD: list[tuple[str, bytes, str]] = [
    ("no JSON", b'{"entry_point": ', "stdin"),
    ("no object", b'["/bin/true"]', "object"),
    ("nothing", b"", "stdin"),
    ("unknown field", b'{"entry_point": "/bin/true", "gpus": 1}', "gpus"),
    ("unknown field inside", b'{"entry_point": "/bin/true", "resources": {"gpu": 1}}', "resources.gpu"),
    ("a key twice", b'{"entry_point": "/bin/true", "priority": 1, "priority": 2}', "priority"),
    ("a float", b'{"entry_point": "/bin/true", "resources": {"cpus": 2.0}}', "resources.cpus"),
    ("a boolean", b'{"entry_point": "/bin/true", "priority": true}', "priority"),
    ("too small", b'{"entry_point": "/bin/true", "resources": {"cpus": 0}}', "resources.cpus"),
    ("not a number", b'{"entry_point": "/bin/true", "metadata": {"x": NaN}}', "NaN"),
    ("a nul byte", b'{"entry_point": "/bin/true", "arguments": ["a\\u0000b"]}', "arguments[0]"),
    ("a name with =", b'{"entry_point": "/bin/true", "environment": {"A=B": "c"}}', "environment"),
    ("relative working_dir", b'{"entry_point": "/bin/true", "working_dir": "here"}', "working_dir"),
    ("no worker", b'{"run_name": "x"}', "entry_point"),
    ("a run that is not there", b'{"entry_point": "/bin/true", "after": ["nosuchrun"]}', "after[0]: no run has the id or the name 'nosuchrun'"),
    ("more than there is", b'{"entry_point": "/bin/true", "resources": {"gpus": {"requested": 3}}}', "resources.gpus.requested"),
    ("too large", b'{"entry_point": "/bin/true", "metadata": {"x": "' + b"y" * 300_000 + b'"}}', "262,144"),
    ("a credential", b'{"entry_point": "/bin/true", "environment": {"WANDB_API_KEY": "k"}}', "environment.WANDB_API_KEY"),
    ("a token", b'{"entry_point": "/bin/true", "environment": {"HF_TOKEN": "k"}}', "environment.HF_TOKEN"),
    ("a password", b'{"entry_point": "/bin/true", "metadata": {"db": {"password": "k"}}}', "metadata.db.password"),
]  # fmt: skip


def test_bad_input_is_refused_by_the_fields_name_and_appends_nothing(stack: Stack) -> None:
    before = stack.trainshed("ls", json=True)["seq"]
    wrong = []
    for what, config, named in BAD:
        done = stack.trainshed("submit", "-f", "-", stdin=config, code=None)
        if done.code != 2 or named not in done.stderr or done.stdout:
            wrong.append((what, done))
    assert wrong == []
    assert stack.trainshed("ls", json=True)["seq"] == before


def test_a_refused_credential_says_what_to_write_instead(stack: Stack) -> None:
    done = stack.trainshed("submit", "--env", "OPENAI_API_KEY=sk-12345", "--", "true", code=2)
    assert "environment.OPENAI_API_KEY" in done.stderr
    assert "secrets" in done.stderr
    assert "sk-12345" not in done.stderr


def test_one_bad_config_of_a_sweep_refuses_all(stack: Stack, tmp_path: Path) -> None:
    before = stack.trainshed("ls", json=True)["seq"]
    sweep = tmp_path / "sweep.jsonl"
    sweep.write_text(
        '{"entry_point": "/bin/true"}\n{"entry_point": "/bin/true", "resources": {"cpus": -1}}\n'
    )
    done = stack.trainshed("submit", "-f", str(sweep), code=2)
    assert "resources.cpus" in done.stderr
    assert stack.trainshed("ls", json=True)["seq"] == before
