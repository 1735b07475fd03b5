"""Where Unix sockets live: in the state folder, or below /tmp where that path would be too long.

Owns the choice and the check of that folder; knows nothing of who binds there.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

LONGEST_PATH = 107
"""Bytes of a Unix socket's path (sun_path has 108, one for the nul)."""
_LONGEST_NAME = "xxxxxxxxxx.9999.sock"


def sockets_dir(state_dir: Path, tmp: Path = Path("/tmp")) -> Path:
    """The folder for the sockets of this state folder, made with mode 0700. Raises OSError where one below /tmp
    is not ours alone."""
    near = state_dir.absolute() / "s"
    if len(os.fsencode(near / _LONGEST_NAME)) <= LONGEST_PATH:
        near.mkdir(mode=0o700, parents=True, exist_ok=True)
        return near
    shared = tmp / f"trainshed-{os.getuid()}"
    _own(shared)
    far = shared / hashlib.sha256(os.fsencode(state_dir.resolve())).hexdigest()[:16]
    _own(far)
    return far


def _own(folder: Path) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise PermissionError(
            f"{folder} is not a folder of yours alone (owner {found.st_uid}, mode {stat.S_IMODE(found.st_mode):o}). "
            "Sockets live there because the state folder's path is too long; remove it, or choose a shorter "
            "TRAINSHED_STATE_DIR"
        )
