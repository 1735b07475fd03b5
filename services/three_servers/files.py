"""The files of three servers and of everybody who connects to them: certificates, accounts, configurations, credentials.

Owns the folder that they are made in; starts nothing, and sends nothing to another machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from services.access.accounts import inbox_prefix
from services.access.cluster_realm import ClusterRealm
from services.access.identities import Control, ControlRole
from services.enrol.authority import make_authority
from services.enrol.cluster import CREDENTIALS_DIR, initialise, provide, read_cluster, server_certificate
from services.enrol.roster import Member
from services.enrol.roster_file import BUNDLE_FILE, CLUSTER_DIR, SERVER_FILE, read_roster
from services.three_servers.layout import REALM_FILE, ROUTES_CA, ROUTES_PEM, SERVER_CONF, ThirdServer, urls
from trainshed_client.endpoint import Endpoint, write_credentials, write_private

LIFE = timedelta(days=365)
"""Of each certificate of a member: nobody renews one by himself here. One is made anew once two thirds of it are over."""
OPERATOR = f"{CREDENTIALS_DIR}/{ControlRole.OPERATOR}.json"


def control_side() -> dict[str, Member]:
    """The roles that run beside three servers, each with the stem of its files."""
    return {role.value: Control(role) for role in ControlRole if role is not ControlRole.ENROL}


def make(
    folder: Path,
    servers: Sequence[ThirdServer],
    members: Mapping[str, Member],
    *,
    at: Path | None = None,
    now: datetime,
) -> None:
    """Make all of it, or what is missing or old of it. ``at``: where the folder ``credentials`` will lie on the machines that
    use it (here, if left out). Blocks. Raises TrainshedError."""
    hosts = [server.host for server in servers]
    cluster = read_cluster(folder) or initialise(folder, hosts, now=now)
    server_certificate(folder / CLUSTER_DIR, cluster.server_hosts, now=now)
    stems = {**control_side(), **members}
    provide(folder, stems, now=now, life=LIFE)
    for stem, member in stems.items():
        place = (
            folder if member == Control(ControlRole.OPERATOR) else at or folder
        )  # he makes the streams, here
        own = place.absolute() / CREDENTIALS_DIR / stem
        pem = f"{own}.pem"
        write_credentials(
            folder / CREDENTIALS_DIR / f"{stem}.json",
            Endpoint(urls(servers), ca=f"{own}-ca.crt", cert=pem, key=pem, inbox_prefix=inbox_prefix(member)),
        )
    _routes(folder, servers, now)
    realm = ClusterRealm(Path(), clock=now.timestamp).text_of(read_roster(folder / CLUSTER_DIR), None)
    for server in servers:
        own_folder = folder / server.name
        for name in (SERVER_FILE, BUNDLE_FILE):
            write_private(own_folder / CLUSTER_DIR / name, (folder / CLUSTER_DIR / name).read_bytes())
        write_private(own_folder / REALM_FILE, realm.encode())
        others = [other for other in servers if other != server]
        write_private(own_folder / SERVER_CONF, server.conf(others).encode())


def _routes(folder: Path, servers: Sequence[ThirdServer], now: datetime) -> None:
    """The certificates between the servers, once: the key of their authority is kept nowhere."""
    if all((folder / server.name / ROUTES_PEM).exists() for server in servers):
        return
    authority = make_authority(now=now)
    for server in servers:
        pem = authority.sign_route([server.host], now=now)
        write_private(folder / server.name / ROUTES_PEM, pem)
        write_private(folder / server.name / ROUTES_CA, authority.pem)
