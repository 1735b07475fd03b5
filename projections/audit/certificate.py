"""A run's certificate: its events, each with the proof that it is in the tree that a signed checkpoint speaks of.

Owns the file's form and its check, which needs nothing else; knows neither bus nor read model.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

import msgspec

from projections.transparency.checkpoint import SignedHead, TreeHead, origin_of, proof_text
from projections.transparency.fold import leaf_of
from projections.transparency.note import KeyKind, VerifierKey, bad, unbase64
from projections.transparency.policy import WitnessPolicy
from projections.transparency.tree import HASH_BYTES, inclusion_proof, is_included, leaf_hash
from trainshed_client import subjects
from trainshed_client.direct_get import Message
from trainshed_client.errors import TrainshedError


class ProvedEvent(msgspec.Struct, frozen=True):
    """A stored event and its proof; bytes in base64."""

    seq: int
    subject: str
    stored_ns: int
    body: str
    index: int
    proof: tuple[str, ...]


class Certificate(msgspec.Struct, frozen=True):
    """What ``audit prove`` writes. Nothing of it is verified."""

    v: int
    log_id: str
    origin: str
    vkey: str
    run_id: str
    checkpoint: str
    events: tuple[ProvedEvent, ...]


class CheckedCertificate(msgspec.Struct, frozen=True):
    """What a certificate says, and what of it does not hold: nothing, where ``wrong`` is empty.

    ``cosigners``: who cosigned its checkpoint, as the policy calls them; ``strangers``: the names of all other keys that
    claim to have, which nobody verified.
    """

    head: TreeHead
    events: tuple[Message, ...]
    wrong: tuple[str, ...]
    cosigners: tuple[str, ...]
    strangers: tuple[str, ...]


def proved_event(message: Message, index: int, proof: Sequence[str]) -> ProvedEvent:
    """An event as a certificate has it; ``proof`` in base64."""
    body = base64.b64encode(message.body).decode()
    return ProvedEvent(message.seq, message.subject, message.stored_ns, body, index, tuple(proof))


def read_certificate(data: bytes) -> Certificate:
    """Raises TrainshedError (invalid) that names the field."""
    try:
        found = msgspec.json.decode(data, type=Certificate)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        text, _, path = str(error).partition(" - at `$")
        if field := path.strip("`."):
            raise bad(f"{text}, in a certificate as `trainshed audit prove` writes it", field) from None
        raise bad(f"is no certificate as `trainshed audit prove` writes it: {text}", "FILE") from None
    if found.v != 1:
        raise bad(f"a certificate of version 1 is expected, not {found.v}", "v")
    if not found.events:
        raise bad("one event at least is expected", "events")
    return found


def check(certificate: Certificate, policy: WitnessPolicy | None = None) -> CheckedCertificate:
    """Check a certificate by itself, and whether its checkpoint is valid by ``policy``.

    Raises TrainshedError (invalid) that names a field of the wrong form.
    """
    key = VerifierKey.parse(certificate.vkey)
    if key.kind is not KeyKind.ED25519:
        raise bad("is a key of cosignatures, and no log's", "vkey")
    if not subjects.is_token(certificate.run_id):
        raise bad(f"is no run's id: {certificate.run_id!r:.60}", "run_id")
    signed = SignedHead.parse(certificate.checkpoint)
    head, wrong = signed.head, list[str]()
    expected = origin_of(certificate.log_id)
    for field, there in (("origin", certificate.origin), ("vkey", key.name), ("checkpoint", head.origin)):
        if there != expected:
            raise bad(f"is of {there!r:.100}; expected: {expected!r}, the log that log_id names", field)
    signatures = [
        each.signature
        for each in signed.note.signatures
        if (each.name, each.key_id) == (key.name, key.key_id)
    ]
    if not signatures:
        raise bad("has no signature of the key in vkey", "checkpoint")
    if not all(key.has_signed(signed.note.text, signature) for signature in signatures):
        wrong.append("the checkpoint is not what its key signed")
    messages = list[Message]()
    first = certificate.events[0].seq - certificate.events[0].index
    for place, event in enumerate(certificate.events):
        path = f"events[{place}]"
        for field, number in (("seq", event.seq), ("stored_ns", event.stored_ns)):
            if not 0 <= number < 1 << 63:
                raise bad(f"expected: a number from 0 to 2^63-1; it is {number!r:.60}", f"{path}.{field}")
        if not 0 <= event.index < head.size:
            raise bad(f"expected: below the tree's size, {head.size}; it is {event.index}", f"{path}.index")
        proof = [unbase64(text, f"{path}.proof") for text in event.proof]
        length = len(inclusion_proof(event.index, head.size, lambda *_: b""))
        if len(proof) != length or any(len(each) != HASH_BYTES for each in proof):
            raise bad(f"expected: {length} hashes of {HASH_BYTES} bytes", f"{path}.proof")
        body = unbase64(event.body, f"{path}.body") if event.body else b""
        message = Message(event.seq, event.stored_ns, event.subject, body)
        messages.append(message)
        if event.seq - event.index != first or (messages[1:] and event.seq <= messages[-2].seq):
            wrong.append(f"event {event.seq} is out of order, or its index is not that of its sequence")
        if not event.subject.startswith(subjects.run_events(certificate.run_id).removesuffix(">")):
            wrong.append(f"event {event.seq} is not of run {certificate.run_id}")
        if not is_included(leaf_hash(leaf_of(*message)), event.index, head.size, head.root, proof):
            wrong.append(
                f"event {event.seq} is not in the tree of the checkpoint: it or its proof was altered"
            )
    cosigners, known = tuple[str, ...](), {(key.name, key.key_id)}
    if policy is not None:
        try:
            signers = policy.signers(signed.note, "checkpoint")
        except TrainshedError as error:
            wrong.append(f"the checkpoint: {error.message}")
        else:
            cosigners = policy.cosigners(signers)
            known |= {(each.name, each.key_id) for each in signers}
            if (lacks := policy.lacks(head.origin, signers)) is not None:
                wrong.append(f"the checkpoint is not valid by the policy: it lacks {lacks}")
    strangers = [each.name for each in signed.note.signatures if (each.name, each.key_id) not in known]
    return CheckedCertificate(head, tuple(messages), tuple(wrong), cosigners, tuple(strangers))


def proof_files(certificate: Certificate) -> dict[str, str]:
    """File name → content of each event's tlog-proof."""
    return {
        f"{event.seq}.tlog-proof": proof_text(
            event.index, [unbase64(text, "proof") for text in event.proof], certificate.checkpoint
        )
        for event in certificate.events
    }
