"""An attempt's files as they are on the disk now: how large its output is, and the hash of a file in its run's folder.

Owns how these are read, a large file in pieces; knows neither what the log says of them nor NATS. Everything here blocks: run it
in a thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from events.types import AttemptRef
from services import beneath
from services.agent.folders.paths import ARTIFACTS_LIST, OUTPUT_FILES, Folders
from services.agent.output import run_files
from services.agent.output.artifacts import HASHED_BYTES
from trainshed_client.answers import OutputNow
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.os_errors import cause
from trainshed_client.times import Time

PIECE_BYTES = 4 << 20


class AttemptNow(msgspec.Struct, frozen=True):
    """Where its run's folder is and how large its output; ``pruned_at``: when both were deleted by `trainshed prune`."""

    run_dir: Path
    output: OutputNow = OutputNow()
    pruned_at: datetime | None = None


class Piece(NamedTuple):
    """How many bytes were read of a file, and how large it is."""

    read: int
    size: int


Take = Callable[[bytes], None]
"""Takes the bytes that were read, as a hash's ``update``."""


def look(folders: Folders, ref: AttemptRef) -> AttemptNow:
    """Where the attempt's files are, also where its own folder is gone. Raises TrainshedError (UNAVAILABLE)."""
    pruned_at = folders.pruned_at(ref)
    if pruned_at is not None:
        return AttemptNow(folders.run(ref.run_id), pruned_at=_time(pruned_at, ref))
    try:
        place = run_files.places(folders, ref)
        run_dir, output_dir = place.run, place.output
    except TrainshedError:
        run_dir, output_dir = folders.run(ref.run_id), folders.output(ref)
    stdout, stderr = (_size(output_dir / name) for name in OUTPUT_FILES)
    return AttemptNow(run_dir, OutputNow(stdout=stdout, stderr=stderr))


def _time(text: str, ref: AttemptRef) -> datetime:
    try:
        return msgspec.convert(text, Time)
    except msgspec.ValidationError:
        raise TrainshedError(
            ErrorCode.UNAVAILABLE,
            f"what is left of attempt {ref.attempt} of run {ref.run_id} says that it was pruned at {text!r}, which is no "
            "time of RFC 3339 with a time zone",
        ) from None


def read_artifact(run_dir: Path, path: str, offset: int, take: Take) -> Piece | None:
    """A piece of a file in artifacts/; None where there is none. Raises TrainshedError (UNAVAILABLE)."""
    return _read(lambda: run_files.open_artifact(run_dir, path), offset, take)


def read_list(run_dir: Path, offset: int, take: Take) -> Piece | None:
    """A piece of artifacts.json; as `read_artifact`."""
    return _read(lambda: run_files.open_below(run_dir, [ARTIFACTS_LIST]), offset, take)


def _read(opened: Callable[[], int], offset: int, take: Take) -> Piece | None:
    """Opened for each piece: nothing is left open by a read that hangs and is not waited for."""
    try:
        fd = opened()
    except TrainshedError as error:
        if error.code is ErrorCode.UNAVAILABLE:
            raise
        return None  # it is not there, is a link, or cannot be called so
    try:
        size = os.fstat(fd).st_size
        data = os.pread(fd, PIECE_BYTES, offset) if size <= HASHED_BYTES else b""
    except OSError as error:
        raise TrainshedError(
            ErrorCode.UNAVAILABLE, f"a file that it left cannot be read ({cause(error)})"
        ) from None
    finally:
        os.close(fd)
    take(data)
    return Piece(len(data), size)


def _size(path: Path) -> int | None:
    try:
        return beneath.look(str(path)).st_size
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise TrainshedError(ErrorCode.UNAVAILABLE, f"{path} cannot be read ({cause(error)})") from None
