"""What a run names itself, or its output, is on storage that hangs once a shim has the run's folder: before the worker's exec."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from events.types import Cancelled, Completed, Failed
from services.agent.folders.files import ExitReason, StopReason, read_started
from services.agent.processes import pool
from services.agent.processes.finalise import LockHeld
from services.agent.processes.workers import WorkerStarted
from tests.integration.agent.stage import Stage, new_ref, python
from tests.support import NatsServer, eventually
from tests.support.hanging import HangingStorage, hanging_storage
from tests.support.shims import Box, box
from trainshed_client import subjects
from trainshed_client.statuses import FailureReason

HUNG = 6
"""More than there are idle shims, several times over."""
PLACES = ("program", "interpreter", "working_dir", "output")
"""The interpreter is what the program's first line names: that one hangs in exec itself, with started.json written."""


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[HangingStorage]:
    """Storage on which reads hang as well; a process that waits for it can be killed."""
    with hanging_storage("stopped", tmp_path / "shared") as mounted:
        shutil.copy("/bin/sh", mounted.folder / "sh")
        yield mounted


@pytest.fixture
async def here(tmp_path: Path, storage: HangingStorage) -> AsyncIterator[Box]:
    async with box(tmp_path / "state") as made:
        try:
            yield made
        finally:
            storage.answer()


class Hung:
    """Six attempts of which each writes a line when its program runs, and hangs before that for as long as the storage does."""

    def __init__(self, here: Box, storage: HangingStorage, place: str, **launch: Any) -> None:
        self._here = here
        self.lines = here.state_dir / "lines"
        launch["entry_point"] = "/bin/sh"
        match place:
            case "program":
                launch["entry_point"] = str(storage.folder / "sh")
            case "interpreter":
                launch["entry_point"] = str(script := here.state_dir / "script")
                script.write_text(f'#!{storage.folder}/sh\nexec /bin/sh "$@"\n')
                script.chmod(0o755)
            case "working_dir":
                launch["working_dir"] = str(storage.folder)
            case _:
                (storage.folder / "runs").mkdir()
                (here.state_dir / "runs").symlink_to(storage.folder / "runs")
        self.folders = [
            here.prepare(f"hung{number}", arguments=["-c", f"echo {number} >>{self.lines}"], **launch)
            for number in range(HUNG)
        ]
        storage.hang()

    def ran(self) -> list[str]:
        """Which have run, as often as they did."""
        return sorted(self.lines.read_text().split()) if self.lines.exists() else []

    async def launch(self) -> None:
        """Launch all of them at once."""
        async with asyncio.timeout(5):
            await asyncio.gather(*map(self._here.workers.launch, self.folders))


async def cancelled(here: Box, folder: Path) -> None:
    """Its shim leaves without an end, and it is closed as what it is: cancelled before it ran."""
    assert await here.gone(folder) is None
    assert not (folder / "started.json").exists()
    end = await here.workers.finalise(folder, "not_started")
    assert (end.reason, end.stop_reason) == (ExitReason.NOT_STARTED, StopReason.CANCEL)


@pytest.mark.parametrize("place", PLACES)
async def test_hung_launches_stop_no_other_and_start_when_their_storage_answers(
    here: Box, storage: HangingStorage, place: str
) -> None:
    hung = Hung(here, storage, place)
    await hung.launch()
    if place != "output":
        other = here.prepare("other", entry_point="/bin/sh", arguments=["-c", "exit 3"])
        await here.workers.launch(other)
        assert (await here.ended(other)).exit_code == 3
    for folder in hung.folders[:2]:
        await here.stop(folder)
        await cancelled(here, folder)
    assert not [
        each for each in here.events if isinstance(each, WorkerStarted) and each.folder in hung.folders
    ]
    with pytest.raises(LockHeld):
        await here.workers.finalise(hung.folders[2], "not_started")
    storage.answer()
    for folder in hung.folders[2:]:
        assert (await here.ended(folder)).exit_code == 0
        await here.started(folder)
    assert hung.ran() == ["2", "3", "4", "5"]


