"""Looks at the code of runs as it lies on this node, in threads: beside a worker's start, and never before it.

Owns how looks at one folder are shared and what one tells; holds up nothing, and knows no attempt.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec

from services.agent.folders.acting import acting_as
from services.agent.folders.files import WorkerUser
from services.agent.folders.turns import Turns
from services.daemon_thread import in_daemon_thread
from services.logging import get_logger
from trainshed_client.code import GitUser, read_code, root_of
from trainshed_client.errors import TrainshedError
from trainshed_client.os_errors import cause
from trainshed_client.provenance import Code
from trainshed_client.statuses import CodeSeen

_log = get_logger("agent")

KEPT = 64
"""Folders of which the last look is kept: only who waits for one that is under way is answered by it."""


class _Submitted(msgspec.Struct, frozen=True):
    """What a launch tells of the code."""

    code: Code
    code_folder: str | None = None
    code_ignore: tuple[str, ...] = ()
    working_dir: str | None = None


class CodeLooks:
    """The looks of one agent: one at a time for each folder, and all that start during one share the next."""

    def __init__(self) -> None:
        self._turns = Turns()
        self._begun = 0
        self._last: dict[str, tuple[int, CodeSeen | Code]] = {}

    async def look(self, launch: Mapping[str, Any], user: WorkerUser | None = None) -> CodeSeen:
        """Whether the code that a launch names lies here as it was submitted, as far as ``user`` may look."""
        try:
            submitted = msgspec.convert(launch, _Submitted)
        except msgspec.ValidationError as error:  # another release's
            _log.warning("what code a run is of cannot be read", error=cause(error))
            return CodeSeen.UNKNOWN
        folder, ignore = submitted.code_folder, submitted.code_ignore
        if folder is None and submitted.working_dir is not None:
            folder = await in_daemon_thread(partial(_root_of, submitted.working_dir, user))
        if folder is None:
            return CodeSeen.UNKNOWN
        asked_after = self._begun
        place = "\0".join((folder, *ignore, "" if user is None else user.name))
        async with self._turns.of(place):
            begun, found = self._last.get(place, (0, CodeSeen.UNKNOWN))
            if begun <= asked_after:
                self._begun += 1
                begun = self._begun
                found = await in_daemon_thread(partial(_found, folder, ignore, user))
                self._last.pop(place, None)
                self._last[place] = begun, found
                if len(self._last) > KEPT:
                    del self._last[next(iter(self._last))]
        return found if isinstance(found, CodeSeen) else compared(submitted.code, found)


def _root_of(working_dir: str, user: WorkerUser | None) -> str | None:
    """Blocks."""
    try:
        with acting_as(user):
            return root_of(working_dir)
    except OSError:
        return None


def _found(folder: str, ignore: tuple[str, ...], user: WorkerUser | None) -> CodeSeen | Code:
    """Blocks."""
    try:
        git_user = None if user is None else GitUser(user.uid, user.gid, user.groups, user.home)
        with acting_as(user):
            found = read_code(folder, ignore, git_user=git_user)
        return found or CodeSeen.CHANGED  # where there was some there is none
    except (OSError, ValueError, TrainshedError) as error:
        _log.warning("the code of runs cannot be read", folder=folder, error=cause(error))
        return CodeSeen.UNKNOWN


def compared(submitted: Code, found: Code) -> CodeSeen:
    """What a digest tells of another. Parts alone tell nothing: another part may have changed, or been read."""
    if submitted.partial or found.partial:
        return CodeSeen.UNKNOWN
    return CodeSeen.SAME if submitted.sha256 == found.sha256 else CodeSeen.CHANGED
