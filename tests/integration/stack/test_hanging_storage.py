"""A whole stack whose run folders are on storage that hangs: what goes on meanwhile, what waits, and how it ends."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.hanging import HANGS_READS, HangingStorage, hanging_storage
from tests.support.stack import TRAINSHED, Stack, marked, run_trainshed, until

HUNG = 50
HUNG_MEMORY_MB = 10
NewStack = Callable[..., Stack]


@pytest.fixture(params=HANGS_READS)
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[HangingStorage]:
    """Storage of each kind."""
    with hanging_storage(request.param, tmp_path / "shared") as mounted:
        yield mounted


@pytest.fixture
def stack(storage: HangingStorage, new_stack: NewStack) -> Iterator[Stack]:
    """A stack whose runs' folders are there. It is ended when the storage answers."""
    one = new_stack(gpus=0, cpus=HUNG + 10, environment={"TRAINSHED_RUNS_DIR": str(storage.folder / "runs")})
    yield one
    with contextlib.suppress(subprocess.CalledProcessError):  # it may answer already
        storage.answer()


@contextlib.contextmanager
def other_node(stack: Stack) -> Iterator[None]:
    """An agent of another node, with storage of its own and the only GPU."""
    state = stack.state_dir.with_name("other")
    command = ["agent", "--node", "other", "--gpus", "1", "--cpus", "1", "--memory", str(HUNG_MEMORY_MB - 1)]
    with state.with_name("other.log").open("wb") as log:
        agent = subprocess.Popen(
            [TRAINSHED, *command],
            env=marked({**stack.other_node(state), "TRAINSHED_RUNS_DIR": str(state / "runs")}, stack.mark),
            stdout=log,
            stderr=log,
        )
    try:
        until(lambda: "other" in stack.trainshed("nodes").text, what="the other node joins")
        yield
    finally:
        agent.terminate()
        agent.wait(10)


def submit_many(stack: Stack) -> list[str]:
    """As many runs as are to hang."""
    config = {"entry_point": "/bin/true", "resources": {"memory_mb": HUNG_MEMORY_MB}}
    batch = stack.state_dir.with_name("batch.jsonl")
    batch.write_text(
        "".join(json.dumps({**config, "submission_key": str(number)}) + "\n" for number in range(HUNG))
    )
    done = stack.trainshed("submit", "--json", "-f", str(batch))
    return [json.loads(line)["run_id"] for line in done.lines]


def test_with_50_grants_hung_everything_else_goes_on_and_down_ends(
    stack: Stack, storage: HangingStorage
) -> None:
    with other_node(stack):
        storage.hang()
        hung = submit_many(stack)
        assert len(hung) == HUNG
        attempts = stack.state_dir / "attempts"
        until(lambda: len(list(attempts.glob("*/1/intent.json"))) == HUNG, what="all of them are granted")

        elsewhere = stack.submit("--gpus", "1", "--", "/bin/echo", "from elsewhere")
        stack.wait(elsewhere)
        assert stack.trainshed("logs", elsewhere).text == "from elsewhere\n"
        assert hung[0] in stack.trainshed("ls", "--json").text
        assert "once storage answers" in stack.trainshed("explain", hung[0]).text
        stack.trainshed("cancel", hung[0])
        (record,) = stack.wait(hung[0], code=125)
        assert (record["status"], record["started_at"]) == ("CANCELLED", None)

        begun = time.monotonic()
        ended = run_trainshed("down", environment=stack.environment, within=20)
        assert time.monotonic() - begun < 10, ended
        storage.answer()
        stack.process.wait(10)
        stack.start()
        records = stack.wait(*hung[1:], timeout="60s")
        assert {record["status"] for record in records} == {"COMPLETED"}
    assert stack.trainshed("audit", "verify", json=True)["ok"] is True


def test_a_worker_that_hangs_keeps_its_slot_until_it_is_gone_and_explain_says_so(
    stack: Stack, storage: HangingStorage
) -> None:
    writes = 'while :; do date >"$TRAINSHED_RUN_DIR/now"; sleep 0.01; done'
    run = stack.submit(shell=writes)
    stack.running(run)
    storage.hang()
    time.sleep(0.5)
    stack.trainshed("cancel", run)
    until(lambda: any(e["type"].endswith("stopping.v1") for e in stack.events(run)), what="a Stopping")
    assert stack.record(run)["status"] == "RUNNING"
    assert "keeps what it holds until its processes are gone" in stack.trainshed("explain", run).text
    storage.answer()
    (record,) = stack.wait(run, code=125)
    assert record["status"] == "CANCELLED"


@pytest.mark.parametrize("storage", ["stopped"], indirect=True)
def test_an_output_request_is_told_that_the_storage_does_not_answer(
    stack: Stack, storage: HangingStorage
) -> None:
    run = stack.submit("--", "/bin/echo", "out")
    stack.wait(run)
    storage.hang()
    done = stack.trainshed("logs", run, code=None, within=20.0)
    assert done.code != 0
    assert "does not answer" in done.stderr
    storage.answer()
    assert stack.trainshed("logs", run).text == "out\n"


@pytest.mark.parametrize("storage", ["stopped"], indirect=True)
def test_down_stops_launches_that_hang_and_they_start_under_the_next_stack(
    new_stack: NewStack, storage: HangingStorage
) -> None:
    shutil.copy("/bin/echo", storage.folder)
    stack = new_stack(gpus=0, cpus=10)
    storage.hang()
    hung = [stack.submit("--", str(storage.folder / "echo"), str(number)) for number in range(6)]
    stack.wait(stack.submit("--", "/bin/true"))
    assert {stack.record(run)["status"] for run in hung} == {"DISPATCHING"}
    stack.trainshed("cancel", hung[0])
    stack.wait(hung[0], code=125)
    begun = time.monotonic()
    run_trainshed("down", "--stop-workers", environment=stack.environment, within=20)
    assert time.monotonic() - begun < 10
    storage.answer()
    stack.process.wait(10)
    stack.start()
    assert {record["status"] for record in stack.wait(*hung[1:], timeout="60s")} == {"COMPLETED"}
    assert stack.trainshed("audit", "verify", json=True)["ok"] is True
