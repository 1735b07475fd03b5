"""The calls that ask: runs, slots, nodes, moments of the past, and how the read side is.

Owns paging and how a run is named; changes nothing.
"""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import AsyncIterator, Collection, Mapping
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from trainshed_client.answers import (
    Answer,
    Explanation,
    MomentAnswer,
    NodePage,
    RunPage,
    RunView,
    SlotPage,
    decode_run,
)
from trainshed_client.asking import decoded
from trainshed_client.calls import Calls, then
from trainshed_client.connection import STARTING_RETRY_S
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.naming import SHOWN, choose, is_run_id
from trainshed_client.times import utc_text

if TYPE_CHECKING:
    from trainshed_client.fold_progress import FoldProgress
    from trainshed_client.records import QueuedRunRecord
    from trainshed_client.statuses import RunStatus

PAGE = 500


class QueryCalls(Calls):
    """What is asked; see `trainshed_client.Trainshed`."""

    async def moment(self, *, seq: int | None = None, time: datetime | None = None) -> MomentAnswer:
        """An event by its sequence, or the last one stored at or before a time (an aware one)."""
        request = {"seq": seq} if time is None else {"time": utc_text(time)}
        return await self._asking.ask("audit.at", request, MomentAnswer)

    async def get(self, run: str, *, at: int | None = None) -> RunView:
        """Everything about one run. Of several of a name: the newest."""
        return decoded(await self.get_json(run, at=at), RunView)

    async def get_json(self, run: str, *, at: int | None = None) -> bytes:
        """The same as the server's JSON."""
        if is_run_id(run):
            try:
                return await self.call("run.get", then({"run_id": run}, at))
            except TrainshedError as error:
                if error.code is not ErrorCode.NOT_FOUND:
                    raise
        found = await self.resolve(run, at=at)
        return await self.call("run.get", then({"run_id": found.run_id}, at))

    async def explain(self, run: str, *, at: int | None = None) -> Explanation:
        """Why a run waits, or what happened to it last. Of several of a name: the newest."""
        return decoded(await self.explain_json(run, at=at), Explanation)

    async def explain_json(self, run: str, *, at: int | None = None) -> bytes:
        """The same as the server's JSON."""
        return await self.call("run.explain", then({"run_id": await self.run_id_of(run, at=at)}, at))

    async def run_id_of(self, run: str, *, at: int | None = None) -> str:
        """The id of the run that is named, which is not looked for where it is one. Raises as `resolve`."""
        return run if is_run_id(run) else (await self.resolve(run, at=at)).run_id

    async def resolve(self, run: str, *, only: bool = False, at: int | None = None) -> QueuedRunRecord:
        """The record of the run that an id, a name, what `ls` shows as one, or a unique prefix of these means.

        A name that several runs bear means the newest, or with ``only`` none of them. Raises NOT_FOUND,
        CONFLICT where several are meant, or UNAVAILABLE where the read side does not know yet.
        """
        while True:
            request = then({"run": run, "limit": SHOWN + 1}, at)
            page = await self._asking.ask("run.list", request, RunPage)
            try:
                return await self._chosen(run, page.records, only=only, at=at)
            except TrainshedError as error:
                if error.code is not ErrorCode.NOT_FOUND or page.progress is None:
                    raise
            if not self._patient:
                raise TrainshedError(
                    ErrorCode.UNAVAILABLE,
                    f"no run {run!r} is known yet: the read side has {page.progress.text}; ask again: trainshed ls",
                    progress=page.progress,
                )
            self._asking.waits_for("the projector", f"stale: {page.progress.text}")
            await asyncio.sleep(STARTING_RETRY_S)

    async def _chosen(
        self, run: str, found: builtins.list[QueuedRunRecord], *, only: bool, at: int | None
    ) -> QueuedRunRecord:
        named = [record for record in found if record.name == run]
        if not named and len(found) > SHOWN:  # more prefixes than shown might hide the name
            request = then({"name": run, "limit": SHOWN + 1}, at)
            found += (await self._asking.ask("run.list", request, RunPage)).records
        return choose(run, found, only=only)

    async def list(
        self,
        *,
        status: Collection[RunStatus | str] = (),
        labels: Mapping[str, str] | None = None,
        name: str | None = None,
        live: bool = False,
        limit: int | None = None,
        at: int | None = None,
    ) -> AsyncIterator[QueuedRunRecord]:
        """Runs, newest first, read page by page while you iterate."""
        async for page in self.list_pages(
            status=status, labels=labels, name=name, live=live, limit=limit, at=at
        ):
            for record in page.records:
                yield record

    async def list_pages(
        self,
        *,
        status: Collection[RunStatus | str] = (),
        labels: Mapping[str, str] | None = None,
        name: str | None = None,
        live: bool = False,
        ended: bool = False,
        ended_before: datetime | None = None,
        limit: int | None = None,
        at: int | None = None,
    ) -> AsyncIterator[RunPage]:
        """The same, a page at a time; the first page's ``seq`` and ``total`` are the listing's.

        ``ended``: those that ended last, the last first; there is one page of them. ``ended_before``: only those that
        had ended by that time.
        """
        request = then({}, at)
        if status:
            request["status"] = [str(one) for one in status]
        if labels:
            request["labels"] = dict(labels)
        if name is not None:
            request["name"] = name
        if live:
            request["live"] = True
        if ended:
            request["ended"] = True
        if ended_before is not None:
            request["ended_before"] = utc_text(ended_before)
        left = limit
        while left is None or left > 0:
            request["limit"] = PAGE if left is None else min(PAGE, left)
            page = await self._asking.ask("run.list", request, RunPage)
            yield page
            if not page.runs or ended:
                return
            request["before_seq"] = decode_run(page.runs[-1]).submit_seq
            if left is not None:
                left -= len(page.runs)

    async def slots(self, *, at: int | None = None) -> SlotPage:
        """Every slot and who holds it."""
        return decoded(await self.slots_json(at=at), SlotPage)

    async def slots_json(self, *, at: int | None = None) -> bytes:
        """The same as the server's JSON."""
        return await self.call("slot.list", then({}, at))

    async def nodes(self, *, at: int | None = None) -> NodePage:
        """Every node; those that left or were removed only while they have attempts."""
        return decoded(await self.nodes_json(at=at), NodePage)

    async def nodes_json(self, *, at: int | None = None) -> bytes:
        """The same as the server's JSON."""
        return await self.call("node.list", then({}, at))

    async def health(self) -> dict[str, object]:
        """What the read side says of itself."""
        health: dict[str, object] = msgspec.json.decode(await self.call("health", {}))
        return health

    async def behind(self) -> FoldProgress | None:
        """How far the read side is; None where it has all that was acknowledged before."""
        return (await self._asking.ask("health", {}, Answer)).progress
