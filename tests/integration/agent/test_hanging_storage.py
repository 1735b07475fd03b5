"""Run folders on storage that hangs: what the agent's node and the rest of the stack go on with."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from events.types import Cancelled, Completed, Failed, OutputBytes, TimedOut
from tests.integration.agent.stage import NODE, Stage, new_ref, python
from tests.integration.agent.test_output import NOTIFY
from tests.support import NatsServer, eventually
from tests.support.hanging import HANGS_READS, HangingStorage, hanging_storage
from trainshed_client import subjects


@pytest.fixture(params=HANGS_READS)
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[HangingStorage]:
    """Storage of each kind."""
    with hanging_storage(request.param, tmp_path / "shared") as mounted:
        yield mounted


def test_the_storage_really_hangs_and_answers_again(storage: HangingStorage) -> None:
    for name in ("first", "second"):
        made = threading.Event()

        def make(path: Path = storage.folder / name, made: threading.Event = made) -> None:
            path.mkdir()
            made.set()

        storage.hang()
        threading.Thread(target=make, daemon=True).start()
        assert not made.wait(0.5)
        storage.answer()
        assert made.wait(10)


@pytest.fixture
async def stage(nats_server: NatsServer, tmp_path: Path, storage: HangingStorage) -> Stage:
    """A node whose runs' folders are on that storage, and its state is not."""
    stage = await Stage.set_up(nats_server, tmp_path)
    stage.runs_dir = storage.folder / "runs"
    return stage


async def prune(stage: Stage, *runs: dict[str, object]) -> Any:
    """The node's answer."""
    body = msgspec.json.encode({"runs": runs, "dry_run": False})
    answer = await stage.nc.request(subjects.api(f"node.{NODE}.prune"), body, timeout=20)
    return msgspec.json.decode(answer.data)


async def test_what_hangs_starts_when_its_storage_answers_or_is_cancelled_before(
    stage: Stage, storage: HangingStorage
) -> None:
    waits, cancelled = new_ref(1), new_ref(2)
    marks = stage.root / "launches"
    script = f"open({str(marks)!r}, 'a').write('x')"
    async with stage.agent():
        storage.hang()
        for slot, ref in enumerate((waits, cancelled)):
            await stage.dispatch(ref, python(script), slots=(slot,))
        await stage.order_stop(cancelled)
        end = await stage.ended(cancelled)
        assert isinstance(end, Cancelled) and end.duration_s is None
        assert await stage.unacknowledged() == 0
        assert await stage.words(waits) == []
        assert not marks.exists()
        storage.answer()
        assert isinstance(await stage.ended(waits), Completed)
        assert marks.read_text() == "x"
    assert await stage.words(cancelled) == ["cancelled"]


async def test_an_agent_starts_and_joins_while_its_storage_hangs(
    stage: Stage, storage: HangingStorage
) -> None:
    async with stage.agent():
        pass
    storage.hang()
    async with stage.agent():
        ref = new_ref()
        await stage.dispatch(ref, python("print('out')"))
        storage.answer()
        assert isinstance(await stage.ended(ref), Completed)


async def test_metrics_that_cannot_be_written_hold_up_no_limit_and_no_end(
    stage: Stage, storage: HangingStorage
) -> None:
    ref = new_ref()
    script = f"""{NOTIFY}
step = 0
while True:
    step += 1
    say(f"X_STEP={{step}}\\nX_METRIC_loss=1")
    time.sleep(0.005)
"""
    launch = {
        **python(script, working_dir="/"),
        "schedule": {"max_duration_seconds": 2.5},
        "stop": {"grace_s": 0},
    }
    path = stage.runs_dir / ref.run_id / "attempts" / "1" / "metrics.jsonl"
    async with stage.agent():
        await stage.dispatch(ref, launch)
        await eventually(lambda: path.exists() and path.stat().st_size > 0)
        storage.hang()
        end = await stage.ended(ref)
        assert isinstance(end, TimedOut) and end.last_heartbeat is not None
        assert end.last_heartbeat.step is not None and end.last_heartbeat.step > 100
        await stage.dispatch(new_ref(2), python("pass"), slots=(0,))  # what it held is free
        await stage.order_stop(new_ref(2))
        assert isinstance(await stage.ended(new_ref(2)), Cancelled)
        storage.answer()
    steps = [msgspec.json.decode(line)["step"] for line in path.read_bytes().splitlines()]
    assert steps == list(range(1, len(steps) + 1))


