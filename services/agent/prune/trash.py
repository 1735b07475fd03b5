"""What waits for its deletion in ``.pruned/<node>`` beside its place: the way there, and the deletion.

Owns that no link which a worker made leads out of it (all goes by descriptors); knows neither runs nor what may go.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from pathlib import Path

import msgspec

from services.agent.folders import claims
from services.agent.folders.claims import TRASH, Claim, exists, folder, opened

_DEEP = 64
"""Levels of folders that are open at once; what lies deeper is first moved up."""


class Stopped(Exception):
    """The agent stops; what is left to delete is deleted at its next start."""


class Trashed(msgspec.Struct, frozen=True):
    """Something that was moved away from a root folder, and its name in the root's trash."""

    root: Path
    node: str
    name: str

    @property
    def path(self) -> Path:
        """To look at; never to delete by."""
        return self.root / TRASH / self.node / self.name

    @property
    def shown(self) -> str:
        """The path for people; a worker may have made a name that is no text."""
        return os.fsencode(self.path).decode(errors="replace")


def names(root: Path, node: str) -> list[Trashed]:
    """What lies in a root's trash. Blocks; raises OSError, also where a link stands in the way."""
    with contextlib.suppress(FileNotFoundError), opened(root, TRASH, node) as trash:
        return [Trashed(root, node, name) for name in sorted(os.listdir(trash))]
    return []


def move(place: Path, node: str, name: str) -> Trashed:
    """Move something into its root's trash, under this name or one that begins so. Raises OSError."""
    with opened(place.parent) as root:
        return _put(place.name, root, Trashed(place.parent, node, name))


def collect(claim: Claim) -> list[Trashed]:
    """Move on what was taken by a claim, if anything was, and remove the claim. Raises OSError."""
    found = []
    with contextlib.suppress(FileNotFoundError), claims.all_claims(claim.root) as within:
        with contextlib.suppress(FileNotFoundError), folder(claim.name, within) as inside:
            found.append(_put(claim.run_id, inside, Trashed(claim.root, claim.node, claim.up_to)))
        with contextlib.suppress(OSError):  # gone, or not empty: it stops nobody
            os.rmdir(claim.name, dir_fd=within)
    with contextlib.suppress(OSError):  # on a full disk: before the next one is made
        claims.make_ready(claim.root, claim.node)
    return found


def delete(trashed: Trashed, stopped: threading.Event) -> int:
    """Delete it with all in it, also in folders without write permission; the bytes that it took on the disk.

    Blocks. Raises Stopped, and OSError when all is deleted but what cannot be.
    """
    with opened(trashed.root, TRASH, trashed.node) as trash:
        deletion = _Deletion(trash, stopped)
        deletion.run(trashed.name)
    if deletion.error is not None:
        raise deletion.error
    return deletion.size


class _Deletion:
    """One walk: what cannot be deleted is passed over, and `error` is the first of these."""

    def __init__(self, trash: int, stopped: threading.Event) -> None:
        self.size = 0
        self.error: OSError | None = None
        self._trash = trash
        self._stopped = stopped
        self._device = os.fstat(trash).st_dev
        self._waiting: list[str] = []

    def run(self, name: str) -> None:
        self._waiting.append(name)
        while self._waiting:
            self._remove(self._waiting.pop(), self._trash, 0)

    def _remove(self, name: str, within: int, depth: int) -> None:
        if self._stopped.is_set():
            raise Stopped
        try:
            found = os.stat(name, dir_fd=within, follow_symlinks=False)
            if not stat.S_ISDIR(found.st_mode):
                os.unlink(name, dir_fd=within)
            elif self._emptied(name, within, depth):
                os.rmdir(name, dir_fd=within)
            else:
                return  # counted where it lies now
            self.size += found.st_blocks * 512
        except FileNotFoundError:  # it is gone
            pass
        except OSError as error:
            self.error = self.error or error

    def _emptied(self, name: str, within: int, depth: int) -> bool:
        """Delete what is in a folder; False where it was moved up instead, for later."""
        with folder(name, within) as inside:
            if os.fstat(inside).st_dev != self._device:
                raise OSError(errno.EXDEV, "another file system is mounted on it", name)
            if depth == _DEEP:
                free = _unused("deep", self._trash)
                os.rename(name, free, src_dir_fd=within, dst_dir_fd=self._trash)
                self._waiting.append(free)
                return False
            for each in os.listdir(inside):
                self._remove(each, inside, depth + 1)
        return True


def _put(name: str, within: int, trashed: Trashed) -> Trashed:
    with opened(trashed.root, TRASH, trashed.node, make=0o700) as trash:
        free = _unused(trashed.name, trash)
        claims.move(name, within, free, trash)
        return Trashed(trashed.root, trashed.node, free)


def _unused(name: str, within: int) -> str:
    free, number = name, 0
    while exists(free, within):
        number += 1
        free = f"{name}.{number}"
    return free
