"""What runs that ended long ago left on the nodes is deleted: which runs are meant, and which nodes are asked.

Owns these two, and that no run which was tried again loses anything; what a node deletes is its agent's word.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from trainshed_client._compat_asyncio import all_of
from trainshed_client.answers import Pruned, PruneKept, RunPage
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.statuses import NodeStatus

if TYPE_CHECKING:
    from trainshed_client.fold_progress import FoldProgress
    from trainshed_client.queries import QueryCalls

ANSWERS_WITHIN_S = 5.0
WORKS_WITHIN_S = 600.0
"""A call ends after 2 s with what it has done; but a single run may have left millions of files."""


class NodePruned:
    """What one node has deleted, or would: of which runs, how many bytes, and what it kept. ``error``: why it was not asked
    any further, or None."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.runs: list[str] = []
        self.bytes = 0
        self.kept: list[PruneKept] = []
        self.error: str | None = None

    def __repr__(self) -> str:
        trouble = f", {self.error}" if self.error else ""
        return f"<NodePruned {self.node}: {len(self.runs)} runs, {self.bytes:,} bytes{trouble}>"

    def add(self, answer: Pruned) -> None:
        """Count what a call has done."""
        self.runs += answer.runs
        self.bytes += answer.bytes
        self.kept += answer.kept


class PruneReport:
    """What all nodes have deleted, or would. ``not_asked``: nodes that left or were removed, on which such runs ran.

    ``seq``: the log sequence by which it was known which runs are meant; ``stale`` and ``progress`` as in an answer.
    """

    def __init__(
        self,
        seq: int,
        nodes: list[NodePruned],
        not_asked: list[str],
        stale: bool,
        progress: FoldProgress | None,
    ) -> None:
        self.seq = seq
        self.nodes = nodes
        self.not_asked = not_asked
        self.stale = stale
        self.progress = progress

    def __repr__(self) -> str:
        return f"<PruneReport at {self.seq}: {self.nodes}>"


async def prune(trainshed: QueryCalls, ended_before: datetime, *, dry_run: bool) -> PruneReport:
    """See `trainshed_client.Trainshed.prune`."""
    sums = await _who_answers(trainshed)
    ran_on: set[str] = set()
    first: RunPage | None = None
    async for page in trainshed.list_pages(ended_before=ended_before):
        if page.stale and not dry_run:
            if first is None:
                raise _behind()
            for one in sums:
                one.error = one.error or _behind().message
            break
        if first is None:
            first = page
        ran_on |= {record.node for record in page.records if record.node is not None}
        runs = {record.run_id: record.attempt for record in page.records}
        if not runs:
            continue
        # Every node: a run's earlier attempts may have been on others than its record names.
        await all_of(_ask(trainshed, one, runs, dry_run) for one in sums if one.error is None)
    assert first is not None  # there is one page at least
    away = sorted(ran_on - {one.node for one in sums})
    return PruneReport(first.seq, sums, away, first.stale, first.progress)


async def _who_answers(trainshed: QueryCalls) -> list[NodePruned]:
    """Every node that is known; one that does not answer now is not waited for later."""
    nodes = (await trainshed.nodes()).nodes
    sums = [NodePruned(node.node) for node in nodes]

    async def look(one: NodePruned, status: NodeStatus) -> None:
        try:
            if status is NodeStatus.LOST:
                raise TrainshedError(ErrorCode.UNAVAILABLE, "it does not answer (lost)")
            one.add(await _call(trainshed, one.node, [], False, ANSWERS_WITHIN_S))
        except TrainshedError as error:
            one.error = error.message

    await all_of(look(one, node.status) for one, node in zip(sums, nodes))
    return sums


async def _ask(trainshed: QueryCalls, one: NodePruned, runs: dict[str, int], dry_run: bool) -> None:
    left = list(runs.items())
    while left:
        try:
            if not dry_run:
                # Asked for again each time: until its turn came a run may have been tried again.
                live = await _live(trainshed)
                left = [(run_id, attempt) for run_id, attempt in left if run_id not in live]
                if not left:
                    return
            answer = await _call(trainshed, one.node, left, dry_run, WORKS_WITHIN_S)
        except TrainshedError as error:
            one.error = error.message
            return
        one.add(answer)
        left = left[max(1, answer.handled) :]


async def _live(trainshed: QueryCalls) -> set[str]:
    """The runs that have not ended. Raises TrainshedError, also where that is not known for sure."""
    live: set[str] = set()
    async for page in trainshed.list_pages(live=True):
        if page.stale:
            raise _behind()
        live |= {record.run_id for record in page.records}
    return live


def _behind() -> TrainshedError:
    return TrainshedError(
        ErrorCode.UNAVAILABLE,
        "the read side is behind the event log and may not know what was tried again; ask again later",
    )


async def _call(
    trainshed: QueryCalls, node: str, runs: Sequence[tuple[str, int]], dry_run: bool, within_s: float
) -> Pruned:
    """Ask a node's agent; without runs only whether it is there."""
    asked = [{"run_id": run_id, "attempt": attempt} for run_id, attempt in runs]
    request = {"runs": asked, "dry_run": dry_run}
    body = await trainshed.call(f"node.{node}.prune", request, timeout=within_s)
    try:
        return msgspec.json.decode(body, type=Pruned)
    except msgspec.MsgspecError:
        raise TrainshedError(
            ErrorCode.UNAVAILABLE, "its agent answers with what this release does not understand"
        ) from None
