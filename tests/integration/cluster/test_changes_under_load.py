"""Members come, go and get new keys while others work: nobody else is dropped, no run is lost, who is revoked is cut off.

What the server says of closed connections counts, beside what each connection says of itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import pytest

from services.access.identities import PersonRole
from services.enrol.cluster import new_token
from services.enrol.joining import join
from services.enrol.renewing import Renewal
from services.enrol.tokens import ForNode, ForPerson
from tests.integration.cluster.site import Agent, Site, listening_site
from trainshed_client import subjects
from trainshed_client.client import Trainshed
from trainshed_client.endpoint import Endpoint, read_credentials
from trainshed_client.nats_client import SafeClient, connect

NODES = [f"n{number:02}" for number in range(10)]
PEOPLE = [f"p{number:02}" for number in range(10)]
CUT_WITHIN_S = 2.0
FINISH_WITHIN_S = 120.0
"""The control side's own members look each minute."""
BETWEEN_SUBMITS_S = 0.15


class EnrolledOne:
    """A connection of somebody who has joined, and what became of it. People hear of every run."""

    def __init__(self, name: str, endpoint: Endpoint) -> None:
        self.name = name
        self.endpoint = endpoint
        self.dropped_at: list[float] = []
        self.heard = 0

    async def connected(self) -> Self:
        self.nc = await connect(
            self.endpoint, name=self.name, on_disconnect=self._dropped, on_error=lambda _: None
        )
        if self.name in PEOPLE:
            await self.nc.listen(subjects.watch_run("*"), lambda _: self._hear())
        await self.nc.flush()
        return self

    def renewal(self) -> Renewal:
        async def further(endpoint: Endpoint) -> SafeClient:
            return await connect(endpoint, name=f"{self.name}-renewal")

        return Renewal(self.nc, self.endpoint, connect=further, clock=lambda: datetime.now(UTC))

    def _dropped(self) -> None:
        self.dropped_at.append(time.monotonic())

    def _hear(self) -> None:
        self.heard += 1


class Load:
    """Submits one short run after the other, and follows all of them."""

    def __init__(self) -> None:
        self.submitted: list[str] = []
        self.slowest_s = 0.0
        self._ended: set[str] = set()

    @contextlib.asynccontextmanager
    async def on(self) -> AsyncIterator[None]:
        async with await Trainshed.connect() as trainshed, await Trainshed.connect() as other:
            following = asyncio.create_task(self._follow(other))
            submitting = asyncio.create_task(self._submit(trainshed))
            yield
            submitting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await submitting
            async with asyncio.timeout(60):
                while not self._ended >= set(self.submitted):
                    assert not following.done(), following.exception()
                    await asyncio.sleep(0.1)
            following.cancel()
            page = [await trainshed.get(run) for run in self.submitted]
            assert Counter(view.run.status.value for view in page) == {"COMPLETED": len(self.submitted)}

    async def _submit(self, trainshed: Trainshed) -> None:
        while True:
            config = {"entry_point": "/bin/true", "submission_key": secrets.token_hex(8)}
            began = time.monotonic()
            self.submitted.append((await trainshed.submit(config)).run_id)
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)
            await asyncio.sleep(BETWEEN_SUBMITS_S)

    async def _follow(self, trainshed: Trainshed) -> None:
        async for record in trainshed.watch_runs():
            if getattr(record, "ended_at", None) is not None:
                self._ended.add(record.run_id)  # type: ignore[union-attr]


