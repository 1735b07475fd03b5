"""The socket on which a shim hears its worker, bound again where a cleaner of temporary folders has taken its path.

Owns its path, its folder and whose it is; knows no datagram.
"""

from __future__ import annotations

import contextlib
import os
import socket

from services.agent.shim import launch


class NotifySocket:
    """A datagram socket at that path. `error`: why it is not bound, for a person; None: it is."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.owner: tuple[int, int] | None = None
        """User and group of the worker, where these are not ours: it may send here."""
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._place: tuple[int, int] | None = None
        self.error = self._bind(self.socket)

    def restore(self) -> None:
        """Bind it again where its path leads to it no more. Its descriptor keeps its number."""
        if self._place is not None and _place(self.path) == self._place:
            return
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as again,
        ):
            self.error = self._bind(again)
            if self.error is None:
                os.dup2(again.fileno(), self.socket.fileno(), inheritable=False)

    def remove(self) -> None:
        """Its shim ends."""
        with contextlib.suppress(OSError):
            os.unlink(self.path)

    def _bind(self, sock: socket.socket) -> str | None:
        try:
            folder = os.path.dirname(self.path)
            for each in (os.path.dirname(folder), folder):  # /tmp may have been tidied up
                with contextlib.suppress(FileExistsError):
                    os.mkdir(each, 0o700)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)  # left by a killed shim that had our pid
            os.fchmod(sock.fileno(), 0o600)  # before it is bound: its path then has this mode from the first
            sock.bind(self.path)
            if self.owner is not None:
                os.chown(self.path, *self.owner, follow_symlinks=False)
            self._place = _place(self.path)
        except OSError as error:
            return f"notify socket {self.path}: {launch.why(error)}"
        return None


def _place(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
