"""The state folder is its owner's alone: one that others may enter is taken from them at the start.

Owns that rule for a folder that is there already; whoever makes it makes it 0700. Knows nothing of what lies in it.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from services.logging import get_logger
from trainshed_client.os_errors import why

_log = get_logger("state")


def close_to_others(folder: Path) -> None:
    """Give the folder mode 0700, with a log line, where group or others may do anything there.

    A folder that everybody shares (sticky, as /tmp) and one of another owner stay as they are, with a warning.
    """
    try:
        found = folder.stat()
    except OSError:
        return  # it is made later, or refused where it is opened
    mode = stat.S_IMODE(found.st_mode)
    if not mode & 0o077 or not stat.S_ISDIR(found.st_mode):
        return
    if mode & stat.S_ISVTX:
        _log.warning(
            "the state folder is one that everybody shares; give the stack one of its own (TRAINSHED_STATE_DIR)",
            folder=str(folder),
        )
        return
    try:
        os.chmod(folder, 0o700)
    except OSError as error:
        _log.warning(
            f"others may enter the state folder, and that cannot be changed ({why(error)}): chmod 700 it",
            folder=str(folder),
            mode=f"{mode:04o}",
        )
        return
    _log.info(
        "others could enter the state folder; it is its owner's alone now",
        folder=str(folder),
        was=f"{mode:04o}",
    )
