"""Serving calls on NATS: discovery by nats.micro, a task for each request, errors as the API spells them.

Owns how a request is read, whether it is taken and how an answer goes out; knows none of the calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Self

import msgspec
import nats.errors
from nats.micro.request import Request
from nats.micro.service import EndpointConfig, Service, ServiceConfig

from events.config_text import parse_json
from services.admission import AccountLine, Admission, Taking
from services.callers import Caller, PersonCaller, WorkerCaller, asking, stored_as
from services.logging import get_logger
from services.parent import CALLS as WORKERS_CALLS
from services.people import Everybody, People, rights_of
from services.requests import ApiRequest, json_types
from services.version import VERSION
from trainshed_client import subjects
from trainshed_client.errors import ErrorCode, Refusals, TrainshedError
from trainshed_client.json_limits import MAX_DEPTH, cut
from trainshed_client.nats_client import SafeClient
from trainshed_client.os_errors import cause

_log = get_logger("api")

KNOWN_WITHIN_S = 3.0
"""So long a person whom the server let in is waited for who is not on the roster: it is looked at each second."""
_LOOK_EVERY_S = 0.05
END_S = 0.5
"""Seconds to tell the server that a service ends: nats-py waits 10 for each of its endpoints."""


class Call(msgspec.Struct, frozen=True):
    """One request: the JSON that was sent and who the server says is asking.

    ``wrong``: what in the text of the request no JSON may have, for who takes ``body`` itself to tell together with all
    else that is wrong.
    """

    body: Any
    caller: Caller
    wrong: TrainshedError | None = None

    @property
    def by(self) -> str:
        """Who asks, as events bear it."""
        return stored_as(self.caller)

    @property
    def parent(self) -> str | None:
        """The run whose worker asks, by its agent; None where it is no worker."""
        return self.caller.run_id if isinstance(self.caller, WorkerCaller) else None

    def fields(self, kind: type[ApiRequest]) -> dict[str, Any]:
        """The request's fields, each checked against its type in ``kind``; a field of another name is refused.

        A field may be left out and is None then. Raises TrainshedError that names the field.
        """
        if self.wrong is not None:
            raise self.wrong
        return self.typed_fields(kind)

    def typed_fields(self, kind: type[ApiRequest]) -> dict[str, Any]:
        """The same, for who heeds ``wrong`` himself."""
        types = json_types(kind)
        if not isinstance(self.body, dict):
            raise TrainshedError(ErrorCode.INVALID, "the request must be a JSON object")
        for name, value in self.body.items():
            if name not in types:
                known = ", ".join(sorted(types))
                raise TrainshedError(ErrorCode.INVALID, f"unknown field; known: {known}", cut(str(name)))
            if value is not None and (
                not isinstance(value, types[name]) or (isinstance(value, bool) and types[name] is not bool)
            ):
                wanted = types[name].__name__
                raise TrainshedError(ErrorCode.INVALID, f"must be {wanted}, not {value!r:.60}", name)
        return {name: self.body.get(name) for name in types}


Handler = Callable[[Call], Awaitable[object]]
"""What it returns is the answer; an async iterator of bytes is answered in as many messages."""


async def begin_service(nc: SafeClient, config: ServiceConfig) -> Service:
    """A service that takes requests. A server that stands still is not waited for: it hears of us when it goes on."""
    service = Service(nc, config)
    with contextlib.suppress(nats.errors.FlushTimeoutError):
        await service.start()
    return service


async def end_service(nc: SafeClient, service: Service) -> None:
    """Take no new requests. A server that does not answer is not waited for: the connection is closed soon after."""
    if not nc.is_connected:
        return
    try:
        async with asyncio.timeout(END_S):
            await service.stop()
    except (TimeoutError, nats.errors.Error) as error:
        _log.debug("service stop", error=cause(error))


class ApiServer:
    """Serves calls at ``trainshed.api.<call>`` and ``trainshed.api.u.<account>.<call>``; an async context manager.

    At the latter, each account has a line of its own (`services.admission`): what is too many is refused or dropped while the
    socket is read. Leaving it takes no new requests, answers those under way and ends.
    """

    def __init__(
        self,
        nc: SafeClient,
        name: str,
        calls: Mapping[str, Handler],
        *,
        max_bytes: int,
        people: People | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._nc = nc
        self._name = name
        self._calls = calls
        self._max_bytes = max_bytes
        self._people = people or Everybody()
        self._admission = Admission(self._people, clock)
        self._tasks = asyncio.TaskGroup()
        self._service: Service | None = None
        self._gated: list[str] = []

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        config = ServiceConfig(name=self._name, version=VERSION, description=f"Trainshed's {self._name}")
        self._service = await begin_service(self._nc, config)
        for call, handler in self._calls.items():
            name = call.replace(".", "-")
            served = [("", subjects.api(call)), ("-as", subjects.api_as(call))]
            if call in WORKERS_CALLS:
                served += [("-for", subjects.api_for("*", call)), ("-as-for", subjects.api_as_for(call))]
            for suffix, subject in served:
                if suffix.startswith("-as"):
                    self._nc.put_gate(subject, self._is_taken)
                    self._gated.append(subject)
                await self._service.add_endpoint(
                    EndpointConfig(name=name + suffix, subject=subject, handler=self._receiver(call, handler))
                )
        with contextlib.suppress(nats.errors.FlushTimeoutError):
            await self._nc.flush()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._service is not None:
            await end_service(self._nc, self._service)
        await self._tasks.__aexit__(kind, error, trace)
        for subject in self._gated:
            self._nc.remove_gate(subject)

    def _is_taken(self, subject: bytes, reply: bytes) -> bool:
        """Called for each request of an account before anything else of it is looked at."""
        account = subject.split(b".", 4)[3].decode(errors="replace")
        admitted = self._admission.take(account)
        if admitted is Taking.TAKEN:
            return True
        if admitted is Taking.REFUSED:
            respond = partial(self._nc.publish, reply.decode(errors="replace"))
            self._tasks.create_task(self._refuse(account, respond))
        return False

    async def _refuse(self, account: str, respond: Callable[[bytes], Awaitable[None]]) -> None:
        """Answer one that is too many; in the log an account is named now and then."""
        if (dropped := self._admission.dropped_of(account)) is not None:
            _log.warning("more requests than are taken", account=account, dropped=dropped)
        with contextlib.suppress(nats.errors.Error, ValueError):  # as where it awaits no answer
            await respond(msgspec.json.encode(error_answer(self._admission.refusal(account))))

    def _receiver(self, call: str, handler: Handler) -> Callable[[Request], Awaitable[None]]:
        async def receive(request: Request) -> None:
            # an endpoint runs one handler at a time: a task each lets a slow request hold up nobody
            account = _account(request.subject)
            if account is None:
                self._tasks.create_task(self._answer(call, handler, request))
                return
            line, size = self._admission.line(account), len(request.data)
            if line.has_room(size):
                line.begin(size)
                self._tasks.create_task(self._answer_in(line, call, handler, request))
            elif self._admission.refuse(account) is Taking.REFUSED:
                self._tasks.create_task(self._refuse(account, request.respond))

        return receive

    async def _answer_in(self, line: AccountLine, call: str, handler: Handler, request: Request) -> None:
        """Answer when it is its turn in this account's line; those of other accounts do not wait for that."""
        try:
            async with line.at_work:
                if (pause_s := self._admission.turn(line)) > 0:
                    await asyncio.sleep(pause_s)
                await self._answer(call, handler, request)
        finally:
            line.end(len(request.data))

    async def _answer(self, call: str, handler: Handler, request: Request) -> None:
        try:
            caller = asking(request.subject)
            await self._require_known(caller)
            refused = Refusals()
            body = self._body(request, refused)
            answer = await handler(Call(body, caller, refused.error))
        except TrainshedError as error:
            answer = error_answer(error)
        except Exception:  # noqa: BLE001 — whatever it is, the caller gets an answer and the log the trace
            _log.exception("a request failed", call=call)
            answer = error_answer(
                TrainshedError(ErrorCode.UNAVAILABLE, f"{call} failed here; see the service's log")
            )
        try:
            if isinstance(answer, AsyncIterator):
                await self._respond_in_parts(call, answer, request)
            else:
                await request.respond(msgspec.json.encode(answer))
        except (nats.errors.Error, ValueError, TypeError) as error:  # gone, too large, or not to be encoded
            _log.warning("an answer could not be sent", call=call, error=str(error))

    async def _require_known(self, caller: Caller) -> None:
        """Whom the server lets in, the roster has: one who has just joined is waited for until it was looked at again, and one
        who was revoked may have a connection for a moment longer. Raises DENIED."""
        if not isinstance(caller, PersonCaller):
            return
        loop = asyncio.get_running_loop()
        give_up = loop.time() + KNOWN_WITHIN_S
        while rights_of(self._people, caller.name) is None:
            if loop.time() < give_up:
                await asyncio.sleep(_LOOK_EVERY_S)
                continue
            raise TrainshedError(
                ErrorCode.DENIED,
                f"{caller.name} is not enrolled any more; an admin can change that: "
                f"trainshed user add {caller.name} --role ROLE",
            )

    async def _respond_in_parts(self, call: str, parts: AsyncIterator[bytes], request: Request) -> None:
        """Send an answer of many messages, each as it stands, as fast as the server takes them."""
        try:
            async for part in parts:
                await request.respond(part)
                await self._nc.flush()
        except nats.errors.Error:
            raise
        except TrainshedError as error:
            await request.respond(msgspec.json.encode(error_answer(error)))
        except Exception:  # noqa: BLE001 — as in _answer
            _log.exception("a request failed", call=call)
            failed = TrainshedError(ErrorCode.UNAVAILABLE, f"{call} failed here; see the service's log")
            await request.respond(msgspec.json.encode(error_answer(failed)))

    def _body(self, request: Request, refused: Refusals) -> object:
        if not request.data:
            return {}
        depth = MAX_DEPTH + 2
        return parse_json(request.data, max_bytes=self._max_bytes, max_depth=depth, refused=refused)


def _account(subject: str) -> str | None:
    """The account that asks at this subject; None within the control account."""
    match subject.split(".", 4):
        case [_, _, "u", account, _]:
            return account
        case _:
            return None


def error_answer(error: TrainshedError) -> dict[str, Any]:
    """An error as the API spells it."""
    body: dict[str, Any] = {"code": error.code, "message": error.message}
    if error.path is not None:
        body["path"] = error.path
    if len(error.errors) > 1:
        body["errors"] = [
            {"message": message} if path is None else {"path": path, "message": message}
            for path, message in error.errors
        ]
    if error.progress is not None:
        body["progress"] = error.progress
    if error.more:
        body["more"] = error.more
    return {"error": body}
