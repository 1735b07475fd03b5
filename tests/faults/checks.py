"""What must hold: I1 to I8, I10 and I11, each from another source than the one that is checked.

Owns the checks; each returns what is violated, and knows no fault.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Iterable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec
from nats.aio.msg import Msg

from events.log import EventLog
from projections.audit.against import Against
from projections.audit.verify import rows_from, verify
from projections.audit.witnessed import reported
from projections.transparency.checkpoint import origin_of
from services.cli.audit_decisions import DecisionsCheck
from services.cli.audit_files import files_audit
from tests.faults import processes
from tests.faults.cluster import Cluster
from tests.faults.follower import Follower
from tests.faults.ledger import Violation
from tests.faults.workload import Ack
from tests.support.replayed_at import ReplayedAt, without_heartbeats
from tests.support.stored_log import reading
from tests.support.wire import Wire
from trainshed_client import subjects
from trainshed_client.answers import NodePage
from trainshed_client.asking import decoded
from trainshed_client.client import Trainshed
from trainshed_client.direct_get import Message
from trainshed_client.errors import TrainshedError
from trainshed_client.nats_connection import NatsConnection

STILL_S = 90.0
"""Seconds without any word on a run after which what has not ended never will: above the longest back-off (60 s)."""
VERIFY_WITHIN_S = 60.0
MOMENTS = 100


async def everything_ends(
    follower: Follower, acknowledged: set[str], still_s: float = STILL_S
) -> list[Violation]:
    """I1: with every fault healed, each run of the log ends. Waits for it as long as anything moves."""
    healed = time.monotonic()
    while unfinished := follower.unfinished(acknowledged):
        still = time.monotonic() - max(healed, follower.moved_at)
        if still > still_s:
            return [Violation("I1", _how(follower, run_id)) for run_id in unfinished]
        await asyncio.sleep(0.1)
    return []


def _how(follower: Follower, run_id: str) -> str:
    run = follower.story.past.get(run_id)
    if run is None:
        return f"run {run_id} was acknowledged, and the log has no word of it"
    return f"run {run_id} never ends: {run.status}, {run.phase!r:.300}"


def in_the_log(follower: Follower) -> list[Violation]:
    """I2, and I3 as far as the log shows it: the suite's own reading."""
    return list(follower.ledger.violations)


def witnesses(folder: Path, ended: Iterable[tuple[str, int]] | None = None) -> list[Violation]:
    """I2, I3: what the workers themselves found out. ``ended``: all attempts that the log has ended (at rest)."""
    found = []
    for line in _lines(folder / "conflicts.jsonl"):
        who = f"run {line['run_id']} attempt {line['attempt']} on {line['node']}"
        invariant = "I3" if line["lock"].startswith("run-") else "I2"
        found.append(
            Violation(invariant, f"{who} found {line['lock']} held by a living process: {line['other']}")
        )
    started: dict[tuple[str, int], dict[str, Any]] = {}
    for line in _lines(folder / "workers.jsonl"):
        if line["what"] != "start":
            continue
        key = (line["run_id"], line["attempt"])
        if key in started:
            pids = (started[key]["pid"], line["pid"])
            found.append(Violation("I3", f"attempt {key} was started twice: pids {pids}"))
        started[key] = line
    if ended is not None:
        never = set(started) - set(ended)
        found += [Violation("I3", f"a worker ran for attempt {key}, which the log has not") for key in never]
    return found


def on_the_wire(wire: Wire) -> list[Violation]:
    """The contract: each message that was published is as docs/schema has it."""
    return [Violation("contract", str(fault)) for fault in wire.found()]


def started_workers(folder: Path) -> int:
    """How many workers wrote down that they started."""
    return sum(line["what"] == "start" for line in _lines(folder / "workers.jsonl"))


def left_behind(cluster: Cluster, ended: set[tuple[str, int]]) -> list[Violation]:
    """I5: no process of an attempt that had ended (``ended`` was taken before we look)."""
    found = []
    for process in cluster.marked():
        key = process.attempt
        if key is not None and key in ended and processes.still(process):
            found.append(Violation("I5", f"pid {process.pid} of attempt {key} lives, and its end is told"))
    return found


def at_rest(cluster: Cluster) -> list[Violation]:
    """I5 with nothing running: no worker, no daemon and no shim with an attempt."""
    left = [each for each in cluster.marked() if each.attempt is not None or each.is_shim]
    return [
        Violation("I5", f"pid {each.pid} is left ({each.attempt or each.cwd})")
        for each in left
        if processes.still(each)
    ]


class Replayed(NamedTuple):
    """What is violated, and of how many attempts the files were compared."""

    violations: list[Violation]
    compared: int = 0


