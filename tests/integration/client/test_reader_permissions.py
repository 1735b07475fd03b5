"""Who only reads needs direct gets, the API's calls and the republished subjects, and nothing else of NATS."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from events.streams import ensure_streams
from services.access.local_realm import Unconfined
from services.nats_server.web_socket import WebSocketListener
from tests.support import NatsServer, eventually
from tests.support.stack import clean_environment, run_trainshed
from tests.support.stored_log import projecting
from tests.support.watched import StoredInParts
from trainshed_client import PRESENT, LogEvent, Trainshed, TrainshedError
from trainshed_client.endpoint import Endpoint
from trainshed_client.nats_client import connect
from trainshed_client.nats_connection import NatsConnection

PUBLISH = ("$JS.API.DIRECT.GET.>", "trainshed.api.>")
SUBSCRIBE = ("_INBOX.>", "trainshed.watch.>", "trainshed.log.>")


async def with_reader(
    monkeypatch: pytest.MonkeyPatch, server: NatsServer, publish: tuple[str, ...] = PUBLISH
) -> Endpoint:
    """Start it with a second user, who may do that and no more; an endpoint with his name."""
    may = ", ".join(
        f"{what}: [{', '.join(f'{one!r}' for one in those)}]"
        for what, those in (("publish", publish), ("subscribe", SUBSCRIBE))
    )
    reader = f"{{ user: reader, password: reads, permissions {{ {may} }} }}"
    before = Unconfined.text

    def with_reader(self: Unconfined, password: str, web: WebSocketListener | None) -> str:
        return before(self, password, web).replace("users: [", f"users: [ {reader}", 1)

    monkeypatch.setattr(Unconfined, "text", with_reader)
    await server.embedded.stop()
    await server.embedded.start()
    return Endpoint(server.endpoint.url, "reader", "reads")


async def test_a_reader_watches_and_reads_the_log_with_these_rights_alone(
    nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[Exception] = []
    endpoint = await with_reader(monkeypatch, nats_server)
    nc = await nats_server.client()
    await ensure_streams(nc)
    log = StoredInParts(nc)
    run_id = log.made.submit()
    await log.store()
    reader = await connect(endpoint, name="reader", on_error=errors.append)
    trainshed = Trainshed(NatsConnection(reader, endpoint.url))
    async with projecting(await nats_server.client(), tmp_path / "t.db", records=True), trainshed:
        for watch in (
            trainshed.watch_runs(),
            trainshed.watch_runs([run_id]),
            trainshed.watch_slots(),
            trainshed.watch_nodes(),
            trainshed.watch_queue(),
        ):
            async with asyncio.timeout(10):
                async for one in watch:
                    if one is PRESENT:
                        break
        heard: list[LogEvent] = []

        async def hear() -> None:
            async for event in trainshed.events(run=run_id):
                heard.append(event)

        hearing = asyncio.create_task(hear())
        await eventually(lambda: heard)
        log.made.dispatch(run_id)
        end = await log.store()
        await eventually(lambda: len(heard) == 2)
        hearing.cancel()
        await asyncio.wait({hearing})
        assert errors == []

        environment = clean_environment(
            tmp_path / "none",
            {
                "TRAINSHED_NATS_URL": endpoint.url,
                "TRAINSHED_NATS_USER": "reader",
                "TRAINSHED_NATS_PASSWORD": "reads",
            },
        )

        async def run(*words: str) -> list[str]:
            return (await asyncio.to_thread(run_trainshed, *words, environment=environment)).lines

        assert len(await run("events")) == end
        assert len(await run("events", "--run", run_id, "--type", "submitted", "--type", "dispatched")) == 2
        assert run_id[:6] in "".join(await run("ls", "--all"))
        assert await run("show", run_id)
        assert any("the tables are the same" in line for line in await run("audit", "verify"))


async def test_with_less_it_is_an_error_that_names_what_is_missing(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainshed_client.direct_get.ANSWER_WITHIN_S", 0.1)
    monkeypatch.setattr("trainshed_client.watching.buckets.PATIENCE_S", 0.2)
    endpoint = await with_reader(monkeypatch, nats_server, ("trainshed.api.>",))
    await ensure_streams(await nats_server.client())
    trainshed = Trainshed(
        NatsConnection(await connect(endpoint, name="reader", on_error=print), endpoint.url)
    )
    async with trainshed:
        with pytest.raises(
            TrainshedError, match=r"may this user publish to \$JS\.API\.DIRECT\.GET\.KV_trainshed_runs"
        ):
            await trainshed.watch_runs().__aenter__()
