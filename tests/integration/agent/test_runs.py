"""What the agent makes of grants and stops: one worker, its words in order, and every way to end."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from events.types import (
    Artifacts,
    ArtifactsHashed,
    Cancelled,
    Completed,
    Failed,
    OutputBytes,
    Started,
    TimedOut,
)
from services.agent.output import artifacts
from services.agent.session import shell
from tests.integration.agent.stage import Stage, new_ref, python
from tests.support import NatsServer, eventually
from tests.support.small_disk import small_disk
from trainshed_client.statuses import AtFault, FailureReason

SLEEP = python("import time; time.sleep(60)")


@pytest.fixture
async def stage(nats_server: NatsServer, tmp_path: Path) -> Stage:
    return await Stage.set_up(nats_server, tmp_path)


async def test_a_grant_runs_and_its_words_come_in_order(stage: Stage) -> None:
    ref = new_ref()
    async with stage.agent():
        await stage.dispatch(ref, python("import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"), slots=(1,))
        end = await stage.ended(ref)
        assert isinstance(end, Completed)
        assert end.duration_s is not None and end.duration_s > 0
        assert end.output == OutputBytes(stdout=2, stderr=0)
        assert await stage.words(ref) == ["started", "completed"]
        started = await stage.told(ref, Started)
        assert started.slots == (1,) and started.pid > 0
        output = stage.runs_dir / ref.run_id / "attempts" / "1" / "stdout.log"
        assert output.read_text() == "1\n"
        await eventually(lambda: not list((stage.root / "node" / "open").glob("[a-z2-7]*.*")))
        assert await stage.unacknowledged() == 0


async def test_a_failure_bears_the_end_of_stderr(stage: Stage) -> None:
    ref = new_ref()
    async with stage.agent():
        await stage.dispatch(ref, python("import sys; print('fine'); sys.exit('boom \\udcff')"))
        end = await stage.ended(ref)
    assert isinstance(end, Failed)
    assert (end.failure_reason, end.exit_code) == (FailureReason.EXIT_CODE, 1)
    assert end.output_tail is not None and end.output_tail.startswith("boom ")


async def test_without_stderr_a_failure_bears_stdout_less_its_telemetry(stage: Stage) -> None:
    ref = new_ref()
    script = """
import json, sys
print("before")
for step in range(3000):
    print(json.dumps({"type": "step", "step": step}))
sys.exit(3)
"""
    async with stage.agent():
        await stage.dispatch(ref, python(script))
        end = await stage.ended(ref)
        assert isinstance(end, Failed)
        assert (end.exit_code, end.output_tail) == (3, None)
        second = new_ref(2)
        await stage.dispatch(second, python(script.replace("sys.exit", "print('after'); sys.exit")))
        end = await stage.ended(second)
        assert isinstance(end, Failed)
        assert (end.output_tail, end.output_of) == ("after", "stdout")


async def test_a_worker_killed_by_a_signal_fails_with_it(stage: Stage) -> None:
    ref = new_ref()
    async with stage.agent():
        await stage.dispatch(ref, python("import os; os.kill(os.getpid(), 9)"))
        end = await stage.ended(ref)
    assert isinstance(end, Failed)
    assert (end.failure_reason, end.signal, end.exit_code) == (FailureReason.SIGNAL, signal.SIGKILL, None)


async def test_what_cannot_be_spawned_fails_and_says_why(stage: Stage) -> None:
    ref = new_ref()
    async with stage.agent():
        await stage.dispatch(ref, {"entry_point": "/no/such/program"})
        end = await stage.ended(ref)
        assert await stage.words(ref) == ["failed"]
    assert isinstance(end, Failed)
    assert end.failure_reason is FailureReason.SPAWN_ERROR
    assert end.at_fault is AtFault.RUN
    assert end.message is not None and "/no/such/program" in end.message
    assert end.duration_s is None and end.output is None


async def test_a_cancel_ends_the_worker_and_is_told_whatever_its_exit_code(stage: Stage) -> None:
    ref = new_ref()
    script = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(7)); print(flush=True); time.sleep(60)"
    async with stage.agent():
        await stage.dispatch(ref, python(script))
        await stage.told(ref, Started)
        output = stage.runs_dir / ref.run_id / "attempts" / "1" / "stdout.log"
        await eventually(lambda: output.stat().st_size)
        await stage.order_stop(ref)
        end = await stage.ended(ref)
        assert isinstance(end, Cancelled)
        assert (end.reason, end.exit_code) == ("cancel", 7)
        assert await stage.unacknowledged() == 0


async def test_a_stop_for_an_attempt_never_seen_closes_it_for_good(stage: Stage) -> None:
    ref = new_ref()
    async with stage.agent():
        await stage.order_stop(ref)
        end = await stage.ended(ref)
        assert isinstance(end, Cancelled)
        mark = stage.root / "launched"
        await stage.dispatch(ref, python(f"open({str(mark)!r}, 'w')"))
        other = new_ref(2)
        await stage.dispatch(other, python(""))
        await stage.ended(other)  # decisions are taken in order: the one before was taken too
        assert await stage.words(ref) == ["cancelled"]
        assert not mark.exists()


async def test_a_decision_delivered_again_starts_nothing_again(stage: Stage) -> None:
    ref = new_ref()
    starts, go_on = stage.root / "starts", stage.root / "go_on"
    script = f"""
