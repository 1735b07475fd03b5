"""The attempt's folder as its shim has it: a cleaner of temporary folders may take it, or a file of it, while the worker lives.

Owns how it is made again, under its lock; knows no worker. All names are relative to the working directory.
"""

from __future__ import annotations

import contextlib
import os

from services.agent.shim import files

_LEVELS = 3
"""attempts/<run>/<n>: what is made again of the path. The state folder itself is nobody's to make."""


class Home:
    """The folder, held by its lock. The working directory is in it."""

    def __init__(self, folder: str, lock_fd: int) -> None:
        self.folder = folder
        self.intent = files.read_json("intent.json") or {}
        self._lock_fd = lock_fd
        self._started: dict[str, object] | None = None

    def started(self) -> None:
        """The worker runs: keep what started.json says, on disk and in mind."""
        files.make_durable("started.json")
        self._started = files.read_json("started.json") or self._started

    def restore(self) -> bool:
        """Make again what has vanished, and work there. False where the attempt is closed, or about to be, or where the state
        folder itself is gone. Raises OSError.

        Only for a shim whose worker has exec'd, or never will: one that comes up makes nothing (docs/protocol.md rule 9).
        """
        if not self._is_here() and not self._move_in():
            return False
        if os.path.lexists("exit.json"):
            return False
        for name, record in (("intent.json", self.intent), ("started.json", self._started)):
            if record and not os.path.lexists(name):
                files.write_json(name, record, durable=False)
        return True

    def _move_in(self) -> bool:
        try:
            for level in reversed(range(_LEVELS)):
                with contextlib.suppress(FileExistsError):
                    os.mkdir(self.folder.rsplit("/", level)[0])
        except FileNotFoundError:
            return False
        os.chdir(self.folder)
        lock = files.take_lock(make=True)
        if lock is None:
            return False
        self._lock_fd = lock
        return True

    def _is_here(self) -> bool:
        """Whether the folder at its path is the one that we work in, and the lock there the one that we hold."""
        try:
            held = os.fstat(self._lock_fd)
            return os.path.samestat(held, os.stat("lock")) and os.path.samestat(
                os.stat("."), os.stat(self.folder)
            )
        except OSError:
            return False
