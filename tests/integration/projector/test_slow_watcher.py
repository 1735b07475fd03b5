"""A watcher that stops reading: the server cuts it off, the projector names it once, and all others go on."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from events.streams import ensure_streams
from services.nats_server import cut_off
from tests.support import NatsServer, eventually
from tests.support.stopped_watcher import flood, stopped_watcher
from tests.support.stored_log import ask, projecting
from tests.support.watched import StoredInParts


async def test_who_stops_reading_is_cut_off_and_named_once_with_what_was_pending(
    nats_server: NatsServer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cut_off, "LOOK_EVERY_S", 0.1)
    caplog.set_level(logging.WARNING, "trainshed.watchers")
    nc = await nats_server.client()
    await ensure_streams(nc)
    log = StoredInParts(nc)

    def named() -> list[str]:
        return [one.getMessage() for one in caplog.records if one.name == "trainshed.watchers"]

    with stopped_watcher(nats_server.endpoint, "before"):
        await flood(nc)  # who was cut off before the projector was there is not its to name
    url = nats_server.embedded.monitor_url
    async with projecting(await nats_server.client(), tmp_path / "t.db", records=True, monitor_url=url):
        await asyncio.sleep(0.5)
        with stopped_watcher(nats_server.endpoint, "ada's window") as sock:
            address = "{}:{}".format(*sock.getsockname())
            await flood(nc)
            await eventually(named)
        (line,) = named()
        assert f"ada's window at {address}, as it read too slowly" in line
        assert int(line.partition(" bytes")[0].rpartition(" ")[2].replace(",", "")) > 1 << 20
        # the others' records go on, and it is named no second time: not even where another is
        run_id = log.made.submit()
        await log.store()
        assert (await ask(nc, "run.get", {"run_id": run_id}))["run"]["status"] == "PENDING"
        await nats_server.restart()
        await eventually(lambda: nc.is_connected)
        with stopped_watcher(nats_server.endpoint, "another"):
            await flood(nc)
            await eventually(lambda: len(named()) == 2, 15)
        assert "another" in named()[1]
        await asyncio.sleep(0.3)
        assert len(named()) == 2
