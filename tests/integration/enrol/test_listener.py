"""Enrolment over a real listener: machines and people that join, and all that must not get in."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from services.access.identities import NodeIdentity, Person, PersonRole
from services.enrol import listener as listener_module
from services.enrol.authority import (
    Authorities,
    hosts_of,
    make_authority,
    read_certificates,
    write_authorities,
)
from services.enrol.joining import NewMember, join, join_once
from services.enrol.keys import key_fingerprint, key_pem, make_key, make_request
from services.enrol.roster import revoked
from services.enrol.roster_file import applied, change, state
from services.enrol.tokens import ForAnyNode, ForPerson, TokenLine
from services.enrol.wire import MAX_REQUEST_BYTES, enrol_question, read_question
from services.settings import default_node_name
from tests.integration.enrol.control import EnrolControl
from trainshed_client.endpoint import read_credentials, read_endpoint
from trainshed_client.errors import ErrorCode, TrainshedError

ROOT = Path(__file__).resolve().parents[3]
SAM = ForPerson(name="sam", role=PersonRole.SUBMITTER, rate=7, queued=9)


@pytest.fixture
async def control(tmp_path: Path) -> AsyncIterator[EnrolControl]:
    one = EnrolControl(tmp_path / "cluster")
    async with one.served():
        yield one


async def joined(line: TokenLine, state_dir: Path, **given: Any) -> NewMember:
    return await asyncio.to_thread(
        join, line, state_dir=state_dir, **{"as_node": True, "within_s": 5.0, **given}
    )


async def refused(line: TokenLine, state_dir: Path, **given: Any) -> TrainshedError:
    with pytest.raises(TrainshedError) as raised:
        await joined(line, state_dir, **given)
    return raised.value


def raw(control: EnrolControl, sent: bytes, within_s: float = 10.0) -> bytes:
    """What the listener answers to these bytes over TLS, the certificate not looked at."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", control.port), within_s) as plain,
        context.wrap_socket(plain) as connection,
    ):
        connection.sendall(sent)
        received = b""
        while part := connection.recv(65536):
            received += part
    return received


async def answered(control: EnrolControl, sent: bytes) -> dict[str, Any]:
    async with asyncio.timeout(20):
        while True:  # it hangs up on an address that calls too often
            with contextlib.suppress(OSError):
                if received := await asyncio.to_thread(raw, control, sent):
                    answer: dict[str, Any] = json.loads(received)
                    return answer
            await asyncio.sleep(0.2)


def question(line: TokenLine, key: ec.EllipticCurvePrivateKey, **given: Any) -> bytes:
    return enrol_question(line.secret, make_request(key), **{"as_node": True, "name": None, **given})


# --- joining ------------------------------------------------------------------------------------------------


async def test_a_node_joins(control: EnrolControl, tmp_path: Path) -> None:
    one = await joined(control.token(), tmp_path / "gpu01")
    assert one.answer.identity == NodeIdentity("gpu01")
    endpoint = read_credentials(tmp_path / "gpu01/credentials/agent.json", given_by="test")
    assert one.credentials == tmp_path / "gpu01/credentials/agent.json"
    assert (endpoint.url, endpoint.user, endpoint.password) == ("tls://control.lab:4222", None, None)
    assert endpoint.ca and endpoint.cert == endpoint.key
    certificate = read_certificates(Path(str(endpoint.cert)).read_bytes())[0]
    certificate.verify_directly_issued_by(read_certificates(Path(endpoint.ca).read_bytes())[0])
    assert hosts_of(certificate) == ["gpu01.node.trainshed"]
    modes = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "gpu01/credentials").iterdir()}
    assert modes == {"agent.json": 0o600, "agent.pem": 0o600, "agent-ca.crt": 0o600}
    assert (tmp_path / "gpu01/credentials").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "gpu01").stat().st_mode & 0o777 == 0o700
    [node] = control.roster.nodes
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert node.keys(control.now()) == [key_fingerprint(key)]
    assert control.applied[-1].nodes == (node,), "the server must know it before the answer is there"
    assert applied(control.folder) == state(control.folder)


