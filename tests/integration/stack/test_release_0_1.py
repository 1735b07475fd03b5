"""What release 0.1 left behind, taken up by today's code: its log, its state folder, and live shims that it started."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from events.types import AttemptRef, Cancelled, Failed, Started
from projections.read_model.rows import row_from
from projections.read_model.state_hash import MODULUS, hashed_fields
from services.agent.folders import files
from services.agent.folders.paths import Folders
from services.agent.processes import sweep
from services.agent.processes.sockets import sockets_dir
from services.agent.processes.workers import boot_id
from tests.integration.agent.stage import NODE, Stage, new_ref
from tests.support import NatsServer, eventually
from tests.support.read_model import dump, fold, memory
from tests.support.stack import Stack, alive
from trainshed_client.direct_get import Message
from trainshed_client.rendering.timeline import text_of_stored
from trainshed_client.statuses import FailureReason

RELEASE = Path(__file__).parents[2] / "release_0_1"
EXPECTED: dict[str, Any] = json.loads((RELEASE / "expected.json").read_text())
STATE_DIR = "/tmp/trainshed-0.1/state"
"""Where its state folder was."""
ENDED_SINCE = {
    "running": ("FAILED", 1, None, None, "shim_lost"),
    "ended away": ("FAILED", 1, 5, None, "exit_code"),
    "stopping": ("CANCELLED", 1, 6, None, None),
    "queued": ("COMPLETED", 1, 0, None, None),
}
"""What becomes of the runs that were live when it was killed, and the machine rebooted."""


def _state_folder(to: Path) -> Path:
    """Its state folder, as if it had always been there."""
    with tarfile.open(RELEASE / "state.tar.gz") as tar:
        tar.extractall(to, filter="data")
    for intent in (to / "state/attempts").glob("*/*/intent.json"):
        intent.write_text(intent.read_text().replace(STATE_DIR, str(to / "state")))
    return to / "state"


def _log() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (RELEASE / "log.jsonl").read_text().splitlines()]


def test_its_log_gives_the_rows_that_it_gave() -> None:
    database = memory()
    messages = [
        Message(each["seq"], each["stored_ns"], each["subject"], each["body"].encode()) for each in _log()
    ]
    fold(database, [messages])
    rows = dump(database)
    database.close()
    assert rows["quarantine"] == []
    told_alike, state_hash = True, 0
    for table, expected in EXPECTED["tables"].items():
        told = [_as_it_was(table, hashed_fields(row_from(table, row))) for row in rows[table]]
        told_alike &= [set(row) for row in told] == [set(row) for row in expected]
        state_hash += sum(_digest(table, row) for row in told)
        # A later release may have more to tell of a row, but nothing else of what was there.
        assert [
            {name: row.get(name) for name in then} for row, then in zip(told, expected, strict=True)
        ] == expected
    assert not told_alike or f"{state_hash % MODULUS:064x}" == EXPECTED["state_hash"]


def _as_it_was(table: str, row: dict[str, Any]) -> dict[str, Any]:
    """It kept a timeline as sentences: an entry's data must still make the same."""
    if table == "timeline":
        row["text"] = text_of_stored(row["type"], json.dumps(row.pop("data")))
    return row


def _digest(table: str, row: dict[str, Any]) -> int:
    """A row's part in the state hash, as docs/contracts/invariants.md has it."""
    return int.from_bytes(hashlib.sha256(msgspec.json.encode([table, row], order="sorted")).digest())


def test_its_state_folder_is_gone_on_from_after_a_reboot(tmp_path: Path) -> None:
    stack = Stack(_state_folder(tmp_path), gpus=2, cpus=8)
    try:
        stack.start()
        runs: dict[str, str] = EXPECTED["runs"]
        stack.wait(*runs.values(), code=None)
        records = {each["name"]: each for each in stack.trainshed("ls", "--all", json=True)["runs"]}
        before = {row["run_id"]: row for row in EXPECTED["tables"]["runs"]}
        columns = ("status", "attempt", "exit_code", "signal", "failure_reason")
        for name, run in runs.items():
            known = tuple(records[name][column] for column in columns)
            assert known == ENDED_SINCE.get(name, tuple(before[run][column] for column in columns)), name
        events = stack.events()
        assert [event["id"] for event in events[: len(_log())]] == [
            json.loads(each["body"])["id"] for each in _log()
        ]
        assert sorted(stack.trainshed("logs", runs["completed"]).lines) == sorted(
            ["begun", '{"type": "step", "step": 7}', "a warning", "done"]
        )
        assert stack.trainshed("logs", runs["ended away"]).text == "away\n"
        assert stack.stdout(runs["queued"]) == "waited for both\n"
        assert stack.holders() == [None, None]
        verdict = stack.trainshed("audit", "verify", "--files", json=True)
        assert verdict["ok"] is True
        files = verdict["files"]  # of what it ended the sizes of the output are not in the log
        counts = {"attempts": 14, "compared": 5, "unknown": 9, "output_unknown": 1, "artifacts": 1}
        assert {name: count for name, count in files.items() if count} == counts
        (stack.run_dir(runs["completed"]) / "artifacts.json").write_text("[]")
        (found,) = stack.trainshed("audit", "verify", "--files", json=True, code=1)["violations"]
        assert found["invariant"] == "I10" and "artifacts.json has the SHA-256" in found["message"]
    finally:
        stack.close()


