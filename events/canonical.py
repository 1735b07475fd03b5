"""Canonical JSON, the digest and the run id made from it.

Owns how a normalised run config becomes a name; knows nothing of which fields a config has.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import msgspec
import rfc8785

from trainshed_client.errors import ErrorCode, TrainshedError

RUN_ID_LENGTH = 26
"""Characters of a run id: 130 of the digest's 256 bits."""


class Digest(msgspec.Struct, frozen=True, gc=False):
    """The name of a normalised run config.

    ``hex`` is the SHA-256 of its canonical JSON in lower-case hex; ``run_id`` the first 26 characters of
    the same 32 bytes in lower-case base32 (RFC 4648).
    """

    hex: str
    run_id: str


def canonical_json(value: object) -> bytes:
    """``value`` as RFC 8785 writes it (UTF-8, keys sorted by UTF-16 code units, ECMAScript numbers).

    Raises TrainshedError (invalid) for what has no canonical form: NaN and infinities, integers outside
    ±(2^53 - 1), lone surrogates, keys that are no strings, types that JSON lacks.
    """
    document: Any = value  # the library's own type is recursive and names no dict[str, object]
    try:
        return rfc8785.dumps(document)
    except (ValueError, RecursionError) as error:  # its own errors and UnicodeEncodeError are ValueErrors
        raise TrainshedError(ErrorCode.INVALID, f"this has no canonical JSON: {error}") from error


def digest_of_json(normalised: object) -> Digest:
    """The digest of a config that is normalised already, as the log holds it.

    An auditor takes this one: it counts fields too that only a newer release knows.
    """
    digest = hashlib.sha256(canonical_json(normalised))
    return Digest(digest.hexdigest(), base64.b32encode(digest.digest()).decode()[:RUN_ID_LENGTH].lower())
