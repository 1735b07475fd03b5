"""TLS towards a real nats-server: who is let in, what is read anew, and what each refusal means for people."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.support import NatsServer, eventually
from tests.support.authority import USER, TestAuthority, TlsServer
from trainshed_client.endpoint import Endpoint
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.nats_client import connect


@pytest.fixture
def authority(tmp_path: Path) -> TestAuthority:
    return TestAuthority(tmp_path / "ours")


async def refusal(endpoint: Endpoint) -> TrainshedError:
    """What a connection attempt is refused with, within the 5 s that a person is to wait at most."""
    began = time.monotonic()
    with pytest.raises(TrainshedError) as refused:
        await connect(endpoint, name="t")
    assert time.monotonic() - began < 6
    return refused.value


async def test_a_certificate_of_the_authority_is_let_in_and_answers_come_below_its_inbox(
    authority: TestAuthority, caplog: pytest.LogCaptureFixture
) -> None:
    async with TlsServer(authority) as server:
        client = await connect(
            msgspec.structs.replace(server.endpoint(), inbox_prefix="_INBOX_sam"), name="t"
        )
        try:
            asked = await client.subscribe("ask")

            async def answer() -> None:
                request = await asked.next_msg(timeout=5)
                assert request.reply.startswith("_INBOX_sam.")
                await request.respond(b"yes")

            answering = asyncio.create_task(answer())
            assert (await client.request("ask", b"?", timeout=5)).data == b"yes"
            await answering
            transport = client._transport._io_writer.transport  # type: ignore[union-attr]
            assert transport.get_extra_info("ssl_object").version() == "TLSv1.3"
        finally:
            await client.close()
    assert caplog.text == "", "asyncio warns of nothing, which would stand on a person's terminal"


async def test_a_renewed_certificate_is_shown_at_the_next_connection(authority: TestAuthority) -> None:
    """The old one has expired by then; the client is not restarted."""
    errors: list[str] = []
    async with TlsServer(authority) as server:
        cert, key = authority.issue(USER, days=3 / 86400)
        client = await connect(
            server.endpoint(cert, key), name="t", on_error=lambda error: errors.append(str(error))
        )
        try:
            heard = await client.subscribe("x")
            await server.stop()
            await asyncio.sleep(3.5)  # until it has expired: certificates count whole seconds
            await server.start()
            await eventually(lambda: any("has expired, and the server" in error for error in errors))
            assert cert in errors[-1]
            assert not client.is_connected
            authority.issue(USER)
            await eventually(lambda: client.is_connected)
            await client.publish("x", b"1")
            assert (await heard.next_msg(timeout=5)).data == b"1"
        finally:
            await client.close()


async def test_of_several_servers_the_one_that_lives_is_found(
    authority: TestAuthority, tmp_path: Path
) -> None:
    async with TlsServer(authority) as one, TlsServer(authority) as other:
        client = await connect(
            msgspec.structs.replace(one.endpoint(), url=f"{one.url},{other.url}"),
            name="t",
            on_error=lambda error: None,
        )
        try:
            first, second = (one, other) if client.connected_url.port == one.port else (other, one)  # type: ignore[union-attr]
            await first.stop()
            await eventually(
                lambda: (
                    client.is_connected
                    and client.connected_url is not None
                    and client.connected_url.port == second.port
                )
            )
        finally:
            await client.close()


async def test_a_server_that_stands_still_keeps_nobody_from_closing(authority: TestAuthority) -> None:
    async with TlsServer(authority) as server:
        client = await connect(server.endpoint(), name="t")
        server.pause()
        async with asyncio.timeout(5):
            await client.close()


Change = Callable[[TestAuthority, TlsServer], Endpoint]


def _files(**paths: str) -> Change:
    return lambda authority, server: msgspec.structs.replace(server.endpoint(), **paths)


def _another(authority: TestAuthority, server: TlsServer) -> Endpoint:
    other = TestAuthority(authority.folder.with_name("another"))
    return server.endpoint(*other.issue(USER))


def _expired(authority: TestAuthority, server: TlsServer) -> Endpoint:
    return server.endpoint(*authority.issue(USER, days=-1))


def _unmapped(authority: TestAuthority, server: TlsServer) -> Endpoint:
    return server.endpoint(*authority.issue("ada.user.trainshed"))


def _without(authority: TestAuthority, server: TlsServer) -> Endpoint:
    return Endpoint(server.url, ca=str(authority.ca))


def _of_a_server(authority: TestAuthority, server: TlsServer) -> Endpoint:
    return server.endpoint(*authority.issue("localhost", server=True))


def _wrong_authority(authority: TestAuthority, server: TlsServer) -> Endpoint:
    return server.endpoint(ca=str(TestAuthority(authority.folder.with_name("another")).ca))


def _trusted_by_the_machine(authority: TestAuthority, server: TlsServer) -> Endpoint:
    return msgspec.structs.replace(server.endpoint(), ca=None)


def _plainly(authority: TestAuthority, server: TlsServer) -> Endpoint:
    return Endpoint(server.url.replace("tls://", "nats://"))


async def test_who_hangs_up_during_the_handshake_is_named_as_one(authority: TestAuthority) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        refused = await refusal(Endpoint(f"tls://127.0.0.1:{port}", ca=str(authority.ca)))
    assert "hung up during TLS's handshake" in refused.message
    assert refused.code is ErrorCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        (_another, ErrorCode.DENIED, r"does not know the authority of the certificate \S+/another/"),
        (
            _expired,
            ErrorCode.DENIED,
            r"the certificate \S+sam\S+ \(TRAINSHED_NATS_CERT, or cert in .* has expired",
        ),
        (_unmapped, ErrorCode.DENIED, r"has no user for the certificate \S+/ada\.user\.trainshed\.pem"),
        (_without, ErrorCode.DENIED, "asks for a certificate. Name yours in TRAINSHED_NATS_CERT"),
        (_of_a_server, ErrorCode.DENIED, r"refuses the certificate \S+/localhost\.pem"),
        (
            _wrong_authority,
            ErrorCode.DENIED,
            r"an authority that is not trusted here \(\S+/another/ca\.pem\)",
        ),
        (_trusted_by_the_machine, ErrorCode.DENIED, r"not trusted here \(those that this machine trusts\)"),
        (_plainly, ErrorCode.UNAVAILABLE, r"is reached as tls://127\.0\.0\.1:\d+, with its authority named"),
    ],
)
async def test_each_refusal_has_a_sentence_of_its_own(
    authority: TestAuthority, change: Change, code: ErrorCode, text: str
) -> None:
    async with TlsServer(authority) as server:
        refused = await refusal(change(authority, server))
    assert re.search(text, refused.message), refused.message
    assert refused.code is code


async def test_a_service_logs_the_same_sentence_and_waits(authority: TestAuthority) -> None:
    errors: list[str] = []
    async with TlsServer(authority) as server:
        waiting = asyncio.create_task(
            connect(
                _wrong_authority(authority, server),
                name="t",
                forever=True,
                on_error=lambda error: errors.append(str(error)),
            )
        )
        try:
            await eventually(lambda: len(errors) > 1)
            assert all("authority that is not trusted here" in error for error in errors)
            shutil.copy(authority.ca, authority.folder.with_name("another") / "ca.pem")
            async with asyncio.timeout(5):
                await (await waiting).close()
        finally:
            waiting.cancel()


async def test_a_server_of_another_name_is_not_the_one_that_was_asked_for(authority: TestAuthority) -> None:
    async with TlsServer(authority, names=("hub.example",)) as server:
        text = (await refusal(server.endpoint())).message
        assert "its certificate is not for the name 127.0.0.1" in text
        text = (
            await refusal(msgspec.structs.replace(server.endpoint(), url=f"tls://localhost:{server.port}"))
        ).message
        assert "its certificate is not for the name localhost" in text


async def test_a_server_whose_certificate_has_expired_is_not_trusted(authority: TestAuthority) -> None:
    async with TlsServer(authority, days=-1) as server:
        assert "or its authority's, has expired" in (await refusal(server.endpoint())).message


async def test_a_server_without_tls_is_named_as_one(
    nats_server: NatsServer, authority: TestAuthority
) -> None:
    endpoint = Endpoint(nats_server.endpoint.url.replace("nats://", "tls://"), ca=str(authority.ca))
    assert "answers without TLS, or greets before TLS's handshake" in (await refusal(endpoint)).message


async def test_a_server_that_greets_first_is_named_as_one_from_both_sides(authority: TestAuthority) -> None:
    async with TlsServer(authority, tls="verify_and_map: true") as server:
        assert "greets before TLS's handshake" in (await refusal(server.endpoint())).message
        text = (await refusal(_plainly(authority, server))).message
        assert f"is reached as {server.url}" in text


async def test_a_server_that_knows_no_tls_1_3_is_refused(authority: TestAuthority) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.issue("localhost", server=True))
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(ssl.SSLError):  # blocking: asyncio's server hangs up without its alert
            context.wrap_socket(listener.accept()[0], server_side=True)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(asyncio.to_thread(serve, listener))
        port = listener.getsockname()[1]
        refused = await refusal(Endpoint(f"tls://localhost:{port}", ca=str(authority.ca)))
        await serving
    assert "knows no TLS 1.3, and less is not accepted" in refused.message


async def test_the_server_refuses_who_knows_no_tls_1_3(authority: TestAuthority) -> None:
    """The server's side of a downgrade; the client of ours offers nothing less."""
    async with TlsServer(authority) as server:
        endpoint = server.endpoint()
        assert endpoint.cert is not None
        context = ssl.create_default_context(cafile=endpoint.ca)
        context.load_cert_chain(endpoint.cert, endpoint.key)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
            await asyncio.open_connection("127.0.0.1", server.port, ssl=context)


async def test_a_server_that_names_another_machine_leads_nobody_there_without_tls() -> None:
    """A reconnection goes to any server of a cluster that the first one named: the password must not."""
    errors: list[str] = []

    async def name_another(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","max_payload":1048576,"connect_urls":["192.0.2.7:4222"]}\r\n')
        await reader.readuntil(b"PING\r\n")
        writer.write(b"PONG\r\n")
        await asyncio.sleep(0.1)
        writer.close()

    async with await asyncio.start_server(name_another, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        client = await connect(
            Endpoint(f"nats://127.0.0.1:{port}", "sam", "hush"),
            name="t",
            on_error=lambda error: errors.append(str(error)),
        )
        try:
            await eventually(
                lambda: any("192.0.2.7 is not this machine" in error for error in errors), within=10
            )
        finally:
            await client.close()