async def replayed(follower: Follower) -> Replayed:
    """I4, and what else `audit verify --decisions --files` checks: waits until the projector answers with everything."""
    deadline = time.monotonic() + VERIFY_WITHIN_S
    log, client = reading(follower.nc), Trainshed(NatsConnection(follower.nc, "the cluster"))
    while True:
        try:
            with files_audit(client, log, terminal=False) as files:
                async with aclosing(cast("Any", rows_from(follower.nc))) as rows:
                    verdict = await verify(log, rows, checks=[DecisionsCheck(), files])
        except (TrainshedError, TimeoutError) as error:
            if time.monotonic() > deadline:
                return Replayed([Violation("I4", f"the read model does not answer: {error}")])
        else:
            if verdict.seq >= follower.position or not verdict.ok or time.monotonic() > deadline:
                found = [Violation(each.invariant, each.message, each.seq) for each in verdict.violations]
                if verdict.seq < follower.position:
                    what = f"the read model stands at {verdict.seq}, the log at {follower.position}"
                    found.append(Violation("I4", what))
                return Replayed(found, files.compared.compared)
        await asyncio.sleep(0.3)


async def past(follower: Follower, chooser: random.Random) -> tuple[list[Violation], int]:
    """I4 at a hundred moments: of each the state hash and the first page are those of a replay up to there."""
    messages = [message async for message in EventLog(follower.nc).read_raw()]
    chosen = sorted(chooser.sample(range(1, len(messages) + 1), min(MOMENTS, len(messages))))
    found, replay = [], ReplayedAt(messages)
    try:
        for seq in chosen:
            page, moment = [
                msgspec.json.decode((await _asked(follower, call, request)).data)
                for call, request in (("run.list", {"at": seq}), ("audit.at", {"seq": seq}))
            ]
            await asyncio.to_thread(replay.at, seq)
            expected = await asyncio.to_thread(replay.runs)
            if moment.get("state_hash") != replay.state_hash():
                found.append(
                    Violation("I4", f"audit.at {seq} is not what a replay up to there has: {moment}", seq)
                )
            if "error" in page or without_heartbeats(page) != without_heartbeats(expected):
                found.append(
                    Violation("I4", f"run.list at {seq} is not what a replay up to there answers", seq)
                )
    finally:
        replay.close()
    return found, len(chosen)


async def _asked(follower: Follower, call: str, request: dict[str, int]) -> Msg:
    return await follower.nc.request(
        subjects.api(call), msgspec.json.encode(request), timeout=VERIFY_WITHIN_S
    )


async def cosigned(follower: Follower) -> tuple[list[Violation], int]:
    """I8: the log is what its nodes have cosigned of it, and none objects; and how many have cosigned anything."""
    log = EventLog(follower.nc)
    answer = await follower.nc.request(subjects.api("node.list"), b"{}", timeout=VERIFY_WITHIN_S)
    report = reported(decoded(answer.data, NodePage).nodes, origin_of(await log.log_id()))
    against = Against(report.kept, None, report.misfits)
    async for message in log.read_raw():
        against.take([message])
    found = [Violation("I8", misfit.message, misfit.seq) for misfit in against.misfits()]
    return found, len(report.kept)


async def acknowledged(follower: Follower, acks: Iterable[Ack]) -> list[Violation]:
    """I6: the log, read anew from its start, has what was acknowledged, and what was once delivered is as it was."""
    stored: dict[int, Message] = {}
    async for message in EventLog(follower.nc).read_raw():
        stored[message.seq] = message
    found = []
    for seq, message in follower.messages.items():
        if seq not in stored or stored[seq].body != message.body:
            found.append(Violation("I6", f"{message.subject} was delivered and is not stored so", seq))
    expected = {"submit": "submitted", "cancel": "cancel_requested", "retry": "retry_requested"}
    first: dict[str, Ack] = {}
    for ack in acks:
        if ack.seq not in stored:
            found.append(Violation("I6", f"{ack} was acknowledged and is not stored", ack.seq))
            continue
        tokens = stored[ack.seq].subject.split(".")
        if ack.call == "submit":
            if (tokens[3], tokens[5]) != (ack.run_id, expected["submit"]):
                found.append(Violation("I6", f"{ack}: stored there is {stored[ack.seq].subject}", ack.seq))
            before = first.setdefault(ack.run_id, ack)
            if before.seq != ack.seq or (before is not ack and before.created and ack.created):
                found.append(Violation("I6", f"one config, two runs: {before} and {ack}", ack.seq))
    return found


def secret_kept(cluster: Cluster, messages: Mapping[int, Message]) -> list[Violation]:
    """I7: the value is in no event and in no file but the one it came from."""
    value = cluster.secret.encode()
    found = [Violation("I7", f"{m.subject} bears it", seq) for seq, m in messages.items() if value in m.body]
    for folder, _, names in os.walk(cluster.root):
        for name in names:
            path = Path(folder) / name
            if path == cluster.secret_file or not path.is_file():
                continue
            try:
                if value in path.read_bytes():
                    found.append(Violation("I7", f"{path.relative_to(cluster.root)} bears it"))
            except FileNotFoundError:
                continue
    return found


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]
