"""Whom an answer is handed to in the GUI's thread: a callback for the result and one for the error.

Owns that neither keeps its object alive, nor is called once that is deleted; knows nothing of the client.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable
from typing import Any

import shiboken6

Answered = Callable[[Any], object]


class AnswerTarget:
    """``done`` takes the result, ``error`` the exception; bound methods are held by their object's life alone."""

    def __init__(self, done: Answered | None, error: Answered | None) -> None:
        self._done = _held(done)
        self._error = _held(error)
        self.hears_errors = error is not None

    def hand(self, error: Exception | None, result: object) -> None:
        """Call one of them, in the GUI's thread."""
        callback = self._done() if error is None else self._error()
        if callback is not None and not _is_deleted(callback):
            callback(result if error is None else error)


def _held(callback: Answered | None) -> Callable[[], Answered | None]:
    if callback is not None and inspect.ismethod(callback):
        return weakref.WeakMethod(callback)
    return lambda: callback


def _is_deleted(callback: Answered) -> bool:
    """Whether it belongs to a Qt object of which only Python's half is left."""
    owner = getattr(callback, "__self__", None)
    return isinstance(owner, shiboken6.Object) and not shiboken6.isValid(owner)
