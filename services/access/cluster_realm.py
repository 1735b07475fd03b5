"""Who gets in where other machines may: everybody on the roster, each by a certificate whose key is listed.

Owns that part of the server's configuration; the roster and the authority's files are services.enrol's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from services.access.accounts import User, accounts_text, inbox_prefix, quoted
from services.access.identities import (
    CONTROL_ACCOUNT,
    LOCAL,
    Control,
    ControlRole,
    Known,
    PageUser,
    Person,
    PersonRole,
)
from services.enrol.cluster import AGENT, CREDENTIALS_DIR, ROLES_OF_UP, USER
from services.enrol.roster import Roster
from services.enrol.roster_file import BUNDLE_FILE, CLUSTER_DIR, SERVER_FILE, read_roster
from services.nats_server.web_socket import WebSocketListener
from trainshed_client.endpoint import Endpoint, write_credentials, write_endpoint

_TLS = """\
tls {{
  cert_file: {server}
  key_file: {server}
  ca_file: {bundle}
  verify_and_map: true
  handshake_first: true
  min_version: "1.3"
  timeout: 5
  pinned_certs: [{keys}]
}}
"""


class ClusterRealm:
    """The roster's people and nodes, and the control side. Passwords let nobody in, but pages by their listener on loopback.
    ``files``: the folder in which the server finds its certificate and the authorities (None: the cluster folder)."""

    store_account = CONTROL_ACCOUNT
    tls = True

    def __init__(
        self, state_dir: Path, *, files: Path | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._state_dir = state_dir
        self._folder = state_dir / CLUSTER_DIR
        self._files = files or self._folder
        self._clock = clock

    def text(self, password: str, web: WebSocketListener | None) -> str:
        """See Realm. Reads the roster as it is now."""
        return self.text_of(read_roster(self._folder), web)

    def text_of(self, roster: Roster, web: WebSocketListener | None) -> str:
        """The same for a roster. Pure but for the clock."""
        now = datetime.fromtimestamp(self._clock(), UTC)
        users = [User(identity=one.identity) for one in roster.everybody() if one.keys(now)]
        pages = [] if web is None else [User(identity=PageUser(), password=web.password)]
        keys = ", ".join(quoted(key) for key in roster.pinned_keys(now))
        tls = _TLS.format(
            server=quoted(str(self._files / SERVER_FILE)),
            bundle=quoted(str(self._files / BUNDLE_FILE)),
            keys=keys,
        )
        return tls + accounts_text([*users, *pages], by_web_socket=web is not None)

    def operator(self, url: str, password: str) -> Endpoint:
        """See Realm."""
        return self.service(ControlRole.OPERATOR, url)

    def service(self, name: str, url: str) -> Endpoint:
        """How a service of this machine connects: one of the roles, `AGENT` or `USER`."""
        folder = self._state_dir.absolute() / CREDENTIALS_DIR
        own = str(folder / f"{name}.pem")
        return Endpoint(
            url,
            ca=str(folder / f"{name}-ca.crt"),
            cert=own,
            key=own,
            inbox_prefix=inbox_prefix(_identity(name)),
        )

    def path(self, name: str) -> Path:
        """The file of a service."""
        return self._state_dir / CREDENTIALS_DIR / f"{name}.json"

    def write(self, url: str, password: str) -> None:
        """Write every service's file, and the local person's endpoint.json. Raises OSError."""
        for name in (*ROLES_OF_UP, AGENT):
            write_credentials(self.path(name), self.service(name, url))
        write_endpoint(self._state_dir, self.service(USER, url))


def _identity(name: str) -> Known:
    return Control(ControlRole(name)) if name in set(ControlRole) else Person(LOCAL, PersonRole.ADMIN)
