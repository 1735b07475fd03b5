"""Who reads a database just now, and a moment in which nobody does.

Owns that count; knows no database.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class ReadersGate:
    """Lets any number of readers in, but while `kept_out`. For any number of threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._closed = False

    @contextmanager
    def one(self) -> Iterator[None]:
        """Somebody reads; waits while they are kept out."""
        with self._changed:
            self._changed.wait_for(lambda: not self._closed)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextmanager
    def kept_out(self, within_s: float) -> Iterator[bool]:
        """Nobody new is let in meanwhile; whether those who were there had gone ``within_s`` seconds."""
        with self._changed:
            self._closed = True
            gone = self._changed.wait_for(lambda: not self._inside, within_s)
        try:
            yield gone
        finally:
            with self._changed:
                self._closed = False
                self._changed.notify_all()