async def test_many_that_hang_at_once_do_not_hold_each_other_up(
    here: Box, storage: HangingStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two idle shims that are looked at every tenth of a second would get 60 launches done in this time."""
    monkeypatch.setattr(pool, "ANSWER_S", 3.0)
    storage.hang()
    hung = [here.prepare(f"hung{number}", entry_point=str(storage.folder / "sh")) for number in range(80)]
    await asyncio.gather(*map(here.workers.launch, hung))


@pytest.mark.parametrize("place", PLACES)
async def test_the_next_agent_adopts_what_hangs_and_it_starts_once(
    here: Box, storage: HangingStorage, place: str
) -> None:
    hung = Hung(here, storage, place)
    await hung.launch()
    await here.restart()
    assert await asyncio.gather(*map(here.workers.adopt, hung.folders)) == [True] * HUNG
    assert not any(here.workers.has_worker(folder) for folder in hung.folders)
    assert not set(await here.workers.sweep(hung.folders)) & {_shim(folder) for folder in hung.folders}
    await here.stop(hung.folders[0])
    await cancelled(here, hung.folders[0])
    assert not [each for each in here.events if isinstance(each, WorkerStarted)]
    storage.answer()
    for folder in hung.folders[1:]:
        assert (await here.ended(folder)).exit_code == 0
        await here.started(folder)
    assert hung.ran() == ["1", "2", "3", "4", "5"]


def _shim(folder: Path) -> int:
    started = read_started(folder)
    return -1 if started is None else started.shim_pid


async def test_an_agent_that_dies_at_the_hand_over_loses_none_that_hangs(
    here: Box, storage: HangingStorage
) -> None:
    hung = Hung(here, storage, "working_dir")
    folder = hung.folders[0]
    launch = asyncio.create_task(here.workers.launch(folder))
    await eventually(lambda: _works_in(folder))
    launch.cancel()
    await here.restart()
    assert await here.workers.adopt(folder)
    assert await here.workers.sweep([folder]) is not None
    storage.answer()
    assert (await here.ended(folder)).exit_code == 0
    assert hung.ran() == ["0"]


def _works_in(folder: Path) -> list[str]:
    found = []
    for each in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if os.readlink(each) == str(folder):
                found.append(each.parent.name)
        except OSError:
            continue
    return found


async def test_the_sweep_asks_nothing_of_the_storage_where_a_launch_hangs(
    here: Box, storage: HangingStorage, tmp_path: Path
) -> None:
    with hanging_storage("stopped", tmp_path / "second") as working_dir:
        hung = Hung(here, storage, "interpreter", working_dir=str(working_dir.folder))
        await hung.launch()
        working_dir.hang()
        try:
            await here.restart()
            async with asyncio.timeout(5):
                assert all(await asyncio.gather(*map(here.workers.adopt, hung.folders)))
                await here.workers.sweep(hung.folders)
                never_launched = here.prepare("never", entry_point="/bin/true")
                await here.workers.finalise(never_launched, "not_started")
        finally:
            working_dir.answer()
            storage.answer()
        for folder in hung.folders:
            assert (await here.ended(folder)).exit_code == 0


async def test_what_is_killed_before_its_exec_did_not_start(here: Box, storage: HangingStorage) -> None:
    hung = Hung(here, storage, "interpreter")
    await hung.launch()
    folder = hung.folders[0]
    started = await eventually(lambda: read_started(folder))
    assert started is not None
    os.kill(started.pid, signal.SIGKILL)
    assert await here.gone(folder) is None
    assert (await here.workers.finalise(folder, "not_started")).reason is ExitReason.NOT_STARTED
    for left in hung.folders[1:]:
        await here.stop(left)
        await cancelled(here, left)


async def test_what_cannot_be_killed_while_its_storage_hangs_keeps_its_attempt_until_it_answers(
    tmp_path: Path,
) -> None:
    with hanging_storage("frozen", tmp_path / "disk") as disk:
        async with box(tmp_path / "state") as here:
            hung = Hung(here, disk, "output")
            try:
                await hung.launch()
                for folder in hung.folders[:3]:
                    await here.stop(folder)
                with pytest.raises(LockHeld):
                    await here.workers.finalise(hung.folders[0], "not_started")
            finally:
                disk.answer()
            for folder in hung.folders[:3]:
                await cancelled(here, folder)
            for folder in hung.folders[3:]:
                assert (await here.ended(folder)).exit_code == 0
            assert hung.ran() == ["3", "4", "5"]


# The agent


@pytest.fixture
async def stage(nats_server: NatsServer, tmp_path: Path) -> Stage:
    """A node whose own folders hang nowhere."""
    return await Stage.set_up(nats_server, tmp_path)


async def test_the_agent_goes_on_and_what_it_appends_is_what_happened(
    stage: Stage, storage: HangingStorage
) -> None:
    refs = [new_ref(number) for number in range(10, 10 + HUNG)]
    marks = stage.root / "marks"
    script = stage.root / "script"
    script.write_text(f"#!{storage.folder}/sh\necho x >>{marks}\n")
    script.chmod(0o755)
    async with stage.agent() as running:
        storage.hang()
        for ref in refs:
            await stage.dispatch(ref, {"entry_point": str(script)})
        await stage.dispatch(new_ref(1), python("print('out')"), slots=(0,))
        assert isinstance(await stage.ended(new_ref(1)), Completed)
        await stage.order_stop(refs[0])
        end = await stage.ended(refs[0])
        assert isinstance(end, Cancelled) and end.duration_s is None
        before = (await stage.nc.jetstream().stream_info(subjects.HEARTBEATS_STREAM)).state.last_seq

        async def goes_on() -> bool:
            info = await stage.nc.jetstream().stream_info(subjects.HEARTBEATS_STREAM)
            return info.state.last_seq > before

        await eventually(goes_on, 20.0)
        await running.kill()
    async with stage.agent():
        assert [await stage.words(ref) for ref in refs] == [["cancelled"]] + [[]] * (HUNG - 1)
        storage.answer()
        for ref in refs[1:]:
            assert isinstance(await stage.ended(ref), Completed)
            assert await stage.words(ref) == ["started", "completed"]
    assert marks.read_text() == "x\n" * (HUNG - 1)


async def test_an_agent_that_stops_its_workers_ends_with_hung_ones(
    stage: Stage, storage: HangingStorage
) -> None:
    hung = {"entry_point": str(storage.folder / "sh"), "arguments": ["-c", "exit"]}
    async with stage.agent() as running:
        storage.hang()
        await stage.dispatch(new_ref(1), hung, slots=(0,))
        folder = stage.root / "node/attempts" / new_ref(1).run_id / "1"
        await eventually(lambda: _works_in(folder))
        running.agent.stop(stop_workers=True)
        end = await stage.ended(new_ref(1))
        assert isinstance(end, Failed) and end.failure_reason is FailureReason.NOT_STARTED
        await asyncio.wait({running.task}, timeout=10)
        assert running.task.done()
