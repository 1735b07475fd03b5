"""Why a queued run is not running yet, in words: from its needs and what the nodes have free.

Owns the reasons and their order; knows no SQL. Made when asked, never stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from events.config import Needs, Resources, needs_of
from events.run_machine import SECOND_NS
from events.state import Pending, Phase, Run, RunProgress
from projections.read_model.rows import NodeRow, SlotRow
from trainshed_client.records import WaitsFor

MAX_NAMED = 3


class Room(msgspec.Struct, frozen=True):
    """What one node that takes work has, and has free."""

    node: str
    gpus: int
    gpus_free: int
    cpus: int
    cpus_free: int
    memory_mb: int
    memory_free_mb: int


class Rooms(msgspec.Struct, frozen=True):
    """The nodes that take work, and how many there are that do not."""

    rooms: tuple[Room, ...]
    drained: int
    away: int

    @classmethod
    def of(cls, nodes: Sequence[NodeRow], slots: Sequence[SlotRow]) -> Rooms:
        """From the tables' rows."""
        healthy: dict[str, int] = {}
        free: dict[str, int] = {}
        held = {slot.uuid for slot in slots if slot.run_id is not None and slot.uuid is not None}
        for slot in slots:
            if slot.healthy:
                healthy[slot.node] = healthy.get(slot.node, 0) + 1
                # a device that is held on another node is not free here
                is_free = slot.run_id is None and slot.uuid not in held
                free[slot.node] = free.get(slot.node, 0) + is_free
        rooms = [
            Room(
                node=row.node,
                gpus=healthy.get(row.node, 0),
                gpus_free=free.get(row.node, 0),
                cpus=row.cpus or 0,
                cpus_free=(row.cpus or 0) - (row.cpus_used or 0),
                memory_mb=row.memory_mb or 0,
                memory_free_mb=(row.memory_mb or 0) - (row.memory_used_mb or 0),
            )
            for row in nodes
            if row.status == "up" and not row.drained
        ]
        drained = sum(1 for row in nodes if row.status == "up" and row.drained)
        away = sum(1 for row in nodes if row.status in ("lost", "left"))
        return cls(tuple(rooms), drained, away)


class _Wants(msgspec.Struct, gc=False):
    """Of a stored run config what a wait for room depends on."""

    resources: Resources = Resources()


_WANTS = msgspec.json.Decoder(_Wants)
_FOLD = msgspec.json.Decoder(RunProgress)


class Waits:
    """`waits_for` of many runs in one answer, as JSON: what several have in common is made once."""

    def __init__(self, rooms: Rooms, now_ns: int) -> None:
        self._rooms = rooms
        self._now_ns = now_ns
        self._folds: dict[str, bytes | None] = {}
        self._rooms_for: dict[Resources, bytes] = {}

    def json(self, fold: str, config: str) -> bytes:
        """Of a PENDING run as the table has it."""
        known = self._folds.get(fold, _UNSEEN)
        if known is _UNSEEN:
            kept = _FOLD.decode(fold)
            waits = _of_phase(kept.phase, kept.cancel_requested, self._now_ns)
            known = self._folds[fold] = None if waits is None else msgspec.json.encode(waits)
        if known is not None:
            return known
        resources = _WANTS.decode(config).resources
        text = self._rooms_for.get(resources)
        if text is None:
            waits = _room_for(needs_of(resources), self._rooms)
            text = self._rooms_for[resources] = msgspec.json.encode(waits)
        return text


_UNSEEN: Final = b""


def waits_for(run: Run, rooms: Rooms, now_ns: int) -> WaitsFor:
    """Why ``run``, which is PENDING, is not running."""
    return _of_phase(run.phase, run.cancel_requested, now_ns) or _room_for(run.needs, rooms)


def _of_phase(phase: Phase, cancel_requested: bool, now_ns: int) -> WaitsFor | None:
    """What a run waits for that is not room; None where it is room."""
    assert isinstance(phase, Pending)
    if cancel_requested:
        return WaitsFor(reason="cancel", text="it is being cancelled")
    if phase.failed_dependency is not None:
        text = f"run {phase.failed_dependency} did not complete, so this one is being cancelled"
        return WaitsFor(reason="dependency", text=text)
    if phase.waiting_for:
        return WaitsFor(reason="dependency", text=f"waiting for {_runs(sorted(phase.waiting_for))}")
    if phase.not_before_ns > now_ns:
        seconds = -((now_ns - phase.not_before_ns) // SECOND_NS)  # rounded up: never "in 0 s"
        return WaitsFor(reason="backoff", text=f"waiting until its retry in {seconds} s")
    return None


def _room_for(needs: Needs, rooms: Rooms) -> WaitsFor:
    if not rooms.rooms:
        return WaitsFor(reason="no_node", text=_no_node(rooms))
    gpus = needs.gpus if needs.mandatory else 0
    fitting = [
        room
        for room in rooms.rooms
        if room.gpus >= gpus and room.cpus >= needs.cpus and room.memory_mb >= needs.memory_mb
    ]
    if not fitting:
        return WaitsFor(reason="too_large", text=f"no node that is up has {_needs(needs, gpus)}")
    with_gpus = [room for room in fitting if room.gpus_free >= gpus]
    if not with_gpus:
        free, total = sum(r.gpus_free for r in fitting), sum(r.gpus for r in fitting)
        text = f"waiting for {_count(gpus, 'free GPU')} ({free} of {total} free)"
        if free >= gpus:
            text = f"waiting for {_count(gpus, 'free GPU')} on one node ({free} of {total} free on several)"
        return WaitsFor(reason="gpus", text=text)
    with_cpus = [room for room in with_gpus if room.cpus_free >= needs.cpus]
    if not with_cpus:
        most = max(room.cpus_free for room in with_gpus)
        text = f"waiting for {_count(needs.cpus, 'free CPU')} ({most} free on the best node)"
        return WaitsFor(reason="cpus", text=text)
    most = max(room.memory_free_mb for room in with_cpus)
    if most < needs.memory_mb:
        text = f"waiting for {needs.memory_mb} MB of free memory ({most} MB free on the best node)"
        return WaitsFor(reason="memory", text=text)
    return WaitsFor(reason="turn", text="waiting for its turn")


def _no_node(rooms: Rooms) -> str:
    match rooms.drained, rooms.away:
        case 0, 0:
            return "no node is up"
        case drained, 0:
            return f"no node takes work ({_count(drained, 'node')} drained)"
        case 0, away:
            return f"no node is up ({_count(away, 'node')} lost or left)"
        case drained, away:
            return f"no node takes work ({drained} drained, {away} lost or left)"


def _needs(needs: Needs, gpus: int) -> str:
    words = [_count(gpus, "GPU")] if gpus else []
    words.append(_count(needs.cpus, "CPU"))
    if needs.memory_mb:
        words.append(f"{needs.memory_mb} MB of memory")
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else words[0]


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _runs(run_ids: Sequence[str]) -> str:
    if len(run_ids) == 1:
        return f"run {run_ids[0]}"
    more = f" and {len(run_ids) - MAX_NAMED} more" if len(run_ids) > MAX_NAMED else ""
    return f"runs {', '.join(run_ids[:MAX_NAMED])}{more}"
