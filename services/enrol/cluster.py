"""A stack that other machines may join: its authority, its server's certificate, and those of this machine's own members.

Owns the cluster folder as `trainshed cluster init` makes it, and what is due there from time to time; starts nothing, and
writes no configuration of the server.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from services.access.identities import LOCAL, Control, ControlRole, NodeIdentity, Person, PersonRole
from services.enrol.authority import (
    AUTHORITY_FILE,
    AUTHORITY_LIFE,
    CLIENT_LIFE,
    Authorities,
    authority_fingerprint,
    canonical_hosts,
    hosts_of,
    make_authority,
    not_initialised,
    read_authorities,
    read_bundle,
    read_certificates,
    write_authorities,
)
from services.enrol.keys import key_fingerprint, key_pem, make_key, make_request, read_key
from services.enrol.roster import Member, Roster, enrolled, on_older_authority, renewed, shown
from services.enrol.roster_file import CLUSTER_DIR, SERVER_FILE, change
from services.enrol.tokens import DEFAULT_PORT, LIFE, Invited, TokenLine, invited
from trainshed_client.endpoint import DEFAULT_PORT as NATS_PORT
from trainshed_client.endpoint import write_private
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.os_errors import why

CREDENTIALS_DIR = "credentials"
CLUSTER_FILE = "cluster.json"
AGENT, USER = "agent", "user"
ROLES_OF_UP = tuple(role for role in ControlRole if role is not ControlRole.RELOADER)
"""Of the control side on one machine, whose server is told by a signal."""
NOWHERE = "none"
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """What `cluster init` was given. ``hosts``: how other machines reach this one, the one that they are told first.
    ``listen``: the address of `up --listen`, kept for the starts that do not name it."""

    v: int = 1
    hosts: tuple[str, ...]
    port: int = NATS_PORT
    enrol_port: int = DEFAULT_PORT
    listen: str | None = None

    @property
    def server_hosts(self) -> list[str]:
        """The hosts that the server's certificate is for: this machine's own processes use loopback."""
        return self.hosts_at()

    def hosts_at(self, *addresses: str) -> list[str]:
        """The same for a server that listens at these, which need be none of its hosts."""
        return list(dict.fromkeys([*self.hosts, *LOOPBACK, *addresses]))

    @property
    def url(self) -> str:
        """Where other machines reach the server."""
        host = self.hosts[0]
        return f"tls://{f'[{host}]' if ':' in host else host}:{self.port}"


def initialise(
    state_dir: Path,
    hosts: Sequence[str],
    *,
    now: datetime,
    port: int = NATS_PORT,
    enrol_port: int = DEFAULT_PORT,
    life: timedelta = AUTHORITY_LIFE,
) -> Cluster:
    """Make the cluster folder: authority, server's certificate and, last, `cluster.json`. A try that was killed is gone on with.

    Raises TrainshedError: CONFLICT where there is one already, INVALID for what is no host.
    """
    folder = state_dir / CLUSTER_DIR
    if (folder / CLUSTER_FILE).exists():
        raise TrainshedError(
            ErrorCode.CONFLICT,
            f"{folder} is there already. Let others in: trainshed node add NODE, trainshed user add NAME. Replace its authority: "
            "trainshed cluster rotate",
        )
    cluster = Cluster(hosts=tuple(dict.fromkeys(hosts)), port=port, enrol_port=enrol_port)
    authority = make_authority(now=now, life=life)
    authority.sign_server(cluster.server_hosts, now=now)  # refuses what is no host before anything is written
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (folder / AUTHORITY_FILE).exists():
        write_authorities(folder, Authorities((authority,)))
    server_certificate(folder, cluster.server_hosts, now=now)
    write_private(folder / CLUSTER_FILE, msgspec.json.encode(cluster) + b"\n")
    return cluster


def read_cluster(state_dir: Path) -> Cluster | None:
    """What the stack of this folder was initialised with; None where it has no cluster folder. Raises TrainshedError (INVALID)."""
    path = state_dir / CLUSTER_DIR / CLUSTER_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Cluster)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise TrainshedError(ErrorCode.DENIED, f"{path} cannot be read ({why(error)})") from None
    except msgspec.MsgspecError as error:
        raise TrainshedError(
            ErrorCode.INVALID, f"{path} is damaged ({error}). Bring it back from a backup"
        ) from None


def needed_cluster(state_dir: Path) -> Cluster:
    """The same where there must be one. Raises TrainshedError (NOT_FOUND)."""
    cluster = read_cluster(state_dir)
    if cluster is None:
        raise not_initialised(state_dir / CLUSTER_DIR)
    return cluster


def listening(state_dir: Path, asked: str | None) -> str | None:
    """Where the server listens for other machines: as ``asked``, which is kept, else as it was kept; None: nowhere.

    ``asked`` `NOWHERE` undoes it. Raises TrainshedError: NOT_FOUND where an address is asked for and there is no cluster,
    INVALID where this machine has not got it.
    """
    if asked is not None and asked != NOWHERE:
        cluster: Cluster | None = needed_cluster(state_dir)
        _check_is_own(asked)
    else:
        cluster = read_cluster(state_dir)
    if cluster is None:
        return None
    wanted = cluster.listen if asked is None else None if asked == NOWHERE else asked
    if wanted != cluster.listen:
        kept = msgspec.structs.replace(cluster, listen=wanted)
        write_private(state_dir / CLUSTER_DIR / CLUSTER_FILE, msgspec.json.encode(kept) + b"\n")
    return wanted


def _check_is_own(address: str) -> None:
    """Before it is kept: the next start would try it again. Raises TrainshedError (INVALID)."""
    try:
        ipaddress.ip_address(address)
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
            probe.bind((address, 0))
    except (ValueError, OSError) as error:
        is_none = isinstance(error, ValueError)
        wrong = "is no IP address" if is_none else f"is no address of this machine ({why(error)})"
        others = ", ".join(host for host in default_hosts()[:-1])
        raise TrainshedError(
            ErrorCode.INVALID,
            f"{address!r:.60} {wrong}; accepted: one that it has{f' (as {others})' if others else ''}, 0.0.0.0 for all of "
            f"them, or {NOWHERE}. How others call it is said at: trainshed cluster init --host NAME",
            "--listen",
        ) from None


def default_hosts() -> list[str]:
    """How other machines probably reach this one: the address of its way out, and its name."""
    found: list[str] = []
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(
            ("192.0.2.1", 9)
        )  # a datagram socket sends nothing by that: the kernel only chooses the way
        found.append(probe.getsockname()[0])
    return [*found, socket.gethostname().lower()]


def server_certificate(folder: Path, hosts: Sequence[str], *, now: datetime) -> Path:
    """The server's key and certificate, made anew where there is none for these hosts by the authority that signs servers,
    or two thirds of its life are over. Blocks. Raises TrainshedError."""
    authorities = read_authorities(folder)
    path = folder / SERVER_FILE
    with contextlib.suppress(OSError, ValueError):
        leaf, issuer = read_certificates(path.read_bytes())
        begin = leaf.not_valid_before_utc
        young = begin <= now < begin + (leaf.not_valid_after_utc - begin) * 2 / 3
        if (
            young
            and issuer == authorities.for_servers.certificate
            and hosts_of(leaf) == canonical_hosts(hosts)
        ):
            return path
    write_private(path, authorities.for_servers.sign_server(hosts, now=now))
    return path


def local_members(node: str) -> dict[str, Member]:
    """Who connects on the control side's own machine, each with the stem of his files in `credentials`."""
    roles = {role.value: Control(role) for role in ROLES_OF_UP}
    return {**roles, AGENT: NodeIdentity(node), USER: Person(LOCAL, PersonRole.ADMIN)}