import os, time
open({str(starts)!r}, "a").write("x")
while not os.path.exists({str(go_on)!r}):
    time.sleep(0.01)
"""
    async with stage.agent():
        await stage.dispatch(ref, python(script))
        await stage.told(ref, Started)
        await stage.deliver_all_again()  # while it runs
        go_on.touch()
        await stage.ended(ref)
        await stage.deliver_all_again()  # after its end
        assert starts.read_text() == "x"
        assert await stage.words(ref) == ["started", "completed"]


async def test_a_grant_waits_for_its_slot_without_holding_up_what_follows(stage: Stage) -> None:
    first, second = new_ref(1), new_ref(2)
    async with stage.agent():
        await stage.dispatch(first, SLEEP, slots=(0,))
        await stage.told(first, Started)
        await stage.dispatch(second, python(""), slots=(0,))
        await eventually(lambda: _none_left(stage))
        assert await stage.words(second) == []
        await stage.order_stop(first)
        assert isinstance(await stage.ended(second), Completed)
        assert isinstance(await stage.ended(first), Cancelled)


async def test_a_grant_that_waits_can_be_cancelled(stage: Stage) -> None:
    first, second = new_ref(1), new_ref(2)
    async with stage.agent():
        await stage.dispatch(first, SLEEP, slots=(0,))
        await stage.dispatch(second, SLEEP, slots=(0,))
        await stage.order_stop(second)
        assert isinstance(await stage.ended(second), Cancelled)
        assert await stage.words(second) == ["cancelled"]
        await stage.order_stop(first)
        await stage.ended(first)


async def test_a_grant_of_a_slot_that_is_not_there_is_not_started(stage: Stage) -> None:
    ref = new_ref()
    async with stage.agent():
        await stage.dispatch(ref, python(""), slots=(5,))
        end = await stage.ended(ref)
    assert isinstance(end, Failed)
    assert end.failure_reason is FailureReason.NOT_STARTED
    assert end.message is not None and "no slot 5" in end.message


async def test_a_runs_folder_that_cannot_be_made_fails_that_run_alone(stage: Stage) -> None:
    ref, other = new_ref(1), new_ref(2)
    stage.runs_dir.mkdir(parents=True)
    (stage.runs_dir / ref.run_id).write_text("in the way")
    async with stage.agent():
        await stage.dispatch(ref, python(""))
        await stage.dispatch(other, python(""))
        end = await stage.ended(ref)
        assert isinstance(end, Failed)
        assert end.failure_reason is FailureReason.NOT_STARTED
        assert end.at_fault is AtFault.NODE
        assert end.message is not None and "folder cannot be made" in end.message
        assert isinstance(await stage.ended(other), Completed)


async def test_where_no_shim_can_be_had_the_node_is_at_fault(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first, second, third = new_ref(1), new_ref(2), new_ref(3)
    async with stage.agent():
        await stage.dispatch(first, python(""))
        assert isinstance(await stage.ended(first), Completed)
        with (
            monkeypatch.context() as gone
        ):  # its Python was replaced while it ran, and then its spawner was killed
            gone.setattr(sys, "executable", str(tmp_path / "no" / "python"))
            spawner = await eventually(_spawner)
            os.kill(spawner, signal.SIGKILL)
            await eventually(lambda: not _spawner())
            await stage.dispatch(second, python(""))
            end = await stage.ended(second)
        assert isinstance(end, Failed)
        assert (end.failure_reason, end.at_fault) == (FailureReason.NOT_STARTED, AtFault.NODE)
        assert end.message is not None and "cannot be launched" in end.message
        await stage.dispatch(third, python(""))
        assert isinstance(await stage.ended(third), Completed)


async def test_a_grant_that_a_full_disk_cannot_take_is_refused_for_good_and_the_next_one_starts(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shell, "REFUSE_AFTER_S", 0.5)
    refused, cancelled, after = new_ref(1), new_ref(2), new_ref(3)
    with small_disk(stage.root / "node", 8) as disk:
        async with stage.agent():
            disk.fill()
            for ref in (refused, cancelled):
                await stage.dispatch(ref, python(""))
            for ref in (refused, cancelled):
                end = await stage.ended(ref)
                assert isinstance(end, Failed)
                assert (end.failure_reason, end.at_fault) == (FailureReason.NOT_STARTED, AtFault.NODE)
                assert end.message is not None and "is full" in end.message
            await stage.order_stop(cancelled)
            disk.free()
            await stage.deliver_all_again()
            await stage.dispatch(after, python(""))
            assert isinstance(await stage.ended(after), Completed)
            assert (await stage.words(refused), await stage.words(cancelled)) == (["failed"], ["failed"])
        async with stage.agent():
            assert isinstance(await stage.ended(after), Completed)
        assert not list((stage.root / "node" / "open").glob("*.1"))


def _spawner() -> int:
    """This process's spawner; 0 where there is none."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            parent = int((path.parent / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"services.agent.shim.spawner" in path.read_bytes():
                return int(path.parent.name)
    return 0


