"""The agent's sessions: joining, adopting, being lost, leaving, and never taking another's name."""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec
import pytest

from events.codec import Writer, uuid7
from events.types import (
    Cancelled,
    Completed,
    Failed,
    NodeHeartbeat,
    NodeJoined,
    NodeLeft,
    NodeRemoved,
    Started,
)
from services.agent.folders import files
from services.agent.session.values import SessionPhase
from tests.integration.agent.stage import NODE, Stage, new_ref, python
from tests.support import NatsServer, eventually
from trainshed_client import subjects
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.statuses import FailureReason
from trainshed_client.subjects import Role

SLEEP = python("import time; time.sleep(60)")


@pytest.fixture
async def stage(nats_server: NatsServer, tmp_path: Path) -> Stage:
    return await Stage.set_up(nats_server, tmp_path)


def waits_for(path: Path, code: int = 0) -> dict[str, object]:
    """A launch that ends once ``path`` is there."""
    return python(
        f"import os, sys, time\nwhile not os.path.exists({str(path)!r}): time.sleep(0.01)\nsys.exit({code})"
    )


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def count(stage: Stage, kind: type) -> int:
    return sum(isinstance(stored.event, kind) for stored in await stage.events())


async def test_it_joins_with_its_inventory_and_says_that_it_lives(stage: Stage) -> None:
    async with stage.agent(host="box"):
        joined = await stage.last(NodeJoined)
        assert (joined.host, joined.cpus, len(joined.gpus), joined.attempts) == ("box", 4, 2, ())

        async def heartbeat() -> NodeHeartbeat | None:
            from events.codec import decode_heartbeat
            from events.log import last_message

            found = await last_message(stage.nc, subjects.HEARTBEATS_STREAM, subjects.node_heartbeat(NODE))
            said = decode_heartbeat(found.subject, found.body) if found else None
            return said if isinstance(said, NodeHeartbeat) else None

        said = await eventually(heartbeat)
        assert said is not None and said.incarnation == joined.incarnation


async def test_an_agent_that_comes_back_keeps_its_name_incarnation_and_worker(stage: Stage) -> None:
    ref, go_on = new_ref(), stage.root / "go_on"
    async with stage.agent() as first:
        await stage.dispatch(ref, waits_for(go_on, 4))
        pid = (await stage.told(ref, Started)).pid
        incarnation = await stage.incarnation()
        await first.kill()
    async with stage.agent(node=None):
        joined = await stage.last(NodeJoined)
        assert joined.incarnation == incarnation and joined.attempts == (ref,)
        assert alive(pid)
        go_on.touch()
        end = await stage.ended(ref)
        assert isinstance(end, Failed) and end.exit_code == 4
        assert await stage.words(ref) == ["started", "failed"]


async def test_an_end_while_the_agent_was_away_is_told_when_it_is_back(stage: Stage) -> None:
    ref, go_on = new_ref(), stage.root / "go_on"
    async with stage.agent() as first:
        await stage.dispatch(ref, waits_for(go_on))
        await stage.told(ref, Started)
        await first.kill()
    go_on.touch()
    await eventually((stage.root / "node" / "attempts" / ref.run_id / "1" / "exit.json").exists)
    async with stage.agent():
        assert isinstance(await stage.ended(ref), Completed)
        assert await stage.words(ref) == ["started", "completed"]


async def test_a_stop_that_came_before_a_crash_is_carried_out_after_it(stage: Stage) -> None:
    ref = new_ref()
    async with stage.agent() as first:
        await stage.dispatch(ref, SLEEP)
        await stage.told(ref, Started)
        await first.kill()
    folder = stage.root / "node" / "attempts" / ref.run_id / "1"
    files.write_stop(folder, files.StopReason.CANCEL, 1)
    async with stage.agent():
        assert isinstance(await stage.ended(ref), Cancelled)


