"""Keys and signing requests: made on the machine that uses them, of the one kind that every part of the stack accepts.

Owns that kind (ECDSA on P-256), how keys and requests are written, and what a request proves; knows no authority.
"""

from __future__ import annotations

import hashlib

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from trainshed_client.errors import ErrorCode, TrainshedError

CURVE = ec.SECP256R1()
SIGNED_WITH = hashes.SHA256()
ACCEPTED_KEYS = "an ECDSA key on the curve P-256"
MAX_REQUEST_BYTES = 8 * 1024


def make_key() -> ec.EllipticCurvePrivateKey:
    """A new private key."""
    return ec.generate_private_key(CURVE)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The private key as PEM (PKCS 8, not encrypted: the mode of its file protects it)."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def read_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """The private key of a PEM file that may hold certificates as well. Raises ValueError."""
    begin = pem.find(b"-----BEGIN PRIVATE KEY-----")
    if begin < 0:
        raise ValueError("it holds no private key")
    try:
        key = serialization.load_pem_private_key(pem[begin:], None)
    except (UnsupportedAlgorithm, TypeError) as error:
        raise ValueError(str(error)) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != CURVE.name:
        raise ValueError(f"its key is not {ACCEPTED_KEYS}")
    return key


def make_request(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A signing request (PKCS 10, PEM) that names nobody: whose certificate it becomes is the authority's to decide."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, SIGNED_WITH).public_bytes(serialization.Encoding.PEM)


def requested_key(request: str) -> ec.EllipticCurvePublicKey:
    """The public key of a signing request, whose sender has shown that he holds the private one.

    Every name and extension of the request is passed over. Raises TrainshedError (INVALID).
    """
    if len(request) > MAX_REQUEST_BYTES:
        raise _refused(f"it has {len(request):,} characters, and at most {MAX_REQUEST_BYTES:,} are read")
    try:
        parsed = x509.load_pem_x509_csr(request.encode())
        key = parsed.public_key()
        signed = parsed.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _refused("it cannot be read; a signing request is PKCS 10 as PEM") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != CURVE.name:
        raise _refused(f"its key is not accepted; accepted is {ACCEPTED_KEYS}")
    if not signed:
        raise _refused("it is not signed with the key that it bears")
    return key


def key_fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """SHA-256, lower-case hex, of the public key (SubjectPublicKeyInfo, DER), as nats-server's ``pinned_certs`` has it."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def _refused(why: str) -> TrainshedError:
    return TrainshedError(ErrorCode.INVALID, f"the signing request is refused: {why}", "request")
