"""No message, no outage and no wrong address can leave a client hanging or silently dead."""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import signal
from collections.abc import Awaitable, Callable

import nats
import nats.aio.client
import pytest

from tests.support import NatsServer, RawNats, eventually
from trainshed_client.endpoint import Endpoint, parse_url
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.nats_client import SafeClient, connect

# Subject and header block of messages that end the read loop of a plain nats-py 2.16 client.
POISON = [
    pytest.param(b"poison.x", b"NATS/1.0 \xff\xfe\xfd\r\n\r\n", id="status-not-utf8"),
    pytest.param(b"poison.x", b"NATS/1.0 503 \xff\xfe\r\n\r\n", id="description-not-utf8"),
    pytest.param(b"poison.x", b"NATS/1.0", id="eight-bytes"),
    pytest.param(b"poison.\xff\xfe", b"", id="subject-not-utf8"),
]


async def the_next_message_arrives(client: SafeClient, server: NatsServer) -> bool:
    """Whether a subscriber still hears another client."""
    heard = await client.subscribe("after")
    await client.flush()
    await (await server.client("sender")).publish("after", b"1")
    return (await heard.next_msg(timeout=5)).data == b"1"


@pytest.mark.parametrize(("subject", "headers"), POISON)
async def test_a_plain_client_dies_of_this_message_and_believes_itself_connected(
    nats_server: NatsServer, subject: bytes, headers: bytes
) -> None:
    endpoint = nats_server.endpoint
    client = await nats.connect(endpoint.url, user=endpoint.user, password=endpoint.password)
    try:
        await client.subscribe("poison.*", cb=_ignore)
        await client.flush()
        async with RawNats(endpoint) as raw:
            await raw.publish(subject, b"x", headers=headers)
        reading = client._reading_task
        assert reading is not None
        await eventually(reading.done)
        assert client.is_connected
    finally:
        await client.close()


@pytest.mark.parametrize(("subject", "headers"), POISON)
async def test_a_safe_client_survives_it_and_tells_of_it(
    nats_server: NatsServer, subject: bytes, headers: bytes
) -> None:
    errors: list[Exception] = []
    client = await connect(nats_server.endpoint, name="victim", on_error=errors.append)
    try:
        heard = await client.subscribe("poison.*")
        await client.flush()
        async with RawNats(nats_server.endpoint) as raw:
            await raw.publish(subject, b"x", headers=headers)
            await raw.publish(b"poison.good", b"good", headers=b"NATS/1.0\r\nA: b\r\n\r\n")
        # delivered, but without headers and with U+FFFD in its subject: a service can answer, a reader can count it
        messages = [await heard.next_msg(timeout=5) for _ in range(2)]
        assert messages[0].data == b"x"
        assert not messages[0].headers
        assert messages[0].subject == subject.decode(errors="replace")
        assert messages[-1].data == b"good"
        assert messages[-1].headers == {"A": "b"}
        assert await the_next_message_arrives(client, nats_server)
        assert len(errors) == 1
        assert client.stats["reconnects"] == 0
    finally:
        await client.close()


async def test_a_forged_delivery_does_not_kill_a_reader_of_the_log(nats_server: NatsServer) -> None:
    errors: list[Exception] = []
    client = await connect(nats_server.endpoint, name="victim", on_error=errors.append)
    try:
        log = client.jetstream()
        await log.add_stream(name="S", subjects=["s.>"])
        reader = await log.subscribe("s.>", ordered_consumer=True)
        async with RawNats(nats_server.endpoint) as raw:
            await raw.publish(reader.subject.encode(), b"forged", reply=b"not.an.ack")
        await log.publish("s.1", b"true")
        messages = [await reader.next_msg(timeout=5)]
        if messages[0].data == b"forged":
            messages.append(await reader.next_msg(timeout=5))
        assert messages[-1].data == b"true"
        assert client.stats["reconnects"] == 0
        assert [str(error) for error in errors if "dropped a message" in str(error)]
    finally:
        await client.close()


async def test_a_read_loop_that_ends_for_any_other_reason_reconnects(nats_server: NatsServer) -> None:
    client = await nats_server.client()
    heard = await client.subscribe("still.there")
    parser = client._ps

    async def broken(data: bytes = b"") -> None:
        del parser.parse  # once only
        raise KeyError("a bug of the parser")

    parser.parse = broken  # type: ignore[method-assign]
    await client.publish("still.there", b"lost")
    await eventually(lambda: client.stats["reconnects"] == 1 and client.is_connected)
    await client.publish("still.there", b"2")
    assert (await heard.next_msg(timeout=5)).data == b"2"


