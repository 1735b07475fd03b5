"""What an enrolment and a renewal do: the signature, the roster's one write, and the server that learns of it, in this order.

Owns that order, so that a kill at any place costs nobody his token; knows neither sockets nor how a server is configured.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path

from services.access.identities import NodeIdentity, Person, user_name
from services.enrol.authority import CLIENT_LIFE, read_authorities
from services.enrol.decisions import Where, enrolled_by, renewed_by
from services.enrol.roster import Roster, expiring, removed
from services.enrol.roster_file import change, read_roster, read_with_state, write_applied
from services.enrol.wire import EnrolAnswer, EnrolQuestion, RenewAnswer
from services.logging import get_logger
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.os_errors import cause

NEAR_ITS_END = 1 / 6
"""Of a life: half of what is left once a renewal is due."""
_log = get_logger("enrol")

Apply = Callable[[Roster], Awaitable[None]]
"""Makes the server know the roster, and the authorities of ``ca.crt`` beside it; returns once it does. Raises
TrainshedError or OSError where it cannot; to apply the same again must be harmless."""


class Enrolment:
    """Enrols and renews, on a cluster folder (``<state>/cluster``). Safe against a second process that changes the roster."""

    def __init__(
        self,
        folder: Path,
        *,
        where: Where,
        apply: Apply,
        clock: Callable[[], datetime],
        life: timedelta = CLIENT_LIFE,
    ) -> None:
        self.folder = folder
        self.clock = clock
        self._where = where
        self._apply = apply
        self._life = life
        self._one_at_a_time = asyncio.Lock()
        self._applied: str | None = None

    async def enrol(self, question: EnrolQuestion) -> EnrolAnswer:
        """The certificate that the token of ``question`` gives. It counts with the server when this returns.

        Raises TrainshedError as `enrolled_by`, and UNAVAILABLE where the server cannot be made to know: the same key may
        ask again.
        """

        def step(roster: Roster) -> tuple[Roster, tuple[EnrolAnswer, bool]]:
            authorities = read_authorities(self.folder)
            after, answer = enrolled_by(
                roster, question, authorities, now=self.clock(), life=self._life, where=self._where
            )
            return after, (answer, after != roster)

        answer, new = await asyncio.to_thread(change, self.folder, step)
        if new:
            _log.info("enrolled", user=user_name(answer.identity))
        await self.apply_changes()
        return answer

    async def renew(
        self, member: NodeIdentity | Person, request: str | None, using: str | None
    ) -> RenewAnswer:
        """What ``cert.renew`` answers ``member``, as the server vouches for him; a person's role is the roster's.

        ``request``: None only asks whether a renewal is due. ``using``: the key (SHA-256, hex) that he connects with now,
        after which his older ones count no more. Raises TrainshedError (DENIED, INVALID).
        """

        def step(roster: Roster) -> tuple[Roster, RenewAnswer]:
            authorities = read_authorities(self.folder)
            return renewed_by(roster, member, request, using, authorities, now=self.clock(), life=self._life)

        answer = await asyncio.to_thread(change, self.folder, step)
        await self.apply_changes()
        if answer.certificate is not None:
            _log.info("renewed", user=user_name(member))
        return answer

    async def removed(self, node: str) -> None:
        """An operator removed a node. Raises TrainshedError."""

        def step(roster: Roster) -> tuple[Roster, bool]:
            after = removed(roster, node, now=self.clock())
            return after, after != roster

        if await asyncio.to_thread(change, self.folder, step):
            _log.info("revoked, for the node was removed", node=node)
            await self.apply_changes()

    async def report_expiring(self) -> None:
        """Log whose certificate is about to expire: one that is connected renews long before. Raises TrainshedError."""
        roster, now = await asyncio.to_thread(read_roster, self.folder), self.clock()
        for user, not_after in expiring(roster, now=now, within=self._life * NEAR_ITS_END).items():
            over = not_after <= now
            what = (
                "a certificate has expired; a new token lets its holder in"
                if over
                else "a certificate expires soon"
            )
            _log.warning(what, user=user, not_after=f"{not_after:%Y-%m-%dT%H:%M:%SZ}")

    async def apply_changes(self) -> None:
        """Make the server know what stands in the files, if it does not. Raises TrainshedError (UNAVAILABLE)."""
        async with self._one_at_a_time:
            roster, state = await asyncio.to_thread(read_with_state, self.folder)
            if state == self._applied:
                return
            try:
                await self._apply(roster)
            except (TrainshedError, OSError) as error:
                why = cause(error)
                _log.error("the server could not be made to know who is enrolled", error=why)
                raise TrainshedError(
                    ErrorCode.UNAVAILABLE,
                    f"the server could not be made to know who is enrolled ({why}). Try the same again; if it stays, see the "
                    "log of `enrol`",
                ) from None
            self._applied = state
            await asyncio.to_thread(write_applied, self.folder, state)
