"""What `node` and `user` share: tokens that are made, members that are revoked, asked for new keys, and listed.

Owns what these print. All of it is done in the cluster folder of this machine, the control side's: nothing is asked of a
service, and no key is read.
"""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from services.cli.common import note, print_json, warn
from services.cli.describe import NOTHING
from services.cli.table import Cell, Column, Screen, print_lines, render
from services.settings import Settings

if TYPE_CHECKING:
    from services.enrol.roster import EnrolledNode, EnrolledPerson, Member, Roster
    from services.enrol.tokens import Invited, TokenLine

APPLIED_WITHIN_S = 10.0
LOOK_EVERY_S = 0.1
SOON = timedelta(days=14)


def print_token(whom: Invited, command: str, where: str, life: timedelta | None, as_json: bool) -> None:
    """Make a token and print its line, alone on stdout. ``command``: what takes it, typed ``where``."""
    from services.enrol.cluster import new_token
    from services.enrol.tokens import LIFE, SECRET_BYTES

    now, counts = datetime.now(UTC), life or LIFE
    line = new_token(Settings.read().state_dir, whom, secrets.token_bytes(SECRET_BYTES), now=now, life=counts)
    if as_json:
        print_json({"token": str(line), "command": f"trainshed {command} {line}", "expires_at": now + counts})
        return
    click.echo(str(line))
    if (already := _already(whom, now)) is not None:
        note(already)
    minutes = round(counts.total_seconds() / 60)
    note(f"{where}, within {minutes:,} minutes: trainshed {command} {line}")
    if not _somebody_listens(line.port):
        warn(f"nobody takes enrolments on port {line.port} here. Start: trainshed up --listen {line.host}")


def _already(whom: Invited, now: datetime) -> str | None:
    """What a token means for one who is enrolled."""
    from services.access.identities import NodeIdentity, Person
    from services.enrol.roster import shown
    from services.enrol.roster_file import CLUSTER_DIR, read_roster
    from services.enrol.tokens import ForAnyNode, ForNode

    if isinstance(whom, ForAnyNode):
        return None
    member = NodeIdentity(whom.name) if isinstance(whom, ForNode) else Person(whom.name, whom.role)
    entry = read_roster(Settings.read().state_dir / CLUSTER_DIR).find(member)
    if entry is None or not entry.keys(now):
        return None
    means = "takes its place" if isinstance(whom, ForNode) else "is a further machine of his"
    return f"{shown(member)} is enrolled already: who takes this token {means}"


def new_line(whom: Invited, life: timedelta | None) -> TokenLine:
    """Make a token. Raises TrainshedError."""
    from services.enrol.cluster import new_token
    from services.enrol.tokens import LIFE, SECRET_BYTES

    state_dir, secret = Settings.read().state_dir, secrets.token_bytes(SECRET_BYTES)
    return new_token(state_dir, whom, secret, now=datetime.now(UTC), life=life or LIFE)


def revoke(member: Member) -> None:
    """No key of that member counts any more, and his open token neither."""
    from services.enrol.roster import revoked, shown

    _change(lambda roster, now: revoked(roster, member, now=now))
    click.echo(f"{shown(member)} is revoked")


def rotate(member: Member | None, everybody: str) -> None:
    """Ask that member for a new key, or all of them."""
    from services.enrol.roster import asked_to_renew, shown

    _change(lambda roster, now: asked_to_renew(roster, now=now, only=member))
    click.echo(
        f"{everybody if member is None else shown(member)} asked for a new key; it is made within half an hour of being connected"
    )


def print_members(
    kind: str, of: Callable[[Roster], Sequence[EnrolledNode | EnrolledPerson]], as_json: bool
) -> None:
    """List the members of a kind, and the open tokens for it."""
    from services.enrol.cluster import needed_cluster
    from services.enrol.roster_file import CLUSTER_DIR, read_roster

    state_dir = Settings.read().state_dir
    needed_cluster(state_dir)
    roster = read_roster(state_dir / CLUSTER_DIR)
    now = datetime.now(UTC)
    if as_json:
        print_json(
            {"members": [_object(one, now) for one in of(roster)], "invited": _invited(roster, kind, now)}
        )
        return
    if not of(roster) and not _invited(roster, kind, now):
        note(f"no {kind} is enrolled. Let one in: trainshed {kind} add NAME")
        return
    print_lines(lines(kind, of(roster), _invited(roster, kind, now), now, Screen.of(sys.stdout)))


