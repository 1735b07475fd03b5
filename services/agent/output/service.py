"""Serves ranges of the output files of this node's attempts, running or ended.

Owns ``trainshed.api.node.<node>.output`` (docs/contracts.md, "Commands and queries"); knows no event and no process.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import nats.errors
from nats.micro.request import Request
from nats.micro.service import EndpointConfig, Service, ServiceConfig

from events.types import AttemptRef
from services.agent.folders import files
from services.agent.folders.paths import Folders, is_ref
from services.agent.output.output_index import INDEX
from services.agent.output.tails import STREAMS
from services.api import begin_service, end_service, error_answer
from services.daemon_thread import in_daemon_thread
from services.logging import get_logger
from services.version import VERSION
from trainshed_client import subjects
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.nats_client import SafeClient

_log = get_logger("agent")

MAX_BYTES = 128 * 1024
FILES = {"stdout": "stdout.log", "stderr": "stderr.log", "index": INDEX}
AT_ONCE = 4
"""Requests of one attempt that are read for at the same time: what hangs holds up those alone."""
ANSWERS_WITHIN_S = 3.0
"""Seconds after which a request is told that the storage does not answer."""


class OutputRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A range: ``limit`` bytes (128 KiB at most) from ``offset`` on; a negative offset counts from the end."""

    run_id: str
    attempt: int
    stream: str = "stdout"
    offset: int = 0
    limit: int = MAX_BYTES


class OutputRange(msgspec.Struct, frozen=True):
    """The bytes, where they begin, and the size that the file has now."""

    data: bytes
    offset: int
    size: int


def read_request(data: bytes) -> OutputRequest:
    """Check a request. Raises TrainshedError (INVALID) that names the field."""
    try:
        request = msgspec.json.decode(data or b"{}", type=OutputRequest)
    except (msgspec.MsgspecError, RecursionError) as error:
        text, _, path = str(error).partition(" - at `$")
        raise TrainshedError(ErrorCode.INVALID, text, path.strip("`.") or None) from None
    if not is_ref(request.run_id, request.attempt):
        field = "attempt" if is_ref(request.run_id, 1) else "run_id"
        raise TrainshedError(ErrorCode.INVALID, "names no attempt: a run id and a number from 1 on", field)
    if request.stream not in FILES:
        raise TrainshedError(ErrorCode.INVALID, f"one of {', '.join(FILES)}", "stream")
    if request.limit < 0:
        raise TrainshedError(ErrorCode.INVALID, "0 or more bytes", "limit")
    return request


def read_range(folders: Folders, request: OutputRequest) -> OutputRange:
    """Read the range; blocks. A file that is not there yet is empty. Raises TrainshedError (NOT_FOUND), also where it was
    there."""
    ref = AttemptRef(request.run_id, request.attempt)
    folder = folders.attempt(ref)
    if not folder.is_dir():
        if (pruned_at := folders.pruned_at(ref)) is not None:
            raise TrainshedError(
                ErrorCode.NOT_FOUND,
                f"the output of attempt {ref.attempt} of run {ref.run_id} was deleted at "
                f"{pruned_at[:19].replace('T', ' ')} UTC by `trainshed prune`",
            )
        raise TrainshedError(
            ErrorCode.NOT_FOUND,
            f"attempt {ref.attempt} of run {ref.run_id} did not run on this node, or its files were deleted",
        )
    intent = files.read_intent(folder)
    output = folders.output(ref) if intent is None else Path(intent.output_dir)
    try:
        fd = os.open(output / FILES[request.stream], os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        if (
            request.stream in STREAMS and (folder / files.STARTED).exists()
        ):  # both are opened before that is written
            raise TrainshedError(
                ErrorCode.NOT_FOUND,
                f"the output of attempt {ref.attempt} of run {ref.run_id} is gone: somebody deleted {output}",
            ) from None
        return OutputRange(b"", 0, 0)
    except OSError as error:
        raise TrainshedError(ErrorCode.UNAVAILABLE, f"the file cannot be read: {error}") from None
    try:
        size = os.fstat(fd).st_size
        at = request.offset if request.offset >= 0 else size + request.offset
        at = min(max(at, 0), size)
        data = os.pread(fd, min(request.limit, MAX_BYTES), at)
        return OutputRange(data, at, max(size, at + len(data)))
    except OSError as error:
        raise TrainshedError(ErrorCode.UNAVAILABLE, f"the file cannot be read: {error}") from None
    finally:
        os.close(fd)


class OutputService:
    """The endpoint, as an async context manager; a task for each request."""

    def __init__(self, nc: SafeClient, node: str, folders: Folders) -> None:
        self._nc = nc
        self._node = node
        self._folders = folders
        self._tasks = asyncio.TaskGroup()
        self._reading: dict[AttemptRef, set[asyncio.Future[OutputRange]]] = {}
        self._service: Service | None = None

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        config = ServiceConfig(
            name="agent", version=VERSION, description="Trainshed's agent", metadata={"node": self._node}
        )
        self._service = await begin_service(self._nc, config)
        call = f"node.{self._node}.output"
        for name, subject in (
            ("output", subjects.node_output(self._node)),
            ("output-as", subjects.api_as(call)),
        ):
            endpoint = EndpointConfig(name=name, subject=subject, handler=self._receiver())
            await self._service.add_endpoint(endpoint)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._service is not None:
            await end_service(self._nc, self._service)
        await self._tasks.__aexit__(kind, error, trace)

    def _receiver(self) -> Callable[[Request], Awaitable[None]]:
        async def receive(request: Request) -> None:
            self._tasks.create_task(self._answer(request))

        return receive

    async def _answer(self, request: Request) -> None:
        headers: dict[str, Any] = {}
        try:
            found = await self._read(read_request(request.data))
            data = found.data
            headers = {subjects.OFFSET_HEADER: str(found.offset), subjects.SIZE_HEADER: str(found.size)}
        except TrainshedError as error:
            data = msgspec.json.encode(error_answer(error))
        try:
            await request.respond(data, headers=headers or None)
        except (nats.errors.Error, ValueError) as error:  # ValueError: the request names nowhere to answer to
            _log.warning("an answer could not be sent", error=str(error))

    async def _read(self, wanted: OutputRequest) -> OutputRange:
        """Read in a thread, which counts until it is back. Raises TrainshedError."""
        ref = AttemptRef(wanted.run_id, wanted.attempt)
        try:
            async with asyncio.timeout(ANSWERS_WITHIN_S):
                while len(reading := self._reading.setdefault(ref, set())) >= AT_ONCE:
                    await asyncio.wait(reading, return_when=asyncio.FIRST_COMPLETED)
                read = asyncio.ensure_future(in_daemon_thread(partial(read_range, self._folders, wanted)))
                reading.add(read)
                read.add_done_callback(partial(self._has_read, ref))
                return await asyncio.shield(read)
        except TimeoutError:
            raise TrainshedError(
                ErrorCode.UNAVAILABLE,
                f"the storage of the output of attempt {wanted.attempt} of run {wanted.run_id} does not answer",
            ) from None

    def _has_read(self, ref: AttemptRef, read: asyncio.Future[OutputRange]) -> None:
        if not read.cancelled():
            read.exception()  # who asked has heard it, or waits no more
        reading = self._reading[ref]
        reading.discard(read)
        if not reading:
            del self._reading[ref]
