"""How far a command is with many events and the time left, as a bar on stderr.

Owns when it is shown; knows nothing of what is done.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

MANY = 20_000
"""Fewer events are read in so short a time that nobody needs to see how far it is."""
HowFar = Callable[[int, int], None]
"""Called with how many are done, and of how many."""


@contextmanager
def how_far(label: str, terminal: bool) -> Iterator[HowFar]:
    """A bar for many events, on a ``terminal`` alone."""
    bar = click.progressbar(length=1, label=label, file=sys.stderr)
    shown = False

    def progress(done: int, of: int) -> None:
        nonlocal shown
        if not terminal or (of < MANY and not shown):
            return
        if not shown:
            shown, bar.length = True, of
            bar.__enter__()
        bar.update(done - bar.pos)

    try:
        yield progress
    finally:
        if shown:
            bar.__exit__(None, None, None)
