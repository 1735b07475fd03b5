"""A program that watches a stack whose server really starts again: it is told of changes, and of nothing twice."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

import pytest

from tests.support import eventually
from tests.support.stack import Stack
from trainshed_client import PRESENT, RecordWatch, Trainshed
from trainshed_client.records import RunRecord
from trainshed_client.statuses import RunStatus


async def test_after_a_restart_of_the_server_a_watch_hands_out_changes_only(
    new_stack: Callable[..., Stack], monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = await asyncio.to_thread(new_stack)

    async def submit(*words: str) -> str:
        return await asyncio.to_thread(stack.submit, *words, "--", "sleep", "60")

    ended = [await submit() for _ in range(3)]
    await asyncio.to_thread(stack.trainshed, "cancel", *ended)
    await asyncio.to_thread(stack.wait, *ended, code=125)
    live = [await submit("--gpus", "2") for _ in range(2)]
    await asyncio.to_thread(stack.running, live[0])
    monkeypatch.setenv("TRAINSHED_STATE_DIR", str(stack.state_dir))
    heard: list[RunRecord] = []
    present: list[object] = []
    refilled: set[str] = set()
    again: list[None] = []

    async def hear(watch: RecordWatch[RunRecord]) -> None:
        async for record in watch:
            if isinstance(record, RunRecord):
                heard.append(record)
            else:
                present.append(record)

    client = await Trainshed.connect()
    async with client, client.watch_runs() as every, client.watch_runs([*live, *ended]) as named:
        bucket = await client.connection.watch_runs(
            None, lambda run, _: refilled.add(run), lambda: again.append(None)
        )
        async with asyncio.TaskGroup() as tasks:
            hearing = [tasks.create_task(hear(watch)) for watch in (every, named)]
            await eventually(lambda: present == [PRESENT, PRESENT])
            assert {record.run_id for record in heard} == {*live, *ended}
            heard.clear()
            again.clear()
            os.kill(stack.child("nats-server"), signal.SIGKILL)
            # A client that is there again late has missed that the bucket was filled anew.
            await eventually(lambda: bool(again) or refilled >= {*live, *ended}, within=60)
            new = await submit("--gpus", "2")
            await eventually(lambda: any(record.run_id == new for record in heard), within=60)
            for task in hearing:
                task.cancel()
        await bucket.close()
    assert present == [PRESENT, PRESENT]
    # Of what runs, each heartbeat is a change.
    assert {(one.run_id, one.status) for one in heard} - {(live[0], RunStatus.RUNNING)} == {
        (new, RunStatus.PENDING)
    }


async def test_after_the_projector_was_killed_a_watch_and_the_events_go_on_and_repeat_nothing(
    new_stack: Callable[..., Stack], monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = await asyncio.to_thread(new_stack)
    first = await asyncio.to_thread(stack.submit, "--", "true")
    await asyncio.to_thread(stack.wait, first)
    monkeypatch.setenv("TRAINSHED_STATE_DIR", str(stack.state_dir))
    heard: list[tuple[str, RunStatus]] = []
    seqs: list[int] = []
    async with await Trainshed.connect() as client, asyncio.TaskGroup() as tasks:

        async def watch() -> None:
            async for record in client.watch_runs():
                if isinstance(record, RunRecord):
                    heard.append((record.run_id, record.status))

        async def follow() -> None:
            async for event in client.events():
                seqs.append(event.seq)

        following = [tasks.create_task(watch()), tasks.create_task(follow())]
        await eventually(lambda: heard and seqs)
        os.kill(stack.child("trainshed", "projector"), signal.SIGKILL)
        second = await asyncio.to_thread(stack.submit, "--", "true")
        await eventually(lambda: (second, RunStatus.COMPLETED) in heard, within=30)
        end = len(await asyncio.to_thread(stack.events))
        await eventually(lambda: seqs and seqs[-1] == end)
        for task in following:
            task.cancel()
    assert [run for run, _ in heard].count(first) == 1
    assert heard[-1] == (second, RunStatus.COMPLETED) and heard.count(heard[-1]) <= 2
    assert seqs == list(range(1, end + 1))
