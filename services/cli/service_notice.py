"""While a verb waits for a service: which and why, on stderr, within seconds.

Owns what is printed of that and how often; knows no verb.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from trainshed_client.errors import ErrorCode, TrainshedError

if TYPE_CHECKING:
    from trainshed_client.client import Trainshed

FIRST_LOOK_S = 2.0
LOOK_EVERY_S = 5.0
PROJECTOR = "the projector"


class ServiceNotice:
    """Takes what a client waits for (see OnWaiting). ``follows``: print also that it is over, where a verb goes on."""

    def __init__(
        self, note: Callable[[str], None], *, follows: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._note = note
        self._follows = follows
        self._clock = clock
        self._noted: dict[str, tuple[str, float]] = {}

    def __call__(self, service: str, why: str | None) -> None:
        """See OnWaiting. The same is not printed twice, and what changes all the time no oftener than every 5 s."""
        noted = self._noted.get(service)
        if why is None:
            if noted is not None:
                del self._noted[service]
                if self._follows:
                    self._note(f"{service} answers again")
            return
        if noted is None or (noted[0] != why and self._clock() - noted[1] >= LOOK_EVERY_S):
            self._noted[service] = (why, self._clock())
            self._note(f"{service}: {why}; waiting")

    async def look_at_the_projector(self, trainshed: Trainshed) -> None:
        """For a verb that hears of changes by what the projector puts: ask it now and then whether it is there.

        A projector that hangs, or is gone, would be heard of by nothing else. Ends where a worker may not ask.
        """
        pause_s = FIRST_LOOK_S
        while True:
            await asyncio.sleep(pause_s)
            pause_s = LOOK_EVERY_S
            try:
                behind = await trainshed.behind()
            except TrainshedError as error:
                if error.code is not ErrorCode.UNAVAILABLE:
                    return
                self(PROJECTOR, "it does not answer")
                continue
            self(PROJECTOR, None if behind is None else f"stale: {behind.text}")
