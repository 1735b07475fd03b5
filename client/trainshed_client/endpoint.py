"""Where the stack answers: an explicit URL, the environment, a worker's socket, or the state folder's endpoint.json.

Owns that order, the file and the default state folder; must not import nats (it is on the help path).
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Optional
from urllib.parse import unquote, urlsplit

import msgspec

from trainshed_client.errors import ErrorCode, NobodyAnswers, TrainshedError
from trainshed_client.os_errors import why

ENDPOINT_FILE = "endpoint.json"
DEFAULT_PORT = 4222
_SCHEMES = ("nats", "tls")
_VERSION = 1
WORKER_SOCKET = "TRAINSHED_SOCKET"
"""The variable that names a worker's way to the stack that runs it."""
_STACK_NAMED_BY = ("TRAINSHED_NATS_URL", "NATS_URL", "TRAINSHED_STATE_DIR")


class Endpoint(msgspec.Struct, frozen=True, omit_defaults=True):
    """How to reach a NATS server.

    ``url`` names one server, or several of one cluster separated by commas, and never bears credentials:
    ``user`` and ``password`` do. Its text form leaves the password out, so it may be logged.
    """

    url: str
    user: Optional[str] = None
    password: Optional[str] = None

    @property
    def servers(self) -> list[str]:
        """The servers, one URL each."""
        return self.url.split(",")

    def __repr__(self) -> str:
        return f"Endpoint({self.url!r}, user={self.user!r})"

    __str__ = __repr__


class _EndpointFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """The content of endpoint.json; fields that a newer release adds are passed over."""

    url: str
    v: int = 0
    user: Optional[str] = None
    password: Optional[str] = None


def parse_url(text: str, *, given_by: str, user: str | None = None, password: str | None = None) -> Endpoint:
    """Read a NATS URL such as ``nats://host:4222``, ``host``, or several with commas between them.

    Credentials inside the URL are taken out of it and win over ``user`` and ``password``. ``given_by`` names the
    option or variable in the error. Raises `TrainshedError` (INVALID).
    """
    servers: list[str] = []
    for part in text.split(","):
        part = part.strip()
        url = part if "://" in part else f"nats://{part}"
        try:
            split = urlsplit(url)
            host, port = split.hostname, split.port or DEFAULT_PORT
        except ValueError:
            host, port = None, 0
            split = urlsplit("")
        extra = split.path not in ("", "/") or split.query or split.fragment
        if not host or any(letter.isspace() for letter in host) or split.scheme not in _SCHEMES or extra:
            raise TrainshedError(
                ErrorCode.INVALID,
                f"{given_by} is {_without_credentials(part)!r}, which is no NATS URL; "
                "write nats://HOST:PORT or tls://HOST:PORT",
            )
        if split.username:
            user = unquote(split.username)
            password = unquote(split.password) if split.password else None
        shown_host = f"[{host}]" if ":" in host else host
        servers.append(f"{split.scheme}://{shown_host}:{port}")
    return Endpoint(",".join(servers), user, password)


def default_state_dir(environ: Mapping[str, str]) -> Path:
    """The state folder: ``TRAINSHED_STATE_DIR``, else ``trainshed`` in the XDG state folder. It may not exist yet."""
    if chosen := environ.get("TRAINSHED_STATE_DIR"):
        return Path(chosen).expanduser().absolute()
    xdg = environ.get("XDG_STATE_HOME", "")
    base = Path(xdg) if xdg.startswith("/") else Path("~/.local/state").expanduser()
    return base / "trainshed"


def discover(
    explicit: str | None = None, *, environ: Mapping[str, str] | None = None, state_dir: Path | None = None
) -> Endpoint:
    """Find the stack to talk to: ``--nats URL``, ``TRAINSHED_NATS_URL``, ``NATS_URL``, else the state folder.

    ``TRAINSHED_NATS_USER`` and ``TRAINSHED_NATS_PASSWORD`` (or ``…_PASSWORD_FILE``) go with a URL that bears no
    credentials. Raises `TrainshedError`: INVALID for a bad URL, UNAVAILABLE where nothing says where to go.
    """
    env = os.environ if environ is None else environ
    user = env.get("TRAINSHED_NATS_USER") or None
    if explicit:
        return parse_url(explicit, given_by="--nats", user=user, password=_password(env))
    for name in ("TRAINSHED_NATS_URL", "NATS_URL"):
        if text := env.get(name):
            return parse_url(text, given_by=name, user=user, password=_password(env))
    return read_endpoint(state_dir or default_state_dir(env))


def worker_socket(explicit: str | None = None, *, environ: Mapping[str, str] | None = None) -> str | None:
    """Inside a worker the path of the socket that its agent keeps; None elsewhere, and where another stack is named."""
    env = os.environ if environ is None else environ
    if explicit or any(env.get(name) for name in _STACK_NAMED_BY):
        return None
    return env.get(WORKER_SOCKET) or None


def read_endpoint(state_dir: Path) -> Endpoint:
    """Read ``endpoint.json`` of a state folder. Raises `NobodyAnswers` with what to do."""
    path = state_dir / ENDPOINT_FILE
    try:
        content = msgspec.json.decode(path.read_bytes(), type=_EndpointFile)
        return parse_url(content.url, given_by="url", user=content.user, password=content.password)
    except FileNotFoundError:
        raise NobodyAnswers(
            f"No stack is running here ({path} is missing). Start one: trainshed up",
        ) from None
    except OSError as error:
        raise NobodyAnswers(
            f"{path} cannot be read ({why(error)}). It belongs to who started the stack; "
            "name another state folder in TRAINSHED_STATE_DIR, or a server with --nats",
        ) from None
    except (msgspec.MsgspecError, TrainshedError) as error:
        raise NobodyAnswers(
            f"{path} is damaged ({error}). `trainshed up` writes it anew",
        ) from None


def write_endpoint(state_dir: Path, endpoint: Endpoint) -> Path:
    """Write ``endpoint.json`` (mode 0600, whole or not at all) and return its path."""
    record = _EndpointFile(endpoint.url, _VERSION, endpoint.user, endpoint.password)
    path = state_dir / ENDPOINT_FILE
    write_private(path, msgspec.json.encode(record) + b"\n")
    return path


def write_private(path: Path, content: bytes) -> None:
    """Put ``content`` at ``path`` with mode 0600 by temp file, fsync and rename; makes the folder (0700)."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temp = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(temp, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temp, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temp)


def _password(env: Mapping[str, str]) -> str | None:
    if password := env.get("TRAINSHED_NATS_PASSWORD"):
        return password
    if not (name := env.get("TRAINSHED_NATS_PASSWORD_FILE")):
        return None
    try:
        return Path(name).read_text().rstrip("\r\n")
    except OSError as error:
        raise TrainshedError(
            ErrorCode.INVALID,
            f"TRAINSHED_NATS_PASSWORD_FILE names {name}, which cannot be read ({why(error)})",
        ) from None


def _without_credentials(url: str) -> str:
    scheme, sep, rest = url.rpartition("://")
    return f"{scheme}{sep}***@{rest.rpartition('@')[2]}" if "@" in rest else url
