"""From the words of a command line to run configs: options, files, and the `-- CMD` form.

Owns what is filled in from the caller's side; what a config may hold, the gateway judges alone.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from services.cli.code_option import named_code
from services.cli.config_file import Config, read_configs
from services.cli.number import Number
from services.cli.run_argument import RUN
from services.cli.text import parse_memory_mb
from services.durations import parse_duration
from trainshed_client.errors import ErrorCode, TrainshedError

if TYPE_CHECKING:
    from trainshed_client.provenance import Provenance

F = TypeVar("F", bound=Callable[..., Any])

_TAKEN_ALONG = ("VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV", "PYTHONPATH", "LD_LIBRARY_PATH")
"""What makes the caller's programs find their libraries: part of what is run, so part of the config."""


class Request(NamedTuple):
    """The configs to submit; ``batch``: they came as JSON lines. ``warnings`` are for stderr.

    ``places``: of a batch where each config stands, as in ``sweep.jsonl, line 3``. ``caller_path``: of a command the
    caller's PATH, for the worker. ``provenance``: of their code. ``check``: look whether program and folder are there.
    ``after_given``: by ``--after``, not in a config.
    """

    configs: list[Config]
    batch: bool
    warnings: list[str]
    places: Sequence[str] = ()
    caller_path: str | None = None
    provenance: Provenance | None = None
    counted: bool = False
    check: bool = True
    after_given: bool = False

    @property
    def beside(self) -> dict[str, Any]:
        """What is sent beside the configs."""
        return {"caller_path": self.caller_path, "provenance": self.provenance}


def config_options(function: F) -> F:
    """The options that `submit` and `run` share, and the command to run."""
    for decorate in reversed(_OPTIONS):
        function = decorate(function)
    return function


_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "-f", "--file", "file", metavar="CONFIG|-", help="A run config, JSON or YAML (.jsonl: several)."
    ),
    click.option("--name", help="The run's name."),
    click.option("--gpus", type=Number(), help="GPUs that the run needs: a slot of each."),
    click.option("--gpus-whole", is_flag=True, help="Share these GPUs with no other run: all slots of each."),
    click.option("--gpus-optional", is_flag=True, help="Start with fewer GPUs, or none, rather than wait."),
    click.option("--cpus", type=Number(), help="CPU cores (1)."),
    click.option(
        "--memory",
        metavar="MB",
        help="Memory, as in 2048 or 2G; a limit on nodes that enforce it.",
    ),
    click.option("--priority", type=Number(), help="Higher runs first (0)."),
    click.option("--time-limit", metavar="DURATION", help="End an attempt after this time, as in 90m."),
    click.option(
        "--after", multiple=True, metavar="RUN", type=RUN, help="Start when this run has completed."
    ),
    click.option("--label", "labels", multiple=True, metavar="K=V", help="A label to find the run by."),
    click.option("--env", "env", multiple=True, metavar="NAME[=VALUE]", help="Set or pass on a variable."),
    click.option(
        "--secret",
        "secret",
        multiple=True,
        metavar="NAME=file:PATH|env:NAME",
        help="A variable that the node fills in.",
    ),
    click.option("--retries", type=Number(), help="More attempts after a failed one (0)."),
    click.option("--heartbeat", metavar="SOURCE", help="Sign of life: process, output or notify."),
    click.option("--heartbeat-timeout", metavar="DURATION", help="Silence that ends an attempt."),
    click.option("--working-dir", metavar="DIR", help="Where the worker starts; with -- CMD, here."),
    click.option(
        "--code",
        metavar="DIR",
        help="Its program files are part of what is run; with -- CMD, this folder's are.",
    ),
    click.option("--no-code", is_flag=True, help="An edit of the program makes no other run."),
    click.option("--code-ignore", multiple=True, metavar="GLOB", help="Program files that do not count."),
    click.option(
        "--no-check", is_flag=True, help="Do not look whether program and folder are on this machine."
    ),
    click.option("--new", is_flag=True, help="A run of its own, even if the same config is a run already."),
    click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="-- CMD ..."),
)


