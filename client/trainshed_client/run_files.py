"""A run's files on the node that has them: where its folder is, what its worker left in artifacts/, and one such file.

Owns these calls and that a file is read whole and unchanged, or not at all; knows no screen.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import msgspec

from trainshed_client import subjects
from trainshed_client.answers import ArtifactFile, ArtifactPage, RunFolder, RunView, error_in
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.output_range import RANGE_BYTES
from trainshed_client.statuses import RunStatus

if TYPE_CHECKING:
    from trainshed_client.output_range import Requests
    from trainshed_client.records import AttemptRecord

AHEAD = 3
"""So many pieces are asked for before they are needed: an agent reads four at a time."""

T = TypeVar("T", bound=msgspec.Struct)


class _Listed(msgspec.Struct, frozen=True):
    """artifacts.json, as the agent writes it."""

    artifacts: list[ArtifactFile]


class _Piece(NamedTuple):
    """Some bytes of a file, its size now, and which file it is."""

    data: bytes
    size: int
    file: str


class AttemptOnNode(Protocol):
    """What names an attempt and the node that has its files, as its record does."""

    @property
    def run_id(self) -> str: ...
    @property
    def attempt(self) -> int: ...
    @property
    def node(self) -> str: ...


async def run_folder(asks: Requests, attempt: AttemptRecord) -> RunFolder:
    """Where the attempt's run has its folder on its node. Raises NOT_FOUND and UNAVAILABLE as for its output."""
    return await _ask(asks, subjects.node_folder(attempt.node), _named(attempt), RunFolder)


async def artifacts(asks: Requests, view: RunView, attempt: AttemptRecord) -> list[ArtifactFile]:
    """What is in the run's artifacts/ where that attempt ran, with hashes as far as they are known. Raises as `run_folder`."""
    found: list[ArtifactFile] = []
    after: str | None = None
    while True:
        page = await _ask(
            asks, subjects.node_artifacts(attempt.node), {**_named(attempt), "after": after}, ArtifactPage
        )
        found += page.artifacts
        if (after := page.next) is None:
            break
    hashes = await _hashes(asks, attempt) if found and is_hashed(view, attempt) else {}
    return [msgspec.structs.replace(one, sha256=hashes.get(one.path)) for one in found]


def chosen_attempt(view: RunView, number: int | None) -> AttemptRecord:
    """The attempt that is meant. Raises NOT_FOUND where the run has none of that number, or none yet."""
    granted = {one.attempt: one for one in view.attempts}
    chosen = granted.get(number if number is not None else max(granted, default=0))
    if chosen is not None:
        return chosen
    run = view.run.run_id[:6]
    if number is not None and granted:
        text = f"run {run} has no attempt {number}, only {len(granted)}; see: trainshed show {run}"
    elif view.run.status.ended:
        text = f"run {run} never started, and left nothing; why: trainshed explain {run}"
    else:
        text = f"run {run} has not started, and has no folder yet; why: trainshed explain {run}"
    raise TrainshedError(ErrorCode.NOT_FOUND, text)


def is_hashed(view: RunView, attempt: AttemptRecord) -> bool:
    """Whether artifacts.json tells how this attempt left its files, which no later one has had in hand."""
    if attempt.status is not RunStatus.COMPLETED or attempt.attempt != view.attempts[-1].attempt:
        return False
    happened = [one.type for one in view.timeline if one.type in ("dispatched", "artifacts_hashed")]
    return happened[-1:] == ["artifacts_hashed"]


async def artifacts_list(asks: Requests, attempt: AttemptOnNode) -> bytes:
    """artifacts.json, as it lies in the run's folder there. Raises as `artifact`."""
    return b"".join([piece async for piece in _pieces(asks, attempt, "artifacts", None)])


async def _hashes(asks: Requests, attempt: AttemptRecord) -> dict[str, str]:
    try:
        body = await artifacts_list(asks, attempt)
        listed = msgspec.json.decode(body, type=_Listed).artifacts
    except msgspec.MsgspecError:
        return {}  # somebody else wrote it
    except TrainshedError as error:
        if error.code is ErrorCode.NOT_FOUND:
            return {}
        raise
    return {one.path: one.sha256 for one in listed if one.sha256 is not None}


async def artifact(
    asks: Requests, attempt: AttemptRecord, path: str, hashed: str | None
) -> AsyncGenerator[bytes]:
    """The bytes of a file in artifacts/, piece by piece; ``hashed``: the SHA-256 that it must have, if that is known.

    Raises CONFLICT where it is written to meanwhile, or is none of that hash: what was handed out is no file then;
    NOT_FOUND and INVALID where there is no such file, or may be none; UNAVAILABLE where the agent does not answer.
    """
    digest = sha256()
    async for piece in _pieces(asks, attempt, "artifact", path):
        digest.update(piece)
        yield piece
    if hashed is not None and digest.hexdigest() != hashed:
        raise TrainshedError(
            ErrorCode.CONFLICT,
            f"{path} on {attempt.node} is not what attempt {attempt.attempt} left: its SHA-256 was {hashed} and is "
            f"{digest.hexdigest()}. Take it as it is: --unchecked",
        )


async def _pieces(
    asks: Requests, attempt: AttemptOnNode, stream: str, path: str | None
) -> AsyncGenerator[bytes]:
    request = {**_named(attempt), "stream": stream, "limit": RANGE_BYTES, **({"path": path} if path else {})}
    piece = await _piece(asks, attempt.node, {**request, "offset": 0})
    _, size, file = piece
    offsets = iter(range(RANGE_BYTES, size, RANGE_BYTES))
    under_way: deque[tuple[int, asyncio.Task[_Piece]]] = deque()
    offset = 0
    try:
        while True:
            while len(under_way) < AHEAD and (ahead := next(offsets, None)) is not None:
                asked = _piece(asks, attempt.node, {**request, "offset": ahead})
                under_way.append((ahead, asyncio.create_task(asked)))
            if piece[1:] != (size, file) or len(piece.data) != min(RANGE_BYTES, size - offset):
                raise TrainshedError(
                    ErrorCode.CONFLICT, f"{path or stream} was written to while it was read; ask for it again"
                )
            yield piece.data
            if not under_way:
                return
            offset, task = under_way[0]
            piece = await task
            under_way.popleft()
    finally:
        for _, task in under_way:
            task.cancel()
        if under_way:
            await asyncio.wait([task for _, task in under_way])


async def _piece(asks: Requests, node: str, request: dict[str, object]) -> _Piece:
    answer = await asks.request(subjects.node_output(node), msgspec.json.encode(request))
    try:
        size = int(answer.headers[subjects.SIZE_HEADER])
        return _Piece(answer.data, size, answer.headers.get(subjects.FILE_HEADER, ""))
    except (KeyError, ValueError):
        raise error_in(answer.data) or _unreadable(node) from None


def _named(attempt: AttemptOnNode) -> dict[str, object]:
    return {"run_id": attempt.run_id, "attempt": attempt.attempt}


async def _ask(asks: Requests, subject: str, request: dict[str, object], answer: type[T]) -> T:
    reply = await asks.request(subject, msgspec.json.encode(request))
    if (error := error_in(reply.data)) is not None:
        raise error
    try:
        return msgspec.json.decode(reply.data, type=answer)
    except msgspec.MsgspecError:
        raise _unreadable(subject.split(".")[3]) from None


def _unreadable(node: str) -> TrainshedError:
    return TrainshedError(
        ErrorCode.UNAVAILABLE, f"the agent of {node} answers what this release does not read"
    )
