"""What every group of the connection class's methods is made of: a connection, and how a call of the API is made.

Owns these two; knows no call by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainshed_client.asking import Asking
from trainshed_client.connection import CALL_TIMEOUT_S, Connection, Reply

if TYPE_CHECKING:
    from trainshed_client.connection import OnWaiting


class Calls:
    """Calls over one connection; see `trainshed_client.Trainshed`."""

    def __init__(
        self, connection: Connection, *, on_waiting: OnWaiting | None = None, patient: bool = False
    ) -> None:
        self.connection = connection
        self._patient = patient
        self._asking = Asking(connection, on_waiting=on_waiting, patient=patient)

    @property
    def where(self) -> str:
        """What answers: a server's URL, or inside a worker the path of its socket."""
        return self.connection.where

    async def call(self, call: str, request: object, *, timeout: float = CALL_TIMEOUT_S) -> bytes:
        """One call of the API (``run.submit`` and so on); its JSON answer undecoded.

        A gateway that is starting is asked again for as long as ``timeout``; for what is patient see `connect`.
        """
        return await self._asking.call(call, request, timeout=timeout)

    async def request(
        self, subject: str, payload: bytes, *, timeout: float = CALL_TIMEOUT_S, tries: int = 1
    ) -> Reply:
        """One request, answered by any message. Raises UNAVAILABLE where nobody answers, TOO_LARGE for too much.

        ``tries``: so often it is asked within ``timeout``: of several that answer, one may be killed at its work.
        """
        return await self._asking.request(subject, payload, timeout=timeout, tries=tries)


def then(request: dict[str, object], at: int | None) -> dict[str, object]:
    """A query of a moment of the past, where one is named."""
    return request if at is None else {**request, "at": at}
