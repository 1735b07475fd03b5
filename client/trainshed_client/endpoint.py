"""Where the stack answers: an explicit URL, the environment, a worker's socket, or the state folder's endpoint.json.

Owns that order, the file and the default state folder; must not import nats nor ssl (it is on the help path).
"""

from __future__ import annotations

import contextlib
import os
import re
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
CREDENTIALS = "TRAINSHED_CREDENTIALS"
"""The variable that names a file of endpoint.json's shape."""
_STACK_NAMED_BY = ("TRAINSHED_NATS_URL", "NATS_URL", CREDENTIALS, "TRAINSHED_STATE_DIR")
_INBOX_PREFIX = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\Z")


class Endpoint(msgspec.Struct, frozen=True, omit_defaults=True):
    """How to reach a NATS server.

    ``url`` names one server, or several of one cluster separated by commas, and never bears credentials:
    ``user`` and ``password`` do, or the certificate ``cert`` with its ``key``. ``ca`` is the file of the authority that
    vouches for the server (None: those that this machine trusts). Some users hear answers only below ``inbox_prefix``.
    Its text form leaves the password out, so it may be logged. Raises `TrainshedError` (INVALID) where these do not fit
    together.
    """

    url: str
    user: Optional[str] = None
    password: Optional[str] = None
    ca: Optional[str] = None
    cert: Optional[str] = None
    key: Optional[str] = None
    inbox_prefix: Optional[str] = None

    def __post_init__(self) -> None:
        schemes = {server.partition("://")[0] for server in self.servers}
        if len(schemes) > 1:
            raise _invalid(f"{self.url} mixes nats:// and tls://; write tls:// for each server")
        for name in ("ca", "cert", "key"):
            path = getattr(self, name)
            if path is not None and not os.path.isabs(path):
                raise _invalid(f"{name} is {path!r}; it must be an absolute path")
        if (self.cert is None) != (self.key is None):
            raise _invalid(
                "a certificate is of use with its key alone: give both, TRAINSHED_NATS_CERT and TRAINSHED_NATS_KEY "
                "(cert and key in a credentials file)"
            )
        if (self.ca or self.cert) and not self.tls:
            raise _invalid(
                f"{self.url} is without TLS, and an authority or a certificate is given for it: write "
                f"{self.url.replace('nats://', 'tls://')}, or leave TRAINSHED_NATS_CA, _CERT and _KEY out"
            )
        if self.inbox_prefix is not None and not _INBOX_PREFIX.match(self.inbox_prefix):
            raise _invalid(
                f"inbox_prefix is {self.inbox_prefix!r}; accepted: a-z, A-Z, 0-9, _ and -, with dots between them"
            )

    @property
    def servers(self) -> list[str]:
        """The servers, one URL each."""
        return self.url.split(",")

    @property
    def tls(self) -> bool:
        """Whether a connection begins with TLS's handshake, before the server's greeting."""
        return self.url.startswith("tls://")

    def __repr__(self) -> str:
        return f"Endpoint({self.url!r}, user={self.user!r})"

    __str__ = __repr__


class _EndpointFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """The content of endpoint.json; fields that a newer release adds are passed over."""

    url: str
    v: int = 0
    user: Optional[str] = None
    password: Optional[str] = None
    ca: Optional[str] = None
    cert: Optional[str] = None
    key: Optional[str] = None
    inbox_prefix: Optional[str] = None


