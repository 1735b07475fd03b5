"""Serves where a run's folder is on this node, and the list of what its worker left in artifacts/.

Owns ``trainshed.api.node.<node>.folder`` and ``.artifacts`` (docs/contracts/node-calls.md); knows no event and no process.
"""

from __future__ import annotations

from functools import partial
from types import TracebackType
from typing import Self

from events.types import AttemptRef
from services.agent.folders.paths import Folders, is_ref
from services.agent.output import run_files
from services.agent.output.readers import Readers
from services.api import ApiServer, Call
from services.requests import ArtifactsRequest, AttemptRequest
from trainshed_client.answers import ArtifactPage, RunFolder
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.nats_client import SafeClient

MAX_BYTES = 64 * 1024


class FolderService:
    """The two endpoints, as an async context manager."""

    def __init__(self, nc: SafeClient, node: str, folders: Folders, readers: Readers) -> None:
        self._node = node
        self._folders = folders
        self._readers = readers
        calls = {f"node.{node}.folder": self._folder, f"node.{node}.artifacts": self._artifacts}
        self._api = ApiServer(nc, "agent", calls, max_bytes=MAX_BYTES)

    async def __aenter__(self) -> Self:
        await self._api.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._api.__aexit__(kind, error, trace)

    async def _folder(self, call: Call) -> RunFolder:
        ref = _ref(call.fields(AttemptRequest))
        return await self._readers.read(ref, partial(run_files.run_folder, self._folders, ref, self._node))

    async def _artifacts(self, call: Call) -> ArtifactPage:
        fields = call.fields(ArtifactsRequest)
        ref = _ref(fields)
        work = partial(run_files.artifact_page, self._folders, ref, self._node, fields["after"])
        return await self._readers.read(ref, work)


def _ref(fields: dict[str, object]) -> AttemptRef:
    """Raises TrainshedError (INVALID) that names the field."""
    run_id, attempt = fields["run_id"], fields["attempt"]
    if not is_ref(run_id, attempt):
        field = "attempt" if is_ref(run_id, 1) else "run_id"
        raise TrainshedError(ErrorCode.INVALID, "names no attempt: a run id and a number from 1 on", field)
    return AttemptRef(str(run_id), int(str(attempt)))
