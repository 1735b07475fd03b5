"""What a run left on this node: where its folder is, what is in its artifacts/, and where one of these files is opened.

Owns that no name leads out of artifacts/, by `..` or by a link; knows no NATS. Everything here blocks: run it in a thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from events.types import AttemptRef
from services import beneath
from services.agent.folders import files
from services.agent.folders.paths import ARTIFACTS, Folders
from services.agent.output import artifacts
from trainshed_client.answers import ArtifactFile, ArtifactPage, RunFolder
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.os_errors import why

COUNTED_WITHIN_S = 0.5
LISTED_WITHIN_S = 1.0
PAGE = 1_000
PAGE_BYTES = 256 * 1024
_Parts = tuple[bytes, ...]


class _Entry(NamedTuple):
    """What a folder has; ``size``: of a file."""

    name: bytes
    size: int | None


class Places(NamedTuple):
    """An attempt's folders: ``state`` has its JSON files, ``run`` is its run's, ``output`` has stdout.log and stderr.log."""

    state: Path
    run: Path
    output: Path
    host: str


def places(folders: Folders, ref: AttemptRef) -> Places:
    """Where an attempt's files are. Raises TrainshedError (NOT_FOUND) where it did not run here, or was pruned."""
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
    if intent is None:
        return Places(folder, folders.run(ref.run_id), folders.output(ref), os.uname().nodename)
    return Places(folder, Path(intent.run_dir), Path(intent.output_dir), intent.host)


def run_folder(folders: Folders, ref: AttemptRef, node: str) -> RunFolder:
    """Where an attempt's run has its folder here, and how much is in it. Raises as `places`."""
    place = places(folders, ref)
    left = artifacts.listed(place.run, time.monotonic() + COUNTED_WITHIN_S)
    return RunFolder(
        node=node,
        host=place.host,
        folder=str(place.run),
        exists=place.run.is_dir(),
        output=str(place.output),
        output_bytes={name: _size(place.output / f"{name}.log") for name in ("stdout", "stderr")},
        artifacts=left.count,
        artifacts_bytes=left.bytes,
        partial=left.partial,
    )


def _size(path: Path) -> int | None:
    try:
        return beneath.look(str(path)).st_size
    except OSError:
        return None


def artifact_page(folders: Folders, ref: AttemptRef, node: str, after: str | None) -> ArtifactPage:
    """The files in artifacts/ by path, as many as one answer takes; ``after``: the ``next`` of the page before.

    Links are not followed. Raises TrainshedError (INVALID, or as `places`).
    """
    top = f"{places(folders, ref).run}/{ARTIFACTS}"
    begin = _parts_after(after)
    give_up = time.monotonic() + LISTED_WITHIN_S
    found: list[ArtifactFile] = []
    room = PAGE_BYTES
    for parts, size in _files(top, begin):
        path = b"/".join(parts)
        file = ArtifactFile(path=path.decode("utf-8", "replace"), bytes=size)
        found.append(file)
        room -= len(msgspec.json.encode(file))
        if room <= 0 or len(found) == PAGE or time.monotonic() > give_up:
            return ArtifactPage(node=node, artifacts=found, next=path.hex())
    return ArtifactPage(node=node, artifacts=found)


def _parts_after(after: str | None) -> _Parts:
    try:
        return tuple(bytes.fromhex(after).split(b"/")) if after else ()
    except ValueError:
        raise TrainshedError(ErrorCode.INVALID, "must be the `next` of the page before", "after") from None


def _files(top: str, after: _Parts) -> Iterator[tuple[_Parts, int]]:
    """Every file behind ``after``, by the parts of its path and its size, folder by folder in the order of names."""
    left: list[tuple[_Parts, Iterator[_Entry]]] = [((), iter(_entries(top, (), after)))]
    while left:
        below, entries = left[-1]
        entry = next(entries, None)
        if entry is None:
            left.pop()
            continue
        parts = (*below, entry.name)
        begun = parts == after[: len(parts)]
        if entry.size is None:
            left.append((parts, iter(_entries(top, parts, after if begun else ()))))
        elif not begun:
            yield parts, entry.size


def _entries(top: str, below: _Parts, after: _Parts) -> list[_Entry]:
    """What is in a folder, from the part of ``after`` that stands there on."""
    first = after[len(below)] if len(after) > len(below) else b""
    found = []
    place = "/".join((top, *map(os.fsdecode, below)))
    try:
        with beneath.opened_folder(place) as within, os.scandir(within) as entries:
            for entry in entries:
                name = os.fsencode(entry.name)
                if name < first:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    found.append(_Entry(name, None))
                elif entry.is_file(follow_symlinks=False):
                    with contextlib.suppress(FileNotFoundError):
                        found.append(_Entry(name, entry.stat(follow_symlinks=False).st_size))
    except OSError:
        return []
    return sorted(found)


def open_artifact(run_dir: Path, path: str) -> int:
    """A descriptor of a file in artifacts/, for reading. Raises TrainshedError: INVALID for a path that is none of a file
    there, NOT_FOUND where there is none, a link or a folder."""
    parts = path.split("/")
    if "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise TrainshedError(
            ErrorCode.INVALID,
            f"must be the path of a file below {ARTIFACTS}/, as the list has it, not {path!r:.80}",
            "path",
        )
    return open_below(run_dir, [ARTIFACTS, *parts])


def open_below(folder: Path, parts: list[str]) -> int:
    """A descriptor of the regular file there; no part of the way is followed as a link. Raises TrainshedError."""
    shown = "/".join(parts)
    place = f"{folder}/{shown}"
    try:
        return beneath.open_file(place, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        raise TrainshedError(ErrorCode.NOT_FOUND, f"there is no file {shown} in {folder}") from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise TrainshedError(
                ErrorCode.NOT_FOUND, f"{shown} in {folder} is a link, and none is followed"
            ) from None
        if error.errno in (errno.EINVAL, errno.ENXIO):
            raise TrainshedError(
                ErrorCode.NOT_FOUND,
                f"{shown} in {folder} is {_kind(place)}; name a file that is in the list",
            ) from None
        raise TrainshedError(
            ErrorCode.UNAVAILABLE,
            f"{shown} in {folder} cannot be read ({why(error)})",
        ) from None


def _kind(place: str) -> str:
    with contextlib.suppress(OSError):
        if stat.S_ISDIR(beneath.look(place).st_mode):
            return "a folder"
    return "no regular file"
