"""The connection class: every call of the API as a method, and the two ways to follow what happens.

Owns requests, paging and how runs are named; must not import nats before connecting.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

import msgspec

from trainshed_client._compat_asyncio import all_of
from trainshed_client._compat_asyncio import timeout as time_limit
from trainshed_client.answers import (
    Acknowledged,
    Answer,
    Check,
    Explanation,
    MomentAnswer,
    NodeAnswer,
    NodePage,
    RunPage,
    RunView,
    SlotPage,
    Submission,
    Submissions,
    decode_run,
)
from trainshed_client.asking import Asking, decoded
from trainshed_client.connection import (
    CALL_TIMEOUT_S,
    STARTING_RETRY_S,
    Connection,
    OnWaiting,
    Reply,
)
from trainshed_client.endpoint import discover, worker_socket
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.fold_progress import FoldProgress
from trainshed_client.json_limits import json_value
from trainshed_client.naming import SHOWN, choose, is_run_id
from trainshed_client.provenance import Provenance
from trainshed_client.records import QueuedRunRecord, RunRecord
from trainshed_client.statuses import RunStatus

if TYPE_CHECKING:
    from typing_extensions import Self

    from trainshed_client.callbacks import Called
    from trainshed_client.follow import RunOutput
    from trainshed_client.nats_client import OnError, OnEvent, SafeClient
    from trainshed_client.watch import PresentRuns, RunWatch

PAGE = 500
_READS_AT_ONCE = 16

T = TypeVar("T", bound=msgspec.Struct)


class Trainshed:
    """A connection to a stack: ``async with await Trainshed.connect() as trainshed: ...``.

    Every method raises `TrainshedError`: INVALID, NOT_FOUND, CONFLICT, DENIED and TOO_LARGE as the service says,
    UNAVAILABLE where none answers. Where a call takes a run it may be named by its id, its
    name, or a unique prefix of either. ``at``, where a query takes it, is a sequence of the log (`moment` finds that of
    a time): the answer is what was true there, without what heartbeats told of what was live then. A connection that is
    lost is made anew for ever.
    """

    def __init__(
        self, connection: Connection, *, on_waiting: OnWaiting | None = None, patient: bool = False
    ) -> None:
        self.connection = connection
        self._patient = patient
        self._asking = Asking(connection, on_waiting=on_waiting, patient=patient)

    @property
    def where(self) -> str:
        """What answers: a server's URL, or inside a worker the path of its socket."""
        return self.connection.where

    @property
    def nc(self) -> SafeClient:
        """The NATS connection. Raises DENIED inside a worker, where there is none."""
        from trainshed_client.nats_connection import NatsConnection

        if isinstance(self.connection, NatsConnection):
            return self.connection.nc
        raise TrainshedError(
            ErrorCode.DENIED,
            "inside a worker there are the runs that it submitted, and no more of the stack; "
            "to reach all of it name it: --nats URL",
        )

    @classmethod
    async def connect(
        cls,
        nats_url: str | None = None,
        *,
        name: str = "trainshed-client",
        on_error: OnError | None = None,
        on_disconnect: OnEvent | None = None,
        on_reconnect: OnEvent | None = None,
        on_waiting: OnWaiting | None = None,
        patient: bool = False,
    ) -> Self:
        """Connect to ``nats_url``, else where ``TRAINSHED_NATS_URL``, ``NATS_URL`` or this machine's state folder say.

        Inside a worker, where none of these variables and no ``TRAINSHED_STATE_DIR`` is set, it is the stack that runs
        the worker: what is submitted bears the label ``parent``, and only such runs are there (docs/contracts.md).
        ``on_waiting`` hears of a service whose answer takes longer than some seconds, or that is still starting;
        ``patient``: one that is starting, does not know yet, or is there and does not answer a query, is waited for
        however long it takes.
        Callbacks are plain functions or coroutine functions.
        """
        if (path := worker_socket(nats_url)) is not None:
            from trainshed_client.worker_socket import WorkerSocket

            return cls(WorkerSocket(path), on_waiting=on_waiting, patient=patient)
        endpoint = discover(nats_url)
        from trainshed_client.nats_client import connect  # costs 0.1 s, so not before it is needed
        from trainshed_client.nats_connection import NatsConnection

        nc = await connect(
            endpoint, name=name, on_error=on_error, on_disconnect=on_disconnect, on_reconnect=on_reconnect
        )
        return cls(NatsConnection(nc, endpoint.url), on_waiting=on_waiting, patient=patient)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; what was asked for and not answered yet fails."""
        await self._asking.close()
        await self.connection.close()

    # --- commands -----------------------------------------------------------------------------------------

    async def submit(
        self,
        config: Mapping[str, object],
        *,
        caller_path: str | None = None,
        provenance: Provenance | None = None,
    ) -> Submission:
        """Submit a run config. The same config is the same run: then ``created`` is false and nothing starts.

        ``caller_path`` is the PATH for the worker, where its ``environment`` has none. ``provenance`` is where its ``code``
        was read: without it a node looks in its ``working_dir``. Neither makes another run. What JSON does not have is
        refused by its path, never turned into something else (docs/contracts.md).
        """
        beside = _beside(caller_path, provenance)
        plain = json_value(config)
        return await self._asking.ask(
            "run.submit", {"config": plain, **beside} if beside else plain, Submission
        )

    async def submit_many(
        self,
        configs: Sequence[Mapping[str, object]],
        *,
        caller_path: str | None = None,
        provenance: Provenance | None = None,
    ) -> list[Submission]:
        """Submit all or none (1,000 runs and 1 MB at most), with one answer a config in order."""
        request = {"runs": list(configs), **_beside(caller_path, provenance)}
        return (await self._asking.ask("run.submit_batch", request, Submissions)).runs

    async def check(self, config: Mapping[str, object]) -> Check:
        """What submitting this config would do; nothing is appended. Raises as `submit` would."""
        return await self._asking.ask("run.check", config, Check)

    async def cancel(self, run: str, *, reason: str | None = None) -> Acknowledged:
        """Ask for a run's end. One that has ended answers with its status, and nothing is appended."""
        return await self._one_run("run.cancel", run, reason)

    async def retry(self, run: str, *, reason: str | None = None) -> Acknowledged:
        """Ask for a new attempt of an ended run."""
        return await self._one_run("run.retry", run, reason)

    async def drain(self, node: str, *, reason: str | None = None) -> NodeAnswer:
        """Grant the node nothing more; what runs there goes on."""
        return await self._one_node("node.drain", node, reason)

    async def resume(self, node: str, *, reason: str | None = None) -> NodeAnswer:
        """Grant the node runs again."""
        return await self._one_node("node.resume", node, reason)

    async def remove_node(self, node: str, *, reason: str | None = None) -> NodeAnswer:
        """Say that the machine is off: its attempts end. Refused while the node is neither lost nor left."""
        return await self._one_node("node.remove", node, reason)

    # --- queries ------------------------------------------------------------------------------------------

    async def moment(self, *, seq: int | None = None, time: str | None = None) -> MomentAnswer:
        """An event by its sequence, or the last one stored at or before a time (RFC 3339)."""
        request = {"seq": seq} if time is None else {"time": time}
        return await self._asking.ask("audit.at", request, MomentAnswer)

    async def run(self, run: str, *, at: int | None = None) -> RunView:
        """Everything about one run. Of several of a name: the newest."""
        return decoded(await self.run_json(run, at=at), RunView)

    async def run_json(self, run: str, *, at: int | None = None) -> bytes:
        """The same as the server's JSON."""
        if is_run_id(run):
            try:
                return await self.call("run.get", _then({"run_id": run}, at))
            except TrainshedError as error:
                if error.code is not ErrorCode.NOT_FOUND:
                    raise
        found = await self.resolve(run, at=at)
        return await self.call("run.get", _then({"run_id": found.run_id}, at))

    async def explain(self, run: str, *, at: int | None = None) -> Explanation:
        """Why a run waits, or what happened to it last. Of several of a name: the newest."""
        return decoded(await self.explain_json(run, at=at), Explanation)

    async def explain_json(self, run: str, *, at: int | None = None) -> bytes:
        """The same as the server's JSON."""
        run_id = run if is_run_id(run) else (await self.resolve(run, at=at)).run_id
        return await self.call("run.explain", _then({"run_id": run_id}, at))

    async def resolve(self, run: str, *, only: bool = False, at: int | None = None) -> QueuedRunRecord:
        """The record of the run that an id, a name, what `ls` shows as one, or a unique prefix of these means.

        A name that several runs bear means the newest, or with ``only`` none of them. Raises NOT_FOUND,
        CONFLICT where several are meant, or UNAVAILABLE where the read side does not know yet.
        """
        while True:
            request = _then({"run": run, "limit": SHOWN + 1}, at)
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
        self, run: str, found: list[QueuedRunRecord], *, only: bool, at: int | None
    ) -> QueuedRunRecord:
        named = [record for record in found if record.name == run]
        if not named and len(found) > SHOWN:  # more prefixes than shown might hide the name
            request = _then({"name": run, "limit": SHOWN + 1}, at)
            found += (await self._asking.ask("run.list", request, RunPage)).records
        return choose(run, found, only=only)

    async def runs(
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
        async for page in self.run_pages(
            status=status, labels=labels, name=name, live=live, limit=limit, at=at
        ):
            for record in page.records:
                yield record

    async def run_pages(
        self,
        *,
        status: Collection[RunStatus | str] = (),
        labels: Mapping[str, str] | None = None,
        name: str | None = None,
        live: bool = False,
        ended: bool = False,
        ended_before: str | None = None,
        limit: int | None = None,
        at: int | None = None,
    ) -> AsyncIterator[RunPage]:
        """The same, a page at a time; the first page's ``seq`` and ``total`` are the listing's.

        ``ended``: those that ended last, the last first; there is one page of them. ``ended_before``: only those that
        had ended by that time (RFC 3339).
        """
        request = _then({}, at)
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
            request["ended_before"] = ended_before
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
        return await self.call("slot.list", _then({}, at))

    async def nodes(self, *, at: int | None = None) -> NodePage:
        """Every node; those that left or were removed only while they have attempts."""
        return decoded(await self.nodes_json(at=at), NodePage)

    async def nodes_json(self, *, at: int | None = None) -> bytes:
        """The same as the server's JSON."""
        return await self.call("node.list", _then({}, at))

    async def health(self) -> dict[str, object]:
        """What the read side says of itself."""
        health: dict[str, object] = msgspec.json.decode(await self.call("health", {}))
        return health

    async def behind(self) -> FoldProgress | None:
        """How far the read side is; None where it has all that was acknowledged before."""
        return (await self._asking.ask("health", {}, Answer)).progress

    # --- following ----------------------------------------------------------------------------------------

    def watch(
        self,
        run_ids: Collection[str] | None = None,
        *,
        wake: asyncio.Event | None = None,
        patient: bool = False,
    ) -> RunWatch:
        """The present record of these runs (None: of every live one) and each change after it.

        ``async with trainshed.watch([run_id]) as records: async for record in records: ...``. Takes full run ids.
        Nothing is polled; of changes that come faster than you read, the newest is handed out.
        """
        from trainshed_client.watch import RunWatch

        return RunWatch(self.connection, self._present, run_ids, wake=wake, patient=patient)

    async def wait(self, runs: Collection[str], *, timeout: float | None = None) -> list[RunRecord]:
        """Wait until every one of these runs has ended; their records, in order.

        Raises TimeoutError after ``timeout`` seconds.
        """
        run_ids = [run if is_run_id(run) else (await self.resolve(run)).run_id for run in runs]
        async with time_limit(timeout), self.watch(run_ids) as records:
            left = set(run_ids)
            ended: dict[str, RunRecord] = {}
            async for record in records:
                if record.status.ended:
                    ended[record.run_id] = record
                    left.discard(record.run_id)
                if not left:
                    break
            return [ended[run_id] for run_id in run_ids]

    def output(
        self,
        run_id: str,
        *,
        first_attempt: int | None = None,
        begin: Mapping[str, int] | None = None,
        patient: bool = False,
        on_attempt: Called[[int, str]] | None = None,
        on_record: Called[[RunRecord]] | None = None,
        streams: Sequence[str] = ("stdout", "stderr"),
    ) -> RunOutput:
        """A run's output from its first byte, over all attempts from ``first_attempt`` on, until the run ends.

        ``async with trainshed.output(run_id) as output: async for chunk in output: ...``. Takes a full run id;
        without ``first_attempt`` it begins with the latest attempt. ``begin``: the bytes of each stream of that first
        attempt to pass over. ``patient``: for a run that was just submitted, wait for a projector that does not
        answer yet instead of raising UNAVAILABLE. ``on_attempt`` hears of each attempt (number, node) before its first
        byte, ``on_record`` of every change of the run meanwhile; they are plain functions or coroutine functions. ``streams``:
        ``metrics`` is one too, whose lines `trainshed_client.metrics.metrics_lines` reads.
        """
        from trainshed_client.follow import RunOutput

        return RunOutput(
            self,
            run_id,
            first_attempt=first_attempt,
            begin=begin,
            patient=patient,
            on_attempt=on_attempt,
            on_record=on_record,
            streams=streams,
        )

    # --- how calls are made -------------------------------------------------------------------------------

    async def call(self, call: str, request: object, *, timeout: float = CALL_TIMEOUT_S) -> bytes:
        """One call of the API (``run.submit`` and so on); its JSON answer undecoded.

        A gateway that is starting is asked again for as long as ``timeout``; for what is patient see `connect`.
        """
        return await self._asking.call(call, request, timeout=timeout)

    async def request(
        self, subject: str, payload: bytes, *, timeout: float = CALL_TIMEOUT_S, tries: int = 1
    ) -> Reply:
        """One request, answered by any message. Raises UNAVAILABLE where nobody answers, TOO_LARGE for too much.

        ``tries``: so often it is asked within ``timeout``: of several that answer, one may be killed at its work.
        """
        return await self._asking.request(subject, payload, timeout=timeout, tries=tries)

    async def _one_run(self, call: str, run: str, reason: str | None) -> Acknowledged:
        run_id = run if is_run_id(run) else (await self.resolve(run, only=True)).run_id
        return await self._asking.ask(call, _with_reason({"run_id": run_id}, reason), Acknowledged)

    async def _one_node(self, call: str, node: str, reason: str | None) -> NodeAnswer:
        return await self._asking.ask(call, _with_reason({"node": node}, reason), NodeAnswer)

    async def _present(self, run_ids: Collection[str] | None) -> PresentRuns:
        from trainshed_client.watch import PresentRuns

        if run_ids is None:
            pages = [page async for page in self.run_pages(live=True)]
            return PresentRuns(pages[0].seq, [record for page in pages for record in page.records])
        at_once = asyncio.Semaphore(_READS_AT_ONCE)

        async def read(run_id: str) -> RunView:
            async with at_once:
                return await self._asking.ask("run.get", {"run_id": run_id}, RunView)

        views = await all_of(read(run_id) for run_id in sorted(run_ids))
        return PresentRuns(min((view.seq for view in views), default=0), [view.run for view in views])


def _then(request: dict[str, object], at: int | None) -> dict[str, object]:
    """A query of a moment of the past, where one is named."""
    return request if at is None else {**request, "at": at}


def _with_reason(request: dict[str, str], reason: str | None) -> dict[str, str]:
    return request if reason is None else {**request, "reason": reason}


def _beside(caller_path: str | None, provenance: Provenance | None) -> dict[str, object]:
    """What is known of what a request bears beside its configs."""
    beside = {"caller_path": caller_path, "provenance": msgspec.to_builtins(provenance)}
    return {name: value for name, value in beside.items() if value is not None}
