"""From a token to a connection of one's own, renewed, replaced and ended, on a real nats-server that pins the roster's keys."""

from __future__ import annotations

import asyncio
import secrets
import shutil
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from services.access.identities import Control, ControlRole, NodeIdentity, Person, PersonRole
from services.cli import renewal
from services.enrol.cluster import begin_rotation, end_rotation, initialise, new_token, provide
from services.enrol.enrolment import Enrolment
from services.enrol.joining import join
from services.enrol.keys import key_fingerprint, make_key, make_request, read_key
from services.enrol.listener import EnrolListener
from services.enrol.renewing import Renewal
from services.enrol.roster import EnrolledNode, Roster, asked_to_renew, revoked
from services.enrol.roster_file import change, read_roster
from services.enrol.service import EnrolService
from services.enrol.tokens import ForAnyNode, ForNode, ForPerson, Invited
from services.setting_values import Listen
from tests.integration.enrol.pinned_server import PinnedServer
from trainshed_client.endpoint import Endpoint, read_credentials, read_endpoint
from trainshed_client.errors import TrainshedError
from trainshed_client.nats_client import SafeClient

ENROL = {"enrol": Control(ControlRole.ENROL)}
SAM = ForPerson(name="sam", role=PersonRole.VIEWER)
RENEW = "trainshed.api.cert.renew"


def now() -> datetime:
    return datetime.now(UTC)


