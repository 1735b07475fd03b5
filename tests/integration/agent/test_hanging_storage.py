"""Run folders on storage that hangs: what the agent's node and the rest of the stack go on with."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from events.types import AttemptRef, Cancelled, Completed
from tests.integration.agent.stage import Stage, new_ref, python
from tests.support import NatsServer
from tests.support.hanging import HANGS_READS, HangingStorage, hanging_storage


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


def elsewhere(stage: Stage, number: int, folder: Path) -> AttemptRef:
    """A run of the same node whose folder is on other storage: it is a link there."""
    ref = new_ref(number)
    (folder / ref.run_id).mkdir(parents=True)
    stage.runs_dir.mkdir(exist_ok=True)
    (stage.runs_dir / ref.run_id).symlink_to(folder / ref.run_id)
    return ref


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
