"""Every setting of Trainshed's processes: its variable, meaning, unit, default and check, in one place.

Owns the `TRAINSHED_<NAME>` variables; must not know who uses a setting. `python -m services.settings` prints the table.
"""

from __future__ import annotations

import difflib
import enum
import functools
import os
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_type_hints

from services import setting_values
from services.setting_values import NODE_NAME, Listen, UserMap
from trainshed_client.endpoint import default_state_dir
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.os_errors import why

PREFIX = "TRAINSHED_"
# What an agent gives its workers: no settings, but a worker may well call `trainshed`.
WORKER_NAMES = frozenset(
    PREFIX + name
    for name in ("LOG_ID", "RUN_ID", "ATTEMPT", "RUN_DIR", "CPUS", "MEMORY_MB", "SLOTS", "MAX_STEPS")
)


class LogFormat(enum.StrEnum):
    """How log lines look."""

    AUTO = "auto"
    CONSOLE = "console"
    JSON = "json"


class LogLevel(enum.StrEnum):
    """The least severe log lines that are written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class _Variable:
    """One setting's words and its check; ``parse`` raises ValueError with what is accepted."""

    parse: Callable[[str], Any]
    meaning: str
    default: str
    name: str = ""
    secret: bool = False


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a process was told by its environment; every field is checked, and every folder absolute."""

    state_dir: Annotated[
        Path,
        _Variable(
            setting_values.path,
            "Folder that holds everything an embedded stack and an agent write.",
            "`$XDG_STATE_HOME/trainshed`, else `~/.local/state/trainshed`",
        ),
    ]
    runs_dir: Annotated[
        Path,
        _Variable(
            setting_values.path,
            "Folder of the runs' folders (output, checkpoints); may be shared storage.",
            "`runs` in the state folder",
        ),
    ]
    node: Annotated[
        str | None,
        _Variable(
            setting_values.node_name,
            "Name of this node: 1 to 63 of a-z, 0-9 and `-`.",
            "the host's first label",
        ),
    ] = None
    nats_url: Annotated[
        str | None,
        _Variable(
            setting_values.nats_url,
            "NATS server (several with commas between them); `NATS_URL` is read where this is not set.",
            "the state folder's `endpoint.json`",
        ),
    ] = None
    nats_user: Annotated[
        str | None, _Variable(setting_values.text, "User for that server, where the URL names none.", "none")
    ] = None
    nats_password: Annotated[
        str | None, _Variable(setting_values.text, "Password for that server.", "none", secret=True)
    ] = field(default=None, repr=False)
    nats_ca: Annotated[
        Path | None,
        _Variable(
            setting_values.path,
            "File of the authority that vouches for a `tls://` server (PEM).",
            "those that the machine trusts",
        ),
    ] = None
    nats_cert: Annotated[
        Path | None,
        _Variable(
            setting_values.path,
            "File of the certificate that this process shows a `tls://` server (PEM); read anew at each connection.",
            "none",
        ),
    ] = None
    nats_key: Annotated[
        Path | None, _Variable(setting_values.path, "File of that certificate's key (PEM).", "none")
    ] = None
    credentials: Annotated[
        Path | None,
        _Variable(
            setting_values.path,
            "File of `endpoint.json`'s shape, before that of the state folder; where a URL is set too, all but the address is the file's.",
            "none",
        ),
    ] = None
    join_file: Annotated[
        Path | None,
        _Variable(
            setting_values.path,
            "File with a line of `trainshed node add`: an agent whose state folder has no certificate yet enrols with it first.",
            "none",
        ),
    ] = None
    nats_monitor_url: Annotated[
        str | None,
        _Variable(
            setting_values.http_url,
            "That server's monitoring (`http://HOST:8222`): its `/jsz` tells the gateway how much may still be stored, its "
            "`/connz` the projector who was cut off.",
            "not asked",
        ),
    ] = None
    replicas: Annotated[
        int,
        _Variable(
            setting_values.copies, "Copies of each stream: 1, or 3 on a cluster of three servers.", "1"
        ),
    ] = 1
    heartbeat_timeout_s: Annotated[
        float,
        _Variable(
            setting_values.seconds,
            "Seconds without a heartbeat after which an attempt is timed out, where its run names no other.",
            "300",
        ),
    ] = 300.0
    node_lost_s: Annotated[
        float,
        _Variable(
            setting_values.seconds,
            "Seconds of silence after which a node (heard every 5 s) counts as lost and is granted nothing.",
            "15",
        ),
    ] = 15.0
    min_free_mb: Annotated[
        int,
        _Variable(
            setting_values.mebibytes,
            "MiB that must stay free in the event log's store (the state folder's disk); below, no run is accepted.",
            "1024",
        ),
    ] = 1024
    allow_credentials: Annotated[
        bool,
        _Variable(
            setting_values.switch,
            "1 accepts plain credentials in a run config; the log keeps them for ever.",
            "0",
        ),
    ] = False
    avoid_busy_gpus: Annotated[
        bool,
        _Variable(
            setting_values.switch,
            "1 grants nothing on a GPU on which somebody else's processes compute (seen for 30 s, until they are gone for 30 s).",
            "0",
        ),
    ] = False
    http_listen: Annotated[
        Listen | None,
        _Variable(
            setting_values.listen,
            "`[HOST:]PORT` (no host: 127.0.0.1) where a service answers `/healthz`, `/readyz` and `/metrics`; `up` takes the next port too.",
            "not served",
        ),
    ] = None
    worker_env: Annotated[
        str | None,
        _Variable(
            setting_values.variable_names,
            "Names of the agent's variables that its workers get too: `HF_HOME,WANDB_*` (`*`: any letters).",
            "none",
        ),
    ] = None
    worker_users: Annotated[
        UserMap | None,
        _Variable(
            setting_values.user_map,
            "As whom workers run where root runs the agent, by who submitted: `sam=sam,local=ann,*=nobody` (`*`: everybody else).",
            "none: an agent of root's does not start",
        ),
    ] = None
    no_new_privs: Annotated[
        bool | None,
        _Variable(
            setting_values.switch,
            "1: no program that a worker starts gains rights by it (`sudo`, set-user-id).",
            "1 where root runs the agent, else 0",
        ),
    ] = None
    log_format: Annotated[
        LogFormat,
        _Variable(
            setting_values.choice(LogFormat),
            "`console` (for people), `json` (a line an object), `auto`: console on a terminal, else JSON.",
            "auto",
        ),
    ] = LogFormat.AUTO
    log_level: Annotated[
        LogLevel,
        _Variable(
            setting_values.choice(LogLevel), "Least severe lines to log: debug, info, warning, error.", "info"
        ),
    ] = LogLevel.INFO
    var_logs_dir: Annotated[
        Path | None,
        _Variable(
            setting_values.path,
            "Folder for the workers' output, as `<run_id>/<attempt>/`, instead of the run's folder.",
            "the run's folder",
            name="VAR_LOGS_DIR",
        ),
    ] = None

    @classmethod
    def read(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read and check every setting; an empty variable counts as not set.

        A secret may be given by file instead: ``TRAINSHED_NATS_PASSWORD_FILE``. Raises `TrainshedError` (INVALID)
        that names the variable, its value (not a secret's) and what is accepted.
        """
        env = os.environ if environ is None else environ
        values: dict[str, Any] = {}
        for name, variable in _declared().items():
            if _given(variable, env):
                values[name] = _value(variable, env)
        if "nats_url" not in values and env.get("NATS_URL"):
            values["nats_url"] = _value(replace(_declared()["nats_url"], name="NATS_URL"), env)
        values.setdefault("state_dir", default_state_dir(env))
        values.setdefault("runs_dir", values["state_dir"] / "runs")
        return cls(**values)