class Crowd:
    """Everybody who has joined ``site``."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site = site
        self.folder = folder
        self.members: dict[str, EnrolledOne] = {}

    async def enrol(self, name: str) -> None:
        state_dir, now = self.site.stack.state_dir, datetime.now(UTC)
        whom = ForNode(name) if name in NODES else ForPerson(name=name, role=PersonRole.SUBMITTER)
        line = await asyncio.to_thread(new_token, state_dir, whom, secrets.token_bytes(20), now=now)
        member = await asyncio.to_thread(
            lambda: join(line, state_dir=self.folder / name, as_node=name in NODES, within_s=60.0)
        )
        endpoint = read_credentials(member.credentials, given_by="the test")
        self.members[name] = await EnrolledOne(name, endpoint).connected()

    async def typed(self, *words: str, code: int | None = 0) -> Any:
        return await asyncio.to_thread(self.site.stack.trainshed, *words, code=code, within=60.0)

    async def revoke(self, name: str) -> tuple[float, float]:
        """Seconds from the line being typed, and from its return, until that one was cut off."""
        began = time.monotonic()
        await self.typed("node" if name in NODES else "user", "revoke", name)
        returned = time.monotonic()
        member = self.members.pop(name)
        async with asyncio.timeout(CUT_WITHIN_S):
            while not member.dropped_at:
                await asyncio.sleep(0.01)
        await member.nc.close()
        return member.dropped_at[0] - began, member.dropped_at[0] - returned

    async def renew(self, *names: str) -> list[str]:
        """Each looks whether a renewal is due; who got a new key."""
        return [name for name in names if await self.members[name].renewal().look()]

    def drops(self) -> Counter[str]:
        return Counter({one.name: len(one.dropped_at) for one in self.members.values() if one.dropped_at})

    def closed_by_the_server(self) -> Counter[str]:
        """Whose connections the server has ended. One that a client closed is none, nor is a stranger's, whom it
        refuses: each change is tried as one."""
        kept = json.loads((self.site.stack.state_dir / "nats/server.json").read_text())
        url = f"http://127.0.0.1:{kept['monitor_port']}/connz?state=closed&limit=10000"
        with urllib.request.urlopen(url, timeout=10) as answer:
            closed = json.load(answer)["connections"]
        return Counter(one["name"] for one in closed if one.get("name") and one["reason"] != "Client Closed")

    async def close(self) -> None:
        for member in self.members.values():
            await member.nc.close()


async def agents_renewal(agent: Agent) -> bool:
    """What an agent does each half hour by itself, over a connection like its own."""
    endpoint = read_credentials(agent.state_dir / "credentials/agent.json", given_by="the test")

    async def further(to: Endpoint) -> SafeClient:
        return await connect(to, name="agent-renewal")

    nc = await connect(endpoint, name="agent-renewal")
    try:
        return await Renewal(nc, endpoint, connect=further, clock=lambda: datetime.now(UTC)).look()
    finally:
        await nc.close()


async def test_members_come_and_go_and_get_new_keys_while_others_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening_site(tmp_path / "site") as site:
        monkeypatch.setenv("TRAINSHED_STATE_DIR", str(site.stack.state_dir))
        agent = site.agent(site.lan.machine(), "gpu01")
        await asyncio.to_thread(agent.start, "--join", site.token("gpu01"))
        await asyncio.to_thread(site.until_status, "gpu01", "up")
        long = await asyncio.to_thread(site.stack.submit, "--gpus", "1", shell="sleep 600")
        await asyncio.to_thread(lambda: site.until_status("gpu01", "up"))
        crowd, load = Crowd(site, tmp_path), Load()
        async with load.on():
            await everything(crowd, agent, long)
        print(f"{len(load.submitted)} runs, slowest submit {load.slowest_s:.2f} s; dropped: {crowd.drops()}")
        assert len(load.submitted) > 50
        assert all(crowd.members[name].heard for name in PEOPLE if name in crowd.members)
        assert site.stack.record(long)["status"] == "RUNNING"
        await crowd.close()


async def everything(crowd: Crowd, agent: Agent, long: str) -> None:
    for name in (*NODES, *PEOPLE):
        await crowd.enrol(name)
    assert crowd.drops() == Counter(), "those who came drop nobody"
    assert crowd.closed_by_the_server() == Counter()

    cut = {name: await crowd.revoke(name) for name in ("n00", "n01", "p00", "p01")}
    print(
        "cut off after typing, after return:",
        {name: [round(s, 2) for s in each] for name, each in cut.items()},
    )
    assert crowd.drops() == Counter(), "nobody but they is dropped"
    assert set(crowd.closed_by_the_server()) <= set(cut)
    names = list(crowd.members)

    def check(renewals: Counter[str]) -> None:
        """Who has a new key is connected by it anew, once; nobody else is: neither a service nor a follower."""
        assert crowd.drops() <= renewals, (crowd.drops(), renewals)
        assert crowd.closed_by_the_server() <= renewals + Counter(list(cut))

    await crowd.typed("node", "rotate", "n02")
    assert await crowd.renew(*names) == ["n02"]
    await crowd.typed("user", "rotate", "p02")
    assert await crowd.renew(*names) == ["p02"]
    check(Counter(["n02", "p02"]))
    await crowd.typed("cluster", "rotate")
    refused = await crowd.typed("cluster", "rotate", "--finish", code=None)
    assert "would be cut off" in refused.stderr
    began = time.monotonic()
    assert await crowd.renew(*names) == names
    assert await agents_renewal(agent)
    print(f"all {len(names)} renewed in {time.monotonic() - began:.1f} s")
    renewals = Counter(["n02", "p02", *names, "agent", "agent-renewal"])
    check(renewals)
    async with asyncio.timeout(FINISH_WITHIN_S):
        while (done := await crowd.typed("cluster", "rotate", "--finish", code=None)).code:
            assert "would be cut off" in done.stderr
            await asyncio.sleep(1)
    print(f"--finish was taken {time.monotonic() - began:.1f} s after the rotation")
    await asyncio.sleep(3)  # the server has read it, and whoever would be dropped was
    check(renewals)
    assert await crowd.renew(*names) == []
    for name in ("n03", "p03"):
        further = await EnrolledOne(f"{name}-again", crowd.members[name].endpoint).connected()
        await further.nc.close()
    await asyncio.to_thread(crowd.site.until_status, "gpu01", "up")
