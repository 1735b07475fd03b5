"""C2SP's signed-note with Ed25519 keys: verifier keys, signing, and what of a note can be trusted.

Owns the format of a note and of keys, cosignatures (tlog-cosignature) among them; knows nothing of trees.
"""

from __future__ import annotations

import base64
import binascii
import enum
import re
from collections.abc import Collection, Sequence
from hashlib import sha256

import msgspec

from trainshed_client.errors import ErrorCode, TrainshedError

MAX_NOTE_BYTES = 1_000_000
_SIGNATURE = re.compile(r"— (\S+) (\S+)")
_BAD_NAME = re.compile(r"[\s+]")
_PRIVATE = "PRIVATE+KEY+"


class KeyKind(enum.IntEnum):
    """What a key signs with: the first byte of its key material."""

    ED25519 = 1
    COSIGNATURE = 4


class NoteSignature(msgspec.Struct, frozen=True):
    """A signature line: whose it claims to be, and the bytes after the key id."""

    name: str
    key_id: int
    signature: bytes

    @property
    def line(self) -> str:
        """As it stands below a note."""
        return f"— {self.name} {_base64(self.key_id.to_bytes(4, 'big') + self.signature)}\n"


class Note(msgspec.Struct, frozen=True):
    """A text that ends in a newline, and what was signed below it. Nothing of it is verified."""

    text: str
    signatures: tuple[NoteSignature, ...] = ()

    def __str__(self) -> str:
        return f"{self.text}\n{''.join(signature.line for signature in self.signatures)}"


class VerifierKey(msgspec.Struct, frozen=True):
    """A public key as signed-note writes it: ``name+key id+base64 of kind and key``."""

    name: str
    kind: KeyKind
    public: bytes

    @property
    def key_id(self) -> int:
        """Which of a name's keys it is."""
        hashed = sha256(self.name.encode() + b"\n" + bytes([self.kind]) + self.public)
        return int.from_bytes(hashed.digest()[:4], "big")

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id:08x}+{_base64(bytes([self.kind]) + self.public)}"

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Raises TrainshedError (invalid) for what is no such key."""
        name, key_id, material = _three(text.strip())
        if len(material) != 33 or material[0] not in tuple(KeyKind):
            raise bad("not an Ed25519 key (33 bytes that begin with 1, or with 4 for cosignatures)", "vkey")
        key = cls(name, KeyKind(material[0]), material[1:])
        if f"{key.key_id:08x}" != key_id:
            raise bad(f"its key id is {key_id}, that of its name and key is {key.key_id:08x}", "vkey")
        return key

    def has_signed(self, text: str, signature: bytes) -> bool:
        """Whether this key made the signature (without a key id) of a note's text."""
        match self.kind:
            case KeyKind.ED25519:
                return _verify(self.public, signature, text.encode())
            case KeyKind.COSIGNATURE:
                if len(signature) != 72:
                    return False
                return _verify(self.public, signature[8:], cosigned(text, cosigned_at(signature)))


class SignerKey(msgspec.Struct, frozen=True):
    """A private key (its 32-byte seed), written as Go's ``note`` package does."""

    name: str
    kind: KeyKind
    seed: bytes

    def __repr__(self) -> str:
        return f"SignerKey({self.name})"

    @property
    def verifier(self) -> VerifierKey:
        """Its public half."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        public = Ed25519PrivateKey.from_private_bytes(self.seed).public_key().public_bytes_raw()
        return VerifierKey(self.name, self.kind, public)

    @property
    def text(self) -> str:
        """As it is kept: secret."""
        return f"{_PRIVATE}{self.name}+{self.verifier.key_id:08x}+{_base64(bytes([self.kind]) + self.seed)}"

    @classmethod
    def parse(cls, text: str) -> SignerKey:
        """The inverse of ``text``. Raises TrainshedError (invalid)."""
        if not text.startswith(_PRIVATE):
            raise bad(f"not a key that begins with {_PRIVATE}", "key")
        name, key_id, material = _three(text.strip().removeprefix(_PRIVATE))
        if len(material) != 33 or material[0] not in tuple(KeyKind):
            raise bad("not an Ed25519 key", "key")
        key = cls(name, KeyKind(material[0]), material[1:])
        if f"{key.verifier.key_id:08x}" != key_id:
            raise bad("its key id is not that of its name and key", "key")
        return key

    def sign(self, text: str, now_s: int = 0) -> NoteSignature:
        """Sign a note's text; ``now_s``: the POSIX time that a cosignature bears."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        private = Ed25519PrivateKey.from_private_bytes(self.seed)
        match self.kind:
            case KeyKind.ED25519:
                signature = private.sign(text.encode())
            case KeyKind.COSIGNATURE:
                signature = now_s.to_bytes(8, "big") + private.sign(cosigned(text, now_s))
        return NoteSignature(self.name, self.verifier.key_id, signature)


