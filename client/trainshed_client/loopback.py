"""Which addresses are this machine's own, and the refusal of any other without TLS.

Owns that rule, for whoever connects or listens; resolves no name and knows no connection.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from trainshed_client.endpoint import Endpoint
from trainshed_client.errors import ErrorCode, TrainshedError


def is_loopback(host: str) -> bool:
    """Whether nothing but this machine is reached there: 127.0.0.0/8, ::1 or localhost. No name is resolved."""
    if host.lower() == "localhost":
        return True
    import ipaddress  # costs 3 ms, and help screens do without

    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return address in ipaddress.IPv4Network("127.0.0.0/8")
    return address == ipaddress.IPv6Address("::1")


def refuse_open(endpoint: Endpoint) -> None:
    """Raise `TrainshedError` (INVALID) where credentials would cross a network for everybody to read."""
    for server in endpoint.servers:
        refuse_open_server(server)


def refuse_open_server(url: str) -> None:
    """The same for one server's URL."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "tls" or is_loopback(host):
        return
    place = url.partition("://")[2].rpartition("@")[2]
    raise TrainshedError(
        ErrorCode.INVALID,
        f"{host} is not this machine, and nats:// is without TLS: everybody on the way could read and forge. Write "
        f"tls://{place} and name the authority in TRAINSHED_NATS_CA, or get certificate, authority and address by: "
        f"trainshed login TOKEN@{f'[{host}]' if ':' in host else host}:PORT",
    )
