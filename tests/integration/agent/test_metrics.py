"""The history of an attempt's metrics: from datagrams and from lines of stdout, over the ends of agent and shim, live and by range."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from events.types import AttemptRef, Completed, Failed, LastHeartbeat, Started, TimedOut
from services.agent.attempts import attempt, late_metrics
from services.agent.folders.files import read_started
from services.agent.output import measured, metrics_tail
from services.agent.processes.hand_in import Rest
from tests.integration.agent.stage import NODE, Stage, new_ref, python
from tests.integration.agent.test_output import NOTIFY, ask, heartbeats, listen, read_all
from tests.support import NatsServer, eventually
from trainshed_client import subjects


@pytest.fixture
async def stage(nats_server: NatsServer, tmp_path: Path) -> Stage:
    return await Stage.set_up(nats_server, tmp_path)


def metrics_path(stage: Stage, ref: AttemptRef) -> Path:
    return stage.runs_dir / ref.run_id / "attempts" / str(ref.attempt) / "metrics.jsonl"


def written(stage: Stage, ref: AttemptRef) -> list[dict[str, Any]]:
    """The file's whole lines: what follows the last end of a line is still being written."""
    path = metrics_path(stage, ref)
    whole = path.read_text().rpartition("\n")[0] if path.exists() else ""
    return [json.loads(line) for line in whole.splitlines()]


def steps(stage: Stage, ref: AttemptRef) -> list[int]:
    return [line["step"] for line in written(stage, ref)]


def printing(stage: Stage, *, last: int) -> dict[str, Any]:
    """A worker that prints a line a step, and goes on only up to the step that the file `up_to` holds."""
    return python(
        f"""
import json, os, time
step = 0
while step < {last}:
    try: up_to = int(open({str(stage.root / "up_to")!r}).read() or 0)
    except FileNotFoundError: up_to = 0
    while step < up_to:
        step += 1
        print(json.dumps({{"type": "step", "step": step, "reward": step / 2, "time": 1.5}}), flush=True)
    time.sleep(0.005)
"""
    )


def go_on(stage: Stage, up_to: int) -> None:
    (stage.root / "next").write_text(str(up_to))
    os.rename(stage.root / "next", stage.root / "up_to")


async def test_lines_of_stdout_are_metrics_with_their_offset_and_the_end_has_the_last(stage: Stage) -> None:
    ref = new_ref()
    script = """
print('{"type": "step", "step": 1, "reward": 1, "time": 5, "timestamp": 6, "episode": 7, "seed": 8, "ok": true, "who": "x"}')
print('no metrics')
print('{"step": 2, "reward": 2}')
print('{"event": "episode", "loss": NaN, "acc@1": "Infinity", "nested": {"a": 1}}')
print('{"type": "heartbeat"}')
print('{"type": "step", "step": 3}')
print('{"type": "step", "step": 4, "reward": 9}', end="")
"""
    async with stage.agent():
        await stage.dispatch(ref, python(script))
        end = await stage.ended(ref)
        stdout = await read_all(stage, ref.run_id)
    lines = written(stage, ref)
    assert [(line["step"], line["metrics"]) for line in lines] == [
        (1, {"reward": 1}),
        (None, {"loss": "NaN", "acc@1": "Infinity"}),
        (3, {}),
    ]
    for line, begins in zip(
        lines, (b'{"type": "step", "step": 1,', b'{"event"', b'{"type": "step", "step": 3}'), strict=True
    ):
        assert stdout[line["offset"] :].startswith(begins)
    last = end.last_heartbeat
    assert isinstance(last, LastHeartbeat)
    assert (last.step, last.metrics) == (3, {"reward": 1, "loss": "NaN", "acc@1": "Infinity"})


async def test_what_stdout_measures_moves_the_heartbeats_while_the_worker_runs(stage: Stage) -> None:
    ref = new_ref()
    async with stage.agent():
        await stage.dispatch(ref, printing(stage, last=3))
        go_on(stage, 2)

        async def told() -> bool:
            said = await heartbeats(stage, ref.run_id)
            return bool(said) and (said[-1].step, said[-1].metrics) == (2, {"reward": 1})

        await eventually(told)
        assert (await heartbeats(stage, ref.run_id))[
            -1
        ].last_heartbeat_at is not None  # source process: it is there
        assert await eventually(lambda: steps(stage, ref) == [1, 2])
        go_on(stage, 3)
        await stage.ended(ref)


async def test_what_a_worker_prints_is_no_sign_of_life_for_notify(stage: Stage) -> None:
    ref = new_ref()
    script = """
import json, time
for step in range(1000):
    print(json.dumps({"type": "step", "step": step, "reward": 1}), flush=True)
    time.sleep(0.02)
"""
    async with stage.agent():
        await stage.dispatch(
            ref,
            {**python(script), "heartbeat": {"source": "notify", "timeout_s": 0.7}, "stop": {"grace_s": 0}},
        )
        end = await stage.ended(ref)
    assert isinstance(end, TimedOut)
    assert end.last_heartbeat is not None and end.last_heartbeat.last_heartbeat_at is None
    lines = steps(stage, ref)
    assert lines == list(range(len(lines))) and end.last_heartbeat.step == lines[-1]