async def test_what_was_written_down_and_never_launched_is_not_started(stage: Stage) -> None:
    first, waiting = new_ref(1), new_ref(2)
    async with stage.agent() as agent:
        await stage.dispatch(first, SLEEP, slots=(0,))
        await stage.told(first, Started)
        await stage.dispatch(waiting, SLEEP, slots=(0,))

        async def written_down() -> bool:
            return await stage.unacknowledged() == 0

        await eventually(written_down)
        await agent.kill()
    async with stage.agent():
        end = await stage.ended(waiting)
        assert isinstance(end, Failed) and end.failure_reason is FailureReason.NOT_STARTED
        assert end.at_fault is None, "a restart is nobody's fault"
        await stage.order_stop(first)
        await stage.ended(first)


async def test_a_grant_older_than_the_join_is_never_launched(stage: Stage) -> None:
    ref = new_ref()
    async with stage.agent() as first:
        incarnation = await stage.incarnation()
        await first.kill()
    await stage.dispatch(ref, SLEEP, incarnation=incarnation)
    async with stage.agent():
        end = await stage.ended(ref)
        assert isinstance(end, Failed) and end.failure_reason is FailureReason.NOT_STARTED
        assert end.at_fault is None, "a restart is nobody's fault"
        assert await stage.words(ref) == ["failed"]


async def test_after_a_reboot_what_had_started_is_lost(stage: Stage) -> None:
    ref = new_ref()
    async with stage.agent() as first:
        await stage.dispatch(ref, SLEEP)
        pid = (await stage.told(ref, Started)).pid
        await first.kill()
    folder = stage.root / "node" / "attempts" / ref.run_id / "1"
    started = files.read_started(folder)
    assert started is not None
    # A reboot as the folder shows it: other boot ids, and no process.
    os.kill(started.shim_pid, 9)
    await eventually(lambda: not alive(pid) and not alive(started.shim_pid))
    away = msgspec.structs.replace(started, boot_id="another boot")
    (folder / "started.json").write_bytes(msgspec.json.encode(away))
    async with stage.agent():
        end = await stage.ended(ref)
        assert isinstance(end, Failed) and end.failure_reason is FailureReason.SHIM_LOST
        assert await stage.words(ref) == ["started", "failed"]


async def test_a_killed_shim_is_the_end_of_its_attempt(stage: Stage) -> None:
    ref = new_ref()
    async with stage.agent():
        await stage.dispatch(ref, SLEEP)
        pid = (await stage.told(ref, Started)).pid
        started = files.read_started(stage.root / "node" / "attempts" / ref.run_id / "1")
        assert started is not None
        os.kill(started.shim_pid, 9)
        end = await stage.ended(ref)
        assert isinstance(end, Failed) and end.failure_reason is FailureReason.SHIM_LOST
        assert (end.at_fault, end.message) == (None, None), "its worker was started"
        assert not alive(pid)


async def test_a_node_counted_lost_joins_again_and_keeps_its_worker(stage: Stage) -> None:
    ref, go_on = new_ref(), stage.root / "go_on"
    async with stage.agent():
        await stage.dispatch(ref, waits_for(go_on))
        pid = (await stage.told(ref, Started)).pid
        await stage.count_lost()

        async def joined_twice() -> bool:
            return await count(stage, NodeJoined) == 2

        await eventually(joined_twice)
        assert (await stage.last(NodeJoined)).attempts == (ref,)
        assert alive(pid)
        go_on.touch()
        assert isinstance(await stage.ended(ref), Completed)
        second = new_ref(2)
        await stage.dispatch(second, python(""))
        assert isinstance(await stage.ended(second), Completed)


async def test_a_removed_incarnation_ends_its_workers_and_joins_anew(stage: Stage) -> None:
    ref = new_ref()
    async with stage.agent() as first:
        await stage.dispatch(ref, SLEEP)
        pid = (await stage.told(ref, Started)).pid
        incarnation = await stage.incarnation()
        await first.kill()
    await remove(stage, incarnation)
    async with stage.agent():
        assert not alive(pid)
        assert (await stage.last(NodeJoined)).attempts == (ref,)
        end = await stage.ended(ref)
        assert isinstance(end, Cancelled) and end.reason == "ended"


async def remove(stage: Stage, incarnation: str) -> None:
    gateway = Writer(Role.GATEWAY, stage.writer.clock)
    await stage.log.append(gateway.new(NodeRemoved(node=NODE, incarnation=incarnation)))