def build(
    options: Mapping[str, Any],
    *,
    environ: Mapping[str, str] | None = None,
    cwd: str | None = None,
    stdin: Callable[[], bytes] | None = None,
) -> Request:
    """The configs that these options ask for.

    Raises TrainshedError (invalid) for what only the caller's side can know to be wrong: a file that cannot be read
    or parsed, a program that is not in the PATH, a duration that is none.
    """
    env = os.environ if environ is None else environ
    here = _here(options) if cwd is None else cwd
    command, file = options["command"], options["file"]
    places: list[str] = []
    caller_path: str | None = None
    if command and file:
        raise _invalid("-f CONFIG and -- CMD exclude each other; give one, as in: trainshed submit -f CONFIG")
    if command:
        configs, batch = [_from_command(command, env, here)], False
        caller_path = _callers_path(env)
    elif file:
        configs, places = read_configs(file, stdin)
        batch = bool(places)
    else:
        raise _invalid(
            "nothing to run; give -f CONFIG or -- CMD ..., as in: trainshed submit -- python3 train.py"
        )
    given = _given(options, env, here)
    for config in configs:
        _overlay(config, given)
        if options["new"]:
            config["submission_key"] = secrets.token_hex(16)
    named = named_code(options, configs[0]["working_dir"] if command else None, here)
    warnings = list(named.warnings) if named is not None else []
    if named is not None:
        for config in configs:
            config.pop("code", None)
            if named.code is not None:
                config["code"] = named.code
    if (count := options.get("count")) is not None:
        configs = [_numbered(config, number) for config in configs for number in range(1, count + 1)]
        places, batch = [place for place in places or [""] for _ in range(count)], True
    provenance = named.provenance if named is not None else None
    return Request(
        configs,
        batch,
        warnings,
        places,
        caller_path,
        provenance,
        counted=count is not None,
        check=not options.get("no_check"),
        after_given=bool(options["after"]),
    )


def _here(options: Mapping[str, Any]) -> str:
    """The caller's folder; "" where that has been deleted and nothing of what is asked lies in it."""
    try:
        return os.getcwd()
    except OSError:
        command, file = options["command"], options["file"]
        program = command[0] if command and "/" in command[0] else None
        folder = options["working_dir"] or ("." if command else None)
        for given in (program, folder, options["code"], None if file == "-" else file):
            if given is not None and not os.path.isabs(given):
                raise _invalid(
                    "the folder that this shell is in was deleted meanwhile. Go to one that is there (cd), or name "
                    "it: trainshed submit --working-dir DIR -- CMD"
                ) from None
        return ""


def _numbered(config: Config, number: int) -> Config:
    """The config's ``number``-th run of several: the first is the one without a number."""
    key = config.get("submission_key")
    if number == 1 or not isinstance(key, str | None):
        return config
    return {**config, "submission_key": f"{'count' if key is None else key}-{number}"}


def _from_command(command: Sequence[str], env: Mapping[str, str], here: str) -> Config:
    program, *arguments = command
    config: Config = {"entry_point": _absolute(program, env, here), "working_dir": here}
    if arguments:
        config["arguments"] = arguments
    if along := {name: env[name] for name in _TAKEN_ALONG if env.get(name)}:
        config["environment"] = along
    return config


def _absolute(program: str, env: Mapping[str, str], here: str) -> str:
    """The program as the caller's shell would find it; symbolic links stay, for they make a venv."""
    if "/" in program:
        return os.path.normpath(os.path.join(here, program))
    found = shutil.which(program, path=env.get("PATH", os.defpath))
    if found is None:
        raise _invalid(f"no program {program!r} is in your PATH; write its path, as in ./{program}")
    return os.path.normpath(os.path.join(here, found))


