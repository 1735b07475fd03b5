"""The holder's files: nothing is taken into use that is not for its own key, and what is there stays until then."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from services.access.identities import NodeIdentity
from services.enrol.authority import CLIENT_LIFE, make_authority
from services.enrol.joining import _check
from services.enrol.keys import key_fingerprint, key_pem, make_key, make_request, read_key
from services.enrol.renewing import HeldFiles
from services.enrol.wire import EnrolAnswer, RenewAnswer
from trainshed_client.endpoint import Endpoint
from trainshed_client.errors import TrainshedError

NOW = datetime(2026, 11, 30, 9, tzinfo=UTC)
AUTHORITY = make_authority(now=NOW)
TRUSTED = AUTHORITY.pem.decode()


def certificate(request: bytes) -> str:
    return AUTHORITY.sign_client(request.decode(), NodeIdentity("gpu01"), now=NOW).pem


def held(folder: Path) -> tuple[HeldFiles, Path]:
    key, own = make_key(), folder / "agent.pem"
    own.write_bytes(key_pem(key) + certificate(make_request(key)).encode())
    (folder / "ca.crt").write_text(TRUSTED)
    endpoint = Endpoint("tls://c:4222", ca=str(folder / "ca.crt"), cert=str(own), key=str(own))
    return HeldFiles(endpoint), own


def test_a_certificate_of_a_renewal_must_be_for_the_key_that_asked(tmp_path: Path) -> None:
    files, own = held(tmp_path)
    before, request = own.read_bytes(), files.request()
    for pem in (certificate(make_request(make_key())), "", "no certificate"):
        with pytest.raises(TrainshedError, match="another key|no certificate"):
            files.renewed(RenewAnswer(due=False, authorities=TRUSTED, certificate=pem))
        assert own.read_bytes() == before
    using = files.renewed(RenewAnswer(due=False, authorities=TRUSTED, certificate=certificate(request)))
    assert using == files.key() == key_fingerprint(read_key(own.read_bytes()).public_key())
    assert own.read_bytes() != before
    assert own.stat().st_mode & 0o777 == 0o600
    assert sorted(file.name for file in tmp_path.iterdir()) == ["agent.pem", "ca.crt"]


def test_authorities_that_are_none_are_not_trusted(tmp_path: Path) -> None:
    files, _ = held(tmp_path)
    with pytest.raises(TrainshedError, match="holds no certificate"):
        files.trust("")
    assert (tmp_path / "ca.crt").read_text() == TRUSTED


def test_what_is_due_by_the_files_alone(tmp_path: Path) -> None:
    files, _ = held(tmp_path)
    assert not files.is_due(NOW + CLIENT_LIFE * 0.6)
    assert files.is_due(NOW + CLIENT_LIFE * 0.7)
    assert files.not_after() == NOW + CLIENT_LIFE
    files.request()
    assert files.is_due(NOW), "a try whose answer was lost"


def test_what_a_token_did_not_give_is_not_renewed(tmp_path: Path) -> None:
    for endpoint in (Endpoint("nats://h:1", "u", "p"), Endpoint("tls://h:1", ca="/a", cert="/c", key="/k")):
        with pytest.raises(TrainshedError, match="cannot be renewed from here"):
            HeldFiles(endpoint)


def test_the_answer_of_an_enrolment_must_be_for_our_key_by_the_tokens_authority_and_count_now() -> None:
    key = make_key()
    ours, foreign = certificate(make_request(key)), certificate(make_request(make_key()))
    others = make_authority(now=NOW).pem.decode()
    day = timedelta(days=1)
    for pem, authorities, now, wrong in (
        (foreign, TRUSTED, NOW, "for another key"),
        (ours, others, NOW, "for another key"),
        ("", TRUSTED, NOW, "cannot be used"),
        (ours, TRUSTED, NOW - day, "this machine's clock reads"),
        (ours, TRUSTED, NOW + CLIENT_LIFE, "this machine's clock reads"),
    ):
        answer = EnrolAnswer(kind="node", name="a", certificate=pem, authorities=authorities, url="tls://c:1")
        with pytest.raises(TrainshedError, match=wrong):
            _check(answer, key, TRUSTED, now)
    good = EnrolAnswer(kind="node", name="a", certificate=ours, authorities=TRUSTED + others, url="tls://c:1")
    _check(good, key, TRUSTED, NOW)
