"""Serves what is on this node's disk now of what attempts left, for an audit that compares it with the log.

Owns ``trainshed.api.node.<node>.files`` (docs/contracts/node-calls.md), how long one call works and how fast it reads; knows no event and no
process.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Self

import msgspec

from events.types import AttemptRef
from services.agent.folders.paths import ARTIFACTS_LIST, Folders, is_ref
from services.agent.identity import Identity
from services.agent.output import files_now
from services.agent.output.artifacts import HASHED_BYTES
from services.agent.output.files_now import Piece, Take
from services.agent.output.readers import Readers
from services.api import ApiServer, Call
from services.requests import AttemptFilesRequest, FilesRequest
from trainshed_client.answers import AttemptFiles, FileNow, NodeFiles
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.nats_client import SafeClient
from trainshed_client.times import with_texts

MAX_ATTEMPTS = 500
MAX_ARTIFACTS = 2_000
MAX_BYTES = 512 * 1024
TURN_S = 2.0
"""Seconds after which a call answers with what it has come to; the file that it is at is finished first."""
BYTES_PER_S = 50_000_000
"""The disk is the workers'."""


_FIELDS = frozenset(AttemptFilesRequest.__struct_fields__)
ReadPiece = Callable[[int, Take], Piece | None]


def pause_s(begun: float, now: float, count: int) -> float:
    """Seconds to wait before the next read, ``count`` bytes having been read from ``begun`` to ``now``."""
    return max(0.0, begun + count / BYTES_PER_S - now)


class WantedFiles(msgspec.Struct, frozen=True):
    """One attempt that is asked about: which files in artifacts/, and whether artifacts.json."""

    ref: AttemptRef
    artifacts: tuple[str, ...]
    with_list: bool


class FilesService:
    """The endpoint, as an async context manager. One request is worked on at a time."""

    def __init__(self, nc: SafeClient, identity: Identity, folders: Folders, readers: Readers) -> None:
        self._identity = identity
        self._folders = folders
        self._readers = readers
        self._api = ApiServer(nc, "agent", {f"node.{identity.node}.files": self._files}, max_bytes=MAX_BYTES)
        self._turn = asyncio.Lock()
        self._stopping = False

    async def __aenter__(self) -> Self:
        await self._api.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        await self._api.__aexit__(kind, error, trace)

    async def _files(self, call: Call) -> object:
        wanted = _wanted(call)
        answers: list[AttemptFiles] = []
        handled = 0
        if wanted:
            async with self._turn:
                until = time.monotonic() + TURN_S
                for one in wanted:
                    if answers and time.monotonic() > until:
                        break
                    answers.append(answer := await self._one(one, until))
                    there = answer.error is None and answer.pruned_at is None
                    if there and len(answer.artifacts) < len(one.artifacts):
                        break
                    handled += 1
        files = NodeFiles(
            node=self._identity.node,
            incarnation=self._identity.incarnation,
            handled=handled,
            attempts=answers,
        )
        return with_texts(files)

    async def _one(self, wanted: WantedFiles, until: float) -> AttemptFiles:
        """Its files, one of artifacts/ at the least; the others as far as the time allows."""
        ref = wanted.ref
        artifacts: list[FileNow] = []
        artifacts_list = None
        try:
            now = await self._readers.read(ref, partial(files_now.look, self._folders, ref))
            if now.pruned_at is not None:
                return AttemptFiles(run_id=ref.run_id, attempt=ref.attempt, pruned_at=now.pruned_at)
            if wanted.with_list:
                read = partial(files_now.read_list, now.run_dir)
                artifacts_list = await self._hashed(ref, ARTIFACTS_LIST, read)
            for path in wanted.artifacts:
                if artifacts and time.monotonic() > until:
                    break
                read = partial(files_now.read_artifact, now.run_dir, path)
                artifacts.append(await self._hashed(ref, path, read))
        except TrainshedError as error:
            return AttemptFiles(run_id=ref.run_id, attempt=ref.attempt, error=error.message)
        return AttemptFiles(
            run_id=ref.run_id,
            attempt=ref.attempt,
            output=now.output,
            list=artifacts_list,
            artifacts=tuple(artifacts),
        )

    async def _hashed(self, ref: AttemptRef, path: str, read: ReadPiece) -> FileNow:
        """A file's size, and its hash where it is not too large for one. Raises TrainshedError (UNAVAILABLE)."""
        digest, offset = hashlib.sha256(), 0
        while True:
            if self._stopping:
                raise TrainshedError(
                    ErrorCode.UNAVAILABLE, f"the agent of {self._identity.node} is stopping; ask again"
                )
            begun = time.monotonic()
            piece = await self._readers.read(ref, partial(read, offset, digest.update))
            if piece is None:
                return FileNow(path=path)
            offset += piece.read
            await asyncio.sleep(pause_s(begun, time.monotonic(), piece.read))
            if max(piece.size, offset) > HASHED_BYTES:
                return FileNow(path=path, bytes=max(piece.size, offset))
            if piece.read == 0 or offset >= piece.size:
                return FileNow(path=path, bytes=offset, sha256=digest.hexdigest())


def _wanted(call: Call) -> list[WantedFiles]:
    """Raises TrainshedError (INVALID) that names the field."""
    given = call.fields(FilesRequest)["attempts"] or []
    wanted: list[WantedFiles] = []
    for place, one in enumerate(given):
        where = f"attempts.{place}"
        if not isinstance(one, dict) or not is_ref(one.get("run_id"), one.get("attempt")):
            raise TrainshedError(
                ErrorCode.INVALID,
                'names no attempt: write {"run_id": the whole id, "attempt": a number from 1 on}',
                where,
            )
        if unknown := sorted(one.keys() - _FIELDS):
            raise TrainshedError(
                ErrorCode.INVALID,
                f"unknown field; known: {', '.join(sorted(_FIELDS))}",
                f"{where}.{unknown[0]}",
            )
        paths, with_list = one.get("artifacts") or [], one.get("list") or False
        if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
            raise TrainshedError(
                ErrorCode.INVALID, "must be a list of paths below artifacts/", f"{where}.artifacts"
            )
        if not isinstance(with_list, bool):
            raise TrainshedError(ErrorCode.INVALID, "must be true or false", f"{where}.list")
        wanted.append(WantedFiles(AttemptRef(one["run_id"], one["attempt"]), tuple(paths), with_list))
    if len(wanted) > MAX_ATTEMPTS:
        raise TrainshedError(
            ErrorCode.INVALID, f"must name {MAX_ATTEMPTS} attempts at most, not {len(wanted)}", "attempts"
        )
    paths_named = sum(len(one.artifacts) for one in wanted)
    if paths_named > MAX_ARTIFACTS:
        raise TrainshedError(
            ErrorCode.INVALID,
            f"must name {MAX_ARTIFACTS} files in artifacts/ at most, not {paths_named}",
            "attempts",
        )
    return wanted
