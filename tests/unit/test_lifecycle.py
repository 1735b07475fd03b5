"""Services are started together, stopped in order, and none can keep the process alive."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from services import lifecycle
from services.lifecycle import run_services, unless
from trainshed_client.errors import ErrorCode, TrainshedError


class Part:
    """A service that does as it is told: waits for its stop, fails, or ignores stop or cancellation."""

    def __init__(
        self,
        name: str,
        told: list[str],
        *,
        fails: BaseException | None = None,
        ready: bool = True,
        deaf: bool = False,
        clings: bool = False,
    ) -> None:
        self.name = name
        self.ready = asyncio.Event()
        self._told = told
        self._stop = asyncio.Event()
        self._fails = fails
        self._becomes_ready = ready
        self._deaf = deaf
        self._clings = clings

    async def run(self) -> None:
        if self._fails is not None:
            await asyncio.sleep(0)
            async with asyncio.TaskGroup():  # as real services do: the error comes in a group
                raise self._fails
        if self._becomes_ready:
            self.ready.set()
        try:
            if self._deaf:
                await asyncio.Event().wait()
            await self._stop.wait()
            self._told.append(f"{self.name} ended")
        except asyncio.CancelledError:
            self._told.append(f"{self.name} cancelled")
            if self._clings:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.Event().wait()
            raise

    def stop(self) -> None:
        self._told.append(f"stop {self.name}")
        self._stop.set()


async def test_they_are_stopped_one_after_the_other() -> None:
    told: list[str] = []
    stop = asyncio.Event()
    await run_services([Part("a", told), Part("b", told)], stop, on_ready=stop.set)
    assert told == ["stop a", "a ended", "stop b", "b ended"]


async def test_a_service_that_never_became_ready_does_not_hold_up_a_stop() -> None:
    told: list[str] = []
    stop = asyncio.Event()
    stop.set()
    async with asyncio.timeout(5):
        await run_services([Part("a", told, ready=False)], stop, on_ready=lambda: told.append("ready"))
    assert told == ["stop a", "a ended"]


async def test_a_service_that_does_not_heed_its_stop_is_cancelled_in_time() -> None:
    told: list[str] = []
    stop = asyncio.Event()
    async with asyncio.timeout(5):
        await run_services(
            [Part("deaf", told, deaf=True), Part("b", told)], stop, on_ready=stop.set, within_s=0.05
        )
    assert told == ["stop deaf", "stop b", "b ended", "deaf cancelled"]


async def test_the_first_error_ends_the_others_and_is_raised_as_it_is() -> None:
    told: list[str] = []
    refusal = TrainshedError(ErrorCode.CONFLICT, "the name is another's")
    with pytest.raises(TrainshedError) as caught:
        await run_services([Part("a", told), Part("b", told, fails=refusal)], asyncio.Event())
    assert caught.value is refusal
    assert told == ["a cancelled"]


async def test_a_part_that_swallows_its_cancellation_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "CANCEL_WITHIN_S", 0.05)
    told: list[str] = []
    refusal = TrainshedError(ErrorCode.CONFLICT, "the name is another's")
    async with asyncio.timeout(5):
        with pytest.raises(TrainshedError):
            await run_services(
                [Part("a", told, clings=True), Part("b", told, fails=refusal)], asyncio.Event()
            )
    assert told == ["a cancelled"]
    (left,) = [task for task in asyncio.all_tasks() if task.get_name() == "a"]
    left.cancel()
    await asyncio.wait({left})


async def test_work_is_given_up_at_a_stop_and_has_ended_then() -> None:
    told: list[str] = []

    async def work() -> int:
        try:
            await asyncio.Event().wait()
        finally:
            told.append("ended")
        return 1

    stop = asyncio.Event()
    asyncio.get_running_loop().call_soon(stop.set)
    assert await unless(stop, work()) is None
    assert told == ["ended"]
    assert await unless(asyncio.Event(), asyncio.sleep(0, 7)) == 7
    with pytest.raises(TrainshedError):
        await unless(asyncio.Event(), _refused())


async def _refused() -> None:
    raise TrainshedError(ErrorCode.DENIED, "no")
