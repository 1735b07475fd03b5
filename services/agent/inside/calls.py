"""What is done for a worker that asks its agent: a call of the API in the name of its run, or something to watch.

Owns which calls pass, and that cancel and output are of runs which that worker sees; knows no socket.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TypeVar

import msgspec

from services.agent.folders.paths import is_ref
from services.agent.inside.watches import LookAgain, PendingLines, RunChanges, receive_output
from services.api import error_answer
from services.parent import CALLS
from trainshed_client import subjects
from trainshed_client.answers import error_in
from trainshed_client.connection import CALL_TIMEOUT_S, Connection, Watching
from trainshed_client.errors import ErrorCode, TrainshedError

WATCHES = ("run.watch", "output.watch")
_T = TypeVar("_T")
ABSENT_S = 8.0
"""The worker outlives a restart of the stack, and so do its questions."""
_KNOWN = 10_000
"""So many runs are known to be seen by one worker; then they are asked for anew."""


class WorkerRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line of a worker's: the call and its request, which is JSON as the API takes it."""

    call: str
    request: msgspec.Raw = msgspec.Raw(b"{}")


class _OneRun(msgspec.Struct, frozen=True):
    """Of a request, the run that it is about."""

    run_id: str


class _OneAttempt(_OneRun, frozen=True, forbid_unknown_fields=True):
    """The attempt whose output is watched."""

    attempt: int
    node: str


class Asker:
    """A run whose worker asks, and the runs that it is known to see."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.seen = {run_id}


def read_worker_request(line: bytes) -> WorkerRequest:
    """The request on a line. Raises INVALID."""
    try:
        return msgspec.json.decode(line, type=WorkerRequest)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise TrainshedError(
            ErrorCode.INVALID,
            f'no request ({error}); write one object a line: {{"call": "run.get", "request": {{"run_id": "…"}}}}',
        ) from None


class WorkerCalls:
    """Asks the stack for workers. ``stack`` is the agent's own connection, ``node`` its own node."""

    def __init__(self, stack: Connection, node: str) -> None:
        self._stack = stack
        self._node = node
        self._changes = RunChanges(stack)

    async def answer(self, asker: Asker, wanted: WorkerRequest) -> bytes:
        """The JSON that answers a call, on one line; an error is spelled as the API does."""
        try:
            return await self._answer(asker, wanted.call, bytes(wanted.request))
        except TrainshedError as error:
            return msgspec.json.encode(error_answer(error))

    async def _answer(self, asker: Asker, call: str, request: bytes) -> bytes:
        if _is_of_files(call):
            await self._require_seen(asker, _read(request, _OneRun).run_id)
            found = await self._stack.request(
                subjects.api(call), request, timeout=CALL_TIMEOUT_S, absent_s=ABSENT_S
            )
            return _range(found.data, found.headers)
        if call not in CALLS:
            raise TrainshedError(
                ErrorCode.DENIED,
                f"{call:.60} is not for a worker: it submits runs, and gets, lists, waits for, cancels and reads the "
                "output of those that it submitted, and lists nodes. To reach all of the stack name it: trainshed --nats URL …",
            )
        if call == "run.cancel":
            await self._require_seen(asker, _read(request, _OneRun).run_id)
        return await self._ask(asker, call, request)

    async def _ask(self, asker: Asker, call: str, request: bytes) -> bytes:
        subject = subjects.api_for(asker.run_id, call)
        tries = 2 if call in ("run.get", "run.list") else 1
        found = await self._stack.request(
            subject, request, timeout=CALL_TIMEOUT_S, tries=tries, absent_s=ABSENT_S
        )
        return found.data

    async def _require_seen(self, asker: Asker, run_id: str) -> None:
        """Raises NOT_FOUND where the worker does not see that run."""
        if run_id in asker.seen:
            return
        answer = await self._ask(asker, "run.get", msgspec.json.encode({"run_id": run_id}))
        if (error := error_in(answer)) is not None:
            raise error
        if len(asker.seen) >= _KNOWN:
            asker.seen = {asker.run_id}
        asker.seen.add(run_id)

    @asynccontextmanager
    async def watching(self, asker: Asker, wanted: WorkerRequest) -> AsyncIterator[PendingLines]:
        """The lines of what is watched. Raises TrainshedError where it cannot be."""
        pending = PendingLines()
        if wanted.call == "run.watch":
            try:
                await self._changes.add(asker.run_id, pending)
                yield pending
            finally:
                await self._changes.remove(asker.run_id, pending)
            return
        attempt = _read(bytes(wanted.request), _OneAttempt)
        if not is_ref(attempt.run_id, attempt.attempt) or not subjects.is_token(attempt.node):
            raise TrainshedError(ErrorCode.INVALID, "no attempt and its node", "request")
        await self._require_seen(asker, attempt.run_id)
        hearing: Watching
        if attempt.node == self._node:
            hearing = await self._stack.watch_output(
                attempt.run_id, attempt.attempt, attempt.node, receive_output(pending), pending.again
            )
        else:  # a node hears nothing of what other nodes' workers write: what there is, is read
            hearing = LookAgain(pending)
        try:
            pending.again()
            yield pending
        finally:
            await hearing.close()


def _is_of_files(call: str) -> bool:
    """Whether it asks a node for what an attempt left there."""
    parts = call.split(".")
    return (
        len(parts) == 3
        and parts[0] == "node"
        and parts[2] in ("output", "folder", "artifacts")
        and subjects.is_token(parts[1])
    )


def _read(request: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(request, type=kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        text, _, path = str(error).partition(" - at `$")
        raise TrainshedError(ErrorCode.INVALID, text, path.strip("`.") or None) from None


def _range(data: bytes, headers: Mapping[str, str]) -> bytes:
    """A range of output as JSON, its bytes in base64; an error is JSON already."""
    if subjects.SIZE_HEADER not in headers or subjects.OFFSET_HEADER not in headers:
        return data
    offset, size = int(headers[subjects.OFFSET_HEADER]), int(headers[subjects.SIZE_HEADER])
    answer: dict[str, object] = {"offset": offset, "size": size, "data": data}
    if (file := headers.get(subjects.FILE_HEADER)) is not None:
        answer["file"] = file
    return msgspec.json.encode(answer)