def lines(
    kind: str,
    members: Iterable[EnrolledNode | EnrolledPerson],
    invited: Iterable[dict[str, object]],
    now: datetime,
    screen: Screen,
) -> list[str]:
    """The table: members, then those who have a token that is open."""
    people = kind == "user"
    columns = [Column(kind.upper()), Column("STATE"), Column("EXPIRES"), Column("ENROLLED")]
    more = [Column("ROLE"), *(Column(name, right=True) for name in ("RATE", "QUEUED", "MACHINES"))]
    rows: list[list[str | Cell]] = []
    for one in members:
        state = _state(one, now)
        style = {"revoked": "dim", "expired": "red", "expires soon": "yellow"}.get(state)
        expires = NOTHING if one.not_after is None else f"{one.not_after:%Y-%m-%d}"
        row: list[str | Cell] = [one.name, Cell(state, style), expires, f"{one.enrolled_at:%Y-%m-%d %H:%M}"]
        rows.append([*row, *_rights(one, now)] if people else row)
    for token in invited:
        waiting: list[str | Cell] = [
            str(token["name"] or NOTHING),
            Cell("invited", "cyan"),
            f"token {token['expires_at']:%Y-%m-%d %H:%M}",
            NOTHING,
        ]
        rows.append([*waiting, str(token["role"]), NOTHING, NOTHING, NOTHING] if people else waiting)
    return render([*columns, *(more if people else [])], rows, screen)


def _rights(one: EnrolledNode | EnrolledPerson, now: datetime) -> list[str]:
    from services.enrol.roster import EnrolledPerson

    assert isinstance(one, EnrolledPerson)
    given = [NOTHING if limit is None else str(limit) for limit in (one.rate, one.queued)]
    return [str(one.role), *given, str(len(one.of_each_machine(now)) if one.keys(now) else 0)]


def _state(one: EnrolledNode | EnrolledPerson, now: datetime) -> str:
    if one.revoked_at is not None:
        return "revoked"
    if one.not_after is None or one.not_after <= now:
        return "expired"
    return "expires soon" if one.not_after - now < SOON else "enrolled"


def _object(one: EnrolledNode | EnrolledPerson, now: datetime) -> dict[str, object]:
    import msgspec

    fields = ("name", "role", "rate", "queued", "enrolled_at", "revoked_at")
    known = {name: getattr(one, name) for name in fields if name in msgspec.structs.asdict(one)}
    return {
        **known,
        "state": _state(one, now),
        "not_after": one.not_after,
        "due": one.must_renew(now),
        "machines": len(one.of_each_machine(now)),
    }


def _invited(roster: Roster, kind: str, now: datetime) -> list[dict[str, object]]:
    from services.enrol.tokens import ForAnyNode, ForNode, ForPerson

    found: list[dict[str, object]] = []
    for token in roster.tokens:
        if token.used is not None or token.expires_at <= now:
            continue
        match token.whom:
            case ForPerson(name=name, role=role) if kind == "user":
                found.append({"name": name, "role": role, "expires_at": token.expires_at})
            case ForNode(name) if kind == "node":
                found.append({"name": name, "expires_at": token.expires_at})
            case ForAnyNode() if kind == "node":
                found.append({"name": None, "expires_at": token.expires_at})
            case _:
                pass
    return found


def _change(step: Callable[[Roster, datetime], Roster]) -> None:
    """Change the roster, and wait until the server knows it, as far as somebody makes it know."""
    from services.enrol.cluster import needed_cluster
    from services.enrol.roster_file import CLUSTER_DIR, applied, change, state

    state_dir = Settings.read().state_dir
    cluster = needed_cluster(state_dir)
    folder = state_dir / CLUSTER_DIR
    change(folder, lambda roster: (step(roster, datetime.now(UTC)), None))
    deadline = time.monotonic() + (APPLIED_WITHIN_S if _somebody_listens(cluster.enrol_port) else 0.0)
    while applied(folder) != state(folder):
        if time.monotonic() > deadline:
            warn("the server does not know it yet; `trainshed up --listen` makes it known when it runs")
            return
        time.sleep(LOOK_EVERY_S)


def _somebody_listens(port: int) -> bool:
    """Whether the enrolment's port is taken on this machine, which the one who listens on it has done."""
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return True
    return False
