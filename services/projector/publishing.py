"""Publishes the tree's signed checkpoints for whoever watches the log: at its end, never often, and none while idle.

Owns when; what is signed is the signer's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from functools import partial

import msgspec
import nats.errors
from nats.aio.msg import Msg

from events.feed import ApiError
from events.log import UnknownOutcome
from projections.queries.proofs import StoredTree
from projections.transparency.checkpoint import SignedHead, TreeHead
from projections.transparency.tiles import TileMissing
from services.daemon_thread import in_daemon_thread
from services.file_writer import FileWriter
from services.position import Position
from services.projector.signer import Signer
from trainshed_client import subjects
from trainshed_client.direct_get import Message
from trainshed_client.errors import TrainshedError
from trainshed_client.nats_client import SafeClient
from trainshed_client.os_errors import cause

_log = logging.getLogger("trainshed.projector")

CHECKPOINT_EVERY_S = 5.0
OTHERS_COUNT_S = 15.0
"""Who publishes what is none of this log holds back the true ones no longer than this."""


class _OfAnother(msgspec.Struct, frozen=True):
    """What is read of a published checkpoint here."""

    vkey: str
    checkpoint: str


class Publisher:
    """Publishes one signer's checkpoints.

    ``tree`` reads what is committed, ``root_at`` the root that it had at a size, ``accepted`` the log's last LogAccepted.
    """

    def __init__(
        self,
        nc: SafeClient,
        signer: Signer,
        position: Position,
        tree: Callable[[], Awaitable[StoredTree]],
        root_at: Callable[[StoredTree, int], Awaitable[bytes]],
        accepted: Callable[[], Awaitable[Message | None]],
    ) -> None:
        self._nc = nc
        self._signer = signer
        self._position = position
        self._tree = tree
        self._root_at = root_at
        self._accepted = accepted
        self._writer = FileWriter(_not_kept)
        self._others = 0
        """How large the last was that another signer published, for as long as it counts."""
        self._others_until = 0.0

    async def run(self, at_the_end: Callable[[], bool]) -> None:
        """Publish for ever: what came since the last time, once ``at_the_end`` of the log."""
        hearing = await self._nc.listen(subjects.WATCH_CHECKPOINT, self._hear)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._writer.run())
                await self._run(at_the_end)
        finally:
            with contextlib.suppress(nats.errors.Error):
                await hearing.unsubscribe()

    def _hear(self, msg: Msg) -> None:
        """A checkpoint that another signer has published: every node would object to a smaller one after it."""
        try:
            found = msgspec.json.decode(msg.data, type=_OfAnother)
            head = None if found.vkey == self._signer.vkey else SignedHead.parse(found.checkpoint).head
        except (msgspec.MsgspecError, RecursionError, TrainshedError):
            return  # the nodes pass over it as well
        if head is None or head.origin != self._signer.origin:
            return
        if not self._others_size():
            _log.warning(
                "another projector signs this log's checkpoints too (%s): only one of a stack is started with --records",
                found.vkey,
            )
        self._others, self._others_until = head.size, _now() + OTHERS_COUNT_S

    def _others_size(self) -> int:
        return self._others if _now() < self._others_until else 0

    async def _run(self, at_the_end: Callable[[], bool]) -> None:
        last = await in_daemon_thread(self._signer.last)
        compared, seen = last is None, 0
        while True:
            await self._position.reached(seen + 1)
            if at_the_end():
                tree = await self._tree()
                if last is not None and not compared:
                    compared = await self._compare(tree, last)
                if last is not None and (tree.edge.size, tree.edge.root) == (last.size, last.root):
                    seen = tree.seq
                elif (published := await self._publish(tree)) is not None:
                    last, seen = published, tree.seq
            await asyncio.sleep(CHECKPOINT_EVERY_S)

    async def _compare(self, tree: StoredTree, last: TreeHead) -> bool:
        """Log where the tree does not extend what was published last. False where that cannot be seen yet."""
        try:
            extended = last.size <= tree.edge.size and await self._root_at(tree, last.size) == last.root
        except TileMissing:
            return False
        if not extended:
            _log.warning(
                "the event log is not the one whose checkpoint of %d leaves was published last: it was rolled back or "
                "altered. Run: trainshed audit verify --against %s",
                last.size,
                self._signer.last_file,
            )
        return True

    async def _publish(self, tree: StoredTree) -> TreeHead | None:
        """Publish the tree's checkpoint, which is then the last; None where that was not possible now."""
        try:
            accepted = await self._accepted()
            if accepted is not None and accepted.seq >= tree.edge.first + tree.edge.size:
                if tree.gap is None:
                    return None  # it was stored a moment ago: the next tree has it, and of this one nobody need know
                accepted = None
            checkpoint = self._signer.checkpoint(head := self._signer.head(tree))
            message = msgspec.json.encode(self._signer.published(checkpoint, accepted))
            if head.size < self._others_size():
                return None
            await self._nc.publish(subjects.WATCH_CHECKPOINT, message)
        except (nats.errors.Error, UnknownOutcome, ApiError) as error:  # while the server is away
            _log.debug("a checkpoint was not published: %s", error)
            return None
        # nobody waits for it: storage that is full or hangs stops no checkpoint, and no read model
        self._writer.write(partial(self._signer.keep, checkpoint), latest="checkpoint")
        return head


def _not_kept(error: OSError) -> None:
    _log.warning("the last checkpoint cannot be kept: %s; trying again", cause(error))


def _now() -> float:
    return asyncio.get_running_loop().time()
