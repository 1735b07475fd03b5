"""What a worker left in its run's artifacts/: listed, weighed and hashed.

Owns that listing and artifacts.json; knows no event log. Everything here blocks: run it in a thread.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import msgspec

from events.types import Artifact, Artifacts
from services import beneath
from services.agent.folders.paths import ARTIFACTS, ARTIFACTS_LIST

HASHED_BYTES = 64 << 20
FIRST = 200
FIRST_PATH_BYTES = 100_000
"""Bytes of paths that an event carries at most, so that it stays far below its limit."""
_CHUNK = 1 << 20
NONE = Artifacts(count=0, bytes=0)


class _List(msgspec.Struct, frozen=True):
    artifacts: list[Artifact]
    v: int = 1


class Progress:
    """Counts what was looked at, so that who waits can tell much work from storage that hangs."""

    steps = 0


def listed(run_dir: Path, give_up: float) -> Artifacts:
    """What there is, by path and size, as far as it is found before ``give_up`` (monotonic seconds). Files only; links
    are not followed, not even in the place of the folder itself."""
    found: list[Artifact] = []
    partial = False
    for path, size in _files(run_dir):
        found.append(Artifact(path=_shown(path), bytes=size))
        if partial := time.monotonic() > give_up:
            break
    return _summary(sorted(found, key=_by_path), partial=partial) if found else NONE


def hashed(run_dir: Path, progress: Progress) -> Artifacts | None:
    """The same with hashes; writes the full list to ``artifacts.json``. None where the run's folder is gone.

    A file that cannot be read is listed without its hash. Raises OSError where the list cannot be written.
    """
    every = []
    for path, size in _files(run_dir):
        progress.steps += 1
        every.append(_artifact(run_dir, path, size, progress))
    if not every:
        return NONE if run_dir.is_dir() else None
    every.sort(key=_by_path)
    content = msgspec.json.encode(_List(every)) + b"\n"
    temporary = f".{ARTIFACTS_LIST}.{os.getpid()}"
    with beneath.opened_folder(str(run_dir)) as within:
        with open(beneath.make_file(within, temporary, 0o644), "wb") as file:
            file.write(content)
        os.replace(temporary, ARTIFACTS_LIST, src_dir_fd=within, dst_dir_fd=within)
    return _summary(every, sha256=hashlib.sha256(content).hexdigest())


def _summary(every: list[Artifact], *, sha256: str | None = None, partial: bool = False) -> Artifacts:
    first: list[Artifact] = []
    room = FIRST_PATH_BYTES
    for artifact in every[:FIRST]:
        room -= len(artifact.path.encode())
        if room < 0:
            break
        first.append(artifact)
    return Artifacts(
        count=len(every),
        bytes=sum(artifact.bytes for artifact in every),
        entries=tuple(first),
        sha256=sha256,
        partial=partial,
    )


def _by_path(artifact: Artifact) -> str:
    return artifact.path


def _files(run_dir: Path) -> Iterator[tuple[str, int]]:
    """Every file by its path below artifacts/ and its size."""
    below = deque([""])
    while below:
        folder = below.popleft()
        try:
            with beneath.opened_folder(_place(run_dir, folder)) as within, os.scandir(within) as entries:
                for entry in entries:
                    path = f"{folder}/{entry.name}" if folder else entry.name
                    if entry.is_dir(follow_symlinks=False):
                        below.append(path)
                    elif entry.is_file(follow_symlinks=False):
                        with contextlib.suppress(FileNotFoundError):
                            yield path, entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue


def _place(run_dir: Path, path: str) -> str:
    return f"{run_dir}/{ARTIFACTS}/{path}" if path else f"{run_dir}/{ARTIFACTS}"


def _shown(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "replace")


def _artifact(run_dir: Path, path: str, size: int, progress: Progress) -> Artifact:
    shown = _shown(path)
    if size > HASHED_BYTES:
        return Artifact(path=shown, bytes=size)
    digest = hashlib.sha256()
    read = 0
    try:
        # The worker is gone, but others may write here.
        fd = beneath.open_file(_place(run_dir, path), os.O_RDONLY)
        with open(fd, "rb", buffering=0) as file:
            while chunk := file.read(_CHUNK):
                read += len(chunk)
                progress.steps += 1
                if read > HASHED_BYTES:
                    return Artifact(path=shown, bytes=size)
                digest.update(chunk)
    except OSError:
        return Artifact(path=shown, bytes=size)
    return Artifact(path=shown, bytes=read, sha256=digest.hexdigest())
