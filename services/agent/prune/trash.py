"""What waits for its deletion in ``.pruned/<node>`` beside its place: the way there and back, and the deletion.

Owns that no link which a worker made leads out of it (all goes by descriptors); knows neither runs nor what may go.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec

TRASH = ".pruned"
_DEEP = 64
"""Levels of folders that are open at once; what lies deeper is first moved up."""
_MERGED = 3
"""Levels at which a folder that was made anew is merged with the one put back: a run's, attempts/, attempts/<n>/."""
_FOLDER = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)


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


def names(root: Path, node: str, *, make: bool) -> list[Trashed]:
    """What lies in a root's trash. Blocks; raises OSError, also where a link stands in the way.

    ``make``: make it where there is none, while the disk has room for it.
    """
    try:
        with _opened(root, node, make=make) as trash:
            return [Trashed(root, node, name) for name in sorted(os.listdir(trash))]
    except FileNotFoundError:
        return []


def move(place: Path, node: str, name: str) -> Trashed:
    """Move something into its root's trash, under this name or one that begins so. Raises OSError."""
    with _opened(place.parent, node, make=True) as trash:
        free = _unused(name, trash)
        try:
            os.rename(place, free, dst_dir_fd=trash)
        except PermissionError:  # a folder that its worker made unwritable
            with _folder(str(place)):
                os.rename(place, free, dst_dir_fd=trash)
        return Trashed(place.parent, node, free)


def put_back(trashed: Trashed, name: str) -> None:
    """Move it back to its place of this name. Raises OSError.

    Where the place was made anew meanwhile, what is not in it yet goes into it; what both have goes with the trash.
    """
    place = str(trashed.root / name)
    with _opened(trashed.root, trashed.node) as trash:
        try:
            os.rename(trashed.name, place, src_dir_fd=trash)
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
            with _folder(trashed.name, trash) as source, _folder(place) as target:
                _merge(source, target, _MERGED)
            os.rename(trashed.name, _unused("double", trash), src_dir_fd=trash, dst_dir_fd=trash)


def delete(trashed: Trashed, stopped: threading.Event) -> int:
    """Delete it with all in it, also in folders without write permission; the bytes that it took on the disk.

    Blocks. Raises Stopped, and OSError when all is deleted but what cannot be.
    """
    with _opened(trashed.root, trashed.node) as trash:
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
        with _folder(name, within) as folder:
            if os.fstat(folder).st_dev != self._device:
                raise OSError(errno.EXDEV, "another file system is mounted on it", name)
            if depth == _DEEP:
                free = _unused("deep", self._trash)
                os.rename(name, free, src_dir_fd=within, dst_dir_fd=self._trash)
                self._waiting.append(free)
                return False
            for each in os.listdir(folder):
                self._remove(each, folder, depth + 1)
        return True


@contextlib.contextmanager
def _opened(root: Path, node: str, *, make: bool = False) -> Iterator[int]:
    """A root's trash, while the block lasts. The root may be reached by links, its trash may not be one."""
    with contextlib.ExitStack() as opened:
        folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        opened.callback(os.close, folder)
        for name, mode in ((TRASH, 0o777), (node, 0o700)):
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, mode, dir_fd=folder)
            try:
                folder = os.open(name, os.O_RDONLY | _FOLDER, dir_fd=folder)
            except OSError as error:
                if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                    raise
                raise OSError(
                    error.errno,
                    f"{name} is a link or no folder, and nothing is moved or deleted there",
                    str(root),
                ) from None
            opened.callback(os.close, folder)
        yield folder


@contextlib.contextmanager
def _folder(name: str, within: int | None = None) -> Iterator[int]:
    """A folder, never a link to one, while the block lasts; made readable and writable where it was not."""
    handle = os.open(name, os.O_PATH | _FOLDER, dir_fd=within)
    try:
        mode = stat.S_IMODE(os.fstat(handle).st_mode)
        if mode & stat.S_IRWXU != stat.S_IRWXU:
            with contextlib.suppress(PermissionError):  # another's, who may let us yet
                os.chmod(f"/proc/self/fd/{handle}", mode | stat.S_IRWXU)
        folder = os.open(".", os.O_RDONLY | _FOLDER, dir_fd=handle)
    finally:
        os.close(handle)
    try:
        yield folder
    finally:
        os.close(folder)


def _merge(source: int, target: int, levels: int) -> None:
    for name in os.listdir(source):
        is_folder = stat.S_ISDIR(os.stat(name, dir_fd=source, follow_symlinks=False).st_mode)
        if not is_folder and _exists(name, target):
            continue
        try:
            os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)  # a folder also onto an empty one
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
            if levels > 1:
                with (
                    contextlib.suppress(NotADirectoryError),  # one of them is no folder
                    _folder(name, source) as here,
                    _folder(name, target) as there,
                ):
                    _merge(here, there, levels - 1)


def _unused(name: str, within: int) -> str:
    free, number = name, 0
    while _exists(free, within):
        number += 1
        free = f"{name}.{number}"
    return free


def _exists(name: str, within: int) -> bool:
    try:
        os.stat(name, dir_fd=within, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
