"""Serves ranges of what this node's attempts wrote, running or ended: their output, and the files in artifacts/.

Owns ``trainshed.api.node.<node>.output`` (docs/contracts/node-calls.md); knows no event and no process.
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
from services import beneath
from services.agent.folders import files
from services.agent.folders.paths import ARTIFACTS_LIST, METRICS, Folders, is_ref
from services.agent.output import metrics_range, run_files
from services.agent.output.output_index import INDEX
from services.agent.output.readers import Readers
from services.agent.output.tails import STREAMS
from services.api import begin_service, end_service, error_answer
from services.logging import get_logger
from services.version import VERSION
from trainshed_client import subjects
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.nats_client import SafeClient
from trainshed_client.os_errors import cause

_log = get_logger("agent")

MAX_BYTES = 128 * 1024
FILES = {"stdout": "stdout.log", "stderr": "stderr.log", "index": INDEX, "metrics": METRICS}
METRICS_STREAM = "metrics"
ARTIFACT = "artifact"
LIST = "artifacts"
IN_RUN_DIR = (ARTIFACT, LIST)
"""Streams that are files of the run's folder: one in artifacts/ by its ``path``, and the list of them with their hashes."""


class OutputRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A range: ``limit`` bytes (128 KiB at most) from ``offset`` on; a negative offset counts from the end.

    ``path``: of the stream ``artifact`` which file it is.
    """

    run_id: str
    attempt: int
    stream: str = "stdout"
    offset: int = 0
    limit: int = MAX_BYTES
    path: str | None = None


class OutputRange(msgspec.Struct, frozen=True):
    """The bytes, where they begin, and the size that the file has now.

    ``file``: of a file in the run's folder, what is another once its name is another file's, or it was written to.
    """

    data: bytes
    offset: int
    size: int
    file: str | None = None


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
    if request.stream not in FILES and request.stream not in IN_RUN_DIR:
        raise TrainshedError(ErrorCode.INVALID, f"one of {', '.join((*FILES, *IN_RUN_DIR))}", "stream")
    if request.stream == ARTIFACT and request.path is None:
        raise TrainshedError(ErrorCode.INVALID, "required: the path of a file below artifacts/", "path")
    if request.stream != ARTIFACT and request.path is not None:
        raise TrainshedError(ErrorCode.INVALID, f"a path goes with the stream {ARTIFACT} alone")
    if request.limit < 0:
        raise TrainshedError(ErrorCode.INVALID, "0 or more bytes", "limit")
    return request


def read_range(folders: Folders, request: OutputRequest) -> OutputRange:
    """Read the range; blocks. A file that is not there yet is empty. Raises TrainshedError (NOT_FOUND), also where it was
    there."""
    ref = AttemptRef(request.run_id, request.attempt)
    place = run_files.places(folders, ref)
    if request.path is not None:
        return _range(run_files.open_artifact(place.run, request.path), request, identify=True)
    if request.stream == LIST:
        return _range(run_files.open_below(place.run, [ARTIFACTS_LIST]), request, identify=True)
    if request.stream == METRICS_STREAM:
        return _metrics_range(place.output, request)
    try:
        fd = beneath.open_file(str(place.output / FILES[request.stream]), os.O_RDONLY)
    except FileNotFoundError:
        if (
            request.stream in STREAMS and (place.state / files.STARTED).exists()
        ):  # both are opened before that is written
            raise TrainshedError(
                ErrorCode.NOT_FOUND,
                f"the output of attempt {ref.attempt} of run {ref.run_id} is gone: somebody deleted {place.output}",
            ) from None
        return OutputRange(b"", 0, 0)
    except OSError as error:
        raise TrainshedError(ErrorCode.UNAVAILABLE, f"the file cannot be read: {cause(error)}") from None
    return _range(fd, request)


def _metrics_range(folder: Path, request: OutputRequest) -> OutputRange:
    try:
        found = metrics_range.read(folder / METRICS, request.offset, min(request.limit, MAX_BYTES))
    except OSError as error:
        raise TrainshedError(ErrorCode.UNAVAILABLE, f"the file cannot be read: {cause(error)}") from None
    return OutputRange(found.data, found.offset, found.size)


def _range(fd: int, request: OutputRequest, *, identify: bool = False) -> OutputRange:
    """The range of an open file, which is closed. Raises TrainshedError (UNAVAILABLE)."""
    try:
        size = os.fstat(fd).st_size
        at = request.offset if request.offset >= 0 else size + request.offset
        at = min(max(at, 0), size)
        data = os.pread(fd, min(request.limit, MAX_BYTES), at)
        seen = os.fstat(fd)  # after the reading: what was written before it shows here at the latest
        file = f"{seen.st_ino:x}.{seen.st_mtime_ns:x}" if identify else None
        return OutputRange(data, at, max(size, at + len(data)), file)
    except OSError as error:
        raise TrainshedError(ErrorCode.UNAVAILABLE, f"the file cannot be read: {cause(error)}") from None
    finally:
        os.close(fd)


class OutputService:
    """The endpoint, as an async context manager; a task for each request."""

    def __init__(self, nc: SafeClient, node: str, folders: Folders, readers: Readers) -> None:
        self._nc = nc
        self._node = node
        self._folders = folders
        self._readers = readers
        self._tasks = asyncio.TaskGroup()
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
            wanted = read_request(request.data)
            ref = AttemptRef(wanted.run_id, wanted.attempt)
            found = await self._readers.read(ref, partial(read_range, self._folders, wanted))
            data = found.data
            headers = {subjects.OFFSET_HEADER: str(found.offset), subjects.SIZE_HEADER: str(found.size)}
            if found.file is not None:
                headers[subjects.FILE_HEADER] = found.file
        except TrainshedError as error:
            data = msgspec.json.encode(error_answer(error))
        try:
            await request.respond(data, headers=headers or None)
        except (nats.errors.Error, ValueError) as error:  # ValueError: the request names nowhere to answer to
            _log.warning("an answer could not be sent", error=str(error))