async def test_a_pruning_that_hangs_holds_up_nothing_and_ends_when_its_storage_answers(
    stage: Stage, storage: HangingStorage
) -> None:
    ref = new_ref()
    async with stage.agent():
        await stage.dispatch(ref, python("print('out')"))
        assert isinstance(await stage.ended(ref), Completed)
        await eventually(lambda: not (stage.root / "node/open" / f"{ref.run_id}.1").exists())
        storage.hang()
        pruning = asyncio.create_task(prune(stage, {"run_id": ref.run_id, "attempt": 1}))
        await asyncio.sleep(0.5)
        assert (await prune(stage))["kept"] == []
        await stage.dispatch(new_ref(2), python("pass"), slots=(1,))
        await stage.order_stop(new_ref(2))
        assert isinstance(await stage.ended(new_ref(2)), Cancelled)
        assert not pruning.done()
        storage.answer()
        assert (await pruning)["runs"] == [ref.run_id]
        assert not (stage.runs_dir / ref.run_id).exists()


async def test_with_50_hung_runs_of_the_same_node_start_whose_folders_are_on_other_storage(
    stage: Stage, storage: HangingStorage
) -> None:
    stage.runs_dir = stage.root / "runs"
    stage.runs_dir.mkdir()
    hung = [new_ref(number) for number in range(10, 60)]
    for ref in hung:
        (storage.folder / ref.run_id).mkdir()
        (stage.runs_dir / ref.run_id).symlink_to(storage.folder / ref.run_id)
    async with stage.agent():
        storage.hang()
        for ref in hung:
            await stage.dispatch(ref, python("pass"))
        await stage.dispatch(new_ref(1), python("print('out')"), slots=(0,))
        assert isinstance(await stage.ended(new_ref(1)), Completed)
        assert (stage.runs_dir / new_ref(1).run_id / "attempts/1/stdout.log").read_text() == "out\n"
        assert await stage.words(hung[0]) == []
        storage.answer()
        for ref in hung:
            assert isinstance(await stage.ended(ref, within=60.0), Completed)


@pytest.mark.parametrize("storage", ["stopped"], indirect=True)
async def test_an_end_goes_without_what_its_storage_does_not_give(
    stage: Stage, storage: HangingStorage
) -> None:
    marks = stage.root / "marks"
    marks.mkdir()
    script = """
import os, sys, time
os.closerange(0, 3)  # to end with a file open there is to wait for it
open(sys.argv[1] + "/up" + sys.argv[2], "w").close()
while not os.path.exists(sys.argv[1] + "/go"):
    time.sleep(0.02)
os._exit(int(sys.argv[2]))
"""
    async with stage.agent():
        for code in (0, 3):
            launch = python(script)
            launch["arguments"] += [str(marks), str(code)]
            await stage.dispatch(new_ref(code), launch)
        await eventually(lambda: len(list(marks.glob("up*"))) == 2, 10.0)
        storage.hang()
        (marks / "go").touch()
        end = await stage.ended(new_ref(0), within=30.0)
        assert isinstance(end, Completed) and (end.artifacts, end.output) == (None, OutputBytes())
        end = await stage.ended(new_ref(3), within=30.0)
        assert isinstance(end, Failed) and (end.exit_code, end.output_tail) == (3, None)
        assert end.output == OutputBytes()
        storage.answer()