async def join_as_another(stage: Stage) -> str:
    incarnation = uuid7()
    agent = Writer(Role.AGENT, stage.writer.clock, node=NODE)
    joined = NodeJoined(node=NODE, incarnation=incarnation, host="other", cpus=1, memory_mb=1)
    await stage.log.append(agent.new(joined))
    return incarnation


async def test_a_name_that_is_anothers_is_refused_with_what_to_do(stage: Stage) -> None:
    other = await join_as_another(stage)
    with pytest.raises(TrainshedError) as refusal:
        async with stage.agent():
            pass
    assert "gpu01 belongs to another state folder" in str(refusal.value)
    assert "trainshed node remove gpu01" in str(refusal.value)
    assert await count(stage, NodeJoined) == 1
    await remove(stage, other)
    async with stage.agent():
        assert await count(stage, NodeJoined) == 2


async def test_a_name_whose_owner_left_without_attempts_is_free(stage: Stage) -> None:
    other = await join_as_another(stage)
    agent = Writer(Role.AGENT, stage.writer.clock, node=NODE)
    left = NodeLeft(node=NODE, incarnation=other, upto=2, attempts=(new_ref(),))
    await stage.log.append(agent.new(left))
    with pytest.raises(TrainshedError):
        async with stage.agent():
            pass
    await stage.log.append(agent.new(msgspec.structs.replace(left, attempts=())))
    async with stage.agent():
        assert (await stage.last(NodeJoined)).incarnation != other


async def test_an_agent_whose_name_was_taken_ends_its_workers_and_exits(stage: Stage) -> None:
    ref = new_ref()
    async with stage.agent() as first:
        await stage.dispatch(ref, SLEEP)
        pid = (await stage.told(ref, Started)).pid
        await first.kill()
    await join_as_another(stage)
    with pytest.raises(TrainshedError, match="belongs to another state folder"):
        async with stage.agent():
            pass
    assert not alive(pid)
    assert await stage.words(ref) == ["started"]


async def test_a_grant_of_a_younger_incarnation_ends_the_agent_unacknowledged(stage: Stage) -> None:
    async with stage.agent() as running:
        await stage.dispatch(new_ref(), SLEEP, incarnation=uuid7())
        with pytest.raises(TrainshedError, match="belongs to another state folder"):
            await running.task
        assert await stage.unacknowledged() == 1


async def test_a_copied_state_folder_is_told_apart_by_its_heartbeats(stage: Stage) -> None:
    async with stage.agent() as running:
        incarnation = await stage.incarnation()
        agent = Writer(Role.AGENT, stage.writer.clock, node=NODE)
        subject, id_, body = agent.heartbeat(NodeHeartbeat(node=NODE, incarnation=incarnation))

        async def first_stored() -> bool:
            info = await stage.nc.request(f"$JS.API.STREAM.INFO.{subjects.HEARTBEATS_STREAM}", b"", timeout=5)
            return bool(msgspec.json.decode(info.data)["state"]["messages"])

        await eventually(first_stored)
        await stage.nc.request(subject, body, headers={"Nats-Msg-Id": id_}, timeout=5)
        with pytest.raises(TrainshedError, match="another agent speaks for node gpu01"):
            await running.task


async def test_a_clean_stop_leaves_the_worker_and_says_so(stage: Stage) -> None:
    ref, go_on = new_ref(), stage.root / "go_on"
    async with stage.agent() as running:
        seq = await stage.dispatch(ref, waits_for(go_on))
        pid = (await stage.told(ref, Started)).pid
        running.agent.stop()
        await running.task
        left = await stage.last(NodeLeft)
        assert left.upto == seq and left.attempts == (ref,)
        assert alive(pid)
    async with stage.agent():
        go_on.touch()
        assert isinstance(await stage.ended(ref), Completed)


