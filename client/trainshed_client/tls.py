"""TLS towards a server: the context made of an endpoint's files, and what a handshake that failed means for people.

Owns TLS's version, its checks and these texts; knows no connection. Nothing is kept: a renewed certificate is read.
"""

from __future__ import annotations

import os
import re
import ssl

from trainshed_client.endpoint import Endpoint
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.os_errors import why

_CA = "the authority's file {} (TRAINSHED_NATS_CA, or ca in endpoint.json)"
_CERT = "the certificate {} (TRAINSHED_NATS_CERT, or cert in endpoint.json)"
_KEY = "the key {} (TRAINSHED_NATS_KEY, or key in endpoint.json)"
_JOIN = "trainshed login TOKEN@HOST:PORT (an agent: trainshed agent --join TOKEN@HOST:PORT)"
_NOT_TRUSTED = frozenset([2, 7, 18, 19, 20, 21, 22, 24, 30])
"""OpenSSL's X509_V_ERR: no way from the server's certificate to an authority that is trusted."""
_NOT_YET, _EXPIRED, _OTHER_USE = 9, 10, 26
_OTHER_NAMES = frozenset([62, 64])
_NO_HANDSHAKE = ("WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE", "HTTP_REQUEST")
_OLDER = ("PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL", "VERSION_TOO_LOW")


class _Encrypted(Exception):
    """The key asks for a passphrase."""


def client_context(endpoint: Endpoint, *, now: float) -> ssl.SSLContext:
    """TLS 1.3 with the endpoint's files as they are now; the server's name and authority are checked.

    ``now``: in seconds since 1970, for what has expired. Raises `TrainshedError` (INVALID) that names file and setting.
    """
    if endpoint.ca is not None:
        _readable(_CA, endpoint.ca)
    try:
        context = ssl.create_default_context(cafile=endpoint.ca)
    except ssl.SSLError:
        raise _unusable(_CA, endpoint.ca, "holds no certificate in PEM") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # as Python 3.13 does by itself
    if endpoint.ca is not None:
        ends = [ssl.cert_time_to_seconds(str(known["notAfter"])) for known in context.get_ca_certs()]
        if not ends:
            raise _unusable(_CA, endpoint.ca, "is no authority's: it may not vouch for others")
        if max(ends) <= now:
            raise _unusable(_CA, endpoint.ca, "has expired", f"Get the one in force: {_JOIN}")
    if endpoint.cert is not None and endpoint.key is not None:
        _load(context, endpoint.cert, endpoint.key)
    return context


def _load(context: ssl.SSLContext, cert: str, key: str) -> None:
    if b"-----BEGIN CERTIFICATE-----" not in _readable(_CERT, cert):
        raise _unusable(_CERT, cert, "holds no certificate in PEM")
    if b"PRIVATE KEY-----" not in _readable(_KEY, key):
        raise _unusable(_KEY, key, "holds no key in PEM")

    def refuse() -> bytes:
        raise _Encrypted

    try:
        context.load_cert_chain(cert, key, password=refuse)  # without it OpenSSL asks on the terminal
    except _Encrypted:
        raise _unusable(_KEY, key, "is under a passphrase, and nobody is asked for it") from None
    except ssl.SSLError as error:
        if "MISMATCH" in _reason(error):
            raise _unusable(_KEY, key, f"is not that of the certificate {cert}") from None
        raise _unusable(_CERT, cert, f"or its key {key} is damaged ({why(error)})") from None
    except OSError as error:
        raise _unusable(_CERT, cert, f"or its key {key} cannot be read ({why(error)})") from None


def _readable(what: str, path: str) -> bytes:
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            return file.read()
    except OSError as error:
        raise _unusable(what, path, f"cannot be read ({why(error)})") from None


def _unusable(what: str, path: str | None, wrong: str, advice: str | None = None) -> TrainshedError:
    text = f"{what.format(path)} {wrong}. {advice or f'Name another, or get all anew: {_JOIN}'}"
    return TrainshedError(ErrorCode.INVALID, text)


