"""A cleaner of temporary folders takes what an agent and its workers have: the end is told, nothing starts twice."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from events.types import AttemptRef, Cancelled, Completed, Failed, Started
from services.agent.folders.files import read_started
from services.agent.output.service import OutputRequest, read_range
from services.agent.session import shell
from tests.integration.agent.stage import NODE, Stage, new_ref, python
from tests.support import NatsServer, eventually
from tests.support.shims import NOTIFY, alive
from trainshed_client import subjects
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.statuses import FailureReason

REF, NEXT = new_ref(1), new_ref(2)
PLACES = {
    "attempt": ("node/attempts/{run}/1",),
    "attempts": ("node/attempts",),
    "lock": ("node/attempts/{run}/1/lock",),
    "started": ("node/attempts/{run}/1/started.json",),
    "intent and stop's place": ("node/attempts/{run}/1/intent.json", "node/attempts/{run}/1/stop.json"),
    "markers": ("node/open",),
    "sockets": ("node/s",),
    "made ahead": ("node/blank", "runs/.blank"),
    "output": ("runs/{run}/attempts/1/stdout.log", "runs/{run}/attempts/1/stderr.log"),
    "run": ("runs/{run}",),
    "runs": ("runs",),
    "all": ("node/attempts", "node/open", "node/s", "node/blank", "node/unhashed", "node/pruned", "runs"),
}


@pytest.fixture
async def stage(nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setattr(shell, "RESTORE_EVERY_S", 0.1)
    return await Stage.set_up(nats_server, tmp_path)


def worker(stage: Stage, name: str = "go") -> dict[str, object]:
    """Runs until there is a file of that name, and exits with 7; each start leaves a line."""
    return python(
        "import os, sys, time\n"
        f"open({str(stage.root / 'starts')!r}, 'a').write('x')\n"
        "print('first', file=sys.stderr, flush=True)\n"
        "until = time.monotonic() + 60\n"
        f"while not os.path.exists({str(stage.root / name)!r}) and time.monotonic() < until: time.sleep(0.02)\n"
        "sys.exit('last')"
    )


def folder_of(stage: Stage, ref: AttemptRef) -> Path:
    return stage.root / "node/attempts" / ref.run_id / str(ref.attempt)


def take(stage: Stage, place: str) -> None:
    """What a cleaner does there."""
    for path in PLACES[place]:
        gone = stage.root / path.format(run=REF.run_id)
        shutil.rmtree(gone) if gone.is_dir() else gone.unlink(missing_ok=True)


async def running(stage: Stage) -> Started:
    """The worker runs, and its output is followed."""
    await stage.dispatch(REF, worker(stage), slots=(0,))
    index = stage.runs_dir / REF.run_id / "attempts/1/index.jsonl"
    await eventually(lambda: index.exists() and "stderr" in index.read_text())
    return await stage.told(REF, Started)


async def as_if_nothing_was(stage: Stage) -> None:
    """The slot is free for another run, and what is delivered again starts nothing."""
    await stage.dispatch(NEXT, python("print('well')"), slots=(0,))
    assert isinstance(await stage.ended(NEXT), Completed)
    before = await stage.words(REF)
    shutil.rmtree(folder_of(stage, REF))
    await stage.deliver_all_again()
    assert (await stage.words(REF), (stage.root / "starts").read_text()) == (before, "x")


@pytest.mark.parametrize("place", PLACES)
async def test_the_end_is_told_as_it_was_and_the_slot_is_free(stage: Stage, place: str) -> None:
    async with stage.agent():
        await running(stage)
        take(stage, place)
        (stage.root / "go").touch()
        end = await stage.ended(REF)
        assert isinstance(end, Failed)
        assert (end.failure_reason, end.exit_code) == (FailureReason.EXIT_CODE, 1)
        assert end.output_tail == "first\nlast"
        assert await stage.words(REF) == ["started", "failed"]
        await as_if_nothing_was(stage)


@pytest.mark.parametrize("place", ["sockets", "all"])
async def test_what_a_live_attempt_needs_is_made_again(stage: Stage, place: str) -> None:
    async with stage.agent() as agent:
        started = await running(stage)
        there = [
            path
            for path in (stage.root / "node").rglob("*")
            if not {"blank", ".pruned", "roots.json"} & set(path.parts)  # prune makes its own
        ]
        take(stage, place)
        await eventually(lambda: all(os.path.lexists(path) for path in there), 10.0)
        await agent.kill()
    async with stage.agent():
        assert alive(started.pid)
        await stage.order_stop(REF)
        assert isinstance(await stage.ended(REF), Cancelled)
        await as_if_nothing_was(stage)


@pytest.mark.parametrize("place", ["attempt", "lock", "sockets", "runs", "all"])
async def test_an_agent_that_was_away_meanwhile_finds_its_worker(stage: Stage, place: str) -> None:
    async with stage.agent() as agent:
        started = await running(stage)
        await agent.kill()
    take(stage, place)
    async with stage.agent():
        if "node/open" not in PLACES[place]:
            assert alive(started.pid)
            (stage.root / "go").touch()
            end = await stage.ended(REF)
            assert isinstance(end, Failed) and end.failure_reason is FailureReason.EXIT_CODE
            assert await stage.words(REF) == ["started", "failed"]
            await as_if_nothing_was(stage)
        else:  # it is not listed: the dispatcher ends the attempt, whose worker is gone before that
            assert not alive(started.pid)
            await stage.deliver_all_again()
            assert (stage.root / "starts").read_text() == "x"


async def test_a_cancel_reaches_a_worker_whose_folder_is_gone(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shell, "RESTORE_EVERY_S", 60.0)
    async with stage.agent():
        started = await running(stage)
        take(stage, "attempts")
        await stage.order_stop(REF)
        end = await stage.ended(REF)
        assert isinstance(end, Cancelled) and end.signal == signal.SIGTERM
        assert not alive(started.pid)
        await as_if_nothing_was(stage)


async def test_a_shim_that_is_killed_without_its_folder_leaves_no_worker_and_an_honest_end(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shell, "RESTORE_EVERY_S", 60.0)
    async with stage.agent():
        started = await running(stage)
        record = read_started(folder_of(stage, REF))
        assert record is not None
        take(stage, "attempts")
        os.kill(record.shim_pid, signal.SIGKILL)
        end = await stage.ended(REF)
        assert isinstance(end, Failed) and end.failure_reason is FailureReason.SHIM_LOST
        assert not alive(started.pid)
        await as_if_nothing_was(stage)


async def test_workers_are_heard_again_after_their_sockets_were_taken(stage: Stage) -> None:
    script = f"{NOTIFY}\nimport time\nfor step in range(1000):\n    time.sleep(0.05)\n    try:\n        "
    script += "notify(f'X_STEP={step}')\n    except OSError:\n        pass"
    async with stage.agent():
        await stage.dispatch(REF, python(script), slots=(0,))

        async def step() -> int:
            subject = subjects.run_heartbeat(REF.run_id, NODE)
            try:
                found = await stage.nc.jetstream().get_last_msg(subjects.HEARTBEATS_STREAM, subject)
            except Exception:  # noqa: BLE001 (none yet)
                return 0
            return int((found.data or b"").partition(b'"step":')[2].partition(b",")[0] or b"0")

        before = await eventually(step, 10.0)
        take(stage, "sockets")

        async def grows() -> bool:
            return await step() > before + 5

        await eventually(grows, 10.0)
        # so are those that waited for an attempt
        await stage.dispatch(NEXT, python(f"{NOTIFY}\nnotify('READY=1')"), slots=(1,))
        assert isinstance(await stage.ended(NEXT), Completed)
        await stage.order_stop(REF)
        assert isinstance(await stage.ended(REF), Cancelled)


async def test_output_that_was_deleted_is_told_from_output_that_is_empty(stage: Stage) -> None:
    async with stage.agent() as agent:
        await running(stage)
        folders = agent.agent._folders
        assert read_range(folders, OutputRequest(REF.run_id, 1, "stdout")).size == 0
        await stage.dispatch(NEXT, python("while True: print('more', flush=True)"), slots=(1,))
        told = await stage.nc.subscribe(subjects.output(NEXT.run_id, 1, NODE, "stdout"))
        await told.next_msg(timeout=10)
        for ref in (REF, NEXT):
            for name in ("stdout.log", "stderr.log"):
                (stage.runs_dir / ref.run_id / "attempts/1" / name).unlink()
        for _ in range(3):  # what is written since is told all the same, and makes no new file
            await told.next_msg(timeout=10)
        (stage.root / "go").touch()
        await stage.ended(REF)
        for ref in (REF, NEXT):
            for stream in ("stdout", "stderr"):
                with pytest.raises(TrainshedError, match="is gone: somebody deleted") as error:
                    read_range(folders, OutputRequest(ref.run_id, 1, stream))
                assert error.value.code is ErrorCode.NOT_FOUND
        await stage.order_stop(NEXT)
        await stage.ended(NEXT)