async def test_a_borrowed_node_gives_everything_back(stage: Stage) -> None:
    ref, waiting = new_ref(1), new_ref(2)
    async with stage.agent(borrowed=True) as running:
        await stage.dispatch(ref, SLEEP, slots=(0,))
        pid = (await stage.told(ref, Started)).pid
        await stage.dispatch(waiting, SLEEP, slots=(0,))

        async def written_down() -> bool:
            return await stage.unacknowledged() == 0

        await eventually(written_down)
        running.agent.stop()
        await running.task
    assert not alive(pid)
    end = await stage.ended(ref)
    assert isinstance(end, Failed) and end.failure_reason is FailureReason.NODE_RECLAIMED
    end = await stage.ended(waiting)
    assert isinstance(end, Failed) and end.failure_reason is FailureReason.NOT_STARTED
    assert end.at_fault is None
    lefts = [each.event for each in await stage.events() if isinstance(each.event, NodeLeft)]
    assert [len(each.attempts) for each in lefts] == [2, 0]


async def test_two_agents_on_one_state_folder_are_one_too_many(stage: Stage) -> None:
    async with stage.agent():
        with pytest.raises(TrainshedError) as refusal:
            async with stage.agent():
                pass
    assert refusal.value.code is ErrorCode.CONFLICT
    assert "another agent already runs on" in str(refusal.value)


async def test_a_restart_of_the_server_loses_no_word(stage: Stage) -> None:
    ref, go_on = new_ref(), stage.root / "go_on"
    async with stage.agent() as running:
        await stage.dispatch(ref, waits_for(go_on))
        await stage.told(ref, Started)
        await stage.server.embedded.stop()
        go_on.touch()
        await eventually((stage.root / "node" / "attempts" / ref.run_id / "1" / "exit.json").exists)
        await stage.server.embedded.start()
        assert isinstance(await stage.ended(ref), Completed)
        assert await stage.words(ref) == ["started", "completed"]
        assert running.agent.state.phase is SessionPhase.JOINED


async def test_an_end_stored_without_its_acknowledgement_is_not_told_twice(stage: Stage) -> None:
    ref, go_on = new_ref(), stage.root / "go_on"
    async with stage.agent() as first:
        await stage.dispatch(ref, waits_for(go_on))
        await stage.told(ref, Started)
        await first.kill()
    go_on.touch()
    exit_file = stage.root / "node" / "attempts" / ref.run_id / "1" / "exit.json"
    await eventually(exit_file.exists)
    told = Completed(run_id=ref.run_id, attempt=1, duration_s=json.loads(exit_file.read_text())["duration_s"])
    agent = Writer(Role.AGENT, stage.writer.clock, node=NODE)
    await stage.log.append(agent.new(told))
    async with stage.agent():
        await eventually(lambda: not list((stage.root / "node" / "open").glob("[a-z2-7]*.*")))
        assert await stage.words(ref) == ["started", "completed"]


@pytest.mark.parametrize("duration_s", [None, 1e6])
async def test_an_end_that_no_process_of_the_node_told_does_not_stand_for_its_own(
    stage: Stage, duration_s: float | None
) -> None:
    ref, go_on = new_ref(), stage.root / "go_on"
    async with stage.agent() as first:
        await stage.dispatch(ref, waits_for(go_on))
        await stage.told(ref, Started)
        await first.kill()
    go_on.touch()
    await eventually((stage.root / "node" / "attempts" / ref.run_id / "1" / "exit.json").exists)
    forger = Writer(Role.AGENT, stage.writer.clock, node=NODE)
    await stage.log.append(forger.new(Completed(run_id=ref.run_id, attempt=1, duration_s=duration_s)))
    async with stage.agent():
        await eventually(lambda: not list((stage.root / "node" / "open").glob("[a-z2-7]*.*")))
        assert await stage.words(ref) == ["started", "completed", "completed"]


async def test_slots_that_were_chosen_before_the_last_join_are_not_taken(stage: Stage) -> None:
    """The agent may have come back with other devices, or with more slots of each."""
    async with stage.agent() as first:
        before = (await stage.events())[-1].seq
        await first.kill()
    async with stage.agent():
        await stage.dispatch(new_ref(1), SLEEP, slots=(0,), seen=before - 1)
        end = await stage.ended(new_ref(1))
        assert isinstance(end, Failed)
        assert (end.failure_reason, end.at_fault) == (FailureReason.NOT_STARTED, None)
        assert "before its last join" in (end.message or "")
        await stage.dispatch(new_ref(2), python("pass"), seen=before - 1)
        assert isinstance(await stage.ended(new_ref(2)), Completed)
