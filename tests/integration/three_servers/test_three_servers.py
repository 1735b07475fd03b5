"""Three servers: a leader that is killed loses nothing that was acknowledged; `make cluster` kills ten."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import nats.errors
import pytest

from events.feed import ApiError
from events.log import EventLog, UnknownOutcome, publish
from projections.records import Filling, RecordBuckets
from tests.integration.three_servers.lab import ThreeServersLab, summary
from tests.support.deadline import eventually
from tests.support.stack import clean_environment, run_trainshed
from tests.support.three_servers import ThreeServers
from trainshed_client import Trainshed, subjects
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.records import RunRecord
from trainshed_client.statuses import RunStatus

RUNS = f"KV_{subjects.RUNS_BUCKET}"


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[ThreeServers]:
    """Three servers with their streams, and nobody else."""
    made = ThreeServers(tmp_path / "three")
    try:
        await made.make()
        await made.start()
        await made.make_streams()
        yield made
    finally:
        await made.close()


@pytest.mark.timeout(240)
async def test_nothing_acknowledged_is_lost_where_leaders_are_killed(tmp_path: Path) -> None:
    lab = ThreeServersLab(tmp_path)
    try:
        await lab.start()
        outcome = await lab.play(2)
        shown = summary(outcome)
        assert len(outcome.kills) == 2 and outcome.runs >= 20, shown
        assert not outcome.violations and not outcome.refused and not outcome.own_ends, shown
        assert not outcome.missed, shown
        assert outcome.verified == "ok", shown
        await _after_all_three_were_killed(lab)
    finally:
        await lab.close()


async def _after_all_three_were_killed(lab: ThreeServersLab) -> None:
    """Records lie in memory: they are filled again, and runs go on."""
    before = len(lab.follower.messages)
    await lab.servers.kill(*lab.servers.names)
    await lab.servers.start()
    sam, _ = await lab.person("user-sam")
    await asyncio.wait_for(_until_watched(lab, {ack.run_id for ack in lab.acks}), 60)
    run_id = await asyncio.wait_for(_submitted(sam), 60)
    (ended,) = await sam.wait([run_id], timeout=60)
    assert ended.status is RunStatus.COMPLETED
    await eventually(lambda: len(lab.follower.messages) > before, 30)


async def _submitted(sam: Trainshed) -> str:
    while True:
        try:
            return (await sam.submit({"entry_point": "/bin/true", "submission_key": "after"})).run_id
        except TrainshedError as error:
            assert error.code is ErrorCode.UNAVAILABLE, error
            await asyncio.sleep(0.2)


async def _until_watched(lab: ThreeServersLab, known: set[str]) -> None:
    ann, _ = await lab.person("user-ann")
    left = set(known)
    async with ann.watching.runs(None, patient=True) as records:
        async for record in records:
            if isinstance(record, RunRecord) and record.status.ended:
                left.discard(record.run_id)
            if not left:
                return


async def test_what_was_just_acknowledged_is_there_though_a_copy_lags(servers: ThreeServers) -> None:
    log = EventLog(await servers.client("gateway"))
    for number in range(200):  # of direct gets a third finds nothing
        subject = subjects.submitted(f"r-{number}")
        seq = (await publish(log.nc, subject, f"id-{number}", b"{}")).seq
        assert (await log.has(subject))[0] == seq
    assert await log.has(subjects.submitted("r-none")) == (0, None)


async def test_buckets_are_filled_again_under_another_leader(servers: ThreeServers) -> None:
    nc = await servers.client("projector")
    filling = Filling([("r-1", b'{"v":1}')], [], [], [])
    async with RecordBuckets(nc, replicas=3) as buckets:
        await buckets.fill(filling)
        await eventually(buckets.are_whole, 10)
        buckets.lost.clear()
        heard: list[bytes] = []
        sam = await servers.client("user-sam")
        await sam.listen(subjects.watch_run("r-1"), lambda msg: heard.append(msg.data))
        await sam.flush()
        await servers.kill(await servers.leader(nc, RUNS))
        await asyncio.wait_for(buckets.lost.wait(), 30)
        await eventually(lambda: _filled(buckets, filling), 30)
        await eventually(lambda: heard, 10)


async def _filled(buckets: RecordBuckets, filling: Filling) -> bool:
    try:
        if await buckets.are_whole():
            return True
    except (TimeoutError, nats.errors.Error, ApiError):
        return False  # no leader yet
    await buckets.fill(filling)
    return False


async def test_a_nodes_certificate_opens_no_route(servers: ThreeServers) -> None:
    port = servers.servers[0].routes
    ca = servers.folder / "s2" / "routes-ca.crt"
    assert await _is_let_in(port, servers.folder / "s2" / "routes.pem", ca)
    assert not await _is_let_in(port, servers.folder / "credentials" / "node-gpu01.pem", ca)


async def _is_let_in(port: int, pem: Path, ca: Path) -> bool:
    """Whether a server goes on with who comes to its routes as another one: after TLS's handshake it says who it is."""
    context = ssl.create_default_context(cafile=str(ca))
    context.load_cert_chain(str(pem))
    try:
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            try:
                return (await reader.readline()).startswith(b"INFO")
            finally:
                writer.close()
    except (ssl.SSLError, ConnectionError):
        return False


async def test_a_lost_disk_is_copied_anew_and_two_lost_servers_come_back(servers: ThreeServers) -> None:
    log = EventLog(await servers.client("gateway"))
    operator = await servers.client("operator")
    await servers.whole(operator)
    subject = subjects.submitted("r-1")
    seq = (await publish(log.nc, subject, "id-1", b"{}")).seq
    await servers.kill("s1")
    servers.lose_disk("s1")
    await servers.start("s1")
    await asyncio.wait_for(servers.whole(operator), 60)
    await servers.kill("s2", "s3")
    with pytest.raises(UnknownOutcome):
        await publish(log.nc, subject, "id-2", b"{}", timeout_s=1)
    await servers.start("s2", "s3")
    await asyncio.wait_for(servers.whole(operator), 60)
    assert (await log.has(subject))[0] >= seq


async def test_a_node_more_after_two_reloads_and_a_person_less(servers: ThreeServers) -> None:
    gateway = await servers.client("gateway")
    await servers.make("--node=gpu03")
    servers.read_again()
    await asyncio.sleep(1)  # the page has a person do it twice
    servers.read_again()
    node = EventLog(await asyncio.wait_for(servers.client("node-gpu03"), 20))
    assert await eventually(node.id_for_node, 20) == await EventLog(gateway).log_id()
    sam = await servers.client("user-sam")
    assert gateway.stats["reconnects"] == 0
    await asyncio.to_thread(
        run_trainshed, "user", "revoke", "sam", environment=clean_environment(servers.folder)
    )
    await servers.make("--node=gpu03")
    servers.read_again()
    await eventually(lambda: not sam.is_connected, 20)
    assert gateway.stats["reconnects"] == 0 and node.nc.is_connected
