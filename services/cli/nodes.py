"""`trainshed nodes`: every machine, what it has, and what is granted of it.

Owns its columns and what to do about a node that does not answer.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from services.cli.as_of import MomentAsked, PastMoment, as_of, asked, at_option, clock_of, seq_of, tell
from services.cli.common import (
    connected,
    json_option,
    nats_option,
    note,
    print_json,
    run_async,
    warn_if_stale,
)
from services.cli.describe import NOTHING, memory_limit
from services.cli.table import Cell, Column, Screen, print_lines, render
from services.cli.text import clean, format_bytes, seconds_between, time_of_day
from services.cli.verb import verb
from services.settings import Settings
from trainshed_client.answers import NodePage
from trainshed_client.records import NodeRecord
from trainshed_client.rendering.ago import ago
from trainshed_client.statuses import NodeStatus

if TYPE_CHECKING:
    from services.enrol.roster import Roster

_LITTLE_DISK_MB = 10 * 1024
"""Free MiB below which the number is told in red: a few checkpoints fill it."""
_STYLES = {NodeStatus.UP: "green", NodeStatus.LOST: "red", NodeStatus.LEFT: "yellow"}


@verb("trainshed nodes", "trainshed nodes --json | jq '.nodes[].node'")
@at_option
@json_option
@nats_option
def nodes(at: str | None, as_json: bool) -> None:
    """List the machines: status, what is in use of what they have, when they were last heard.

    DISK FREE is what their last heartbeat said of the disk where their runs' folders lie. WITNESS is how many events of
    the log the node has vouched for, or that it objects to the log.
    """
    wanted = asked(at)
    moment, body = run_async(_read(wanted))
    page = msgspec.json.decode(body, type=NodePage)
    tell(moment)
    warn_if_stale(page.stale, page.seq, page.progress)
    if as_json:
        print_json(body)
        return
    if not page.nodes:
        note(
            "no node had joined by then"
            if moment is not None
            else "no node has joined; start one: trainshed up"
        )
        return
    print_lines(lines(page, clock_of(moment), Screen.of(sys.stdout)))
    if moment is not None:
        sys.stdout.flush()
        note("when each was last heard by then, and its free disk, is not kept")
    for text in memory_limits(page):
        note(text)
    if moment is None:
        _advise(page)


def _advise(page: NodePage) -> None:
    """What to do about nodes that are in trouble now."""
    for node in page.nodes:
        if node.status in (NodeStatus.LOST, NodeStatus.LEFT):
            note(
                f"{node.node} does not answer ({node.status}); what it ran ends when it is back. "
                f"If the machine is gone: trainshed node remove {node.node}"
            )
        elif node.suspect_since is not None:
            note(
                f"{node.node} could start none of the last three runs: {clean(node.suspect_reason or 'no reason known')}. Single "
                f"runs are tried there, a minute apart at first. Once it is mended: trainshed resume {node.node}"
            )
    for text in (*objections(page), *_certificates(page, Settings.read().state_dir)):
        note(text)


def _certificates(page: NodePage, state_dir: Path) -> Iterator[str]:
    """On the control side's machine, which has the roster: whose certificate is near its end, or has expired."""
    from services.enrol.roster_file import CLUSTER_DIR, ROSTER_FILE

    if not (state_dir / CLUSTER_DIR / ROSTER_FILE).exists():
        return
    from services.cli.members import SOON
    from services.enrol.roster_file import read_roster

    yield from certificates(page, read_roster(state_dir / CLUSTER_DIR), datetime.now(UTC), SOON)