def parse_url(
    text: str,
    *,
    given_by: str,
    user: str | None = None,
    password: str | None = None,
    ca: str | None = None,
    cert: str | None = None,
    key: str | None = None,
    inbox_prefix: str | None = None,
) -> Endpoint:
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
    return Endpoint(",".join(servers), user, password, ca, cert, key, inbox_prefix)


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
    """Find the stack to talk to: ``--nats URL``, ``TRAINSHED_NATS_URL``, ``NATS_URL``, the URL of the file that
    ``TRAINSHED_CREDENTIALS`` names, else the state folder.

    Where that file is given, all but the address is its. Without it, a URL goes with ``TRAINSHED_NATS_USER``,
    ``TRAINSHED_NATS_PASSWORD`` (or ``…_PASSWORD_FILE``) unless it bears credentials itself, and with
    ``TRAINSHED_NATS_CA``, ``_CERT`` and ``_KEY``. Raises `TrainshedError`: INVALID for a bad URL or file, UNAVAILABLE
    where nothing names a stack.
    """
    env = os.environ if environ is None else environ
    file = env.get(CREDENTIALS)
    credentials = read_credentials(_absolute(file), given_by=CREDENTIALS) if file else None
    named = [("--nats", explicit)] + [(name, env.get(name)) for name in ("TRAINSHED_NATS_URL", "NATS_URL")]
    for given_by, url in named:
        if not url:
            continue
        if credentials is not None:
            address = parse_url(url, given_by=given_by).url
            return Endpoint(address, *(getattr(credentials, name) for name in Endpoint.__struct_fields__[1:]))
        return parse_url(
            url,
            given_by=given_by,
            user=env.get("TRAINSHED_NATS_USER") or None,
            password=_password(env),
            ca=_path(env, "TRAINSHED_NATS_CA"),
            cert=_path(env, "TRAINSHED_NATS_CERT"),
            key=_path(env, "TRAINSHED_NATS_KEY"),
        )
    return credentials or read_endpoint(state_dir or default_state_dir(env))


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
        return _decoded(path.read_bytes())
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


def read_credentials(path: Path, *, given_by: str) -> Endpoint:
    """Read a file of endpoint.json's shape that ``given_by`` names. Raises `TrainshedError` (INVALID)."""
    try:
        return _decoded(path.read_bytes())
    except OSError as error:
        raise _invalid(f"{given_by} names {path}, which cannot be read ({why(error)})") from None
    except (msgspec.MsgspecError, TrainshedError) as error:
        raise _invalid(f"{given_by} names {path}, which is not of endpoint.json's shape ({error})") from None


def write_endpoint(state_dir: Path, endpoint: Endpoint) -> Path:
    """Write ``endpoint.json`` (mode 0600, whole or not at all) and return its path."""
    path = state_dir / ENDPOINT_FILE
    write_credentials(path, endpoint)
    return path


def write_credentials(path: Path, endpoint: Endpoint) -> None:
    """Write a file of endpoint.json's shape (mode 0600, whole or not at all)."""
    record = _EndpointFile(v=_VERSION, **msgspec.structs.asdict(endpoint))
    write_private(path, msgspec.json.encode(record) + b"\n")


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


def _decoded(content: bytes) -> Endpoint:
    """Raises msgspec's errors, and `TrainshedError` for values that are none."""
    record = msgspec.json.decode(content, type=_EndpointFile)
    given = msgspec.structs.asdict(record)
    del given["v"]
    return parse_url(given.pop("url"), given_by="url", **given)


def _password(env: Mapping[str, str]) -> str | None:
    if password := env.get("TRAINSHED_NATS_PASSWORD"):
        return password
    if not (name := env.get("TRAINSHED_NATS_PASSWORD_FILE")):
        return None
    try:
        return Path(name).read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        cause = why(error) if isinstance(error, OSError) else "not UTF-8"
        raise _invalid(f"TRAINSHED_NATS_PASSWORD_FILE names {name}, which cannot be read ({cause})") from None


def _path(env: Mapping[str, str], variable: str) -> str | None:
    return str(_absolute(name)) if (name := env.get(variable)) else None


def _absolute(name: str) -> Path:
    return Path(name).expanduser().absolute()


def _invalid(message: str) -> TrainshedError:
    return TrainshedError(ErrorCode.INVALID, message)


def _without_credentials(url: str) -> str:
    scheme, sep, rest = url.rpartition("://")
    return f"{scheme}{sep}***@{rest.rpartition('@')[2]}" if "@" in rest else url
