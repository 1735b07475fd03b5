"""The write side of a projector: the one thread that writes, the projector at work there, and whose turn it is.

Owns that there is one of each; knows neither what is written nor when.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from projections.read_model.projector import Projector

P = ParamSpec("P")
T = TypeVar("T")


class Writing:
    """``turn`` is held for a commit and its puts: records go out in the order of commits. The projector is used by what
    `run` runs alone, which may put another in its place."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, "projector-writer")
        self._projector: Projector | None = None

    @property
    def projector(self) -> Projector:
        """The one at work; there must be one."""
        assert self._projector is not None, "the database is open"
        return self._projector

    def begin(self, projector: Projector) -> Projector:
        """From now on this one is at work."""
        self._projector = projector
        return projector

    def end(self) -> None:
        """None is at work any more."""
        projector, self._projector = self._projector, None
        if projector is not None:
            projector.close()

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``work`` in the one thread that writes, after what was asked for before: the loop goes on answering."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(work, *args, **kwargs))

    def close(self) -> None:
        """A transaction under way is finished, not left to another projector's opening. Blocks until it is."""
        self._thread.shutdown()
