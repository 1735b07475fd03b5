"""The service `enrol`: the listener for those who join, and the call `cert.renew` for those who have.

Owns their life together, and that a name comes from the account alone; the rules are services.enrol.decisions'.
"""

from __future__ import annotations

from nats.aio.msg import Msg

from services.access.identities import NodeIdentity, Person, PersonRole
from services.api import ApiServer, Call
from services.callers import Caller, NodeCaller, PersonCaller
from services.enrol.enrolment import Enrolment
from services.enrol.listener import EnrolListener
from services.enrol.wire import MAX_REQUEST_BYTES, RENEW_CALL, RenewAnswer
from services.logging import get_logger
from services.requests import ApiRequest
from trainshed_client import subjects
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.nats_client import SafeClient
from trainshed_client.os_errors import cause
from trainshed_client.subjects import Role, Scope

_log = get_logger("enrol")

REMOVALS = f"{subjects.LOG}.{Scope.NODE}.*.{Role.GATEWAY}.node_removed.*"
"""Where the log republishes that a node was removed."""


class CertRenewRequest(ApiRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What ``cert.renew`` takes. ``request``: a signing request; without it is answered whether a renewal is due.

    ``using``: the public key (SHA-256, hex) that the caller connects with now; his older ones count no more.
    """

    request: str | None = None
    using: str | None = None


class EnrolService:
    """A Service of both. The server must answer before it starts: whoever joins is let in by it at once."""

    name = "enrol"

    def __init__(self, nc: SafeClient, listener: EnrolListener, enrolment: Enrolment) -> None:
        self._nc = nc
        self._listener = listener
        self._enrolment = enrolment
        self.ready = listener.ready

    async def run(self) -> None:
        """See Service. Raises TrainshedError as the listener does."""
        calls = {RENEW_CALL: self._renew}
        async with ApiServer(self._nc, self.name, calls, max_bytes=MAX_REQUEST_BYTES):
            subscription = await self._nc.subscribe(REMOVALS, cb=self._hear_removal)
            try:
                await self._listener.run()
            finally:
                if self._nc.is_connected:
                    await subscription.unsubscribe()

    def stop(self) -> None:
        """See Service."""
        self._listener.stop()

    async def _hear_removal(self, msg: Msg) -> None:
        """A node was removed, says the log: stored events alone are republished."""
        try:
            await self._enrolment.removed(msg.subject.split(".")[3])
        except (TrainshedError, OSError) as error:
            _log.error(
                "a node that was removed could not be revoked", subject=msg.subject, error=cause(error)
            )

    async def _renew(self, call: Call) -> RenewAnswer:
        given = call.fields(CertRenewRequest)
        return await self._enrolment.renew(_member(call.caller), given["request"], given["using"])


def _member(caller: Caller) -> NodeIdentity | Person:
    """Who asks, by the account that the server vouches for. Raises TrainshedError (DENIED)."""
    match caller:
        case NodeCaller(node):
            return NodeIdentity(node)
        case PersonCaller(name):
            return Person(name, PersonRole.VIEWER)  # the roster has the role
        case _:
            raise TrainshedError(
                ErrorCode.DENIED,
                "a node or a person renews, by an account of its own; no other has a certificate by a token",
            )
