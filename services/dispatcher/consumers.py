"""The durable push consumers by which nodes hear of decisions: one for each node that is joined or has attempts.

Owns their configuration (docs/protocol.md rule 10); knows no decision.
"""

from __future__ import annotations

import asyncio

import nats.errors

from events.feed import ApiError, api_call
from events.state import Node, State
from services.failpoints import failpoint
from services.logging import get_logger
from trainshed_client import subjects
from trainshed_client.nats_client import SafeClient
from trainshed_client.os_errors import cause

_log = get_logger("dispatcher")

ACK_WAIT_NS = 1_000_000_000
DELETED = f"$JS.EVENT.ADVISORY.CONSUMER.DELETED.{subjects.EVENTS_STREAM}.*"
"""The server's word that a consumer was removed, by whomever (its last token is the node's name)."""
_NOT_FOUND = 10014


class NodeConsumers:
    """Makes and removes them as nodes come and go. Only the active dispatcher does.

    What is due is looked at by name; all of them once where another dispatcher or another server may have been at work.
    """

    def __init__(self, nc: SafeClient) -> None:
        self._nc = nc
        self._due: dict[str, None] = {}
        self._all = True
        self.changed = asyncio.Event()
        self.changed.set()

    def look_at_all(self) -> None:
        """From now on nothing is known of any consumer."""
        self._all = True
        self._due.clear()
        self.changed.set()

    def look_at(self, node: str) -> None:
        """This node has changed, or somebody has removed its consumer."""
        if not self._all:  # then it is looked at anyway
            self._due[node] = None
            self.changed.set()

    async def reconcile(self, state: State) -> bool:
        """Bring what is due in line with ``state``. False where the server did not answer: ask again."""
        self.changed.clear()
        failed: list[str] = []
        try:
            if self._all:
                self._all = False
                try:
                    there = await self._there()
                except (TimeoutError, nats.errors.Error, ApiError) as error:
                    self.look_at_all()
                    _log.warning("the nodes' consumers could not be listed", why=cause(error))
                    return False
                known = (
                    name for name, node in state.nodes.items() if is_needed(state, node) != (name in there)
                )
                self._due.update(dict.fromkeys([*known, *(there - state.nodes.keys())]))
            while self._due:
                name = next(iter(self._due))
                del self._due[name]  # before the call: a change during it is looked at again
                node = state.nodes.get(name)
                try:
                    await (self._make(node) if node and is_needed(state, node) else self._remove(name))
                    failpoint("dispatcher.consumer_reconciled")
                except (TimeoutError, nats.errors.Error, ApiError) as error:
                    failed.append(name)
                    _log.warning(
                        "a node's consumer could not be made or removed", node=name, why=cause(error)
                    )
        finally:
            for name in failed:
                self.look_at(name)
        return not failed

    async def _there(self) -> set[str]:
        """The nodes whose consumers the server has, also of nodes that the fold has forgotten."""
        found: set[str] = set()
        offset = 0
        while True:
            page = await api_call(self._nc, f"CONSUMER.LIST.{subjects.EVENTS_STREAM}", {"offset": offset})
            listed = page.get("consumers") or []
            for info in listed:
                if info["config"].get("deliver_subject") == subjects.push_delivery(info["name"]):
                    found.add(info["name"])
            offset += len(listed)
            if not listed or offset >= page["total"]:
                return found

    async def _make(self, node: Node) -> None:
        try:
            await api_call(self._nc, f"CONSUMER.INFO.{subjects.EVENTS_STREAM}.{node.name}")
            return  # what is on its way to the node stays so
        except ApiError as error:
            if error.err_code != _NOT_FOUND:
                raise
        await api_call(
            self._nc,
            f"CONSUMER.CREATE.{subjects.EVENTS_STREAM}.{node.name}.{subjects.pushed_to(node.name)}",
            {
                "stream_name": subjects.EVENTS_STREAM,
                "action": "create",
                "config": {
                    "durable_name": node.name,
                    "name": node.name,
                    "deliver_subject": subjects.push_delivery(node.name),
                    # nothing older than its NodeJoined is ever launched
                    "deliver_policy": "by_start_sequence",
                    "opt_start_seq": node.joined_seq,
                    "filter_subject": subjects.pushed_to(node.name),
                    "ack_policy": "explicit",
                    "ack_wait": ACK_WAIT_NS,
                    "max_deliver": -1,
                    "max_ack_pending": 1,
                    "replay_policy": "instant",
                },
            },
        )

    async def _remove(self, node: str) -> None:
        try:
            await api_call(self._nc, f"CONSUMER.DELETE.{subjects.EVENTS_STREAM}.{node}")
        except ApiError as error:
            if error.err_code != _NOT_FOUND:
                raise


def is_needed(state: State, node: Node) -> bool:
    """A node that is joined or has attempts must hear of decisions."""
    return node.is_there or bool(state.usage_of(node.name).attempts)
