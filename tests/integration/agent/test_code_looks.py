"""The look at a run's code on a real node: it holds up no launch, no end and no other run, however its storage is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from events.types import Cancelled, Completed, Failed
from services.agent.attempts.code_looks import KEPT, CodeLooks
from services.agent.folders.files import CODE
from tests.integration.agent.stage import Stage, new_ref, python
from tests.support import NatsServer, eventually
from tests.support.hanging import hanging_storage
from trainshed_client.code import code_of
from trainshed_client.statuses import CodeSeen, FailureReason


@pytest.fixture
async def stage(nats_server: NatsServer, tmp_path: Path) -> Stage:
    return await Stage.set_up(nats_server, tmp_path)


def of_code(folder: Path, script: str = "pass") -> dict[str, Any]:
    """A launch of a worker whose code is that of the folder now."""
    return python(script, code=code_of(folder), code_folder=str(folder))


async def test_while_the_codes_storage_hangs_runs_start_and_end_and_their_code_is_unknown(
    stage: Stage, tmp_path: Path
) -> None:
    with hanging_storage("stopped", tmp_path / "shared") as storage:
        (storage.folder / "train.py").write_text("print(1)\n")
        launch = of_code(storage.folder)
        async with stage.agent():
            storage.hang()
            refs = [new_ref(number) for number in range(1, 4)]
            for ref in refs:
                await stage.dispatch(ref, launch)
            for ref in refs:
                end = await stage.ended(ref)
                assert isinstance(end, Completed) and end.code is CodeSeen.UNKNOWN
            storage.answer()
            await stage.dispatch(new_ref(9), launch)
            assert (await stage.ended(new_ref(9))).code is CodeSeen.SAME


async def test_every_end_of_a_worker_bears_what_was_seen_and_no_other_does(
    stage: Stage, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "train.py").write_text("print(1)\n")
    launch = of_code(project)
    fails, stopped, absent, plain = (new_ref(number) for number in range(1, 5))
    async with stage.agent():
        await stage.dispatch(fails, {**launch, "arguments": ["-c", "raise SystemExit(3)"]})
        failed = await stage.ended(fails)
        await stage.dispatch(stopped, {**launch, "arguments": ["-c", "import time; time.sleep(60)"]})
        await eventually((stage.root / "node/attempts" / stopped.run_id / "1" / CODE).exists)
        (project / "train.py").write_text("print(2)\n")
        await stage.order_stop(stopped)
        garbage = tmp_path / "garbage"  # refused by exec itself, after started.json
        garbage.write_bytes(b"\x7fELF")
        garbage.chmod(0o755)
        await stage.dispatch(absent, {**launch, "entry_point": str(garbage)})
        await stage.dispatch(plain, python("pass"))
        cancelled = await stage.ended(stopped)
        assert isinstance(failed, Failed) and failed.code is CodeSeen.SAME
        assert isinstance(cancelled, Cancelled) and cancelled.code is CodeSeen.SAME
        spawned = await stage.ended(absent)
        assert isinstance(spawned, Failed) and spawned.failure_reason is FailureReason.SPAWN_ERROR
        assert spawned.code is None
        assert (await stage.ended(plain)).code is None


async def test_a_node_keeps_the_looks_at_few_folders_and_sees_each_anew(tmp_path: Path) -> None:
    looks = CodeLooks()
    for number in range(2 * KEPT):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "train.py").write_text(f"print({number})")
        launch = of_code(folder)
        assert await looks.look(launch) is CodeSeen.SAME
    assert len(looks._last) == KEPT
    (folder / "train.py").write_text("print()")
    assert await looks.look(launch) is CodeSeen.CHANGED
