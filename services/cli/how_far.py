"""How far a command is with many events and the time left, as a bar on stderr.

Owns when it is shown; knows nothing of what is done.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import click

MANY = 20_000
"""Fewer events are read in so short a time that nobody needs to see how far it is."""
HowFar = Callable[[int, int], None]
"""Called with how many are done, and of how many."""


@contextmanager
def how_far(label: str, terminal: bool, *, again: str = "", many: int = MANY) -> Iterator[HowFar]:
    """A bar where there are ``many``, on a ``terminal`` alone. What begins anew has another, with the label ``again``."""
    at = 0
    update: Callable[[int], None] | None = None
    with ExitStack() as bars:

        def progress(done: int, of: int) -> None:
            nonlocal at, update
            if not terminal or (update is None and of < many):
                return
            if update is None or done < at:
                bars.close()
                bar = click.progressbar(length=of, label=again if update else label, file=sys.stderr)
                update, at = bars.enter_context(bar).update, 0
            update(done - at)
            at = done

        yield progress