def provide(
    state_dir: Path,
    members: Mapping[str, Member],
    *,
    now: datetime,
    life: timedelta = CLIENT_LIFE,
    place: Callable[[str], Path] | None = None,
) -> dict[str, Path]:
    """Give members of this machine their keys and certificates without a token: `credentials/<stem>.pem`, each one file.
    ``place``: the folder for a stem, where it is another.

    What is there and young enough stays. Nobody who was revoked comes back by this. Blocks. Raises TrainshedError.
    """
    folder = state_dir / CLUSTER_DIR
    authorities = read_authorities(folder)
    folder_of = place or (lambda _: state_dir.absolute() / CREDENTIALS_DIR)
    paths = {stem: folder_of(stem) / f"{stem}.pem" for stem in members}

    def step(roster: Roster) -> tuple[Roster, None]:
        for stem, member in members.items():
            if not _has_its_own(roster, member, paths[stem], authorities, now):
                roster = _provided(roster, member, paths[stem], authorities, now, life)
        return roster, None

    change(folder, step)
    for path in paths.values():
        trusted = path.with_name(f"{path.stem}-ca.crt")
        if not trusted.exists() or trusted.read_bytes() != authorities.bundle:
            write_private(trusted, authorities.bundle)
    return paths


def _has_its_own(roster: Roster, member: Member, path: Path, authorities: Authorities, now: datetime) -> bool:
    """Whether the file holds the youngest key that counts, and that is young enough; or whether none is to be made."""
    entry = roster.find(member)
    if entry is None:
        return False
    if entry.revoked_at is not None:
        return True
    try:
        key = key_fingerprint(read_key(path.read_bytes()).public_key())
    except (OSError, ValueError):
        return False
    if key not in entry.keys(now) or entry.must_renew(now, key):
        return False
    youngest = entry.youngest(key)
    return youngest.key == key and youngest.authority == authorities.for_clients.fingerprint


