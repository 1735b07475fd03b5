"""The one way in which Trainshed's programs connect to NATS: a client that no message can kill.

Owns connection options and the hardening of nats-py; knows no subject.
Importing this costs about 0.1 s (nats-py), so the command line imports it only where it connects.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import nats.aio.client
import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from trainshed_client import subjects
from trainshed_client._compat_asyncio import finishes, heeding
from trainshed_client.callbacks import guarded
from trainshed_client.connect_errors import QuietLog, RefusedConnection, asks_for_tls, explained, unreachable
from trainshed_client.endpoint import Endpoint
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.loopback import refuse_open, refuse_open_server
from trainshed_client.nats_transport import SafeTransport
from trainshed_client.tls import client_context

CONNECT_TIMEOUT_S = 5.0
RECONNECT_WAIT_S = 0.25
PING_INTERVAL_S = 5
PING = b"PING\r\n"
_ACKS = subjects.ACKS.encode()

if TYPE_CHECKING:
    from typing_extensions import TypeAlias

    from trainshed_client.callbacks import Called

OnError: TypeAlias = "Called[[Exception]]"
OnEvent: TypeAlias = "Called[[]]"
Listener = Callable[[Msg], None]
RawListener = Callable[[bytes, bytes, bytes], None]
"""Takes a message's subject, its block of headers and its body as they came."""
Gate = Callable[[bytes, bytes], bool]
"""Takes a message's subject and reply subject as they came: whether anything more is done with it."""


