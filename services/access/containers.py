"""A stack whose server and services are containers: what each of them finds in its volume, and the server that is told anew.

Owns the folders below one root, one for each volume (compose.yaml mounts them there); who is enrolled is the roster's, and
what the server is made of a ClusterRealm's.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from services.access.accounts import inbox_prefix
from services.access.cluster_realm import ClusterRealm
from services.access.identities import LOCAL, Control, ControlRole, Person, PersonRole
from services.enrol.authority import authority_fingerprint, read_bundle
from services.enrol.cluster import (
    CLUSTER_FILE,
    USER,
    Cluster,
    initialise,
    new_token,
    provide,
    read_cluster,
    server_certificate,
)
from services.enrol.roster import Member, Roster
from services.enrol.roster_file import (
    BUNDLE_FILE,
    CLUSTER_DIR,
    SERVER_FILE,
    change,
    read_roster,
    write_roster,
)
from services.enrol.server_reload import reload_servers
from services.enrol.tokens import SECRET_BYTES, ForAnyNode, digest, parse_line
from services.nats_server.reload import check_configuration, refuse_open_to_strangers
from services.nats_server.server_config import REALM_FILE
from services.setting_values import Listen
from trainshed_client.endpoint import (
    DEFAULT_PORT,
    Endpoint,
    read_credentials,
    write_credentials,
    write_private,
)
from trainshed_client.errors import TrainshedError
from trainshed_client.nats_client import connect

SERVER, PEOPLE = "server", "people"
"""What nats-server reads, and who is enrolled, for the services that ask what a person is granted."""
TOKEN_FILE = "join.token"
"""In the state folder: the line by which containers of agents join. `deploy/init.sh` gives it to root alone."""
TOKEN_LIFE = timedelta(days=30)
MEMBERS: dict[str, Member] = {
    **{role.value: Control(role) for role in ControlRole},
    USER: Person(LOCAL, PersonRole.ADMIN),
}


def set_up(
    root: Path,
    state_dir: Path,
    *,
    hosts: tuple[str, ...],
    port: int,
    enrol_port: int,
    server: str,
    enrol: str,
) -> Cluster:
    """Everything that the containers need to start, made where it is not there: harmless at each start of the stack.

    ``hosts``, ``port`` and ``enrol_port``: how the stack is reached from outside, first the host that those are given who
    come from there. ``server``: the server's URL within, ``enrol``: the enrolment's host there. Blocks. Raises TrainshedError.
    """
    now = datetime.now(UTC)
    cluster = read_cluster(state_dir)
    if cluster is None:
        cluster = initialise(state_dir, hosts, now=now, port=port, enrol_port=enrol_port)
    moved = msgspec.structs.replace(cluster, hosts=hosts, port=port, enrol_port=enrol_port)
    if moved != cluster:
        write_private(state_dir / CLUSTER_DIR / CLUSTER_FILE, msgspec.json.encode(moved) + b"\n")
    server_certificate(state_dir / CLUSTER_DIR, moved.server_hosts, now=now)
    volumes = Volumes(root, state_dir)
    volumes.provide(now)
    for stem, member in MEMBERS.items():
        volumes.write_credentials(stem, member, server)
    volumes.publish()
    _keep_token(state_dir, enrol, now)
    return moved


def _keep_token(state_dir: Path, enrol: str, now: datetime) -> None:
    """A token for agents that counts for half of its life at least, and pins the authority that signs servers now."""
    path, folder = state_dir / TOKEN_FILE, state_dir / CLUSTER_DIR
    try:
        line = parse_line(path.read_text(), given_by=str(path))
    except (OSError, UnicodeDecodeError, TrainshedError):
        line = None
    if line is not None and line.authority == authority_fingerprint(read_bundle(folder)[0]):
        kept = (one for one in read_roster(folder).tokens if one.digest == digest(line.secret))
        if any(one.expires_at > now + TOKEN_LIFE / 2 for one in kept) and line.host == enrol:
            return
    new = new_token(
        state_dir, ForAnyNode(), secrets.token_bytes(SECRET_BYTES), now=now, life=TOKEN_LIFE, host=enrol
    )
    write_private(path, f"{new}\n".encode())


class Volumes:
    """The folders below ``root``, as this container sees them: ``server``, ``people``, and one for each of `MEMBERS`."""

    def __init__(
        self, root: Path, state_dir: Path, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._root = root
        self._state_dir = state_dir
        self._realm = ClusterRealm(state_dir, files=root / SERVER, clock=lambda: clock().timestamp())

    def provide(self, now: datetime) -> None:
        """New keys and certificates for the services where these are due. Blocks. Raises TrainshedError and OSError."""
        provide(self._state_dir, MEMBERS, now=now, place=self._root.joinpath)

    def write_credentials(self, stem: str, member: Member, url: str) -> None:
        """The file by which that member connects."""
        folder = self._root / stem
        own, trusted = str(folder / f"{stem}.pem"), str(folder / f"{stem}-ca.crt")
        endpoint = Endpoint(url, ca=trusted, cert=own, key=own, inbox_prefix=inbox_prefix(member))
        write_credentials(folder / f"{stem}.json", endpoint)

    def publish(self) -> None:
        """Put in place who gets in, for the server's next start or reload. Blocks.

        Under the roster's lock: else one who was slow would put back what another has replaced since.
        """

        def step(roster: Roster) -> tuple[Roster, None]:
            folder, server = self._state_dir / CLUSTER_DIR, self._root / SERVER
            for name in (BUNDLE_FILE, SERVER_FILE):
                content = (folder / name).read_bytes()
                if not (server / name).exists() or (server / name).read_bytes() != content:
                    write_private(server / name, content)
            write_private(server / REALM_FILE, self._realm.text_of(roster, None).encode())
            write_roster(self._root / PEOPLE, msgspec.structs.replace(roster, tokens=()))
            return roster, None

        change(self._state_dir / CLUSTER_DIR, step)

    async def apply(self, roster: Roster) -> None:
        """See Apply: the server, wherever it runs, knows the roster when this returns."""
        await self._check(roster)
        await asyncio.to_thread(self.publish)
        reloader = self._root / ControlRole.RELOADER / f"{ControlRole.RELOADER}.json"
        endpoint = await asyncio.to_thread(lambda: read_credentials(reloader, given_by="--volumes"))
        nc = await connect(endpoint, name="enrol-reloader")
        try:
            await reload_servers(
                nc, times=2
            )  # what a new account imports is answered from the second time on
        finally:
            await nc.close()
        url = urlsplit(endpoint.servers[0])
        await refuse_open_to_strangers(Listen(url.hostname or "", url.port or DEFAULT_PORT))

    async def _check(self, roster: Roster) -> None:
        """That a server would take it: an empty or broken file would open it at its next start, or end it."""
        candidate = self._state_dir / f"candidate-{os.getpid()}.conf"
        try:
            await asyncio.to_thread(write_private, candidate, self._realm.text_of(roster, None).encode())
            await check_configuration(candidate)
        finally:
            await asyncio.to_thread(candidate.unlink, missing_ok=True)