async def test_a_person_logs_in(control: EnrolControl, tmp_path: Path) -> None:
    one = await joined(control.token(SAM), tmp_path / "home", as_node=False)
    assert one.answer.identity == Person("sam", PersonRole.SUBMITTER)
    assert read_endpoint(tmp_path / "home").cert == str(tmp_path / "home/credentials/user.pem")
    [sam] = control.roster.people
    assert (sam.role, sam.rate, sam.queued) == (PersonRole.SUBMITTER, 7, 9)


async def test_the_private_key_is_in_no_file_of_the_control_side(
    control: EnrolControl, tmp_path: Path
) -> None:
    await joined(control.token(), tmp_path / "gpu01")
    own = (tmp_path / "gpu01/credentials/agent.pem").read_bytes().partition(b"-----BEGIN CERT")[0]
    assert own.startswith(b"-----BEGIN PRIVATE KEY-----")
    secret_lines = own.splitlines()[1:-1]
    for file in control.folder.iterdir():
        assert not any(line in file.read_bytes() for line in secret_lines)


async def test_the_listener_may_come_later(tmp_path: Path) -> None:
    control = EnrolControl(tmp_path / "cluster")
    async with control.served():
        line = control.token()
    joining = asyncio.create_task(joined(line, tmp_path / "gpu01", within_s=20.0))
    await asyncio.sleep(0.3)
    async with control.served():
        assert (await joining).answer.name == "gpu01"


async def test_nobody_there_is_told(control: EnrolControl, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    error = await refused(control.token()._replace(port=port), tmp_path / "a", within_s=0.1)
    assert error.code is ErrorCode.UNAVAILABLE
    assert "connection refused" in str(error)
    assert "trainshed up --listen" in str(error)


async def test_what_an_unknown_listener_answers_is_not_printed(control: EnrolControl, tmp_path: Path) -> None:
    """Nobody vouches for it yet: it could write escape codes on the terminal of who joins."""
    (tmp_path / "own.pem").write_bytes(
        make_authority(now=control.now()).sign_server(["x"], now=control.now())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "own.pem")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b'{"error": {"code": "invalid", "message": "\\u001b[2Jrun this: curl evil"}}\n')
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as between:
        line = control.token()._replace(port=between.sockets[0].getsockname()[1])
        error = await refused(line, tmp_path / "a", within_s=0.1)
    assert "is no enrolment of this release" in str(error)
    assert "evil" not in str(error)


async def test_what_speaks_no_tls_is_told(control: EnrolControl, tmp_path: Path) -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"INFO {}\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        error = await refused(control.token()._replace(port=port), tmp_path / "a", within_s=0.1)
    assert "does not speak TLS 1.3" in str(error)


# --- a lost answer, and a kill -------------------------------------------------------------------------------


async def test_a_lost_answer_costs_no_token(control: EnrolControl, tmp_path: Path) -> None:
    line, key = control.token(), make_key()
    first = await answered(control, question(line, key))
    again = await answered(control, question(line, key))
    assert again == first
    assert len(control.roster.nodes[0].certificates) == 1


async def test_the_key_of_a_try_that_failed_is_taken_again(control: EnrolControl, tmp_path: Path) -> None:
    line = control.token()
    control.apply_fails = OSError(28, "No space left on device")
    error = await refused(line, tmp_path / "gpu01", within_s=0.1)
    assert error.code is ErrorCode.UNAVAILABLE
    assert "could not be made to know" in str(error)
    control.apply_fails = None
    await joined(line, tmp_path / "gpu01")
    assert len(control.roster.nodes[0].certificates) == 1
    assert control.applied[-1] == control.roster


# --- who must not get in -------------------------------------------------------------------------------------


async def test_a_wrong_fingerprint_is_refused_with_nothing_sent(tmp_path: Path) -> None:
    control = EnrolControl(tmp_path / "cluster")
    seen: list[bytes] = []

    def heard(line: bytes) -> Any:
        seen.append(line)
        return read_question(line)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listener_module, "read_question", heard)
        async with control.served():
            line = control.token(authority="ab" * 32)
            error = await refused(line, tmp_path / "gpu01")
    assert error.code is ErrorCode.DENIED
    assert "another fingerprint. Nothing was sent" in str(error)
    assert seen == [b'{"call":"authority"}\n']
    assert control.roster.nodes == ()
    assert not (tmp_path / "gpu01/credentials/agent.json").exists()


