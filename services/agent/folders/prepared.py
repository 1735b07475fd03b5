"""Folders made ahead, so that a grant costs two renames instead of a dozen calls that wait for the disk's journal.

Owns the prepared folders beside the real ones; knows no run. One is used once, and what is left of an earlier
process is removed at the start.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections import deque
from pathlib import Path

from services.agent.folders import files, ownership
from services.agent.folders.files import WorkerUser
from services.agent.folders.paths import ARTIFACTS, OUTPUT_FILES

KEPT = 16


class PreparedFolders:
    """Folders for the first attempts of new runs: one of the state folder's, one of the runs' folder.

    Every file that stands on the way to exec is in them, empty. ``with_output``: those for output too.
    """

    def __init__(self, state_dir: Path, runs_dir: Path, node: str, *, with_output: bool = True) -> None:
        self._with_output = with_output
        self._state = f"{state_dir}/blank"
        self._runs = f"{runs_dir}/.blank/{node}"
        self._ready: deque[str] = deque()
        self._made = 0
        self.beside_state = False
        """Whether a run's whole folder lies on the same storage as the state folder, once some were made."""

    def clear(self) -> None:
        """Remove what an earlier process left. Blocks; raises OSError where the folders cannot be made."""
        shutil.rmtree(self._state, ignore_errors=True)
        os.makedirs(self._state, exist_ok=True)
        within, node = os.path.split(self._runs)
        for path in (within, self._runs):
            if os.path.islink(path):  # a worker's, who can write here: what it leads to is not ours to empty
                os.unlink(path)
        os.makedirs(within, exist_ok=True)
        folder = os.open(within, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            shutil.rmtree(node, ignore_errors=True, dir_fd=folder)
        finally:
            os.close(folder)
        os.makedirs(self._runs, exist_ok=True)

    @property
    def short(self) -> bool:
        """Whether it is time to refill."""
        return len(self._ready) < KEPT // 2

    def refill(self) -> None:
        """Make some ahead; for a thread, one at a time. Raises OSError."""
        for folder in (self._state, self._runs):  # a cleaner of temporary folders may have taken them
            os.makedirs(folder, exist_ok=True)
        same = os.stat(self._state).st_dev == os.stat(self._runs).st_dev
        self.beside_state = same and self._with_output
        while len(self._ready) < KEPT:
            self._made += 1
            name = str(self._made)
            os.mkdir(f"{self._state}/{name}")
            os.mkdir(f"{self._state}/{name}/1")
            for file in (files.LOCK, files.INTENT, files.STARTED_TEMPORARY):
                _touch(f"{self._state}/{name}/1/{file}", 0o644)
            os.makedirs(f"{self._runs}/{name}/attempts/1")
            os.mkdir(f"{self._runs}/{name}/{ARTIFACTS}")
            for file in OUTPUT_FILES if self._with_output else ():
                _touch(f"{self._runs}/{name}/attempts/1/{file}", 0o666)
            self._ready.append(name)

    def take(self) -> str | None:
        """The name of a prepared one, used up by this; None where there is none."""
        return self._ready.popleft() if self._ready else None

    def put_attempt(self, name: str, intent: files.IntentFile, folder: Path) -> bool:
        """Make it, with intent.json in it, the folder of a run's first attempt, at once and whole.

        False where the run has a folder already, or this one has vanished, in part or whole. Raises OSError.
        """
        prepared = f"{self._state}/{name}"
        # Nobody looks here before the rename: no temporary file is needed.
        try:
            fd = os.open(f"{prepared}/1/{files.INTENT}", os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            if not os.path.exists(f"{prepared}/1/{files.LOCK}"):
                return False
            files.write_all(fd, intent)
        finally:
            os.close(fd)
        return _renamed(prepared, folder.parent)

    def put_run(self, name: str, folder: Path, owner: WorkerUser | None = None) -> bool:
        """Make it the run's folder, and this user's; False where there is one already, or where it has vanished. Raises OSError."""
        prepared = f"{self._runs}/{name}"
        if owner is not None:
            output = [f"attempts/1/{file}" for file in OUTPUT_FILES] if self._with_output else []
            with contextlib.suppress(FileNotFoundError):
                ownership.give(prepared, (*output, "attempts/1", "attempts", ARTIFACTS), owner)
        return os.path.exists(f"{prepared}/attempts/1") and _renamed(prepared, folder)


def _renamed(prepared: str, folder: Path) -> bool:
    try:
        os.rename(prepared, folder)
        return True
    except (FileNotFoundError, FileExistsError, NotADirectoryError):
        pass
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
    with contextlib.suppress(OSError):
        shutil.rmtree(prepared)
    return False


def _touch(path: str, mode: int) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, mode))
