"""How a question to the stack is asked: how long an answer is waited for, and who hears that it takes long.

Owns the patience of a client and how an answer that is none reads; knows neither what is asked nor the way there.
"""

from __future__ import annotations

import asyncio
from typing import TypeVar

import msgspec

from trainshed_client import subjects
from trainshed_client.answers import error_in
from trainshed_client.callbacks import CallbackTasks
from trainshed_client.connection import (
    CALL_TIMEOUT_S,
    LATE_S,
    STARTING_RETRY_S,
    Connection,
    OnWaiting,
    Reply,
    answered_by,
    is_command,
)
from trainshed_client.errors import ErrorCode, TrainshedError, Unanswered
from trainshed_client.json_limits import MAX_DEPTH, json_value

T = TypeVar("T", bound=msgspec.Struct)

QUERIES = ("run.get", "run.list", "run.explain", "slot.list", "node.list", "audit.at", "health")


class Asking:
    """Asks over one connection.

    ``on_waiting`` hears of a service whose answer takes longer than some seconds, or that is still starting;
    ``patient``: one that is starting, or is there and does not answer a query, is waited for however long it takes.
    """

    def __init__(self, connection: Connection, *, on_waiting: OnWaiting | None, patient: bool) -> None:
        self._connection = connection
        self._patient = patient
        self._on_waiting: OnWaiting = on_waiting or (lambda service, why: None)
        self._calling = CallbackTasks()
        self._waited_for: set[str] = set()

    async def close(self) -> None:
        """End the callbacks that still run."""
        await self._calling.close()

    async def ask(self, call: str, request: object, answer: type[T]) -> T:
        """One call of the API, its answer decoded."""
        return decoded(await self.call(call, request), answer)

    async def call(self, call: str, request: object, *, timeout: float = CALL_TIMEOUT_S) -> bytes:
        """One call of the API (``run.submit`` and so on); its JSON answer undecoded.

        A gateway that is starting is asked again for as long as ``timeout``; see the class for patience.
        """
        tries = 2 if call in QUERIES else 1
        payload = msgspec.json.encode(json_value(request, max_depth=MAX_DEPTH + 2))
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while True:
            subject = subjects.api(call)
            try:
                answer = await self.request(subject, payload, timeout=timeout, tries=tries)
            except Unanswered:
                if call in QUERIES and self._patient:
                    continue
                raise
            error = error_in(answer.data)
            if error is None:
                return answer.data
            if error.progress is None or not (self._patient or is_command(subject)):
                raise error
            if loop.time() >= deadline and not self._patient:
                text = f"{error.message}. Nothing was done; ask again soon"
                raise TrainshedError(error.code, text, progress=error.progress)
            self.waits_for(answered_by(subject), error.message)
            await asyncio.sleep(STARTING_RETRY_S)

    async def request(
        self, subject: str, payload: bytes, *, timeout: float = CALL_TIMEOUT_S, tries: int = 1
    ) -> Reply:
        """One request, answered by any message. Raises UNAVAILABLE where nobody answers, TOO_LARGE for too much.

        ``tries``: so often it is asked within ``timeout``: of several that answer, one may be killed at its work.
        """
        service = answered_by(subject)
        late = asyncio.get_running_loop().call_later(
            LATE_S, self.waits_for, service, f"no answer for {LATE_S:g} s"
        )
        try:
            reply = await self._connection.request(subject, payload, timeout=timeout, tries=tries)
        finally:
            late.cancel()
        if service in self._waited_for and not _is_starting(reply):
            self._waited_for.discard(service)
            self._calling.start(self._on_waiting, service, None)
        return reply

    def waits_for(self, service: str, why: str) -> None:
        """Tell that an answer of this service is waited for."""
        self._waited_for.add(service)
        self._calling.start(self._on_waiting, service, why)


def _is_starting(reply: Reply) -> bool:
    error = error_in(reply.data)
    return error is not None and error.progress is not None


def decoded(body: bytes, kind: type[T]) -> T:
    """An answer's content. Raises UNAVAILABLE where this release does not understand it."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        raise TrainshedError(
            ErrorCode.UNAVAILABLE,
            f"the answer is none that this release understands ({error}); use the stack's own release",
        ) from None