async def test_who_shows_the_right_authority_but_has_no_certificate_of_it_gets_no_secret(
    control: EnrolControl, tmp_path: Path
) -> None:
    """Somebody between: the authority's certificate is public, the certificate of a node of ours, or of another authority."""
    await joined(control.token(), tmp_path / "gpu01")
    node = (tmp_path / "gpu01/credentials/agent.pem").read_bytes()
    foreign = make_authority(now=control.now()).sign_server(["localhost"], now=control.now())
    for number, (pem, why) in enumerate([(node, "purpose"), (foreign, "")]):
        (tmp_path / "own.pem").write_bytes(pem)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "own.pem")
        heard: list[bytes] = []

        async def answer(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heard: list[bytes] = heard
        ) -> None:
            heard.append(await reader.readline())
            public = {"authorities": control.authority.pem.decode(), "now": "2026-11-30T09:00:00Z"}
            writer.write(json.dumps(public).encode() + b"\n")
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as between:
            port = between.sockets[0].getsockname()[1]
            line = control.token()._replace(port=port)
            error = await refused(line, tmp_path / f"b{number}", within_s=0.1)
        assert error.code is ErrorCode.DENIED
        assert "Nothing was sent" in str(error)
        assert why in str(error)
        assert [line for line in heard if line] == [b'{"call":"authority"}\n']