def _provided(
    roster: Roster, member: Member, path: Path, authorities: Authorities, now: datetime, life: timedelta
) -> Roster:
    """The file before the roster: a kill between leaves a key that does not count, and the next time makes another."""
    try:
        before = key_fingerprint(read_key(path.read_bytes()).public_key())
    except (OSError, ValueError):
        before = None
    key = make_key()
    signed = authorities.for_clients.sign_client(make_request(key).decode(), member, now=now, life=life)
    write_private(path, key_pem(key) + signed.pem.encode())
    entry = roster.find(member)
    if entry is not None and entry.keys(now):  # the key that connects now goes on
        return renewed(roster, entry, signed.issued, now=now, of=before)
    return enrolled(roster, member, signed.issued, now=now)


def prepare(state_dir: Path, members: Mapping[str, Member], address: str, *, now: datetime) -> None:
    """All that the server and this machine's own members need to start: certificates, where none is young enough.

    ``address``: where the server listens. Blocks. Raises TrainshedError.
    """
    cluster = needed_cluster(state_dir)
    server_certificate(state_dir / CLUSTER_DIR, cluster.hosts_at(address), now=now)
    provide(state_dir, members, now=now)


def new_token(
    state_dir: Path,
    whom: Invited,
    secret: bytes,
    *,
    now: datetime,
    life: timedelta = LIFE,
    host: str | None = None,
) -> TokenLine:
    """A token for ``whom``, as the line to hand on. Reads no key. Raises TrainshedError as `invited`, and NOT_FOUND where
    there is no cluster folder."""
    cluster = needed_cluster(state_dir)
    folder = state_dir / CLUSTER_DIR
    pinned = authority_fingerprint(read_bundle(folder)[0])  # the one that signs servers

    def step(roster: Roster) -> tuple[Roster, None]:
        tokens = invited(roster.tokens, whom, secret, now=now, life=life)
        return msgspec.structs.replace(roster, tokens=tokens), None

    change(folder, step)
    return TokenLine(secret, pinned, host or cluster.hosts[0], cluster.enrol_port)


def begin_rotation(state_dir: Path, *, now: datetime) -> None:
    """Trust a younger authority beside the present one; from now on it signs clients. Raises TrainshedError (CONFLICT)."""
    folder = state_dir / CLUSTER_DIR
    needed_cluster(state_dir)
    write_authorities(folder, read_authorities(folder).with_younger(make_authority(now=now)))


def end_rotation(state_dir: Path, *, now: datetime) -> None:
    """Trust the younger authority alone; it signs the server too. Raises TrainshedError (CONFLICT) where somebody would be
    cut off: one whose youngest certificate is by the older authority."""
    folder = state_dir / CLUSTER_DIR
    cluster = needed_cluster(state_dir)
    younger = read_authorities(folder).without_older()

    def step(roster: Roster) -> tuple[Roster, None]:
        behind = on_older_authority(roster, younger.for_clients.fingerprint, now=now)
        if behind:
            names = ", ".join(shown(one.identity) for one in behind[:10])
            raise TrainshedError(
                ErrorCode.CONFLICT,
                f"{len(behind)} have no certificate of the younger authority yet and would be cut off: {names}. They ask for "
                "one by themselves within half an hour of being connected; one that is gone for good: trainshed node revoke NODE, "
                "trainshed user revoke NAME",
            )
        return roster, None

    change(folder, step)
    write_authorities(folder, younger)
    server_certificate(folder, cluster.server_hosts, now=now)