def _callers_path(env: Mapping[str, str]) -> str | None:
    """The caller's PATH for the worker, less the folder of Trainshed's own venv where that is not the active one.

    A folder whose name is no text (not UTF-8) is left out.
    """
    own = None if sys.prefix == sys.base_prefix else os.path.join(sys.prefix, "bin")
    if own is not None and _same(env.get("VIRTUAL_ENV", ""), sys.prefix):
        own = None
    folders = [
        folder
        for folder in env.get("PATH", "").split(os.pathsep)
        if not (own is not None and _same(folder, own)) and _is_text(folder)
    ]
    return os.pathsep.join(folders) or None


def _same(folder: str, other: str) -> bool:
    return bool(folder) and os.path.realpath(folder) == os.path.realpath(other)


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _given(options: Mapping[str, Any], env: Mapping[str, str], here: str) -> Config:
    """What the options say, in the shape of a run config."""
    given: Config = {}

    def put(value: object, *path: str) -> None:
        if value is not None:
            place = given
            for name in path[:-1]:
                place = place.setdefault(name, {})
            place[path[-1]] = value

    put(options["name"], "run_name")
    put(options["gpus"], "resources", "gpus", "requested")
    put(True if options["gpus_whole"] else None, "resources", "gpus", "whole")
    put(False if options["gpus_optional"] else None, "resources", "gpus", "mandatory")
    put(options["cpus"], "resources", "cpus")
    put(options["priority"], "priority")
    put(list(options["after"]) or None, "after")
    put(options["heartbeat"], "heartbeat", "source")
    if (memory := options["memory"]) is not None:
        put(parse_memory_mb(memory, what="--memory"), "resources", "memory_mb")
    if (limit := options["time_limit"]) is not None:
        put(_number(parse_duration(limit, given_by="--time-limit")), "schedule", "max_duration_seconds")
    if (silence := options["heartbeat_timeout"]) is not None:
        put(_number(parse_duration(silence, given_by="--heartbeat-timeout")), "heartbeat", "timeout_s")
    if (retries := options["retries"]) is not None:
        put(retries + 1, "retry", "max_attempts")
    if (folder := options["working_dir"]) is not None:
        put(os.path.normpath(os.path.join(here, folder)), "working_dir")
    put(dict(_pair("--label", label) for label in options["labels"]) or None, "labels")
    put(dict(_variable(one, env) for one in options["env"]) or None, "environment")
    put(dict(_secret(one) for one in options["secret"]) or None, "secrets")
    return given


def _overlay(config: Config, given: Config) -> None:
    """Put what was given over a config, object by object; what is no object there is replaced."""
    for name, value in given.items():
        if isinstance(value, dict) and isinstance(config.get(name), dict):
            _overlay(config[name], value)
        else:
            config[name] = dict(value) if isinstance(value, dict) else value


def _number(value: float) -> int | float:
    return int(value) if value.is_integer() else value


def _pair(option: str, text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise _invalid(f"{option} is {text!r}; write {option} NAME=VALUE")
    return name, value


def _variable(text: str, env: Mapping[str, str]) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if sign and name:
        return name, value
    if not name:
        raise _invalid(f"--env {text}: write --env NAME, or --env NAME=VALUE")
    if name not in env:
        raise _invalid(f"--env {text}: no such variable is set here; write --env {text}=VALUE")
    return name, env[name]


def _secret(text: str) -> tuple[str, dict[str, str]]:
    name, source = _pair("--secret", text)
    kind, sign, place = source.partition(":")
    if kind not in ("file", "env") or not sign or not place:
        # The value is not shown: it may be the secret itself.
        raise _invalid(
            f"--secret {name} must say where the node finds it, never the value: "
            f"--secret {name}=file:/path/on/the/node or {name}=env:VARIABLE"
        )
    return name, {kind: place}


def _invalid(message: str) -> TrainshedError:
    return TrainshedError(ErrorCode.INVALID, message)