def older_tls(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


async def test_an_older_tls_is_spoken_by_neither_side(control: EnrolControl, tmp_path: Path) -> None:
    context = older_tls(ssl.create_default_context())
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", control.port, ssl=context)
    (tmp_path / "own.pem").write_bytes(control.authority.sign_server(["x"], now=control.now()))
    older = older_tls(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    older.load_cert_chain(tmp_path / "own.pem")
    async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=older) as between:
        line = control.token()._replace(port=between.sockets[0].getsockname()[1])
        error = await refused(line, tmp_path / "a", within_s=0.1)
    assert "does not speak TLS 1.3" in str(error)


async def test_an_expired_certificate_of_the_listener_gets_no_secret(
    control: EnrolControl, tmp_path: Path
) -> None:
    long_ago = control.now() - timedelta(days=400)
    authority = make_authority(now=long_ago)
    (tmp_path / "own.pem").write_bytes(authority.sign_server(["x"], now=long_ago))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "own.pem")
    heard: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readline())
        public = {"authorities": authority.pem.decode(), "now": "2026-11-30T09:00:00Z"}
        writer.write(json.dumps(public).encode() + b"\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as between:
        line = control.token(authority=authority.fingerprint)
        line = line._replace(port=between.sockets[0].getsockname()[1])
        error = await refused(line, tmp_path / "a", within_s=0.1)
    assert "has expired by this machine's clock" in str(error)
    assert [line for line in heard if line] == [b'{"call":"authority"}\n']


async def test_a_token_counts_once(control: EnrolControl, tmp_path: Path) -> None:
    line = control.token()
    await joined(line, tmp_path / "gpu01")
    before = control.roster
    error = await refused(line, tmp_path / "thief")
    assert error.code is ErrorCode.DENIED
    assert "used already, at" in str(error)
    assert "revoke gpu01" in str(error)
    assert control.roster == before, "who joined must not be displaced"
    assert not (tmp_path / "thief/credentials/agent.json").exists()


async def test_two_who_use_one_token_at_the_same_moment(control: EnrolControl, tmp_path: Path) -> None:
    line = control.token()
    answers = await asyncio.gather(*(answered(control, question(line, make_key())) for _ in range(4)))
    assert sorted("certificate" in answer for answer in answers) == [False, False, False, True]
    assert len(control.roster.nodes[0].certificates) == 1


async def test_who_was_revoked_does_not_come_back_with_his_token(
    control: EnrolControl, tmp_path: Path
) -> None:
    line, key = control.token(), make_key()
    await answered(control, question(line, key))
    change(control.folder, lambda roster: (revoked(roster, NodeIdentity("gpu01"), now=control.now()), None))
    again = await answered(control, question(line, key))
    assert again["error"]["code"] == "denied"
    assert "is not enrolled" in again["error"]["message"]
    assert control.roster.nodes[0].keys(control.now()) == []


async def test_a_persons_token_makes_no_node_and_is_not_used_up(
    control: EnrolControl, tmp_path: Path
) -> None:
    line = control.token(SAM)
    assert "for the user sam" in str(await refused(line, tmp_path / "gpu01"))
    assert (await joined(line, tmp_path / "home", as_node=False)).answer.name == "sam"


async def test_an_expired_token(control: EnrolControl, tmp_path: Path) -> None:
    line = control.token()
    control.ahead = timedelta(minutes=16)
    error = await answered(control, question(line, make_key()))
    assert "this token expired at" in error["error"]["message"]


async def test_a_token_for_any_node_takes_new_names_and_displaces_nobody(control: EnrolControl) -> None:
    line, key = control.token(ForAnyNode()), make_key()
    assert (await answered(control, question(line, key, name="c1")))["name"] == "c1"
    assert (await answered(control, question(line, key, name="c1")))["name"] == "c1"
    for name, what in (
        ("c1", "enrolled with another key"),
        ("../", "1 to 63 of a-z"),
        (None, "1 to 63 of a-z"),
    ):
        answer = await answered(control, question(line, make_key(), name=name))
        assert what in answer["error"]["message"]
    escape = await answered(control, question(control.token(), make_key(), name="\x1b[2J\nx"))
    assert "for the node gpu01, not for '\\x1b[2J\\nx'" in escape["error"]["message"]
    change(control.folder, lambda roster: (revoked(roster, NodeIdentity("c1"), now=control.now()), None))
    assert "was revoked" in (await answered(control, question(line, key, name="c1")))["error"]["message"]
    assert [node.name for node in control.roster.nodes] == ["c1"]


async def test_one_key_is_one_holders(control: EnrolControl) -> None:
    key = make_key()
    await answered(control, question(control.token(), key))
    answer = await answered(control, question(control.token(SAM), key, as_node=False))
    assert "this key is that of node gpu01" in answer["error"]["message"]


async def test_clocks_that_differ_are_named(control: EnrolControl, tmp_path: Path) -> None:
    def behind() -> datetime:
        return datetime.now(UTC) - timedelta(hours=1)

    error = await refused(control.token(), tmp_path / "gpu01", clock=behind)
    assert "this machine's clock reads" in str(error)


async def test_a_listener_whose_certificate_is_not_valid_by_our_clock(tmp_path: Path) -> None:
    control = EnrolControl(tmp_path / "cluster")
    control.ahead = timedelta(hours=2)
    async with control.served():
        error = await refused(control.token(), tmp_path / "gpu01")
    assert "is not valid yet by this machine's clock" in str(error)
    assert f"the one there reads {control.now():%Y-%m-%d %H}" in str(error)
    assert "Nothing was sent" in str(error)


# --- what anybody may send -----------------------------------------------------------------------------------


async def test_what_is_no_request_is_refused(control: EnrolControl) -> None:
    for sent in (b"GET / HTTP/1.1\r\n", b"{}\n", b"\xff\xfe\n", b"[" * 5000 + b"\n"):
        answer = await answered(control, sent)
        assert answer["error"]["code"] == "invalid"


async def test_a_request_of_64_kib_is_read_and_one_byte_more_is_not(control: EnrolControl) -> None:
    full = await answered(control, b" " * MAX_REQUEST_BYTES + b"\n")
    assert full["error"]["code"] == "invalid"
    more = await answered(control, b" " * (MAX_REQUEST_BYTES + 1) + b"\n")
    assert more["error"]["code"] == "too_large"


async def test_half_open_connections_end_and_hold_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener_module, "HANDSHAKE_WITHIN_S", 1.0)
    monkeypatch.setattr(listener_module, "REQUEST_WITHIN_S", 1.0)
    control = EnrolControl(tmp_path / "cluster")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with control.served():
        silent = [await asyncio.open_connection("127.0.0.1", control.port) for _ in range(2)]
        slow = [await asyncio.open_connection("127.0.0.1", control.port, ssl=context) for _ in range(2)]
        for _, writer in slow:
            writer.write(b'{"call":')
        one = await joined(control.token(), tmp_path / "gpu01", within_s=10.0)
        assert one.answer.name == "gpu01"
        for reader, writer in (*silent, *slow):
            async with asyncio.timeout(10):
                assert await reader.read() == b""
            writer.close()


