"""The connection class: how it is connected and closed; its calls are `CommandCalls`, `QueryCalls` and `FollowingCalls`.

Owns which way leads to the stack; must not import nats before connecting.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from trainshed_client.commands import CommandCalls
from trainshed_client.endpoint import discover, worker_socket
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.following import FollowingCalls

if TYPE_CHECKING:
    from typing_extensions import Self

    from trainshed_client.connection import OnWaiting
    from trainshed_client.nats_client import OnError, OnEvent, SafeClient


class Trainshed(CommandCalls, FollowingCalls):
    """A connection to a stack: ``async with await Trainshed.connect() as trainshed: ...``.

    Every method raises `TrainshedError`: INVALID, NOT_FOUND, CONFLICT, DENIED and TOO_LARGE as the service says,
    UNAVAILABLE where none answers. Where a call takes a run it may be named by its id, its
    name, or a unique prefix of either. ``at``, where a query takes it, is a sequence of the log (`moment` finds that of
    a time): the answer is what was true there, without what heartbeats told of what was live then. A connection that is
    lost is made anew for ever.
    """

    @property
    def nc(self) -> SafeClient:
        """The NATS connection. Raises DENIED inside a worker, where there is none."""
        from trainshed_client.nats_connection import NatsConnection

        if isinstance(self.connection, NatsConnection):
            return self.connection.nc
        raise TrainshedError(
            ErrorCode.DENIED,
            "inside a worker there are the runs that it submitted, and no more of the stack; "
            "to reach all of it name it: --nats URL",
        )

    @classmethod
    async def connect(
        cls,
        nats_url: str | None = None,
        *,
        name: str = "trainshed-client",
        on_error: OnError | None = None,
        on_disconnect: OnEvent | None = None,
        on_reconnect: OnEvent | None = None,
        on_waiting: OnWaiting | None = None,
        patient: bool = False,
    ) -> Self:
        """Connect to ``nats_url``, else where ``TRAINSHED_NATS_URL``, ``NATS_URL`` or this machine's state folder say.

        Inside a worker, where none of these variables and no ``TRAINSHED_STATE_DIR`` is set, it is the stack that runs
        the worker: what is submitted bears the label ``parent``, and only such runs are there (docs/contracts/inside-a-worker.md).
        ``on_waiting`` hears of a service whose answer takes longer than some seconds, or that is still starting;
        ``patient``: one that is starting, does not know yet, or is there and does not answer a query, is waited for
        however long it takes.
        Callbacks are plain functions or coroutine functions.
        """
        if (path := worker_socket(nats_url)) is not None:
            from trainshed_client.worker_socket import WorkerSocket

            return cls(WorkerSocket(path), on_waiting=on_waiting, patient=patient)
        endpoint = discover(nats_url)
        from trainshed_client.nats_client import connect  # costs 0.1 s, so not before it is needed
        from trainshed_client.nats_connection import NatsConnection

        nc = await connect(
            endpoint, name=name, on_error=on_error, on_disconnect=on_disconnect, on_reconnect=on_reconnect
        )
        return cls(NatsConnection(nc, endpoint.url), on_waiting=on_waiting, patient=patient)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; what was asked for and not answered yet fails."""
        await self.watching.close()
        await self._asking.close()
        await self.connection.close()
