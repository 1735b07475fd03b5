"""What each person is granted, as the services ask for it: his role, how often he may ask, how many runs he may have.

Owns these values and what holds where nobody keeps a roster; knows neither the roster's file nor the server's accounts.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from services.access.identities import LOCAL, PersonRole


class Rights(msgspec.Struct, frozen=True, kw_only=True):
    """One person's. ``rate``: requests a second of each service; None: `services.admission.DEFAULT_RATE`.
    ``queued``: how many runs of his may wait or run at once; None: any number."""

    role: PersonRole
    rate: float | None = None
    queued: int | None = None


class People(Protocol):
    """Who is known, and what he is granted now: asked again and again, so it must be cheap and must not block."""

    def rights(self, name: str) -> Rights | None:
        """Of a person by name; None: nobody of that name is (any more)."""
        ...


class Everybody:
    """Of a stack without a roster: whoever the server lets in is an admin."""

    def rights(self, name: str) -> Rights | None:
        """See People."""
        return Rights(role=PersonRole.ADMIN)


def is_owner_of_stack(name: str) -> bool:
    """The local person has the stack's own files and processes: no role and no quota keeps anything from him."""
    return name == LOCAL


def rights_of(people: People, name: str) -> Rights | None:
    """As ``people`` has it, but the local person is an admin always, without a quota."""
    return Rights(role=PersonRole.ADMIN) if is_owner_of_stack(name) else people.rights(name)
