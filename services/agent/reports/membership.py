"""The events of the agent's own node: what was last appended of the name, joining, leaving, and why it may not join.

Owns those events and the refusal's text (docs/protocol.md rules 8 and 11); when they are appended `session` decides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from events.types import AttemptRef, NodeJoined, NodeLeft
from services.agent.identity import Identity
from services.agent.machine.inventory import Inventory
from services.agent.reports.appender import Appender
from services.agent.reports.heartbeats import NodeHeartbeats
from services.agent.session.values import AppendLeft, Joined, JoinRefused, LeaveStored, NameRead
from services.failpoints import failpoint
from services.logging import get_logger
from services.version import VERSION
from trainshed_client.errors import ErrorCode, TrainshedError

_log = get_logger("agent")

LEAVE_S = 0.6
"""Seconds that a leaving agent waits for NodeLeft to be stored; without it the node counts as lost a little later."""


class Membership:
    """One incarnation's events of its node."""

    def __init__(
        self,
        appender: Appender,
        heartbeats: NodeHeartbeats,
        *,
        identity: Identity,
        inventory: Inventory,
        host: str,
        borrowed: bool,
        memory_enforced: bool,
        vkey: Callable[[], Awaitable[str | None]],
        clock: Callable[[], int],
    ) -> None:
        self._appender = appender
        self._heartbeats = heartbeats
        self._identity = identity
        self._inventory = inventory
        self._host = host
        self._borrowed = borrowed
        self._memory_enforced = memory_enforced
        self._vkey = vkey
        self._clock = clock

    async def read_name(self) -> NameRead:
        """The last events of the name."""
        return NameRead(await self._appender.name())

    async def join(self, guard: int, attempts: tuple[AttemptRef, ...]) -> Joined | JoinRefused:
        """Append NodeJoined while ``guard`` is the name's last join."""
        event = NodeJoined(
            node=self._identity.node,
            incarnation=self._identity.incarnation,
            host=self._host,
            cpus=self._inventory.cpus,
            memory_mb=self._inventory.memory_mb,
            gpus=self._inventory.gpus,
            attempts=attempts,
            borrowed=self._borrowed,
            version=VERSION,
            memory_enforced=self._memory_enforced,
            witness=await self._vkey(),
        )
        seq = await self._appender.join(event, guard)
        failpoint("agent.joined")
        return JoinRefused() if seq is None else Joined(seq)

    async def leave(self, action: AppendLeft, *, reclaim: bool) -> LeaveStored:
        """Append NodeLeft, or give up soon: the agent leaves either way."""
        node = self._identity.node
        event = NodeLeft(
            node=node,
            incarnation=self._identity.incarnation,
            upto=action.upto,
            attempts=action.attempts,
            reason="reclaimed" if reclaim else "stopped",
        )
        try:
            async with asyncio.timeout(LEAVE_S):
                if await self._appender.leave(event, action.guard) is None:
                    _log.warning("another agent has joined as this node", node=node)
                failpoint("agent.left")
        except TimeoutError:
            _log.warning("left without NodeLeft: the event log does not answer", node=node)
        return LeaveStored()

    async def refusal(self, owner: str) -> TrainshedError:
        """Why this agent may not run here, and what to do about it."""
        node = self._identity.node
        heard = await self._heartbeats.last_heard(self._clock())
        last = f", last heard {heard}" if heard else ""
        error = TrainshedError(
            ErrorCode.CONFLICT,
            f"{node} belongs to another state folder{last}. If that machine is gone: trainshed node remove {node}",
        )
        _log.error("refused", node=node, owner=owner, reason=error.message)
        return error