class Lab:
    """A control side with its server and the service `enrol`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.control = folder / "control"
        self.server = PinnedServer(self.control)
        self.listener: EnrolListener | None = None
        self._clients: list[SafeClient] = []

    async def start(self) -> None:
        initialise(self.control, ["127.0.0.1"], now=now())
        provide(self.control, ENROL, now=now())
        await self.server.start(self.roster)
        nc = await self.client(self.server.endpoint("enrol"))
        enrolment = Enrolment(
            self.control / "cluster",
            where=lambda _: Endpoint(self.server.url),
            apply=self.server.apply,
            clock=now,
        )
        self.listener = EnrolListener(
            Listen("127.0.0.1", 0),
            enrolment,
            ["127.0.0.1"],
            members=lambda at: provide(self.control, ENROL, now=at),
        )
        self._service = EnrolService(nc, self.listener, enrolment)
        self._running = asyncio.create_task(self._service.run())
        await self._service.ready.wait()

    async def close(self) -> None:
        self._service.stop()
        await self._running
        for client in self._clients:
            await client.close()
        await self.server.stop()

    @property
    def roster(self) -> Roster:
        return read_roster(self.control / "cluster")

    async def client(self, endpoint: Endpoint) -> SafeClient:
        client = await self.server.connect(endpoint)
        self._clients.append(client)
        return client

    async def joined(self, whom: Invited) -> Endpoint:
        """Who ``whom`` invites, on a machine of its own."""
        assert self.listener is not None
        line = new_token(self.control, whom, secrets.token_bytes(20), now=now())
        as_node = not isinstance(whom, ForPerson)
        name = "c1" if isinstance(whom, ForAnyNode) else None
        state_dir = self.folder / (whom.name if isinstance(whom, ForNode | ForPerson) else "any")
        member = await asyncio.to_thread(
            join,
            line._replace(port=self.listener.port),
            state_dir=state_dir,
            as_node=as_node,
            name=name,
            within_s=5.0,
        )
        return read_credentials(member.credentials, given_by="test")

    def renewal(self, nc: SafeClient, endpoint: Endpoint) -> Renewal:
        return Renewal(nc, endpoint, connect=self.server.connect, clock=now)

    def node(self, name: str = "gpu01") -> EnrolledNode:
        return next(node for node in self.roster.nodes if node.name == name)


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    one = Lab(tmp_path)
    await one.start()
    yield one
    await one.close()


def key_of(endpoint: Endpoint) -> str:
    return key_fingerprint(read_key(Path(str(endpoint.key)).read_bytes()).public_key())


async def ask(nc: SafeClient, body: bytes = b"{}") -> dict[str, object]:
    async with asyncio.timeout(10):
        answer: dict[str, object] = msgspec.json.decode((await nc.request(RENEW, body, timeout=5)).data)
        return answer


async def until_connected(nc: SafeClient) -> None:
    async with asyncio.timeout(10):
        while not nc.is_connected:
            await asyncio.sleep(0.02)
        await nc.flush(5)


async def test_who_joined_connects_at_once_and_is_known_by_his_account(lab: Lab) -> None:
    for whom in (ForNode("gpu01"), SAM):
        endpoint = await lab.joined(whom)
        nc = await lab.client(endpoint)
        answer = await ask(nc)
        assert answer.get("due") is False, answer
    assert read_endpoint(lab.folder / "sam") == endpoint


async def test_a_copied_certificate_without_its_key_and_a_key_that_is_not_pinned_get_nowhere(
    lab: Lab, tmp_path: Path
) -> None:
    endpoint = await lab.joined(ForNode("gpu01"))
    await lab.joined(ForNode("gpu01"))  # the operator lets the machine in anew: it has another key now
    old = tmp_path / "old.pem"
    shutil.copy(str(endpoint.cert), old)
    assert await lab.client(endpoint)
    stolen = Path(str(endpoint.cert))
    before = stolen.read_bytes()
    await lab.joined(ForNode("gpu01"))
    kept = tmp_path / "kept.pem"
    kept.write_bytes(before)
    with pytest.raises(TrainshedError):
        await lab.client(msgspec.structs.replace(endpoint, cert=str(kept), key=str(kept)))
    assert await lab.client(endpoint)


async def test_who_is_revoked_is_cut_off_and_does_not_come_back(lab: Lab) -> None:
    endpoint = await lab.joined(ForNode("gpu01"))
    other = await lab.client(await lab.joined(SAM))
    nc = await lab.client(endpoint)
    drops = other.stats["reconnects"]
    change(lab.control / "cluster", lambda roster: (revoked(roster, NodeIdentity("gpu01"), now=now()), None))
    async with asyncio.timeout(10):
        while nc.is_connected:
            await asyncio.sleep(0.02)
    with pytest.raises(TrainshedError):
        await lab.client(endpoint)
    assert (await ask(other))["due"] is False
    assert other.stats["reconnects"] == drops, "nobody else is dropped"


async def test_a_renewal_makes_a_new_key_and_ends_the_old_one(lab: Lab, tmp_path: Path) -> None:
    endpoint = await lab.joined(ForNode("gpu01"))
    nc = await lab.client(endpoint)
    own = lab.renewal(nc, endpoint)
    assert not await own.look()
    old = tmp_path / "old.pem"
    shutil.copy(str(endpoint.cert), old)
    first = key_of(endpoint)
    change(lab.control / "cluster", lambda roster: (asked_to_renew(roster, now=now()), None))
    assert await own.look()
    assert key_of(endpoint) != first
    assert lab.node().keys(now()) == [key_of(endpoint)]
    await until_connected(nc)
    assert not await own.look()
    with pytest.raises(TrainshedError):
        await lab.client(msgspec.structs.replace(endpoint, cert=str(old), key=str(old)))
    assert not list(Path(str(endpoint.cert)).parent.glob("*.pending.pem"))


async def test_a_person_on_two_machines_renews_on_one_and_goes_on_on_the_other(
    lab: Lab, tmp_path: Path
) -> None:
    laptop = await lab.joined(SAM)
    shutil.move(lab.folder / "sam", lab.folder / "laptop")
    laptop = msgspec.structs.replace(
        laptop,
        **{name: str(getattr(laptop, name)).replace("/sam/", "/laptop/") for name in ("ca", "cert", "key")},
    )
    box = await lab.joined(SAM)
    on_laptop, on_box = await lab.client(laptop), await lab.client(box)
    change(lab.control / "cluster", lambda roster: (asked_to_renew(roster, now=now()), None))
    assert await lab.renewal(on_laptop, laptop).look()
    assert on_box.is_connected
    assert not await lab.renewal(await lab.client(laptop), laptop).look()
    assert await lab.renewal(on_box, box).look()
    [sam] = lab.roster.people
    assert sorted(sam.keys(now())) == sorted([key_of(laptop), key_of(box)])


async def test_the_name_of_a_renewal_is_the_accounts(lab: Lab) -> None:
    """A person asks over the plain subject, over a node's, and with fields that name somebody else."""
    await lab.joined(ForNode("gpu01"))
    nc = await lab.client(await lab.joined(SAM))
    before = lab.node()
    change(
        lab.control / "cluster",
        lambda roster: (asked_to_renew(roster, now=now(), only=Person("sam", PersonRole.VIEWER)), None),
    )
    request = make_request(make_key()).decode()
    for body in ({"request": request, "name": "gpu01"}, {"request": request, "account": "NODE_gpu01"}):
        answer = await ask(nc, msgspec.json.encode(body))
        assert "unknown field" in str(answer["error"])
    await nc.publish("trainshed.api.u.NODE_gpu01.cert.renew", msgspec.json.encode({"request": request}))
    answer = await ask(nc, msgspec.json.encode({"request": request}))
    assert "certificate" in answer
    assert lab.node() == before
    [sam] = lab.roster.people
    assert len(sam.certificates) == 2