def given_settings(settings: Settings, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables that are set, each as a text that means the same anywhere (folders are absolute); no secret, and
    none of the NATS server, which an embedded stack brings along."""
    env = os.environ if environ is None else environ
    given = {
        variable.name: getattr(settings, name)
        for name, variable in _declared().items()
        if _given(variable, env) and not variable.secret and not _of_the_server(name)
    }
    return {name: str(int(value) if isinstance(value, bool) else value) for name, value in given.items()}


def _of_the_server(name: str) -> bool:
    return name.startswith("nats_") or name == "credentials"


class InForce(NamedTuple):
    """One setting as it holds: ``source`` is where it was given, ``value`` its text ("***" for a secret, None for none)."""

    name: str
    value: str | None
    source: str


def in_force(environ: Mapping[str, str] | None = None) -> list[InForce]:
    """Every setting with its value and where it comes from: a variable, a file, or its default.

    Raises as :meth:`Settings.read`.
    """
    env = os.environ if environ is None else environ
    settings = Settings.read(env)
    listed = []
    for field_name, variable in _declared().items():
        value = getattr(settings, field_name)
        if env.get(variable.name):
            source = variable.name
        elif _given(variable, env):
            source = f"{variable.name}_FILE ({env[variable.name + '_FILE']})"
        elif field_name == "nats_url" and value is not None:
            source = "NATS_URL"
        else:
            source = "default" if value is not None else f"default: {variable.default.replace('`', '')}"
        text = None if value is None else "***" if variable.secret else _as_text(value)
        listed.append(InForce(variable.name, text, source))
    return listed


def _as_text(value: object) -> str:
    """As the variable would say it; no URL shows its credentials."""
    match value:
        case bool():
            return "1" if value else "0"
        case float():
            return f"{value:g}"
        case str():
            return re.sub(r"(?<=//)[^/@,]*@", "***@", value)
        case _:
            return str(value)


def unknown_settings(environ: Mapping[str, str]) -> dict[str, str | None]:
    """`TRAINSHED_` variables that name no setting, each with the setting that was probably meant."""
    known = {variable.name for variable in _declared().values()}
    known |= {f"{variable.name}_FILE" for variable in _declared().values() if variable.secret}
    strangers = {name for name in environ if name.startswith(PREFIX)} - known - WORKER_NAMES
    names = [name.removeprefix(PREFIX) for name in known]
    meant = {
        name: difflib.get_close_matches(name.removeprefix(PREFIX), names, n=1) for name in sorted(strangers)
    }
    return {name: PREFIX + close[0] if close else None for name, close in meant.items()}


def check_node_name(text: str, *, given_by: str = "--node") -> str:
    """``text`` if it may name a node. Raises `TrainshedError` (INVALID)."""
    if NODE_NAME.fullmatch(text):
        return text
    raise TrainshedError(
        ErrorCode.INVALID, f"{given_by} is {text!r}; a node's name is 1 to 63 of a-z, 0-9 and -"
    )


def default_node_name(hostname: str | None = None) -> str:
    """A node's name where none was given: the host's first label, lower-case, other characters turned to ``-``."""
    label = (socket.gethostname() if hostname is None else hostname).partition(".")[0].lower()
    return re.sub(r"[^a-z0-9]+", "-", label).strip("-")[:63].rstrip("-") or "node"


def markdown_table() -> str:
    """The settings as the README shows them."""
    rows = ["| variable | default | meaning |", "| --- | --- | --- |"]
    for variable in _declared().values():
        shown = f"`{variable.name}`" + (f" or `{variable.name}_FILE`" if variable.secret else "")
        rows.append(f"| {shown} | {variable.default} | {variable.meaning} |")
    return "\n".join(rows)


@functools.cache
def _declared() -> dict[str, _Variable]:
    """Every setting by its field, in the order of the class, each with the full name of its variable."""
    hints = get_type_hints(Settings, include_extras=True)
    variables = {name: hint.__metadata__[0] for name, hint in hints.items()}
    return {
        name: replace(variable, name=variable.name or PREFIX + name.upper())
        for name, variable in variables.items()
    }


def _given(variable: _Variable, env: Mapping[str, str]) -> bool:
    return bool(env.get(variable.name) or (variable.secret and env.get(f"{variable.name}_FILE")))


def _value(variable: _Variable, env: Mapping[str, str]) -> Any:
    text = env.get(variable.name, "")
    if variable.secret and (file := env.get(f"{variable.name}_FILE")):
        if text:
            raise TrainshedError(
                ErrorCode.INVALID, f"{variable.name} and {variable.name}_FILE are both set; leave one out"
            )
        return _from_file(f"{variable.name}_FILE", file)
    try:
        return variable.parse(text)
    except ValueError as error:
        shown = "a URL with credentials" if "@" in text else repr(text)
        raise TrainshedError(ErrorCode.INVALID, f"{variable.name} is {shown}; accepted: {error}") from None


def _from_file(variable: str, name: str) -> str:
    """A secret's value: the file's text without the line's end."""
    try:
        return Path(name).read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        cause = why(error) if isinstance(error, OSError) else "not UTF-8"
        raise TrainshedError(
            ErrorCode.INVALID, f"{variable} names {name}, which cannot be read ({cause})"
        ) from None


if __name__ == "__main__":
    print(markdown_table())