def cosigned(text: str, time_s: int) -> bytes:
    """What a cosignature signs: that this text was seen at this time."""
    return f"cosignature/v1\ntime {time_s}\n{text}".encode()


def cosigned_at(signature: bytes) -> int:
    """The POSIX time that a cosignature bears."""
    return int.from_bytes(signature[:8], "big")


def parse_note(data: bytes | str, field: str = "note") -> Note:
    """A note of its bytes. Raises TrainshedError (invalid) for what is none, naming ``field``."""
    if len(data) > MAX_NOTE_BYTES:
        raise bad(f"is longer than {MAX_NOTE_BYTES} bytes", field)
    try:
        whole = data if isinstance(data, str) else data.decode()
    except UnicodeDecodeError:
        raise bad("is not UTF-8", field) from None
    if any(ord(char) < 0x20 and char != "\n" for char in whole):
        raise bad("has a control character", field)
    text, gap, below = whole.rpartition("\n\n")
    if not gap or not below.endswith("\n"):
        raise bad("is no signed note: a text, an empty line, and lines `— NAME SIGNATURE`", field)
    return Note(text + "\n", tuple(_signature(line, field) for line in below[:-1].split("\n")))


def verified(note: Note, keys: Collection[VerifierKey], field: str = "note") -> tuple[VerifierKey, ...]:
    """Which of ``keys`` signed the note. Raises TrainshedError where a signature of one of them does not hold, or none
    of them signed. Signatures of other keys are passed over."""
    known = {(key.name, key.key_id): key for key in keys}
    found: dict[VerifierKey, None] = {}
    for signature in note.signatures:
        key = known.get((signature.name, signature.key_id))
        if key is None:
            continue
        if not key.has_signed(note.text, signature.signature):
            raise bad(
                f"the signature of {key.name} does not hold: the text or the signature was altered", field
            )
        found[key] = None
    if not found:
        names = ", ".join(sorted({str(key) for key in keys})) or "none is given"
        raise bad(f"no signature of a known key ({names})", field)
    return tuple(found)


def signed(text: str, signatures: Sequence[NoteSignature]) -> str:
    """A whole note."""
    return str(Note(text, tuple(signatures)))


def bad(message: str, field: str) -> TrainshedError:
    """What is wrong with a field of what was given."""
    return TrainshedError(ErrorCode.INVALID, message, field)


def unbase64(text: str, field: str) -> bytes:
    """The bytes of standard base64, spelled in the one way. Raises TrainshedError (invalid)."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if not data or _base64(data) != text:
        raise bad(f"not base64: {text!r:.60}", field)
    return data


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _three(text: str) -> tuple[str, str, bytes]:
    name, _, rest = text.partition("+")
    key_id, plus, material = rest.partition("+")
    if not plus or not name or _BAD_NAME.search(name) or not re.fullmatch("[0-9a-f]{8}", key_id):
        raise bad(f"not a key as NAME+KEY ID+BASE64: {text!r:.80}", "vkey")
    return name, key_id, unbase64(material, "vkey")


def _signature(line: str, field: str) -> NoteSignature:
    found = _SIGNATURE.fullmatch(line)
    if found is None or _BAD_NAME.search(found[1]):
        raise bad(f"not a signature line: {line!r:.80}", field)
    raw = unbase64(found[2], field)
    if len(raw) < 5:
        raise bad(f"a signature is cut short: {line!r:.80}", field)
    return NoteSignature(found[1], int.from_bytes(raw[:4], "big"), raw[4:])


def _verify(public: bytes, signature: bytes, message: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
