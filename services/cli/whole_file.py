"""A file that a command writes: whole at its place once the command has ended well, or not there at all.

Owns how that is done, and the refusal of a place where it cannot be; knows nothing of what is written.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from typing import IO

from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.os_errors import why


@contextlib.contextmanager
def whole_file(dest: str) -> Iterator[IO[bytes]]:
    """A file that is at ``dest`` once the block has ended well, and of which nothing stays where it has not.

    It has no name until then, where the storage can do that. What is no regular file (a pipe, a device) is written to.
    Raises TrainshedError (INVALID) where nothing can be put there.
    """
    dest = os.path.realpath(dest)
    folder, name = os.path.split(dest)
    temporary = f".{name}.{os.getpid()}.part"
    with contextlib.ExitStack() as opened:
        try:
            before = os.stat(dest) if os.path.exists(dest) else None
            if before is not None and not stat.S_ISREG(before.st_mode):
                yield opened.enter_context(open(dest, "wb"))
                return
            dir_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            opened.callback(os.close, dir_fd)
            fd, unnamed = _open(dir_fd, temporary)
        except OSError as error:
            raise TrainshedError(
                ErrorCode.INVALID, f"{dest} cannot be written ({why(error)})", "-o"
            ) from None
        file = opened.enter_context(open(fd, "wb"))
        opened.callback(_remove, dir_fd, temporary)
        yield file
        file.flush()
        if before is not None:
            os.fchmod(fd, stat.S_IMODE(before.st_mode))
        os.fsync(fd)
        if unnamed:
            os.link(f"/proc/self/fd/{fd}", temporary, dst_dir_fd=dir_fd)
        os.replace(temporary, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)


def _open(dir_fd: int, temporary: str) -> tuple[int, bool]:
    """A new file in that folder, and whether it has no name."""
    with contextlib.suppress(OSError):  # not every storage has files without names
        return os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o666, dir_fd=dir_fd), True
    return os.open(
        temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=dir_fd
    ), False


def _remove(dir_fd: int, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=dir_fd)
