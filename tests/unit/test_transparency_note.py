"""Signed notes, checkpoints and proof files: the specifications' own examples, Go's, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projections.transparency.checkpoint import SignedHead, TreeHead, proof_text
from projections.transparency.note import (
    KeyKind,
    SignerKey,
    VerifierKey,
    cosigned_at,
    parse_note,
    signed,
    verified,
)
from tests.support.tree import proof_in
from trainshed_client.errors import ExitCode, TrainshedError

GO_SECRET = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
GO_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_NOTE = (
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
C2SP_KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
C2SP_NOTE = (
    "This is an example message.\n\n"
    "— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)
HEAD = TreeHead("trainshed/0197", 20852163, bytes(range(32)))


@pytest.mark.parametrize(("key", "note"), [(GO_KEY, GO_NOTE), (C2SP_KEY, C2SP_NOTE)])
def test_the_known_notes_hold_and_no_altered_byte_of_them_does(key: str, note: str) -> None:
    vkey = VerifierKey.parse(key)
    assert str(vkey) == key
    assert verified(parse_note(note), [vkey]) == (vkey,)
    raw = note.encode()
    for at in range(len(raw)):
        altered = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
        with pytest.raises(TrainshedError):
            verified(parse_note(altered), [vkey])


def test_go_s_secret_key_signs_as_go_does() -> None:
    key = SignerKey.parse(GO_SECRET)
    assert (key.text, str(key.verifier)) == (GO_SECRET, GO_KEY)
    text = parse_note(GO_NOTE).text
    assert signed(text, [key.sign(text)]) == GO_NOTE
    assert "PRIVATE" not in repr(key)
    assert GO_SECRET.rpartition("+")[2] not in repr(key)


def test_a_checkpoint_and_a_cosignature_of_it() -> None:
    log, witness = (
        SignerKey(HEAD.origin, KeyKind.ED25519, bytes(32)),
        SignerKey("gpu01", KeyKind.COSIGNATURE, b"w" * 32),
    )
    text = signed(HEAD.text, [log.sign(HEAD.text), witness.sign(HEAD.text, 1679315147)])
    read = SignedHead.parse(text)
    assert (read.head, str(read.note)) == (HEAD, text)
    assert verified(read.note, [log.verifier, witness.verifier]) == (log.verifier, witness.verifier)
    assert cosigned_at(read.note.signatures[1].signature) == 1679315147
    assert VerifierKey.parse(str(witness.verifier)).kind is KeyKind.COSIGNATURE
    later = bytearray(read.note.signatures[1].signature)
    later[7] ^= 1
    assert not witness.verifier.has_signed(HEAD.text, bytes(later))
    # the same seed and name as another kind of key is another key, and its signature none of the first
    other = VerifierKey("gpu01", KeyKind.ED25519, witness.verifier.public)
    assert other.key_id != witness.verifier.key_id
    with pytest.raises(TrainshedError, match="no signature of a known key"):
        verified(read.note, [other])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no signed note"),
        ("text\n", "is no signed note"),
        ("text\n\n", "is no signed note"),
        ("text\n\n— a", "is no signed note"),
        ("text\n\n- a b\n", "not a signature line"),
        ("text\n\n— a+b AAAAAAA=\n", "not a signature line"),
        ("text\n\n— a !!!!\n", "not base64"),
        ("text\n\n— a AAAA\n", "cut short"),
        ("te\txt\n\n— a AAAAAAA=\n", "control character"),
    ],
)
def test_what_is_no_note(text: str, message: str) -> None:
    with pytest.raises(TrainshedError, match=message) as refused:
        parse_note(text, "--against")
    assert (refused.value.path, refused.value.exit_code) == ("--against", ExitCode.BAD_INPUT)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("o\n1\n", "is no checkpoint"),
        ("o\n01\nAAAA\n", "the size is no decimal number"),
        ("o\n-1\nAAAA\n", "the size is no decimal number"),
        ("o\n1\nAAAA\n", "the root hash has 3 bytes"),
        ("o\n1\n" + "A" * 43 + "\n", "not base64"),
        ("o\n1\n" + "A" * 42 + "B=\n", "not base64"),  # bits that no hash has
    ],
)
def test_what_is_no_checkpoint(text: str, message: str) -> None:
    with pytest.raises(TrainshedError, match=message):
        TreeHead.parse(text)


@given(st.integers(0, 2**62), st.lists(st.binary(min_size=32, max_size=32), max_size=5))
def test_a_proof_file_is_read_as_it_was_written(index: int, hashes: list[bytes]) -> None:
    key = SignerKey(HEAD.origin, KeyKind.ED25519, bytes(32))
    checkpoint = signed(HEAD.text, [key.sign(HEAD.text)])
    text = proof_text(index, hashes, checkpoint)
    assert proof_in(text) == (index, hashes, SignedHead.parse(checkpoint))