@pytest.mark.parametrize("ends_while_away", [False, True])
async def test_over_the_ends_of_agents_no_line_is_lost_and_none_counted_twice(
    stage: Stage, ends_while_away: bool
) -> None:
    ref = new_ref()
    async with stage.agent() as first:
        await stage.dispatch(ref, printing(stage, last=400))
        go_on(stage, 100)
        await eventually(lambda: len(steps(stage, ref)) > 0)
        go_on(stage, 200)  # and perhaps not yet handed in, or handed in and not yet written
        await first.kill()
    go_on(stage, 400 if ends_while_away else 300)
    if ends_while_away:
        exit_file = stage.root / "node" / "attempts" / ref.run_id / "1" / "exit.json"
        await eventually(exit_file.exists)
        assert len(steps(stage, ref)) < 400
    async with stage.agent():
        if not ends_while_away:
            await eventually(lambda: steps(stage, ref) == list(range(1, 301)))
            go_on(stage, 400)
        end = await stage.ended(ref)
    assert steps(stage, ref) == list(range(1, 401))
    assert end.last_heartbeat is not None
    assert (end.last_heartbeat.step, end.last_heartbeat.metrics) == (400, {"reward": 200})


@pytest.mark.parametrize("agent_too", [False, True])
async def test_over_a_killed_shim_no_line_of_stdout_is_lost_and_none_counted_twice(
    stage: Stage, agent_too: bool
) -> None:
    ref = new_ref()
    folder = stage.root / "node" / "attempts" / ref.run_id / "1"
    async with stage.agent() as first:
        await stage.dispatch(ref, printing(stage, last=1000))
        await stage.told(ref, Started)
        go_on(stage, 100)
        await eventually(lambda: len(steps(stage, ref)) > 0)
        go_on(stage, 200)
        stdout = metrics_path(stage, ref).with_name("stdout.log")
        await eventually(lambda: stdout.read_bytes().count(b"\n") == 200)
        started = read_started(folder)
        assert started is not None
        if agent_too:
            await first.kill()
        os.kill(started.shim_pid, signal.SIGKILL)
        if not agent_too:
            end = await stage.ended(ref)
    if agent_too:
        async with stage.agent():
            end = await stage.ended(ref)
    assert isinstance(end, Failed) and end.last_heartbeat is not None
    assert steps(stage, ref) == list(range(1, 201))
    assert (end.last_heartbeat.step, end.last_heartbeat.metrics) == (200, {"reward": 100})


@pytest.mark.parametrize("killed", [False, True])
async def test_what_an_end_has_no_time_to_count_is_counted_after_it(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    ref = new_ref()
    monkeypatch.setattr(
        measured, "READ_BYTES", 70_000
    )  # a piece is no more, where there is no time for a second
    monkeypatch.setattr(attempt, "REST_WITHIN_S", 0.0)
    monkeypatch.setattr(late_metrics, "PIECE_S", 0.0)
    monkeypatch.setattr(metrics_tail, "AHEAD_LINES", 0)  # while it runs nothing is handed in
    script = """
import json
for step in range(2000):
    print(json.dumps({"type": "step", "step": step, "reward": step}))
    print("x" * 200)
print("y" * 500_000)
print(json.dumps({"type": "step", "step": 2000, "reward": 2000}))
"""
    marker = stage.root / "node" / "uncounted" / f"{ref.run_id}.1"
    with monkeypatch.context() as patch:
        if killed:
            patch.setattr(late_metrics, "hand_in_rest", lambda *_: Rest(None, False, 0))
        async with stage.agent() as first:
            await stage.dispatch(ref, python(script))
            end = await stage.ended(ref)
            assert isinstance(end, Completed) and end.last_heartbeat is not None
            assert (end.last_heartbeat.step, end.last_heartbeat.metrics) == (2000, {"reward": 2000})
            if killed:
                await eventually(marker.exists)
                assert steps(stage, ref) != list(range(2001))
            else:
                await eventually(lambda: steps(stage, ref) == list(range(2001)))
                await eventually(lambda: not marker.exists())
            await first.kill()
    async with stage.agent():
        await eventually(lambda: not marker.exists())
    assert steps(stage, ref) == list(range(2001))


async def test_metrics_are_live_and_served_by_ranges_of_whole_lines(stage: Stage) -> None:
    ref = new_ref()
    live = await listen(stage, subjects.output(ref.run_id, 1, NODE, "metrics"))
    script = (
        NOTIFY
        + f"""
for step in range(5): say(f"X_STEP={{step}}\\nX_METRIC_loss=1")
while not os.path.exists({str(stage.root / "go_on")!r}): time.sleep(0.01)
for step in range(5, 2000): say(f"X_STEP={{step}}\\nX_METRIC_loss=1")
"""
    )
    async with stage.agent():
        await stage.dispatch(ref, python(script))
        await eventually(lambda: len(b"".join(data for _, data in live.chunks).splitlines()) == 5)
        (stage.root / "go_on").touch()
        await stage.ended(ref)
        whole = metrics_path(stage, ref).read_bytes()
        await eventually(lambda: live.size == len(whole))
        assert b"".join(data for _, data in live.chunks) == whole
        assert all(whole[offset:].startswith(data) for offset, data in live.chunks)
        assert await read_all(stage, ref.run_id, "metrics") == whole
        some = await ask(stage, run_id=ref.run_id, attempt=1, stream="metrics", offset=0, limit=1000)
        assert whole.startswith(some.data) and some.data.endswith(b"}\n") and 800 < len(some.data) <= 1000
        last = await ask(stage, run_id=ref.run_id, attempt=1, stream="metrics", offset=-200)
        assert whole.endswith(last.data) and msgspec.json.decode(last.data.splitlines()[-1])["step"] == 1999
