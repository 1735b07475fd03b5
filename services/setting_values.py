"""What a setting's text may be: each kind's check, and what it makes of the text.

Owns those checks; knows no setting. Each raises ValueError with what is accepted, for a person.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from services.durations import ACCEPTED, parse_duration
from trainshed_client.endpoint import parse_url
from trainshed_client.errors import TrainshedError

NODE_NAME = re.compile(r"[a-z0-9-]{1,63}")


def text(value: str) -> str:
    return value


def path(value: str) -> Path:
    return Path(value).expanduser().absolute()


def copies(value: str) -> int:
    if value not in ("1", "3"):
        raise ValueError("1 or 3")
    return int(value)


def mebibytes(value: str) -> int:
    if not re.fullmatch(r"\d{1,12}", value, re.ASCII):
        raise ValueError("a whole number of MiB, 0 or more")
    return int(value)


def seconds(value: str) -> float:
    try:
        seconds = parse_duration(value)
    except TrainshedError:
        seconds = 0.0
    if seconds < 1:
        raise ValueError(f"at least 1 second: {ACCEPTED}")
    return seconds


def switch(value: str) -> bool:
    match value.lower():
        case "1" | "true" | "yes" | "on":
            return True
        case "0" | "false" | "no" | "off":
            return False
        case _:
            raise ValueError("1 or 0")


def choice(kind: type[enum.StrEnum]) -> Callable[[str], enum.StrEnum]:
    def parse(value: str) -> enum.StrEnum:
        try:
            return kind(value.lower())
        except ValueError:
            raise ValueError(", ".join(kind)) from None

    return parse


def variable_names(value: str) -> str:
    names = value.replace(",", " ").split()
    if not names or any("=" in name for name in names):
        raise ValueError("names of variables with commas between them, as HF_HOME,WANDB_*")
    return ",".join(names)


def node_name(value: str) -> str:
    if not NODE_NAME.fullmatch(value):
        raise ValueError("1 to 63 of a-z, 0-9 and -")
    return value


def nats_url(value: str) -> str:
    try:
        parse_url(value, given_by="it")
    except TrainshedError as error:
        raise ValueError("nats://HOST:PORT or tls://HOST:PORT") from error
    return value


def http_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme != "http" or not parts.hostname or parts.path not in ("", "/") or "@" in value:
        raise ValueError("http://HOST:PORT")
    return value.rstrip("/")


@dataclass(frozen=True)
class Listen:
    """An address to serve on; port 0 takes any that is free."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def own_address(host: str) -> str:
    """How this machine's own processes reach what listens on ``host``."""
    return "127.0.0.1" if host in ("0.0.0.0", "::") else host


def listen(value: str) -> Listen:
    host, colon, port = value.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not re.fullmatch(r"\d{1,5}", port, re.ASCII) or int(port) > 65535 or (colon and not host):
        raise ValueError("PORT or HOST:PORT, as in 8080 or 0.0.0.0:8080")
    return Listen(host or "127.0.0.1", int(port))


EVERYBODY = "*"
_SUBMITTER = re.compile(r"[a-z][a-z0-9_-]{0,31}|\*")
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}")
_ACCOUNT = "P_"
"""What the account of a person bears before his name."""


@dataclass(frozen=True)
class UserMap:
    """As which user of the machine the workers of each submitter run."""

    users: tuple[tuple[str, str], ...]

    def user_of(self, submitter: str) -> str | None:
        """The user's name; None where nobody is named for that submitter."""
        users = dict(self.users)
        return users.get(submitter.removeprefix(_ACCOUNT), users.get(EVERYBODY))

    def __str__(self) -> str:
        return ",".join(f"{submitter}={user}" for submitter, user in self.users)


def user_map(value: str) -> UserMap:
    users: dict[str, str] = {}
    for pair in value.replace(",", " ").split():
        submitter, _, user = pair.partition("=")
        if not _SUBMITTER.fullmatch(submitter) or not _USER.fullmatch(user) or submitter in users:
            users.clear()
            break
        users[submitter] = user
    if not users:
        raise ValueError(
            "SUBMITTER=USER with commas between them, each submitter once, as in sam=sam,local=ann,*=nobody"
        )
    return UserMap(tuple(users.items()))
