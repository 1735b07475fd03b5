"""What the roster grants, as the services ask for it."""

from __future__ import annotations

from datetime import UTC, datetime

from services.access.identities import Person, PersonRole
from services.enrol.roster import IssuedCertificate, Roster, enrolled, revoked
from services.people import Everybody, People, Rights, rights_of
from services.roster_people import RosterPeople

NOW = datetime(2026, 1, 2, tzinfo=UTC)
ISSUED = IssuedCertificate(serial="1", key="k", issued_at=NOW, not_after=NOW, authority="a")
SAM = Person("sam", PersonRole.SUBMITTER)


def test_the_roster_s_line_counts_until_its_person_is_revoked() -> None:
    roster = enrolled(Roster(), SAM, ISSUED, now=NOW, rate=50, queued=3)
    people = RosterPeople(roster)
    assert people.rights("sam") == Rights(role=PersonRole.SUBMITTER, rate=50.0, queued=3)
    assert people.rights("eve") is None
    people.put(revoked(roster, SAM, now=NOW))
    assert people.rights("sam") is None


def test_the_local_person_is_an_admin_without_limits_in_any_roster() -> None:
    roster = enrolled(Roster(), Person("local", PersonRole.VIEWER), ISSUED, now=NOW, rate=1, queued=0)
    everywhere: list[People] = [RosterPeople(Roster()), RosterPeople(roster), Everybody()]
    for people in everywhere:
        assert rights_of(people, "local") == Rights(role=PersonRole.ADMIN)