async def test_what_no_agent_can_use_is_passed_over(stage: Stage) -> None:
    ref = new_ref()
    async with stage.agent():
        subject = "trainshed.events.run.zzz.dispatcher.dispatched.gpu01"
        await stage.nc.request(subject, b"not JSON", timeout=5)
        await stage.nc.request(subject.replace("dispatched", "unheard_of"), b"{}", timeout=5)
        await stage.dispatch(ref, python(""))
        assert isinstance(await stage.ended(ref), Completed)
        await eventually(lambda: _none_left(stage))


async def test_silence_and_a_time_limit_time_out(stage: Stage) -> None:
    silent, long = new_ref(1), new_ref(2)
    async with stage.agent():
        await stage.dispatch(silent, {**SLEEP, "heartbeat": {"source": "notify", "timeout_s": 0.3}})
        await stage.dispatch(long, {**SLEEP, "schedule": {"max_duration_seconds": 0.2}})
        end = await stage.ended(silent)
        assert isinstance(end, TimedOut)
        assert (end.failure_reason, end.timeout_s) == (FailureReason.WORKER_TIMEOUT, 0.3)
        end = await stage.ended(long)
        assert isinstance(end, TimedOut)
        assert (end.failure_reason, end.timeout_s) == (FailureReason.TIME_LIMIT, 0.2)


async def test_the_agents_own_timeout_counts_where_the_run_names_none(stage: Stage) -> None:
    ref = new_ref()
    async with stage.agent(heartbeat_timeout_s=0.3):
        await stage.dispatch(ref, {**SLEEP, "heartbeat": {"source": "notify"}})
        end = await stage.ended(ref)
    assert isinstance(end, TimedOut) and end.timeout_s == 0.3


async def test_a_retry_on_the_same_node_goes_on_in_the_runs_folder(stage: Stage) -> None:
    script = """
import os, sys
kept = os.path.join(os.environ["TRAINSHED_RUN_DIR"], "checkpoint")
sys.exit(0 if os.path.exists(kept) else (open(kept, "w").close(), 5)[1])
"""
    async with stage.agent():
        await stage.dispatch(new_ref(1, 1), python(script))
        assert isinstance(await stage.ended(new_ref(1, 1)), Failed)
        await stage.dispatch(new_ref(1, 2), python(script))
        assert isinstance(await stage.ended(new_ref(1, 2)), Completed)
        assert await stage.words(new_ref(1, 2)) == ["started", "completed"]


