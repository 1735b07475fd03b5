"""People as the cluster's roster has them, for the services that ask again and again.

Owns what an entry of the roster grants; reads no file: whoever reads the roster puts it here.
"""

from __future__ import annotations

from services.enrol.roster import Roster
from services.people import Rights


class RosterPeople:
    """People by the roster that was put last; who was revoked is not known."""

    def __init__(self, roster: Roster) -> None:
        self._rights: dict[str, Rights] = {}
        self.put(roster)

    def put(self, roster: Roster) -> None:
        """The roster was changed: it counts from now on."""
        self._rights = {
            person.name: Rights(
                role=person.role,
                rate=None if person.rate is None else float(person.rate),
                queued=person.queued,
            )
            for person in roster.people
            if person.revoked_at is None
        }

    def rights(self, name: str) -> Rights | None:
        """See People."""
        return self._rights.get(name)
