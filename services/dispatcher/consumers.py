"""The durable push consumers by which nodes hear of decisions: one for each node that is joined or has attempts.

Owns their configuration (docs/protocol.md rule 10); knows no decision.
"""

from __future__ import annotations

import nats.errors

from events.feed import ApiError, api_call
from events.state import Node, State
from services.failpoints import failpoint
from services.logging import get_logger
from trainshed_client import subjects
from trainshed_client.nats_client import SafeClient
from trainshed_client.statuses import NodeStatus

_log = get_logger("dispatcher")

ACK_WAIT_NS = 1_000_000_000
DELETED = f"$JS.EVENT.ADVISORY.CONSUMER.DELETED.{subjects.EVENTS_STREAM}.*"
"""The server's word that a consumer was removed, by whomever (its last token is the node's name)."""
_NOT_FOUND = 10014


class NodeConsumers:
    """Makes and removes them as nodes come and go. Only the active dispatcher does."""

    def __init__(self, nc: SafeClient) -> None:
        self._nc = nc
        self._settled: dict[str, bool] = {}

    def forget(self) -> None:
        """Look at every consumer again: another dispatcher or another server may have been at work."""
        self._settled.clear()

    def forget_one(self, node: str) -> None:
        """Look at this node's again: the server says that somebody removed it."""
        self._settled.pop(node, None)

    async def settle(self, state: State) -> bool:
        """Bring the consumers in line with ``state``. False where the server did not answer: ask again."""
        settled = True
        for name in list(state.nodes):
            node = state.nodes[name]
            needed = is_needed(state, node)
            if self._settled.get(name) is needed:
                continue
            self._settled[name] = needed  # before the call: what forget() says during it must stay said
            try:
                await (self._make(node) if needed else self._remove(name))
                failpoint("dispatcher.consumer_settled")
            except (TimeoutError, nats.errors.Error, ApiError) as error:
                self._settled.pop(name, None)
                _log.warning("a node's consumer could not be settled", node=name, why=str(error))
                settled = False
        return settled

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
    return node.status in (NodeStatus.UP, NodeStatus.LOST) or bool(state.usage_of(node.name).attempts)
