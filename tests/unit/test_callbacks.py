"""A caller's callbacks: plain functions and coroutine functions alike, and no fault of theirs ends who calls them."""

from __future__ import annotations

import asyncio

import pytest

from trainshed_client.callbacks import CallbackTasks, call, guarded


async def test_what_can_be_awaited_is_awaited() -> None:
    heard: list[str] = []

    async def later(text: str) -> None:
        await asyncio.sleep(0)
        heard.append(text)

    for callback in (heard.append, later):
        await call(callback, "x")
        await guarded(callback)("y")
    assert heard == ["x", "y"] * 2


async def test_a_fault_is_logged_where_nobody_may_end_by_it(caplog: pytest.LogCaptureFixture) -> None:
    async def later() -> None:
        raise ValueError("later")

    def plain() -> None:
        raise ValueError("plain")

    tasks = CallbackTasks()
    for callback in (plain, later):
        with pytest.raises(ValueError):
            await call(callback)
        await guarded(callback)()
        tasks.start(callback)
    for _ in range(3):
        await asyncio.sleep(0)
    await tasks.close()
    assert len(caplog.records) == 4


async def test_what_goes_on_beside_ends_with_its_owner() -> None:
    ended: list[bool] = []

    async def for_ever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    tasks = CallbackTasks()
    tasks.start(for_ever)
    await asyncio.sleep(0)
    await tasks.close()
    assert ended == [True]
