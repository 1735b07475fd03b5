"""The turns of a folder: one at a time, and no other folder waits."""

from __future__ import annotations

import asyncio

from services.agent.folders.turns import Turns


async def test_a_folder_is_had_by_one_at_a_time_and_holds_up_no_other() -> None:
    turns, order = Turns(), list[str]()
    had, released = asyncio.Event(), asyncio.Event()

    async def first() -> None:
        async with turns.of("x"):
            had.set()
            await released.wait()
            order.append("first")

    async def second() -> None:
        async with turns.of("x"):
            order.append("second")

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(first())
        await had.wait()
        waits = tasks.create_task(second())
        async with turns.of("y"):
            order.append("another")
        await asyncio.sleep(0)
        assert not waits.done()
        released.set()
    assert order == ["another", "first", "second"]
