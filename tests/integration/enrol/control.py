"""A control side for enrolments alone: a cluster folder, its listener on loopback, and tokens."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from services.enrol.authority import Authorities, Authority, make_authority, write_authorities
from services.enrol.enrolment import Enrolment
from services.enrol.listener import EnrolListener
from services.enrol.roster import Roster
from services.enrol.roster_file import change, read_roster
from services.enrol.tokens import ForNode, Invited, TokenLine, invited
from services.setting_values import Listen
from trainshed_client.endpoint import Endpoint

GPU01 = ForNode("gpu01")


class EnrolControl:
    """Answers on ``port`` while `served`; ``applied`` is what the server was made to know, in turn."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.applied: list[Roster] = []
        self.ahead = timedelta()
        self.authority: Authority = make_authority(now=datetime.now(UTC))
        self.apply_fails: Exception | None = None
        self.port = 0
        write_authorities(folder, Authorities((self.authority,)))
        self.enrolment = Enrolment(
            folder,
            where=lambda _: Endpoint("tls://control.lab:4222"),
            apply=self._apply,
            clock=self.now,
        )

    def now(self) -> datetime:
        """The control side's clock."""
        return datetime.now(UTC) + self.ahead

    @contextlib.asynccontextmanager
    async def served(self) -> AsyncIterator[EnrolListener]:
        listener = EnrolListener(Listen("127.0.0.1", self.port), self.enrolment, ["localhost"])
        running = asyncio.create_task(listener.run())
        ready = asyncio.create_task(listener.ready.wait())
        await asyncio.wait({running, ready}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if running.done():
            running.result()
        self.port = listener.port
        try:
            yield listener
        finally:
            listener.stop()
            await running

    def token(self, whom: Invited = GPU01, *, authority: str | None = None) -> TokenLine:
        secret = secrets.token_bytes(20)

        def step(roster: Roster) -> tuple[Roster, None]:
            return msgspec.structs.replace(
                roster, tokens=invited(roster.tokens, whom, secret, now=self.now())
            ), None

        change(self.folder, step)
        return TokenLine(secret, authority or self.authority.fingerprint, "127.0.0.1", self.port)

    @property
    def roster(self) -> Roster:
        return read_roster(self.folder)

    async def _apply(self, roster: Roster) -> None:
        if self.apply_fails is not None:
            raise self.apply_fails
        self.applied.append(roster)