class SafeClient(nats.aio.client.Client):
    """A nats-py client whose read loop survives what any other client may send.

    What nats-py 2.16 does: an exception in the handling of one message (a status line or a subject that is not
    UTF-8, a header block of eight bytes, a forged delivery subject) ends the read loop with one log line while
    ``is_connected`` stays true and no callback fires; any ``-ERR`` but a permission's closes the client for good.
    Nothing is sent to another machine without TLS, also where the server names it; certificates are read at each attempt.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__()
        self._endpoint = endpoint
        self.reconnect_hooks: set[Callable[[], None]] = set()
        """Called after each reconnection: readers whose consumer may be gone make it anew at once."""
        self._listeners: dict[int, Listener] = {}
        self._raw_listeners: dict[int, RawListener] = {}
        self._gates: dict[str, Gate] = {}
        self._answers_sid = 0
        self._written = False

    async def listen(self, subject: str, listener: Listener) -> Subscription:
        """Subscribe with a plain function, called while the socket is read: it must not block, and nothing is queued.

        nats-py's own way, a queue and a task for each subscription, costs each message another turn of the event loop.
        What a consumer delivers comes without its headers: nobody here reads them, and to parse them takes as long as all else.
        """

        async def early(msg: Msg) -> None:
            listener(msg)

        subscription = await self.subscribe(subject, cb=early)
        self._listeners[subscription._id] = listener
        return subscription

    async def listen_raw(self, subject: str, listener: RawListener) -> Subscription:
        """As `listen`, with headers that nobody has parsed: of what comes by the ten thousand that takes as long as all else."""

        async def early(msg: Msg) -> None:
            raise nats.errors.Error("nats: heard before its listener was there")

        subscription = await self.subscribe(subject, cb=early)
        self._raw_listeners[subscription._id] = listener
        return subscription

    def put_gate(self, subject: str, gate: Gate) -> None:
        """Have every message of the subscriptions to ``subject`` asked about while the socket is read, before its headers
        are: what is not let through costs next to nothing, however many of them come. It must not block."""
        self._gates[subject] = gate

    def remove_gate(self, subject: str) -> None:
        """Let everything through again."""
        self._gates.pop(subject, None)

    @property
    def ssl_context(self) -> ssl.SSLContext:
        """Made anew for each attempt, of the files as they are then."""
        try:
            if not self._endpoint.tls:
                raise TrainshedError(ErrorCode.INVALID, asks_for_tls(self._endpoint))
            return client_context(self._endpoint, now=time.time())
        except TrainshedError as refusal:
            raise RefusedConnection(refusal) from None

    async def _connect_to_server(self, s: nats.aio.client.Srv) -> None:
        """As nats-py's, over a transport of ours, and to no other machine without TLS."""
        s.last_attempt = time.monotonic()
        try:
            refuse_open_server(s.uri.geturl())
        except TrainshedError as refusal:
            raise RefusedConnection(refusal) from None
        if not isinstance(self._transport, SafeTransport):
            self._transport = SafeTransport()  # type: ignore[no-untyped-call]
        await self._transport.connect(
            s.uri,
            buffer_size=nats.aio.client.DEFAULT_BUFFER_SIZE,
            connect_timeout=self.options["connect_timeout"],
        )

    async def request(self, *args: Any, **options: Any) -> Msg:
        """As nats-py's, and a cancellation is never lost."""
        return await heeding(super().request(*args, **options))

    async def flush(self, *args: Any, **options: Any) -> None:
        """As nats-py's, and a cancellation is never lost."""
        await heeding(super().flush(*args, **options))

    async def _init_request_sub(self) -> None:
        """Answers to requests are handed to whoever waits while the socket is read, as in :meth:`listen`."""
        await super()._init_request_sub()
        self._answers_sid = max(self._subs)

    async def _flush_pending(self, force_flush: bool = False) -> Any:
        """Write the first thing of each turn of the event loop at once, and leave the rest of that turn to the flusher.

        What is published alone leaves a turn earlier; what is published together still leaves together.
        """
        writer = getattr(self._transport, "_io_writer", None)  # a WebSocket has none
        if self._written or force_flush or not self.is_connected or writer is None:
            return await super()._flush_pending(force_flush)
        if writer.transport.get_write_buffer_size():  # the server does not keep up: the flusher waits for it
            return await super()._flush_pending(force_flush)
        self._written = True
        asyncio.get_running_loop().call_soon(self._next_turn)
        writer.writelines(self._pending)
        self._pending = []
        self._pending_data_size = 0
        return None

    def _next_turn(self) -> None:
        self._written = False

    async def _process_headers(self, headers: Any) -> dict[str, str] | None:
        """Headers that cannot be read count as none; the message is still handed on, so that it can be answered."""
        try:
            return await super()._process_headers(headers)
        except (ValueError, IndexError) as error:
            await self._error_cb(nats.errors.Error(f"nats: a message's headers cannot be read ({error})"))
            return None

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        """A subject that is not UTF-8 is handed on with U+FFFD in it: a stream's reader must get past what is stored.

        A message that cannot be handed on at all is dropped and logged; the parser is past it already.
        """
        if self._gates and (sub := self._subs.get(sid)) is not None:
            gate = self._gates.get(sub.subject)
            try:
                if gate is not None and not gate(subject, reply):
                    return
            except Exception as error:  # noqa: BLE001  # as below
                what = f"nats: dropped a message on {subject[:200]!r} ({type(error).__name__}: {error})"
                await self._error_cb(nats.errors.Error(what))
                return
        if (raw := self._raw_listeners.get(sid)) is not None:
            try:
                if sid in self._subs:
                    raw(subject, headers, data)
                else:
                    del self._raw_listeners[sid]
            except Exception as error:  # noqa: BLE001  # as below
                what = f"nats: dropped a message on {subject[:200]!r} ({type(error).__name__}: {error})"
                await self._error_cb(nats.errors.Error(what))
            return
        try:
            subject.decode()
        except UnicodeDecodeError:
            await self._error_cb(nats.errors.Error(f"nats: a subject is not UTF-8 ({subject[:200]!r})"))
            subject = subject.decode(errors="replace").encode()
        listener = self._listeners.get(sid)
        try:
            if listener is not None:
                if sid in self._subs:
                    delivered = reply.startswith(_ACKS)
                    headers_read = None if delivered else await self._process_headers(headers)
                    listener(self._build_message(sid, subject, reply, data, headers_read))
                else:
                    del self._listeners[sid]
            elif sid == self._answers_sid:
                headers_read = await self._process_headers(headers)
                await self._request_sub_callback(self._build_message(sid, subject, reply, data, headers_read))
            else:
                await super()._process_msg(sid, subject, reply, data, headers)
        except Exception as error:  # noqa: BLE001  # whatever it is, the next message must be read
            what = f"nats: dropped a message on {subject[:200]!r} ({type(error).__name__}: {error})"
            await self._error_cb(nats.errors.Error(what))

    async def _process_err(self, err_msg: str) -> None:
        """The server's -ERR is logged. Where the server hangs up after it, the end of file reconnects."""
        self._err = nats.errors.Error(f"nats: {err_msg.strip(chr(39))}")
        await self._error_cb(self._err)

    async def _read_loop(self) -> None:
        """Whatever else may end the loop: a client without one is not connected, so connect anew."""
        await heeding(super()._read_loop())
        if self.is_connected:
            error = nats.errors.Error("nats: the read loop ended")
            await self._error_cb(error)
            await self._process_op_err(error)

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        """Closing while nats-py reconnects raises a CancelledError meant for its own task: that ends here.

        So does what could not be sent any more, at which nats-py would stop with its socket open.
        """
        try:
            closed = await finishes(super()._close(status, do_cbs))
        except OSError:
            self._pending, self._pending_data_size = [], 0
            self._status = self.DISCONNECTED
            closed = await finishes(super()._close(status, do_cbs))
        if not closed:
            self._status = status
            for callback in (self._disconnected_cb, self._closed_cb) if do_cbs else ():
                if callback is not None:
                    await callback()

    async def _send_ping(self, future: asyncio.Future[Any] | None = None) -> None:
        """A PING that waits its turn: nats-py writes it past what is pending, so that a flush would prove nothing."""
        self._pongs.append(future if future is not None else asyncio.Future())
        await self._send_command(PING)
        await self._flush_pending()

    async def _process_pong(self) -> None:
        """An answer to a flush that has given up is nobody's: nats-py would end the read loop on it."""
        if self._pongs and self._pongs[0].done():
            self._pongs[0] = asyncio.Future()
        await super()._process_pong()

    async def abandon(self) -> None:
        """Close without callbacks: nobody knows of this connection."""
        await self._close(self.CLOSED, False)


