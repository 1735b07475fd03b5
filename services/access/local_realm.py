"""Who the embedded nats-server lets in: the control side's roles, this machine's node and person, each with a password.

Owns `<state>/credentials/`, files that services alone read; knows neither the server's process nor its ports.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from services.access.accounts import User, accounts_text, inbox_prefix
from services.access.identities import (
    CONTROL_ACCOUNT,
    LOCAL,
    Control,
    ControlRole,
    Identity,
    NodeIdentity,
    PageUser,
    Person,
    PersonRole,
    user_name,
)
from services.nats_server.web_socket import WebSocketListener
from trainshed_client.endpoint import Endpoint, read_credentials, write_credentials, write_endpoint
from trainshed_client.errors import TrainshedError

CREDENTIALS_DIR = "credentials"
AGENT = "agent"
"""The file of this machine's own node."""
_ROLES = (ControlRole.OPERATOR, ControlRole.GATEWAY, ControlRole.DISPATCHER, ControlRole.PROJECTOR)


class Unconfined:
    """One user of the control side who may do everything: for a server of one's own, without a stack around it."""

    store_account = CONTROL_ACCOUNT
    tls = False

    def text(self, password: str, web: WebSocketListener | None) -> str:
        """See Realm."""
        operator = User(identity=Control(ControlRole.OPERATOR), password=password, confined=False)
        return accounts_text([operator, *_pages(web)], by_web_socket=web is not None)

    def operator(self, url: str, password: str) -> Endpoint:
        """See Realm."""
        return Endpoint(url, user_name(Control(ControlRole.OPERATOR)), password)


class LocalRealm:
    """Everybody of one machine. Passwords are made at the first start and kept; the person's is the server's own."""

    store_account = CONTROL_ACCOUNT
    tls = False

    def __init__(self, state_dir: Path, node: str) -> None:
        self._state_dir = state_dir
        self._folder = state_dir / CREDENTIALS_DIR
        self._services: dict[str, Identity] = {role.value: Control(role) for role in _ROLES}
        self._services[AGENT] = NodeIdentity(node)
        self._passwords = {name: self._kept(name) for name in self._services}

    def text(self, password: str, web: WebSocketListener | None) -> str:
        """See Realm."""
        users = [
            User(identity=identity, password=self._passwords[name])
            for name, identity in self._services.items()
        ]
        local = User(identity=Person(LOCAL, PersonRole.ADMIN), password=password)
        return accounts_text([*users, local, *_pages(web)], by_web_socket=web is not None)

    def operator(self, url: str, password: str) -> Endpoint:
        """See Realm."""
        return self.service(ControlRole.OPERATOR, url)

    def service(self, name: str, url: str) -> Endpoint:
        """How a service connects: one of the roles, or `AGENT`."""
        identity = self._services[name]
        return Endpoint(url, user_name(identity), self._passwords[name], inbox_prefix=inbox_prefix(identity))

    def write(self, url: str, password: str) -> None:
        """Write every service's file, and the local person's endpoint.json (0600, whole or not at all). Raises OSError."""
        for name in self._services:
            write_credentials(self.path(name), self.service(name, url))
        local = Endpoint(url, user_name(Person(LOCAL, PersonRole.ADMIN)), password)
        write_endpoint(self._state_dir, local)

    def path(self, name: str) -> Path:
        """The file of a service."""
        return self._folder / f"{name}.json"

    def _kept(self, name: str) -> str:
        """The password of an earlier start, else a new one: a file that cannot be understood is written anew."""
        try:
            kept = read_credentials(self.path(name), given_by="a service").password
        except TrainshedError:
            kept = None
        return kept or secrets.token_urlsafe(24)


def _pages(web: WebSocketListener | None) -> list[User]:
    return [] if web is None else [User(identity=PageUser(), password=web.password)]
