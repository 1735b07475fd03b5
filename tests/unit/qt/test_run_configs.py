"""Which configs are read, and when: each once, before what follows of its run, and again once a runner has dropped it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from trainshed_client.client import Trainshed
from trainshed_client.qt.outbox import Frame, Outbox
from trainshed_client.qt.run_configs import RunConfigs


class ConfigSource:
    """Answers `get` once it is let go, and knows who asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.gate = asyncio.Event()

    async def get(self, run_id: str) -> Any:
        self.asked.append(run_id)
        await self.gate.wait()
        return SimpleNamespace(config={"run_name": run_id})

    @property
    def client(self) -> Trainshed:
        return cast(Trainshed, self)


async def test_one_that_is_wanted_and_followed_comes_once_before_what_follows() -> None:
    frames: list[Frame] = []
    outbox = Outbox(frames.append, frame_s=0)
    source, configs = ConfigSource(), RunConfigs()
    feed = asyncio.create_task(configs.feed(source.client, outbox))
    await asyncio.sleep(0)
    configs.want("a")
    configs.want("a")

    async def follow() -> None:
        await configs.have(source.client, outbox, "a")
        outbox.put("output_received", "a")

    following = asyncio.create_task(follow())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not following.done()
    source.gate.set()
    await following
    while not frames:
        await asyncio.sleep(0)
    feed.cancel()
    assert [item.name for frame in frames for item in frame] == ["config_received", "output_received"]
    await configs.have(source.client, outbox, "a")
    assert set(source.asked) == {"a"} and len(source.asked) == 2


async def test_one_that_was_dropped_for_newer_ones_is_read_again() -> None:
    source, configs = ConfigSource(), RunConfigs(kept=2)
    source.gate.set()
    outbox = Outbox(lambda frame: None)
    for run_id in ("a", "b", "b", "c", "a"):
        await configs.have(source.client, outbox, run_id)
    assert source.asked == ["a", "b", "c", "a"]
