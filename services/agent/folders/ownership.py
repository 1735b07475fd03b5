"""Whose a run's folder is, where its worker runs as another user than the agent: made, and given to him.

Owns which of it is given and that no link there is followed; knows no user map and no process.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from services.agent.folders.files import WorkerUser

OWN_MODE = 0o700
"""Of a run's folder: what is in it is its user's, and everybody else asks the stack."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def make(root: Path, below: str, owner: WorkerUser) -> None:
    """Make folders below a root, each the owner's; they may be there. Raises OSError."""
    with contextlib.ExitStack() as opening:
        within = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        opening.callback(os.close, within)
        for name in below.split("/"):
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, OWN_MODE, dir_fd=within)
            within = os.open(name, _FOLDER, dir_fd=within)
            opening.callback(os.close, within)
            if os.fstat(within).st_uid != owner.uid:
                os.fchown(within, owner.uid, owner.gid)


def give(folder: str, inside: Iterable[str], owner: WorkerUser) -> None:
    """Give a folder that nobody else has been in, with what is in it (the deepest first). Raises OSError."""
    os.chmod(folder, OWN_MODE)
    for name in inside:
        os.chown(f"{folder}/{name}", owner.uid, owner.gid, follow_symlinks=False)
    os.chown(folder, owner.uid, owner.gid, follow_symlinks=False)