def handshake_refusal(endpoint: Endpoint, error: ssl.SSLError) -> TrainshedError:
    """The error for people where the handshake failed, on this side or on the server's."""
    return TrainshedError(ErrorCode.DENIED, _verified(endpoint, error) or _alerted(endpoint, error))


def _verified(endpoint: Endpoint, error: ssl.SSLError) -> str | None:
    """Why this side does not trust the server; None where it was not for its certificate."""
    if not isinstance(error, ssl.SSLCertVerificationError):
        return None
    code, text = getattr(error, "verify_code", 0), getattr(error, "verify_message", "") or why(error)
    if code in _OTHER_NAMES:
        named = re.search(r"'([^']*)'", text)
        return (
            f"the server at {endpoint.url} is not the one that was asked for: its certificate is not for the name "
            f"{named.group(1) if named else 'in the URL'}. Write a name that stands in it: those that "
            "`trainshed cluster init --host NAME` was given there"
        )
    if code in _NOT_TRUSTED:
        by = endpoint.ca or "those that this machine trusts"
        return (
            f"the server at {endpoint.url} shows a certificate of an authority that is not trusted here ({by}). Name "
            f"the stack's authority in TRAINSHED_NATS_CA, or get it by: {_JOIN}"
        )
    if code in (_EXPIRED, _NOT_YET):
        wrong = "has expired" if code == _EXPIRED else "is not valid yet: compare the clocks of both machines"
        return f"the certificate of the server at {endpoint.url}, or its authority's, {wrong}" + (
            ". Its stack makes a new one, by: trainshed up" if code == _EXPIRED else ""
        )
    if code == _OTHER_USE:
        return f"what answers at {endpoint.url} shows a certificate that is not a server's: it is not the stack's"
    return f"the certificate of the server at {endpoint.url} is refused ({text})"


def _alerted(endpoint: Endpoint, error: ssl.SSLError) -> str:
    """What the server's alert means, or that there was no handshake at all."""
    reason, mine = _reason(error), endpoint.cert
    if any(name in reason for name in _NO_HANDSHAKE):
        return no_handshake(endpoint)
    if any(name in reason for name in _OLDER):
        return f"the server at {endpoint.url} knows no TLS 1.3, and less is not accepted. Update it"
    if "CERTIFICATE_REQUIRED" in reason or mine is None:
        return (
            f"the server at {endpoint.url} asks for a certificate. Name yours in TRAINSHED_NATS_CERT and its key in "
            f"TRAINSHED_NATS_KEY, or get one by: {_JOIN}"
        )
    if "CERTIFICATE_EXPIRED" in reason:
        return f"{_CERT.format(mine)} has expired, and the server at {endpoint.url} refuses it. Get a new one by: {_JOIN}"
    if "UNKNOWN_CA" in reason:
        return (
            f"the server at {endpoint.url} does not know the authority of {_CERT.format(mine)}: it is another stack's. "
            f"Get one of this stack by: {_JOIN}"
        )
    if "CERTIFICATE" in reason:
        return f"the server at {endpoint.url} refuses {_CERT.format(mine)}. Get a new one by: {_JOIN}"
    return f"TLS with the server at {endpoint.url} failed ({why(error)})"


def counts_no_more(endpoint: Endpoint) -> str:
    """What to print where the server hangs up once it has seen the certificate."""
    mine = "this connection" if endpoint.cert is None else _CERT.format(endpoint.cert)
    return (
        f"the server at {endpoint.url} refuses {mine} after the handshake: it was revoked, or a newer one took its place. Get a "
        f"new one by: {_JOIN}"
    )


def no_handshake(endpoint: Endpoint) -> str:
    """What is wrong with a server that does not begin with the handshake."""
    return (
        f"what listens at {endpoint.url} answers without TLS, or greets before TLS's handshake. A nats-server needs "
        "tls { handshake_first: true }; one without TLS is for its own machine alone, as nats://127.0.0.1:PORT"
    )


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).upper().replace(" ", "_")
