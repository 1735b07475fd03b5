"""Deleting what a run left on this node: its folder, its output, and its attempts' files with the lock.

Owns what may go and how it goes so that a kill at any moment leaves nothing half deleted in its place; knows no NATS.

A folder is first renamed into ``.pruned/<node>`` beside it and deleted there; what an earlier process left there is
deleted at the next start. `take` belongs into the agent's event loop: a grant comes before or after it.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec

from services.agent import attempt_files
from services.agent.attempt_files import Pruned, PrunedUpTo
from services.agent.folders import ATTEMPTS, Folders

TRASH = ".pruned"


class Kept(Exception):
    """Why nothing of a run is deleted, for people."""


class Stopped(Exception):
    """The agent stops; what is left to delete is deleted at its next start."""


class Place(msgspec.Struct, frozen=True):
    """A folder that a run left, and where it holds one folder for each attempt."""

    path: Path
    below: str = "."


class Left(msgspec.Struct, frozen=True):
    """What a run left here: the folders that go, its attempts' own last, and the highest of these attempts (0: none)."""

    run_id: str
    places: tuple[Place, ...]
    attempt: int


def find(folders: Folders, run_id: str) -> Left:
    """Look for all that a run left here, also where the settings were others when it ran. Blocks; raises OSError."""
    own = folders.state_dir / ATTEMPTS / run_id
    numbers = _numbers(own)
    places = [Place(folders.run(run_id), ATTEMPTS)]
    if folders.var_logs_dir is not None:
        places.append(Place(folders.var_logs_dir / run_id))
    for number in numbers:
        intent = attempt_files.read_intent(own / str(number))
        if intent is None:
            continue
        run_dir, output_dir = Path(intent.run_dir), Path(intent.output_dir)
        if run_dir.name == run_id:
            places.append(Place(run_dir, ATTEMPTS))
        if (output_dir.name, output_dir.parent.name) == (str(number), run_id):
            places.append(Place(output_dir.parent))
    places.append(Place(own))
    once = {place.path: place for place in places if place.path.is_absolute()}
    there = tuple(place for place in once.values() if os.path.lexists(place.path))
    return Left(run_id, there, max(numbers, default=0))


def check(folders: Folders, left: Left, attempt: int) -> None:
    """Raise Kept unless all attempts here have ended, acknowledged, and ``attempt`` is the last of them.

    Raises OSError.
    """
    for ref in folders.open_attempts():
        if ref.run_id == left.run_id:
            raise Kept(f"attempt {ref.attempt} has not ended here")
    for place in left.places:
        if (younger := max(_numbers(place.path / place.below), default=0)) > attempt:
            raise Kept(f"attempt {younger} came after the end that this is about (attempt {attempt})")


def take(folders: Folders, node: str, left: Left, attempt: int, at: str) -> list[Path]:
    """Move what a run left out of the way, and say in its place that it is gone; where it lies now.

    Raises Kept where it must stay, OSError where it cannot be moved; then all of it is where it was.
    """
    check(folders, left, attempt)
    if left.attempt:
        # First of all: from here on nothing that is delivered again of these attempts is launched
        # (docs/protocol.md rule 9), whatever becomes of their folders.
        before = folders.read_pruned(left.run_id).pruned
        if not before or before[-1].attempt < left.attempt:
            record = Pruned(pruned=(*before, PrunedUpTo(attempt=left.attempt, at=at)))
            folders.write_pruned(left.run_id, record)
    taken: list[tuple[Path, Path]] = []
    try:
        for place in left.places:
            aside = _aside(place.path, node)
            os.rename(place.path, aside)
            taken.append((place.path, aside))
            # Another node that shares this storage may have been granted the run meanwhile.
            if (younger := max(_numbers(aside / place.below), default=0)) > attempt:
                raise Kept(f"attempt {younger} has just begun")
    except BaseException:
        _put_back(taken)
        raise
    return [aside for _, aside in taken]


def on_disk(left: Left) -> int:
    """Bytes that it takes on the disk. Blocks; raises OSError."""
    return sum(_size(place.path) + sum(size for _, size in _entries(place.path)) for place in left.places)


def delete(aside: list[Path], stopped: threading.Event) -> int:
    """Delete what was moved; the bytes that it took on the disk. Blocks; raises OSError, Stopped."""
    size = 0
    for path in aside:
        if path.is_symlink() or not path.is_dir():
            size += _size(path)
            path.unlink()
            continue
        for entry, entry_size in _entries(path):
            if stopped.is_set():
                raise Stopped
            if os.path.isdir(entry) and not os.path.islink(entry):
                os.rmdir(entry)
            else:
                os.unlink(entry)
            size += entry_size
        size += _size(path)
        path.rmdir()
    for trash in {path.parent for path in aside}:
        with contextlib.suppress(OSError):  # others' still lie there
            trash.rmdir()
            trash.parent.rmdir()
    return size


def leftovers(folders: Folders, node: str) -> list[Path]:
    """What an earlier process moved and did not get to delete. Blocks."""
    roots = [folders.runs_dir, folders.state_dir / ATTEMPTS]
    if folders.var_logs_dir is not None:
        roots.append(folders.var_logs_dir)
    found: list[Path] = []
    for root in roots:
        with contextlib.suppress(OSError):
            found += (root / TRASH / node).iterdir()
    return found


def _entries(top: Path) -> Iterator[tuple[str, int]]:
    """Everything in a folder, what is in a folder before it, with its bytes on the disk."""
    if top.is_symlink() or not top.is_dir():
        return
    for folder, folders, files in os.walk(top, topdown=False, onerror=_raise):
        for name in (*files, *folders):
            path = f"{folder}/{name}"
            yield path, _size(path)


def _raise(error: OSError) -> None:
    raise error


def _size(path: str | Path) -> int:
    try:
        return os.lstat(path).st_blocks * 512
    except FileNotFoundError:
        return 0


def _numbers(folder: Path) -> list[int]:
    """The attempts that a folder has folders of."""
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [int(name) for name in names if name.isascii() and name.isdigit() and int(name) > 0]


def _aside(place: Path, node: str) -> Path:
    """Where a folder waits for its deletion: an unused name in the same file system."""
    trash = place.parent / TRASH / node
    trash.mkdir(mode=0o700, parents=True, exist_ok=True)
    number, free = 0, trash / place.name
    while os.path.lexists(free):
        number += 1
        free = trash / f"{place.name}.{number}"
    return free


def _put_back(taken: list[tuple[Path, Path]]) -> None:
    for place, aside in reversed(taken):
        try:
            os.rename(aside, place)
        except OSError:  # made anew meanwhile: what is not in it yet goes back into it
            for name in os.listdir(aside):
                if not os.path.lexists(place / name):
                    os.rename(aside / name, place / name)