@pytest.fixture
async def stage(nats_server: NatsServer, tmp_path: Path) -> Stage:
    return await Stage.set_up(nats_server, tmp_path)


class FirstRelease:
    """An agent of release 0.1 as far as its shims can tell: it prepares attempts and hands them over."""

    def __init__(self, stage: Stage) -> None:
        self.folders = Folders(stage.root / "node", stage.runs_dir)
        state_dir = self.folders.state_dir
        with tarfile.open(RELEASE / "state.tar.gz") as tar:
            read = {info.name: tar.extractfile(info) for info in tar if info.isfile()}
            texts = {
                name: file.read().decode() for name, file in read.items() if file and name.endswith("json")
            }
        self._mine = {
            EXPECTED["log_id"]: stage.log_id,
            '"node":"box"': f'"node":"{NODE}"',
        }
        folder = f"state/attempts/{EXPECTED['runs']['running']}/1"
        self._intent = texts[f"{folder}/intent.json"]
        self._sockets = sockets_dir(state_dir)
        self._cgroups = sweep.cgroups_of(sweep.Marks(stage.log_id, NODE))
        self.folders.make_roots()
        (state_dir / "node.json").write_text(self._of_here(texts["state/node.json"]))
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(RELEASE / "shim"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "TRAINSHED_LOG_ID": stage.log_id,
            "TRAINSHED_NODE": NODE,
        }

    def _of_here(self, text: str) -> str:
        for theirs, mine in self._mine.items():
            assert theirs in text
            text = text.replace(theirs, mine)
        return text

    @contextmanager
    def spawner(self) -> Iterator[socket.socket]:
        """Its spawner; killed as an agent is that goes away."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            with theirs:
                spawner = subprocess.Popen(
                    [
                        *(sys.executable, "-P", "-m", "services.agent.shim.spawner"),
                        *(str(theirs.fileno()), str(self._sockets), self._cgroups),
                    ],
                    cwd=self.folders.state_dir,
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
            try:
                yield ours
            finally:
                spawner.kill()
                spawner.wait()

    def start(self, requests: socket.socket, ref: AttemptRef, script: str) -> None:
        """Have a shim run the script."""
        self.folders.mark(ref)
        self.folders.make_run(ref)
        folder = self.folders.attempt(ref)
        files.prepare_folder(folder)
        intent = json.loads(self._of_here(self._intent))
        run_dir, output_dir = str(self.folders.run(ref.run_id)), str(self.folders.output(ref))
        intent |= {"boot_id": boot_id(), "run_id": ref.run_id, "run_dir": run_dir, "output_dir": output_dir}
        intent |= {"sockets": str(self._sockets)}
        intent["launch"]["arguments"] = ["-c", script]
        (folder / "intent.json").write_text(json.dumps(intent))
        requests.send(os.fsencode(folder))


async def test_live_shims_that_it_started_are_adopted_told_of_and_stopped(stage: Stage) -> None:
    release, gate = FirstRelease(stage), stage.root / "gate"
    ended, cancelled, away = new_ref(1), new_ref(2), new_ref(3)
    waits = f"while [ ! -e {gate} ]; do sleep 0.02; done"
    with release.spawner() as requests:
        release.start(requests, ended, f"echo before; {waits}; echo after; exit 5")
        release.start(requests, cancelled, "trap 'exit 9' TERM; echo up; while :; do sleep 0.02; done")
        release.start(requests, away, "exit 7")
        output = release.folders.output(cancelled) / "stdout.log"
        await eventually(lambda: output.exists() and output.read_text() == "up\n", 15)
        started = {ref: files.read_started(release.folders.attempt(ref)) for ref in (ended, cancelled)}
        assert all(started.values())
        await eventually(lambda: files.read_exit(release.folders.attempt(away)), 15)
    async with stage.agent():
        for ref, file in started.items():
            assert file is not None
            assert (await stage.told(ref, Started)).pid == file.pid
            assert alive(file.pid)
        told = await stage.ended(away)
        assert isinstance(told, Failed)
        assert (told.failure_reason, told.exit_code) == (FailureReason.EXIT_CODE, 7)
        gate.touch()
        told = await stage.ended(ended)
        assert isinstance(told, Failed)
        assert (told.failure_reason, told.exit_code) == (FailureReason.EXIT_CODE, 5)
        assert (release.folders.output(ended) / "stdout.log").read_text() == "before\nafter\n"
        await stage.order_stop(cancelled)
        told = await stage.ended(cancelled)
        assert isinstance(told, Cancelled) and told.exit_code == 9
        assert [file for file in started.values() if file and alive(file.shim_pid)] == []
        assert [await stage.words(ref) for ref in (ended, cancelled, away)] == [
            ["started", "failed"],
            ["started", "cancelled"],
            ["started", "failed"],
        ]