async def connect(
    endpoint: Endpoint,
    *,
    name: str,
    forever: bool = False,
    within_s: float = CONNECT_TIMEOUT_S,
    on_error: OnError | None = None,
    on_disconnect: OnEvent | None = None,
    on_reconnect: OnEvent | None = None,
    on_closed: OnEvent | None = None,
) -> SafeClient:
    """Connect; a connection that is lost later is made anew for ever, and subscriptions with it.

    ``name`` is what the server's monitoring shows. ``forever``: wait for the server (a service); otherwise every
    server of the endpoint is tried once and the first connection counts, ``within_s`` seconds at most. ``on_error``
    is called with every asynchronous error; by default each is logged without a traceback, a repeated
    one at most every 30 s. Callbacks are plain functions or coroutine functions; one that raises is logged. Raises
    `TrainshedError`: UNAVAILABLE, DENIED where the server refuses the credentials or is not trusted, INVALID for another
    machine without TLS and for certificates that cannot be used.
    """
    refuse_open(endpoint)
    if endpoint.tls:
        client_context(endpoint, now=time.time())
    client = SafeClient(endpoint)
    loop = asyncio.get_running_loop()
    first_try: asyncio.Future[Exception] = loop.create_future()
    report = guarded(on_error or QuietLog(name))
    back = asyncio.Event()
    failures = 0

    async def error_cb(error: Exception) -> None:
        nonlocal failures
        if client.is_closed and isinstance(error, nats.errors.ConnectionClosedError):
            return  # our own close: a callback was about to acknowledge
        failures += 1
        if forever or client_ready:
            await report(explained(endpoint, error))
        elif failures >= len(endpoint.servers) and not first_try.done():
            first_try.set_result(error)

    async def reconnected_cb() -> None:
        back.set()
        for hook in tuple(client.reconnect_hooks):
            hook()
        if on_reconnect is not None:
            await guarded(on_reconnect)()

    client_ready = False
    connecting = loop.create_task(
        client.connect(
            servers=endpoint.servers,
            name=name,
            user=endpoint.user,
            password=endpoint.password,
            error_cb=error_cb,
            disconnected_cb=None if on_disconnect is None else guarded(on_disconnect),
            reconnected_cb=reconnected_cb,
            closed_cb=None if on_closed is None else guarded(on_closed),
            allow_reconnect=True,
            max_reconnect_attempts=-1,
            reconnect_time_wait=RECONNECT_WAIT_S,  # type: ignore[arg-type]  # a float works
            connect_timeout=CONNECT_TIMEOUT_S if forever else within_s,  # type: ignore[arg-type]
            ping_interval=PING_INTERVAL_S,
            max_outstanding_pings=2,
            tls_handshake_first=endpoint.tls,
            inbox_prefix=endpoint.inbox_prefix or nats.aio.client.DEFAULT_INBOX_PREFIX,
        )
    )
    try:
        either: set[asyncio.Future[Any]] = {connecting, first_try}
        await asyncio.wait(
            either,
            timeout=None if forever else within_s,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if connecting.done():
            connecting.result()
            # nats-py takes a server that hangs up during the handshake for a connected one, then reconnects.
            if forever and not client.is_connected:
                await back.wait()
            if client.is_connected:
                client_ready = True
                return client
            raise unreachable(endpoint, nats.errors.Error("nats: the server hung up"))
        raise unreachable(endpoint, first_try.result() if first_try.done() else TimeoutError())
    except (OSError, nats.errors.Error) as error:
        raise unreachable(endpoint, error) from None
    finally:
        if not client_ready:
            await _abandon(client, connecting)


async def _abandon(client: SafeClient, connecting: asyncio.Task[None]) -> None:
    """Leave no task and no socket of an attempt to connect behind."""
    while not connecting.done():
        connecting.cancel()  # again: Python 3.11's wait_for may swallow one
        await asyncio.wait({connecting}, timeout=0.1)
    if not connecting.cancelled():
        connecting.exception()  # logged already
    await client.abandon()
