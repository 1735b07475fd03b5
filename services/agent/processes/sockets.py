"""Where Unix sockets live: in the state folder, or below /tmp where that path would be too long; and one that is bound.

Owns the choice and the check of that folder, and the names in it; knows nothing of who binds there.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import os
import socket
import stat
from pathlib import Path

from events.types import AttemptRef

LONGEST_PATH = 107
"""Bytes of a Unix socket's path (sun_path has 108, one for the nul)."""
_LONGEST_NAME = "xxxxxxxxxx.9999.sock"
SHIM_SOCKETS = "[0-9]*.sock"
"""The shims' own, each named after its pid, as a pattern."""
WORKER_SOCKETS = "w*.sock"
"""The sockets by which workers reach the stack, as a pattern."""


def sockets_dir(
    state_dir: Path, tmp: Path = Path("/tmp"), *, for_others: bool = False, run: Path = Path("/run")
) -> Path:
    """The folder for the sockets of this state folder, made with mode 0700.

    ``for_others``: workers of other users come by it (0711) to the sockets that are theirs, and nobody by the state folder;
    root's alone, so that nobody else takes its place. Raises OSError where one below /tmp is not ours alone.
    """
    near = state_dir.absolute() / "s"
    if not for_others and len(os.fsencode(near / _LONGEST_NAME)) <= LONGEST_PATH:
        near.mkdir(mode=0o700, parents=True, exist_ok=True)
        return near
    name = hashlib.sha256(os.fsencode(state_dir.resolve())).hexdigest()[:16]
    if for_others:
        with contextlib.suppress(OSError):  # a container's may be read-only
            return _own(_own(run / "trainshed", 0o711) / name, 0o711)
    mode = 0o711 if for_others else 0o700
    return _own(_own(tmp / f"trainshed-{os.getuid()}", mode) / name, mode)


def worker_socket(sockets: str, ref: AttemptRef) -> str:
    """Where the worker of an attempt reaches the stack: the same after a restart of the agent."""
    digest = hashlib.sha256(f"{ref.run_id}.{ref.attempt}".encode()).digest()
    return f"{sockets}/w{base64.b32encode(digest)[:14].decode().lower()}.sock"


def _own(folder: Path, mode: int) -> Path:
    """The folder, made where it is not there. Raises PermissionError where somebody else may look or write there."""
    folder.mkdir(mode=mode, exist_ok=True)
    found = folder.lstat()
    now = stat.S_IMODE(found.st_mode)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or now & 0o066:
        raise PermissionError(
            f"{folder} is not a folder of yours alone (owner {found.st_uid}, mode {now:o}). "
            "Sockets live there because the state folder's path is too long; remove it, or choose a shorter "
            "TRAINSHED_STATE_DIR"
        )
    if now | mode != now:
        folder.chmod(now | mode)
    return folder


class BoundSocket:
    """A Unix socket bound at a path of ours, which somebody else may remove: a cleaner of temporary folders."""

    def __init__(self, path: str, kind: socket.SocketKind) -> None:
        """Bind it, in the place of what an earlier process left there; for our own user alone. Raises OSError."""
        self._path = path
        self._owner = os.geteuid(), os.getegid()
        self.socket = socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK)
        try:
            os.fchmod(
                self.socket.fileno(), 0o600
            )  # before it is bound: its path then has this mode from the first
            try:
                self.socket.bind(path)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                os.unlink(path)
                self.socket.bind(path)
            self._place = _place(path)
        except BaseException:
            self.socket.close()
            raise

    @property
    def gone(self) -> bool:
        """Whether its path leads to it no more."""
        return _place(self._path) != self._place

    def give(self, uid: int, gid: int) -> None:
        """Let another user come in by it, and nobody else (but root). Raises OSError."""
        if (uid, gid) != self._owner:
            os.chown(self._path, uid, gid, follow_symlinks=False)
            self._owner = uid, gid

    def move(self, path: str) -> None:
        """Have it at another path, in the place of what is there. Raises OSError."""
        if self.gone:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self._path)
        os.rename(self._path, path)
        self._path = path

    def close(self) -> None:
        """Close it, and remove its path if that is still its own."""
        self.socket.close()
        with contextlib.suppress(OSError):
            if not self.gone:
                os.unlink(self._path)


def _place(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
