"""The three servers as they were named, and the configuration of each, as text.

Owns what stands in it beside that of an embedded server; writes no file and knows nobody who gets in.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from services.nats_server.server_config import REALM_FILE, ServerConfig
from services.setting_values import Listen
from trainshed_client.errors import ErrorCode, TrainshedError

SERVERS = 3
SERVER_CONF = "server.conf"
ROUTES_PEM = "routes.pem"
ROUTES_CA = "routes-ca.crt"
__all__ = ["REALM_FILE", "ROUTES_CA", "ROUTES_PEM", "SERVERS", "SERVER_CONF", "ThirdServer", "three", "urls"]
_HEADER = "# Written by `python -m services.three_servers make`. Start it in this folder: nats-server -c server.conf\n"
_CLUSTER = """\
cluster {{
  name: trainshed
  listen: "{listen}"
  routes: [{routes}]
  # An authority of its own: a certificate of a node or a person opens no route.
  tls {{ cert_file: {pem}, key_file: {pem}, ca_file: {ca}, min_version: "1.3", timeout: 5 }}
}}
"""
_GIVEN = re.compile(
    r"(?P<name>[a-z0-9-]{1,32})=(?P<host>\[[0-9a-f:]+\]|[^:\[\]]+)(:(?P<port>\d+))?(:(?P<routes>\d+))?(:(?P<monitor>\d+))?\Z"
)


class ThirdServer(msgspec.Struct, frozen=True, kw_only=True):
    """One of the three: its name, where clients and the other two reach it, and its monitoring port on loopback."""

    name: str
    host: str
    port: int = 4222
    routes: int = 6222
    monitor: int = 8222

    @classmethod
    def parse(cls, text: str) -> ThirdServer:
        """``NAME=HOST[:PORT[:ROUTES[:MONITOR]]]``. Raises TrainshedError (INVALID)."""
        found = _GIVEN.match(text)
        if found is None or any(int(found[which] or 1) > 65535 for which in ("port", "routes", "monitor")):
            raise TrainshedError(
                ErrorCode.INVALID,
                f"{text!r} is no server; accepted: NAME=HOST[:PORT[:ROUTES[:MONITOR]]], as in s1=10.0.0.1 or "
                "s1=127.0.0.1:4222:6222:8222",
                "--server",
            )
        given = {which: int(found[which]) for which in ("port", "routes", "monitor") if found[which]}
        return cls(name=found["name"], host=found["host"].strip("[]"), **given)

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"tls://{Listen(self.host, self.port)}"

    def conf(self, others: Sequence[ThirdServer]) -> str:
        """Its configuration; paths in it are within the folder that it is started in."""
        config = ServerConfig(
            server_name=self.name,
            listen=str(Listen(self.host, self.port)),
            monitor_port=self.monitor,
            pid_file=Path("server.pid"),
            log_file=Path("server.log"),
            store_dir=Path("store"),
        )
        routes = ", ".join(f'"tls://{Listen(other.host, other.routes)}"' for other in others)
        cluster = _CLUSTER.format(
            listen=Listen(self.host, self.routes), routes=routes, pem=f'"{ROUTES_PEM}"', ca=f'"{ROUTES_CA}"'
        )
        return _HEADER + config.text.partition("\n")[2] + cluster


def three(texts: Sequence[str]) -> list[ThirdServer]:
    """The servers that were named. Raises TrainshedError (INVALID) where they are not three of their own."""
    servers = [ThirdServer.parse(text) for text in texts]
    named = {server.name for server in servers}
    places = {(server.host, port) for server in servers for port in (server.port, server.routes)}
    if len(servers) != SERVERS or len(named) != SERVERS or len(places) != 2 * SERVERS:
        raise TrainshedError(
            ErrorCode.INVALID,
            f"name {SERVERS} servers, each with a name and an address of its own: --server s1=10.0.0.1 --server s2=10.0.0.2 "
            "--server s3=10.0.0.3",
            "--server",
        )
    return servers


def urls(servers: Sequence[ThirdServer]) -> str:
    """All of them, as TRAINSHED_NATS_URL and credentials have it."""
    return ",".join(server.url for server in servers)