async def test_a_flood_is_hung_up_on_and_another_address_still_joins(
    control: EnrolControl, tmp_path: Path
) -> None:
    """20 a second from one address for 3 s; a machine with an address of its own joins meanwhile."""

    def call(source: str) -> bool:
        try:
            with socket.create_connection(
                ("127.0.0.1", control.port), 5, source_address=(source, 0)
            ) as plain:
                context = ssl.create_default_context()
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
                with context.wrap_socket(plain) as connection:
                    connection.sendall(b'{"call":"authority"}\n')
                    return bool(connection.recv(100))
        except OSError:
            return False

    async def flood() -> list[bool]:
        calls = []
        for _ in range(60):
            calls.append(asyncio.create_task(asyncio.to_thread(call, "127.0.0.2")))
            await asyncio.sleep(0.05)
        return await asyncio.gather(*calls)

    began = time.monotonic()
    flooding = asyncio.create_task(flood())
    await asyncio.sleep(1.0)
    one = await joined(control.token(), tmp_path / "gpu01", within_s=15.0)
    assert one.answer.name == "gpu01"
    taken = sum(await flooding)
    assert 1 <= taken <= 5 + 2 * (time.monotonic() - began) + 1


# --- what changes beside it ----------------------------------------------------------------------------------


async def test_what_an_operator_changes_in_the_files_reaches_the_server(
    control: EnrolControl, tmp_path: Path
) -> None:
    await joined(control.token(), tmp_path / "gpu01")
    change(control.folder, lambda roster: (revoked(roster, NodeIdentity("gpu01"), now=control.now()), None))
    async with asyncio.timeout(10):
        while applied(control.folder) != state(control.folder):
            await asyncio.sleep(0.05)
    assert control.applied[-1].nodes[0].revoked_at is not None


async def test_an_authority_is_replaced_while_machines_join(control: EnrolControl, tmp_path: Path) -> None:
    younger = make_authority(now=control.now())
    both = Authorities((control.authority, younger))
    line = control.token()
    write_authorities(control.folder, both)
    one = await joined(line, tmp_path / "gpu01")
    read_certificates(one.answer.certificate.encode())[0].verify_directly_issued_by(younger.certificate)
    assert [cert.subject for cert in read_certificates(one.answer.authorities.encode())] == [
        each.certificate.subject for each in both.trusted
    ]
    write_authorities(control.folder, both.without_older())
    await asyncio.sleep(2.5)
    other = await joined(control.token(SAM, authority=younger.fingerprint), tmp_path / "home", as_node=False)
    assert len(read_certificates(other.answer.authorities.encode())) == 1


async def test_an_address_that_is_taken_is_named(control: EnrolControl, tmp_path: Path) -> None:
    other = EnrolControl(tmp_path / "other")
    other.port = control.port
    with pytest.raises(TrainshedError, match="is taken by another program"):
        async with other.served():
            pass


def test_a_key_file_of_a_torn_try_is_made_anew(tmp_path: Path) -> None:
    from services.enrol.joining import _pending_key

    path = tmp_path / "credentials/agent.pending.pem"
    first = _pending_key(path)
    assert key_pem(_pending_key(path)) == key_pem(first)
    path.write_bytes(b"-----BEGIN PRIVATE KEY-----\ntorn")
    assert key_pem(_pending_key(path)) != key_pem(first)


async def test_certificates_near_their_end_are_logged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    control = EnrolControl(tmp_path / "cluster")
    async with control.served():
        await joined(control.token(), tmp_path / "gpu01")
        await joined(control.token(SAM), tmp_path / "home", as_node=False)
    for ahead, logged in (
        (60, "enrolled"),
        (80, "a certificate expires soon"),
        (91, "a certificate has expired"),
    ):
        capsys.readouterr()
        control.ahead = timedelta(days=ahead)
        await control.enrolment.report_expiring()
        assert capsys.readouterr().out.count(logged) == (0 if ahead == 60 else 2)


