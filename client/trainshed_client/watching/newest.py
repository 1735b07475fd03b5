"""What a watcher is handed out for what arrives, in whatever order that is. Pure.

Owns that nothing older follows what is newer, that nothing comes twice and the last always; knows no connection.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection
from collections.abc import Set as AbstractSet
from datetime import datetime
from typing import Generic, NamedTuple, TypeVar

R = TypeVar("R")

Age = tuple[int, datetime]
"""By which records of one key are ordered: the event that changed it last, and the time of its last update."""


class PresentMarker(enum.Enum):
    """What a watch yields once, after the present: ``record is PRESENT``."""

    PRESENT = "PRESENT"

    def __repr__(self) -> str:
        return self.value


PRESENT = PresentMarker.PRESENT


class Gone(NamedTuple):
    """A node, or a slot (``<node>.<index>``), that is there no more; it may have come and gone before a record was seen."""

    key: str


class _Known(NamedTuple):
    """The newest that has arrived of a key, and when that was stored (ns since 1970; 0: not known)."""

    age: Age
    stored_ns: int


class Newest(Generic[R]):
    """Of each key what is newest, until it is handed out: a slow reader misses what is older, and nothing else.

    ``age`` orders the records of one key. ``since_seq``: of the present only what changed after that event is handed out.
    """

    def __init__(self, age: Callable[[R], Age], *, since_seq: int = 0) -> None:
        self._age = age
        self._since_seq = since_seq
        self._known: dict[str, _Known] = {}
        self._gone: dict[str, int] = {}
        """Keys that are gone, and what was stored of them when: a page that was on its way has older records of them."""
        self._waiting: dict[str, R | Gone] = {}
        """In the order of their first change that was not handed out."""
        self._left_of_present: int | None = None
        self._present_over = False

    def arrived(self, key: str, record: R, *, stored_ns: int = 0, of_present: bool = False) -> bool:
        """A record, live or ``of_present``; whether it is newer than what has arrived before."""
        if stored_ns <= self._gone.get(key, -1):
            return False
        age, known = self._age(record), self._known.get(key)
        if known is not None and age <= known.age:
            return False
        self._gone.pop(key, None)
        self._known[key] = _Known(age, stored_ns)
        if age[0] > self._since_seq or self._present_over or not of_present:
            self._waiting[key] = record
        return True

    def gone(self, key: str, *, stored_ns: int) -> None:
        """The key has left its bucket at this time."""
        known = self._known.get(key)
        if known is not None and known.stored_ns > stored_ns:
            return
        self._gone[key] = max(stored_ns, self._gone.get(key, 0))
        if known is not None:
            del self._known[key]
            self._waiting[key] = Gone(key)

    def only(self, keys: Collection[str], *, of: Collection[str]) -> None:
        """Whoever knows has listed all ``keys`` that there are: those ``of`` them that are not there are gone."""
        for key in of:
            if key in self._known and key not in keys:
                self.gone(key, stored_ns=self._known[key].stored_ns)

    @property
    def keys(self) -> AbstractSet[str]:
        """The keys of which a record has arrived, and that are not gone."""
        return self._known.keys()

    def present_over(self) -> None:
        """All of the present has arrived, for the first time or again."""
        if not self._present_over:
            self._present_over = True
            self._left_of_present = len(self._waiting)

    def take(self) -> R | Gone | PresentMarker | None:
        """The next that is to be handed out; None: nothing is for now."""
        if self._left_of_present == 0:
            self._left_of_present = None
            return PRESENT
        for key in self._waiting:
            if self._left_of_present is not None:
                self._left_of_present -= 1
            return self._waiting.pop(key)
        return None
