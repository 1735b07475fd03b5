"""The roster's file, looked at now and then for the services that ask with each request what a person is granted.

Owns that copy; whoever asks never waits for the file.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

from services.enrol.roster import Roster
from services.enrol.roster_file import ROSTER_FILE, read_roster
from services.logging import get_logger
from services.roster_people import RosterPeople
from trainshed_client.errors import TrainshedError
from trainshed_client.os_errors import cause

LOOK_EVERY_S = 1.0
_log = get_logger("people")


class RosterWatch:
    """A Service that gives ``people`` the roster of ``folder`` whenever it has changed. Nobody is known before its first look."""

    name = "people"

    def __init__(self, folder: Path, *, every_s: float = LOOK_EVERY_S) -> None:
        self.roster = Roster()
        """As it was at the last look."""
        self.people = RosterPeople(self.roster)
        self._folder = folder
        self._every_s = every_s
        self._stamp: object = None
        self._stop = asyncio.Event()
        self.ready = asyncio.Event()

    async def run(self) -> None:
        """See Service. A roster that cannot be read is logged, and what was known counts on."""
        logged = ""
        while not self._stop.is_set():
            try:
                if (roster := await asyncio.to_thread(self._changed)) is not None:
                    self.roster = roster
                    self.people.put(roster)
                logged = ""
            except (TrainshedError, OSError) as error:
                if cause(error) != logged:
                    logged = cause(error)
                    _log.error("the roster cannot be read; what was known before counts on", why=logged)
            self.ready.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._every_s):
                    await self._stop.wait()

    def stop(self) -> None:
        """See Service."""
        self._stop.set()

    def _changed(self) -> Roster | None:
        """The roster, if its file is another than the last one. Raises TrainshedError, OSError."""
        try:
            file = (self._folder / ROSTER_FILE).stat()
            stamp: object = (file.st_ino, file.st_mtime_ns, file.st_size)
        except FileNotFoundError:
            stamp = None
        if stamp == self._stamp:
            return None
        roster = read_roster(self._folder)
        self._stamp = stamp
        return roster