async def test_an_agent_may_be_started_by_the_same_line_for_ever(
    control: EnrolControl, tmp_path: Path
) -> None:
    line = control.token()
    for _ in range(3):
        assert await asyncio.to_thread(join_once, line, state_dir=tmp_path / "gpu01", name=None) == "gpu01"
    assert len(control.roster.nodes[0].certificates) == 1
    before = (tmp_path / "gpu01/credentials/agent.pem").read_bytes()
    again = control.token()
    await asyncio.to_thread(join_once, again, state_dir=tmp_path / "gpu01", name="gpu01")
    assert (tmp_path / "gpu01/credentials/agent.pem").read_bytes() != before, "another token joins anew"
    (tmp_path / "gpu01/credentials/agent.json").unlink()
    with pytest.raises(TrainshedError, match="used already"):
        await asyncio.to_thread(join_once, again, state_dir=tmp_path / "gpu01", name=None)


async def test_a_folder_that_is_a_node_already_joins_as_that_one(
    control: EnrolControl, tmp_path: Path
) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c/node.json").write_text('{"node": "box7", "incarnation": "i", "log_id": "l"}')
    with pytest.raises(TrainshedError, match="for the node gpu01, not for 'box7'"):
        await asyncio.to_thread(join_once, control.token(), state_dir=tmp_path / "c", name=None)
    anybody = control.token(ForAnyNode())
    assert await asyncio.to_thread(join_once, anybody, state_dir=tmp_path / "c", name=None) == "box7"
    fresh = await asyncio.to_thread(join_once, anybody, state_dir=tmp_path / "d", name=None)
    assert fresh == default_node_name()


async def test_login_types_as_it_was_printed(control: EnrolControl, tmp_path: Path) -> None:
    environment = {"TRAINSHED_STATE_DIR": str(tmp_path / "home"), "PATH": ""}
    typed = [sys.executable, "-m", "services.cli", "login", str(control.token(SAM))]
    done = await asyncio.create_subprocess_exec(
        *typed, cwd=ROOT, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await done.communicate()
    assert (done.returncode, err) == (0, b"")
    assert b"logged in as sam (submitter) at tls://control.lab:4222" in out
    assert read_endpoint(tmp_path / "home").tls
    again = await asyncio.create_subprocess_exec(
        *typed, cwd=ROOT, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    _, err = await again.communicate()
    assert again.returncode == 2
    assert b"used already" in err


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from services.enrol.enrolment import Enrolment
from services.enrol.listener import EnrolListener
from services.setting_values import Listen
from trainshed_client.endpoint import Endpoint
from datetime import UTC, datetime

async def apply(roster):
    if roster.nodes:
        os.kill(os.getpid(), signal.SIGKILL)

async def main():
    enrolment = Enrolment(
        Path(sys.argv[1]), where=lambda _: Endpoint("tls://c:4222"), apply=apply, clock=lambda: datetime.now(UTC)
    )
    listener = EnrolListener(Listen("127.0.0.1", int(sys.argv[2])), enrolment, ["localhost"])
    await listener.run()

asyncio.run(main())
"""


async def test_a_kill_between_the_write_and_the_answer_costs_no_token_and_gives_none_twice(
    tmp_path: Path,
) -> None:
    control = EnrolControl(tmp_path / "cluster")
    async with control.served():
        line = control.token()
    killed = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED, str(control.folder), str(control.port), cwd=ROOT
    )
    error = await refused(line, tmp_path / "gpu01", within_s=5.0)
    assert error.code is ErrorCode.UNAVAILABLE
    assert await killed.wait() == -signal.SIGKILL
    [before] = control.roster.nodes
    async with control.served():
        assert control.applied[-1].nodes == (before,), "a start makes the server know what a kill left"
        assert "used already" in str(await refused(line, tmp_path / "thief"))
        await joined(line, tmp_path / "gpu01")
    assert control.roster.nodes == (before,)
