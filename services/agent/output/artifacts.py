"""What a worker left in its run's artifacts/: listed, weighed and hashed.

Owns that listing and artifacts.json; knows no event log. Everything here blocks: run it in a thread.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import msgspec

from events.types import Artifact, Artifacts
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
    for where, path in _files(run_dir):
        try:
            found.append(Artifact(path=_shown(path), bytes=os.lstat(where).st_size))
        except OSError:
            continue
        if partial := time.monotonic() > give_up:
            break
    return _summary(sorted(found, key=_by_path), partial=partial) if found else NONE


def hashed(run_dir: Path, progress: Progress) -> Artifacts | None:
    """The same with hashes; writes the full list to ``artifacts.json``. None where the run's folder is gone.

    A file that cannot be read is listed without its hash. Raises OSError where the list cannot be written.
    """
    every = []
    for where, path in _files(run_dir):
        progress.steps += 1
        try:
            every.append(_artifact(where, path, progress))
        except OSError:
            continue
    if not every:
        return NONE if run_dir.is_dir() else None
    every.sort(key=_by_path)
    content = msgspec.json.encode(_List(every)) + b"\n"
    temporary = run_dir / f".{ARTIFACTS_LIST}.{os.getpid()}"
    temporary.write_bytes(content)
    os.replace(temporary, run_dir / ARTIFACTS_LIST)
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


def _files(run_dir: Path) -> Iterator[tuple[bytes, bytes]]:
    """Every file as where it is and its path below artifacts/."""
    top = os.fsencode(run_dir / ARTIFACTS)
    if os.path.islink(top):  # a worker's: what it leads to is not this run's
        return
    below = deque([b""])
    while below:
        folder = below.popleft()
        try:
            with os.scandir(os.path.join(top, folder)) as entries:
                for entry in entries:
                    path = os.path.join(folder, entry.name)
                    if entry.is_dir(follow_symlinks=False):
                        below.append(path)
                    elif entry.is_file(follow_symlinks=False):
                        yield os.path.join(top, path), path
        except OSError:
            continue


def _shown(path: bytes) -> str:
    return path.decode("utf-8", "replace")


def _artifact(where: bytes, path: bytes, progress: Progress) -> Artifact:
    shown = _shown(path)
    size = os.lstat(where).st_size
    if size > HASHED_BYTES:
        return Artifact(path=shown, bytes=size)
    digest = hashlib.sha256()
    read = 0
    try:
        # Opened without following links and checked again: the worker is gone, but others may write here.
        fd = os.open(where, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return Artifact(path=shown, bytes=size)
            while chunk := file.read(_CHUNK):
                read += len(chunk)
                progress.steps += 1
                if read > HASHED_BYTES:
                    return Artifact(path=shown, bytes=size)
                digest.update(chunk)
    except OSError:
        return Artifact(path=shown, bytes=size)
    return Artifact(path=shown, bytes=read, sha256=digest.hexdigest())
