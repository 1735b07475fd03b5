"""What a worker left in its run's artifacts/: listed, weighed and hashed.

Owns that listing and artifacts.json; knows no event log. Everything here blocks: run it in a thread.
"""

from __future__ import annotations

import hashlib
import os
import stat
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


def _left_any(run_dir: Path) -> bool:
    """Whether there is anything at all: one look, cheap enough for every end."""
    try:
        with os.scandir(run_dir / ARTIFACTS) as entries:
            return next(entries, None) is not None
    except OSError:
        return False


def take(run_dir: Path, progress: Progress) -> Artifacts:
    """List the artifacts, if there are any, write the full list to ``artifacts.json`` and return what the event carries.

    Files only, by path; links are not followed. A file that cannot be read is listed without its hash.
    Raises OSError where the list cannot be written.
    """
    if not _left_any(run_dir):
        return NONE
    top = run_dir / ARTIFACTS
    every = sorted(_files(os.fsencode(top), b"", progress), key=lambda artifact: artifact.path)
    content = msgspec.json.encode(_List(every)) + b"\n"
    temporary = run_dir / f".{ARTIFACTS_LIST}.{os.getpid()}"
    temporary.write_bytes(content)
    os.replace(temporary, run_dir / ARTIFACTS_LIST)
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
        sha256=hashlib.sha256(content).hexdigest(),
    )


def _files(top: bytes, below: bytes, progress: Progress) -> Iterator[Artifact]:
    try:
        entries = list(os.scandir(os.path.join(top, below)))
    except OSError:
        return
    for entry in entries:
        progress.steps += 1
        path = os.path.join(below, entry.name)
        try:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(top, path, progress)
            elif entry.is_file(follow_symlinks=False):
                yield _artifact(os.path.join(top, path), path, progress)
        except OSError:
            continue


def _artifact(where: bytes, path: bytes, progress: Progress) -> Artifact:
    shown = path.decode("utf-8", "replace")
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