async def test_a_lost_server_is_found_again_with_all_subscriptions(nats_server: NatsServer) -> None:
    told: list[str] = []

    async def lost() -> None:
        told.append("lost")

    async def back() -> None:
        told.append("back")

    client = await connect(
        nats_server.endpoint,
        name="t",
        on_error=lambda error: None,
        on_disconnect=lost,
        on_reconnect=back,
    )
    try:
        heard = await client.subscribe("x")
        await client.flush()
        os.kill(nats_server.pid, signal.SIGKILL)
        assert await nats_server.embedded.wait() == "ended by SIGKILL"
        await eventually(lambda: told == ["lost"])
        await nats_server.embedded.start()
        await eventually(lambda: told == ["lost", "back"])
        await (await nats_server.client()).publish("x", b"1")
        assert (await heard.next_msg(timeout=5)).data == b"1"
    finally:
        await client.close()


class Callbacks:
    """Hear the connection as plain functions, as coroutine functions, as objects, or by failing at each."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def plain(self, event: str) -> Callable[..., None]:
        return lambda *_: self.heard.append(event)

    def awaited(self, event: str) -> Callable[..., Awaitable[None]]:
        async def hear(*_: object) -> None:
            await asyncio.sleep(0)
            self.heard.append(event)

        return hear

    def partial(self, event: str) -> Callable[..., Awaitable[None]]:
        return functools.partial(self.awaited(event))

    def failing(self, event: str) -> Callable[..., None]:
        def hear(*_: object) -> None:
            self.heard.append(event)
            raise RuntimeError("a fault of the caller's own")

        return hear


@pytest.mark.parametrize("kind", ["plain", "awaited", "partial", "failing"])
async def test_callbacks_are_plain_functions_or_coroutine_functions_and_may_fail(
    kind: str, nats_server: NatsServer
) -> None:
    callbacks = Callbacks()
    of_kind = getattr(callbacks, kind)
    client = await connect(
        nats_server.endpoint,
        name="t",
        on_error=of_kind("error"),
        on_disconnect=of_kind("lost"),
        on_reconnect=of_kind("back"),
        on_closed=of_kind("closed"),
    )
    try:
        await nats_server.restart()
        await eventually(lambda: {"lost", "error", "back"} <= set(callbacks.heard))
        assert await the_next_message_arrives(client, nats_server)
    finally:
        await client.close()
    assert callbacks.heard[-1] == "closed"


async def test_an_error_line_of_the_server_does_not_end_the_client_for_good(nats_server: NatsServer) -> None:
    errors: list[Exception] = []
    client = await connect(nats_server.endpoint, name="t", on_error=errors.append)
    try:
        await client._send_command(b"NONSENSE\r\n")
        await client._flush_pending()
        await eventually(lambda: client.stats["reconnects"] == 1 and client.is_connected)
        assert "unknown protocol" in str(errors[0]).lower()
        assert await the_next_message_arrives(client, nats_server)
    finally:
        await client.close()


async def test_nobody_there_is_said_at_once_with_the_command_to_try(unused_tcp_port: int) -> None:
    endpoint = Endpoint(f"nats://127.0.0.1:{unused_tcp_port}", "sam", "hush")
    with pytest.raises(TrainshedError) as refused:
        await connect(endpoint, name="t", within_s=60)  # not after 60 s: the test's own time-out is 120
    assert refused.value.code is ErrorCode.UNAVAILABLE
    assert refused.value.exit_code == 3
    assert refused.value.message == (
        f"no Trainshed answers at nats://127.0.0.1:{unused_tcp_port} (connection refused). "
        "Start one here: trainshed up. Or name another: --nats tls://HOST:4222"
    )
    _no_task_is_left()


async def test_a_server_that_says_nothing_is_given_up_in_time() -> None:
    async with _listener(lambda writer: None) as endpoint:
        with pytest.raises(TrainshedError, match=r"no Trainshed answers at .* \(no answer in time\)"):
            await connect(endpoint, name="t", within_s=0.1)
    _no_task_is_left()


async def test_a_program_that_is_no_nats_server_is_told_from_one() -> None:
    async with _listener(lambda writer: writer.write(b"HTTP/1.1 400 Bad Request\r\n")) as endpoint:
        with pytest.raises(
            TrainshedError, match="no Trainshed answers at .*no greeting of a NATS server"
        ) as refused:
            await connect(endpoint, name="t")
        assert refused.value.code is ErrorCode.UNAVAILABLE
    _no_task_is_left()


async def test_a_server_that_hangs_up_after_the_handshake_is_no_connection() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","max_payload":1048576}\r\n')
        await reader.readuntil(b"PING\r\n")
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    with pytest.raises(TrainshedError, match=r"no Trainshed answers at .* \(the server hung up\)"):
        await connect(Endpoint(f"nats://{host}:{port}"), name="t")
    server.close()
    _no_task_is_left()


async def test_a_service_takes_a_hang_up_in_the_handshake_for_one_more_failed_try(
    nats_server: NatsServer,
) -> None:
    endpoint = nats_server.endpoint
    host, _, port = endpoint.url.removeprefix("nats://").partition(":")
    calls = 0
    pipes: list[asyncio.Task[None]] = []

    async def first_hang_up_then_pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            writer.write(b'INFO {"server_id":"x","max_payload":1048576}\r\n')
            await reader.readuntil(b"PING\r\n")
            writer.close()
            return
        server_reader, server_writer = await asyncio.open_connection(host, int(port))
        pipes.append(asyncio.ensure_future(_pipe(reader, server_writer)))
        pipes.append(asyncio.ensure_future(_pipe(server_reader, writer)))

    proxy = await asyncio.start_server(first_hang_up_then_pass_on, "127.0.0.1", 0)
    through = Endpoint(
        f"nats://127.0.0.1:{proxy.sockets[0].getsockname()[1]}", endpoint.user, endpoint.password
    )
    client = await asyncio.wait_for(connect(through, name="t", forever=True, on_error=lambda error: None), 10)
    await client.flush(timeout=5)
    assert calls == 2
    await client.close()
    proxy.close()
    for pipe in pipes:
        pipe.cancel()


async def test_wrong_credentials_are_refused_at_once_and_not_shown(nats_server: NatsServer) -> None:
    wrong = Endpoint(nats_server.endpoint.url, "sam", "hush-hush")
    with pytest.raises(TrainshedError) as refused:
        await connect(wrong, name="t", within_s=60)
    assert refused.value.code is ErrorCode.DENIED
    assert "refuses user sam" in refused.value.message
    assert "hush-hush" not in str(refused.value)
    _no_task_is_left()


async def test_the_first_server_of_a_cluster_may_be_away(
    nats_server: NatsServer, unused_tcp_port: int
) -> None:
    good = nats_server.endpoint
    both = parse_url(f"127.0.0.1:{unused_tcp_port},{good.url}", given_by="--nats")
    client = await connect(Endpoint(both.url, good.user, good.password), name="t")
    assert client.is_connected
    await client.close()


async def test_a_service_waits_for_the_server_for_ever(nats_server: NatsServer) -> None:
    endpoint = nats_server.endpoint
    await nats_server.embedded.stop()
    errors: list[Exception] = []
    waiting = asyncio.ensure_future(connect(endpoint, name="t", forever=True, on_error=errors.append))
    await eventually(lambda: len(errors) >= 2)
    assert not waiting.done()
    await nats_server.embedded.start()
    client = await asyncio.wait_for(waiting, 5)
    assert client.is_connected
    await client.close()


async def test_cancelling_a_connect_that_waits_leaves_nothing(unused_tcp_port: int) -> None:
    endpoint = Endpoint(f"nats://127.0.0.1:{unused_tcp_port}")
    errors: list[Exception] = []
    waiting = asyncio.ensure_future(connect(endpoint, name="t", forever=True, on_error=errors.append))
    await eventually(lambda: errors)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    _no_task_is_left()


def _no_task_is_left() -> None:
    """Not a task, and not an exception that nobody asked for (which asyncio would print from its finaliser)."""
    gc.collect()
    current = asyncio.current_task()
    others = {task for task in asyncio.all_tasks() if task is not current}
    assert not others


class _listener:
    """A TCP server that does one thing to whoever connects."""

    def __init__(self, act: Callable[[asyncio.StreamWriter], None]) -> None:
        self._act = act

    async def __aenter__(self) -> Endpoint:
        self._writers: list[asyncio.StreamWriter] = []

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._writers.append(writer)
            self._act(writer)

        self._server = await asyncio.start_server(accept, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        return Endpoint(f"nats://{host}:{port}")

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()


async def _pipe(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while data := await source.read(65536):
        target.write(data)
    target.close()


async def _ignore(msg: object) -> None:
    pass