async def test_a_lost_answer_of_a_renewal_is_made_good_with_the_same_key(lab: Lab) -> None:
    endpoint = await lab.joined(ForNode("gpu01"))
    nc = await lab.client(endpoint)
    own = lab.renewal(nc, endpoint)
    change(lab.control / "cluster", lambda roster: (asked_to_renew(roster, now=now()), None))
    request = own._files.request()
    await ask(nc, msgspec.json.encode({"request": request.decode()}))  # whose answer nobody heard
    first, waiting = lab.node().keys(now())
    assert (await ask(nc))["due"] is False, "the roster has a younger one"
    assert await own.look()
    assert [waiting] == [key_of(endpoint)] == lab.node().keys(now())
    assert first != waiting


async def test_the_authority_is_replaced_and_nobody_is_locked_out(lab: Lab) -> None:
    members = [await lab.joined(ForNode("gpu01")), await lab.joined(SAM)]
    clients = [await lab.client(endpoint) for endpoint in members]
    begin_rotation(lab.control, now=now())
    with pytest.raises(TrainshedError, match="would be cut off"):
        end_rotation(lab.control, now=now())
    provide(lab.control, ENROL, now=now())
    for nc, endpoint in zip(clients, members, strict=True):
        await until_connected(nc)
        assert await lab.renewal(nc, endpoint).look()
    end_rotation(lab.control, now=now())
    await asyncio.sleep(1.5)  # the listener looks at the files each second
    for nc, endpoint in zip(clients, members, strict=True):
        await until_connected(nc)
        fresh = await lab.client(endpoint)
        assert (await ask(fresh))["due"] is False
    assert (await lab.client(await lab.joined(ForNode("gpu02")))).is_connected


async def test_a_container_that_was_removed_is_put_out(lab: Lab) -> None:
    """As the log republishes it; a node that a token of its own let in stays."""
    await lab.joined(ForNode("gpu01"))
    endpoint = await lab.joined(ForAnyNode())
    nc = await lab.client(endpoint)
    enrol = await lab.client(lab.server.endpoint("enrol"))
    for node in ("gpu01", "c1"):
        await enrol.publish(f"trainshed.log.node.{node}.gateway.node_removed.{node}", b"{}")
    async with asyncio.timeout(10):
        while nc.is_connected:
            await asyncio.sleep(0.02)
    assert [bool(node.keys(now())) for node in lab.roster.nodes] == [False, True]


async def test_looking_goes_on_when_nobody_answers(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    endpoint = await lab.joined(ForNode("gpu01"))
    nc = await lab.client(endpoint)
    own = Renewal(nc, endpoint, connect=lab.server.connect, clock=now, every_s=0.05)
    lab._service.stop()
    await lab._running
    running = asyncio.create_task(own.run())
    await asyncio.sleep(0.3)
    assert not running.done()
    own.stop()
    async with asyncio.timeout(5):
        await running


async def test_a_command_renews_by_the_way_once_a_day(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    endpoint = await lab.joined(SAM)
    nc = await lab.client(endpoint)
    first = key_of(endpoint)
    assert renewal.is_time(endpoint, now())
    await renewal.look(nc, endpoint, now())
    assert not renewal.is_time(endpoint, now() + timedelta(hours=23))
    assert key_of(endpoint) == first
    change(lab.control / "cluster", lambda roster: (asked_to_renew(roster, now=now()), None))
    await renewal.look(nc, endpoint, now())
    assert key_of(endpoint) != first
    assert [one.keys(now()) for one in lab.roster.people] == [[key_of(endpoint)]]
    assert capsys.readouterr().err == ""


async def test_a_command_that_cannot_renew_says_so_only_when_the_end_is_near(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint = await lab.joined(SAM)
    nc = await lab.client(endpoint)
    lab._service.stop()
    await lab._running
    await renewal.look(nc, endpoint, now() + timedelta(days=70))
    assert capsys.readouterr().err == ""
    await renewal.look(nc, endpoint, now() + timedelta(days=80))
    assert "your certificate expires on" in capsys.readouterr().err


def test_an_endpoint_without_a_certificate_of_ours_is_not_looked_at() -> None:
    assert not renewal.is_time(Endpoint("nats://127.0.0.1:1", "u", "p"), now())
    assert not renewal.is_time(Endpoint("tls://h:1", ca="/a", cert="/c", key="/k"), now())
