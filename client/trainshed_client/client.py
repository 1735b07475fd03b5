"""The connection class: how it is connected and closed; its calls are `CommandCalls`, `QueryCalls`, `FollowingCalls` and
`FileCalls`.

Owns which way leads to the stack; must not import nats before connecting.
"""

from __future__ import annotations

from collections.abc import Awaitable
from types import TracebackType
from typing import TYPE_CHECKING

from trainshed_client.commands import CommandCalls
from trainshed_client.endpoint import discover, worker_socket
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.file_calls import FileCalls
from trainshed_client.following import FollowingCalls

if TYPE_CHECKING:
    from typing_extensions import Self

    from trainshed_client.connection import OnWaiting
    from trainshed_client.nats_client import OnError, OnEvent, SafeClient
    from trainshed_client.sync import SyncTrainshed


class Trainshed(CommandCalls, FollowingCalls, FileCalls):
    """A connection to a stack: ``async with await Trainshed.connect() as trainshed: ...``.

    Every method raises `TrainshedError`: INVALID, NOT_FOUND, CONFLICT, DENIED, TOO_LARGE and TOO_MANY as the service says,
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
        wait: bool | float = False,
    ) -> Self:
        """Connect to ``nats_url``, else where ``TRAINSHED_NATS_URL``, ``NATS_URL`` or this machine's state folder say.

        Inside a worker, where none of these variables and no ``TRAINSHED_STATE_DIR`` is set, it is the stack that runs
        the worker: what is submitted bears the label ``parent``, and only such runs are there (docs/contracts/inside-a-worker.md).
        ``on_waiting`` hears of a service whose answer takes longer than some seconds, or that is still starting;
        ``patient``: one that is starting, does not know yet, or is there and does not answer a query, is waited for
        however long it takes.
        ``wait``: for so many seconds (True: for as long as it takes) a stack that is not up yet is waited for, of which
        ``on_waiting`` hears; an URL that is none, a host of no such name and credentials that are refused are told at once.
        Callbacks are plain functions or coroutine functions.

        Raises TrainshedError: INVALID for an URL that is none, DENIED for credentials, UNAVAILABLE where none answers.
        """
        if wait:
            from trainshed_client.awaited import awaited

            def again() -> Awaitable[Self]:
                return cls.connect(
                    nats_url,
                    name=name,
                    on_error=on_error,
                    on_disconnect=on_disconnect,
                    on_reconnect=on_reconnect,
                    on_waiting=on_waiting,
                    patient=patient,
                )

            return await awaited(again, on_waiting, None if wait is True else float(wait))
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

    @classmethod
    def sync(
        cls,
        nats_url: str | None = None,
        *,
        name: str = "trainshed-client",
        on_error: OnError | None = None,
        on_disconnect: OnEvent | None = None,
        on_reconnect: OnEvent | None = None,
        on_waiting: OnWaiting | None = None,
        patient: bool = False,
        wait: bool | float = False,
    ) -> SyncTrainshed:
        """Connect as `connect` does, for code that blocks: ``with Trainshed.sync() as trainshed: trainshed.submit(...)``.

        It has the same calls, each of which waits for its answer; what is followed is an iterator with a `close`. They are
        made on a thread of its own, so that it works inside a running event loop too, as in Jupyter.
        """
        from trainshed_client.sync import SyncTrainshed

        return SyncTrainshed(
            lambda: cls.connect(
                nats_url,
                name=name,
                on_error=on_error,
                on_disconnect=on_disconnect,
                on_reconnect=on_reconnect,
                on_waiting=on_waiting,
                patient=patient,
                wait=wait,
            )
        )

    def __repr__(self) -> str:
        return f"<Trainshed at {self.where}>"

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