def certificates(page: NodePage, roster: Roster, now: datetime, soon: timedelta) -> Iterator[str]:
    """What to do about those of the page's nodes that end soon, one line each."""
    from services.access.identities import NodeIdentity, user_name
    from services.enrol.roster import expiring

    near = expiring(roster, now=now, within=soon)
    for node in page.nodes:
        if (not_after := near.get(user_name(NodeIdentity(node.node)))) is None:
            continue
        if not_after <= now:
            yield (
                f"{node.node}'s certificate expired on {not_after:%Y-%m-%d}: it is let in no more. "
                f"Let it in anew: trainshed node add {node.node}"
            )
        else:
            yield (
                f"{node.node}'s certificate expires on {not_after:%Y-%m-%d} and was not renewed: see its agent's log, which says "
                f"why. After that day: trainshed node add {node.node}"
            )


def lines(page: NodePage, at: str, screen: Screen) -> list[str]:
    """The table; of slots, where a GPU is several somewhere."""
    several = any(_slots(node) != node.gpus for node in page.nodes)
    objects = any(node.witness_objection is not None for node in page.nodes)
    witnessed = objects or any(node.witnessed_size is not None for node in page.nodes)
    return render(
        (
            Column("NODE"),
            Column("STATUS"),
            Column("SLOTS" if several else "GPUS", right=True),
            Column("CPUS", right=True),
            Column("MEMORY", right=True),
            Column("DISK FREE", right=True),
            Column("HEARD"),
            *([Column("WITNESS", extra=not objects)] if witnessed else []),
            Column("HOST", shrink=10),
        ),
        [_row(node, at, witnessed) for node in page.nodes],
        screen,
    )


def objections(page: NodePage) -> Iterator[str]:
    """What nodes have against the log, and what to do, one line each."""
    for node in page.nodes:
        if (objection := node.witness_objection) is not None:
            if objection.event is None:
                what_to_do = "Ask who changed it: trainshed audit verify. If it was restored from a backup"
            else:
                what_to_do = (
                    "See what else does not fit: trainshed audit verify. Once it is known who wrote it"
                )
            yield (
                f"{node.node} objects to the log since {time_of_day(objection.since)}: {clean(objection.text)}. {what_to_do}: "
                "trainshed audit accept --reason TEXT"
            )


def memory_limits(page: NodePage) -> Iterator[str]:
    """Where a run's `memory_mb` is a limit and where only what is granted of the node, one line each."""
    for enforced in (True, False):
        names = [node.node for node in page.nodes if node.memory_enforced is enforced]
        if names:
            yield f"memory_mb is {memory_limit(enforced)} on {', '.join(names)}"


async def _read(wanted: MomentAsked | None) -> tuple[PastMoment | None, bytes]:
    async with connected() as trainshed:
        moment = await as_of(trainshed, wanted)
        return moment, await trainshed.nodes_json(at=seq_of(moment))


def _row(node: NodeRecord, at: str, witnessed: bool) -> list[str | Cell]:
    heard = seconds_between(node.last_heartbeat_at, at)
    suspect = node.suspect_since is not None and node.status is NodeStatus.UP
    status = ", ".join(
        [str(node.status), *(["drained"] if node.drained else []), *(["suspect"] if suspect else [])]
    )
    return [
        node.node,
        Cell(status, "red" if suspect else "yellow" if node.drained else _STYLES.get(node.status)),
        f"{node.slots_used}/{_slots(node)}",
        f"{node.cpus_used}/{node.cpus}",
        f"{node.memory_used_mb}/{node.memory_mb} MB",
        _disk(node.disk_free_mb),
        NOTHING if heard is None else ago(heard),
        *([_witness(node)] if witnessed else []),
        clean(node.host),
    ]


def _witness(node: NodeRecord) -> Cell:
    if node.witness_objection is not None:
        return Cell("objects", "red")
    return Cell(NOTHING if node.witnessed_size is None else f"ok {node.witnessed_size:,}")


def _slots(node: NodeRecord) -> int:
    return (
        node.slots_total or node.gpus
    )  # an older projector tells no slots: there each has a device of its own


def _disk(free_mb: int | None) -> Cell:
    if free_mb is None:
        return Cell(NOTHING)
    return Cell(format_bytes(free_mb << 20), "red" if free_mb < _LITTLE_DISK_MB else None)
