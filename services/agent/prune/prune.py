"""Deleting what a run left on this node: its folder, its output, and its attempts' files with the lock.

Owns what may go and how it goes so that a kill at any moment leaves nothing half deleted in its place; knows no NATS.

A folder is claimed (`folders.claims`: a grant on any node comes before or after), moved into the trash beside it, under a
name that says up to which attempt it may go, and deleted there (`trash`). `take_shared` is for a thread: storage may hang.
`take_own`, of what no other node has, belongs into the agent's event loop.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import threading
from pathlib import Path

import msgspec

from services.agent.folders import claims, files
from services.agent.folders.claims import Claim, opened
from services.agent.folders.files import PrunedFile, PrunedUpTo
from services.agent.folders.paths import ATTEMPTS, Folders
from services.agent.prune import trash
from services.agent.prune.trash import Stopped, Trashed
from trainshed_client.naming import RUN_ID

_TRASHED = re.compile(rf"({RUN_ID})@[0-9]+\+?(?:\.[0-9]+)?")
"""``<run_id>@<the last attempt that may go>``; an earlier release wrote a ``+`` behind some."""


class Kept(Exception):
    """Why nothing of a run is deleted, for people."""


class Place(msgspec.Struct, frozen=True):
    """A folder that a run left, and where it holds one folder for each attempt."""

    path: Path
    below: str = "."


class Left(msgspec.Struct, frozen=True):
    """What a run left here: the folders that go, its attempts' own last, and the highest of these attempts (0: none)."""

    run_id: str
    places: tuple[Place, ...]
    attempt: int


class Taken(msgspec.Struct, frozen=True):
    """Where what was taken lies now. Not ``whole``: there was no room to say that it is gone, or not all could be moved,
    so the attempts' own files stay for now; take them again."""

    aside: list[Trashed]
    whole: bool


def find(folders: Folders, run_id: str) -> Left:
    """Look for all that a run left here, also where the settings were others when it ran. Blocks; raises OSError."""
    own = folders.state_dir / ATTEMPTS / run_id
    numbers = _numbers(own)
    places = [Place(folders.run(run_id), ATTEMPTS)]
    if folders.var_logs_dir is not None:
        places.append(Place(folders.var_logs_dir / run_id))
    for number in numbers:
        intent = files.read_intent(own / str(number))
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
    """Raise Kept unless all attempts here have ended, acknowledged, their artifacts are hashed, and ``attempt`` is the last of them.

    Raises OSError.
    """
    for ref in folders.open_attempts():
        if ref.run_id == left.run_id:
            raise Kept(f"attempt {ref.attempt} has not ended here")
    if any(ref.run_id == left.run_id for ref in folders.unhashed_attempts()):
        raise Kept("its artifacts are still being hashed")
    for place in left.places:
        with opened(place.path.parent):
            younger = max(_numbers(place.path / place.below), default=0)
        if younger > attempt:
            raise Kept(f"attempt {younger} came after the end that this is about (attempt {attempt})")


def take_shared(folders: Folders, node: str, left: Left, attempt: int, at: str) -> Taken:
    """Say that what a run left is gone, and move all of it but its attempts' own files out of the way. Blocks.

    Raises Kept where it must stay, OSError where it cannot be moved; then all of it is where it was.
    """
    own = folders.state_dir / ATTEMPTS / left.run_id
    places = [place.path for place in left.places if place.path != own]
    whole = True
    claimed: list[Claim] = []
    aside: list[Trashed] = []
    try:
        try:
            for place in places:
                claimed.append(claims.make(place, node, attempt))
            check(folders, left, attempt)
            if left.attempt:
                # First of all: from here on nothing that is delivered again of these attempts is launched
                # (docs/protocol.md rule 9), whatever becomes of their folders.
                try:
                    _write_marker(folders, left, at)
                except OSError as error:
                    if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not places:
                        raise
                    whole = False
                    # On a full disk the attempts' own files, some kB, stay for now: they say that these ended.
            for claim in claimed:
                if not claims.take(claim):
                    raise Kept("a younger attempt has just begun")
        finally:
            for claim in claimed:
                aside += trash.collect(claim)
    except (Kept, OSError):
        if not aside:
            raise
        whole = False
    return Taken(aside, whole)


def take_own(folders: Folders, node: str, left: Left, attempt: int) -> list[Trashed]:
    """Move the attempts' own files too, once `take_shared` has said that they are gone; nothing where a grant of the run
    came meanwhile. Raises OSError: then they stay, say that these attempts ended, and go with the next pruning."""
    own = folders.state_dir / ATTEMPTS / left.run_id
    granted = any(ref.run_id == left.run_id for ref in folders.open_attempts())
    return [
        trash.move(place.path, node, f"{left.run_id}@{attempt}")
        for place in left.places
        if place.path == own and not granted
    ]


def on_disk(left: Left, stopped: threading.Event) -> int:
    """Bytes that it takes on the disk, as far as it lets itself be looked at. Blocks; raises Stopped."""
    size = 0
    waiting = [str(place.path) for place in left.places]
    for path in waiting:
        with contextlib.suppress(OSError):
            size += os.lstat(path).st_blocks * 512
    waiting = [path for path in waiting if not os.path.islink(path)]
    while waiting:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if stopped.is_set():
                    raise Stopped
                with contextlib.suppress(FileNotFoundError):  # another node deletes it
                    size += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
    return size


def roots(folders: Folders) -> list[Path]:
    """Every folder that may hold trash of this node, the present settings' first. Blocks."""
    present = _present_roots(folders)
    with contextlib.suppress(OSError):  # on a full disk: at a later start
        folders.add_prune_roots(present)
    return [*present, *(root for root in folders.prune_roots() if root not in present)]


def leftovers(folders: Folders, node: str, root: Path) -> list[Trashed]:
    """What an earlier process took and did not get to delete. Blocks; raises OSError."""
    for claim in claims.of_node(root, node):
        trash.collect(claim)
    if root in _present_roots(folders):
        with contextlib.suppress(OSError):  # what needs it says so
            claims.make_ready(root, node)
    return trash.names(root, node)


def run_of(trashed: Trashed) -> str:
    """The run that it was of; empty where its name does not say."""
    return name[1] if (name := _TRASHED.fullmatch(trashed.name)) is not None else ""


def _present_roots(folders: Folders) -> list[Path]:
    logs = [] if folders.var_logs_dir is None else [folders.var_logs_dir]
    return [folders.runs_dir, folders.state_dir / ATTEMPTS, *logs]


def _write_marker(folders: Folders, left: Left, at: str) -> None:
    folders.add_prune_roots([place.path.parent for place in left.places])
    before = folders.read_pruned(left.run_id).pruned
    if not before or before[-1].attempt < left.attempt:
        record = PrunedFile(pruned=(*before, PrunedUpTo(attempt=left.attempt, at=at)))
        folders.write_pruned(left.run_id, record)


def _numbers(folder: Path) -> list[int]:
    """The attempts that a folder has folders of."""
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [int(name) for name in names if name.isascii() and name.isdigit() and int(name) > 0]