async def test_artifacts_are_listed_and_links_are_not_followed(stage: Stage) -> None:
    ref = new_ref()
    secret = stage.root / "secret"
    secret.write_text("mine")
    script = f"""
import os
top = os.path.join(os.environ["TRAINSHED_RUN_DIR"], "artifacts")
os.makedirs(os.path.join(top, "deep", "er"))
open(os.path.join(top, "model.bin"), "wb").write(b"weights")
open(os.path.join(top, "deep", "er", "log"), "w").close()
os.symlink({str(secret)!r}, os.path.join(top, "link"))
os.symlink("/", os.path.join(top, "root"))
"""
    async with stage.agent():
        await stage.dispatch(ref, python(script))
        end = await stage.ended(ref)
        hashed = (await stage.told(ref, ArtifactsHashed)).artifacts
    assert isinstance(end, Completed) and end.artifacts is not None and hashed is not None
    for told in (end.artifacts, hashed):
        assert [(each.path, each.bytes) for each in told.entries] == [("deep/er/log", 0), ("model.bin", 7)]
        assert (told.count, told.bytes, told.partial) == (2, 7, False)
    assert end.artifacts.sha256 is None
    listed = stage.runs_dir / ref.run_id / "artifacts.json"
    assert hashlib.sha256(listed.read_bytes()).hexdigest() == hashed.sha256
    assert hashed.entries[1].sha256 == hashlib.sha256(b"weights").hexdigest()


async def test_artifacts_that_are_a_link_are_not_followed(stage: Stage) -> None:
    ref = new_ref()
    (stage.root / "others").mkdir()
    (stage.root / "others" / "secret").write_text("mine")
    script = f"""
import os
top = os.path.join(os.environ["TRAINSHED_RUN_DIR"], "artifacts")
os.rmdir(top)
os.symlink({str(stage.root / "others")!r}, top)
"""
    async with stage.agent():
        await stage.dispatch(ref, python(script))
        end = await stage.ended(ref)
    assert isinstance(end, Completed) and end.artifacts == Artifacts(count=0, bytes=0)


async def test_hashing_holds_up_no_end_and_is_resumed_and_appended_once(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = new_ref()
    script = 'import os; open(os.environ["TRAINSHED_RUN_DIR"] + "/artifacts/model", "w").write("w")'
    marker = stage.root / "node" / "unhashed" / f"{ref.run_id}.1"
    with monkeypatch.context() as never:
        asked, ends = threading.Event(), threading.Event()

        def hangs(run_dir: Path, progress: artifacts.Progress) -> None:
            asked.set()
            ends.wait()

        never.setattr(artifacts, "hashed", hangs)
        async with stage.agent() as first:
            await stage.dispatch(ref, python(script))
            assert isinstance(await stage.ended(ref), Completed)
            await asyncio.to_thread(asked.wait)
            await stage.dispatch(new_ref(2), python("pass"), slots=(0,))
            assert isinstance(await stage.ended(new_ref(2)), Completed)
            await first.kill()
        ends.set()
    assert marker.exists()
    async with stage.agent() as second:
        assert (await stage.told(ref, ArtifactsHashed)).artifacts is not None
        await eventually(lambda: not marker.exists())
        await second.kill()
    marker.touch()  # as after a crash between the append and the removal
    async with stage.agent():
        await eventually(lambda: not marker.exists())
    assert await stage.words(ref) == ["started", "completed", "artifacts_hashed"]


async def test_many_grants_at_once_all_end(stage: Stage) -> None:
    refs = [new_ref(number) for number in range(1, 41)]
    async with stage.agent():
        incarnation = await stage.incarnation()
        for ref in refs:
            await stage.dispatch(ref, {"entry_point": "/bin/true"}, incarnation=incarnation)
        for ref in refs:
            assert isinstance(await stage.ended(ref, within=60), Completed)
            assert await stage.words(ref) == ["started", "completed"]


async def _none_left(stage: Stage) -> bool:
    return await stage.unacknowledged() == 0
