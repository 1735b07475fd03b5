"""A position of the log: who waits for it goes on when it is reached, and who gives up leaves nothing behind."""

from __future__ import annotations

import asyncio

import pytest

from services.position import Position


async def waiting(position: Position, seq: int) -> asyncio.Task[None]:
    task = asyncio.create_task(position.reached(seq))
    await asyncio.sleep(0)
    return task


async def done(*tasks: asyncio.Task[None]) -> list[bool]:
    for _ in range(3):
        await asyncio.sleep(0)
    return [task.done() for task in tasks]


async def test_those_whose_sequence_is_reached_go_on_and_the_others_wait() -> None:
    position = Position(3)
    await position.reached(3)
    tasks = [await waiting(position, seq) for seq in (9, 5, 7, 5)]
    position.advance(4)
    assert await done(*tasks) == [False, False, False, False]
    position.advance(7)
    assert await done(*tasks) == [False, True, True, True]
    position.advance(9)
    assert await done(*tasks) == [True, True, True, True]


async def test_what_had_to_begin_anew_is_waited_for_again() -> None:
    position = Position(9)
    position.advance(0)
    task = await waiting(position, 9)
    position.advance(8)
    assert await done(task) == [False]
    position.advance(9)
    assert await done(task) == [True]


async def test_who_gives_up_is_forgotten_and_the_others_are_not() -> None:
    position = Position()
    tasks = [await waiting(position, seq) for seq in (1, 2, 3)]
    tasks[0].cancel()
    assert await done(*tasks) == [True, False, False]
    assert len(position._waiters) == 2
    position.advance(3)
    assert await done(*tasks) == [True, True, True]
    for task in tasks[1:]:
        task.result()


async def test_who_gives_up_just_as_it_is_reached_breaks_nothing() -> None:
    position = Position()
    task = await waiting(position, 1)
    position.advance(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not position._waiters
