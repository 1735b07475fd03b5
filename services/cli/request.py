"""From the words of a command line to run configs: a file or the `-- CMD` form, and the options that go over it.

Owns what is filled in from the caller's side and what goes over what; what a config may hold, the gateway judges alone.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from services.cli.code_option import named_code
from services.cli.config_file import Config, read_configs
from services.cli.config_options import config_of
from services.cli.set_option import new_names, put_in, settings_of
from trainshed_client.errors import ErrorCode, Refusals, TrainshedError

if TYPE_CHECKING:
    from trainshed_client.provenance import Provenance

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
        configs, places = read_configs(file, stdin, here=here)
        batch = bool(places)
    else:
        raise _invalid(
            "nothing to run; give -f CONFIG or -- CMD ..., as in: trainshed submit -- python3 train.py"
        )
    given, settings = config_of(options, env, here), settings_of(options["fields"], here)
    warnings = [] if command else new_names(settings, configs, "stdin" if file == "-" else file)
    refused = Refusals()
    for number, config in enumerate(configs):
        _overlay(config, given)
        put_in(config, settings, places[number] if places else "", refused)
        if options["new"]:
            config["submission_key"] = secrets.token_hex(16)
    refused.raise_any()
    if (unused := _unused(options, configs)) is not None:
        warnings.append(unused)
    named = named_code(options, configs[0].get("working_dir") if command else None, here)
    warnings += named.warnings if named is not None else ()
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


def _unused(options: Mapping[str, Any], configs: Sequence[Config]) -> str | None:
    """What to say where the pause or the reasons of a retry are given, and no run is tried again."""
    named = [f"--{name.replace('_', '-')}" for name in ("backoff", "retry_on") if options[name]]
    if not named or any(config["retry"].get("max_attempts", 1) != 1 for config in configs):
        return None
    return f"{' and '.join(named)} without --retries: nothing is tried again; --retries 2 allows two more attempts"


def _overlay(config: Config, given: Config) -> None:
    """Put what was given over a config, object by object; what is no object there is replaced."""
    for name, value in given.items():
        if isinstance(value, dict) and isinstance(config.get(name), dict):
            _overlay(config[name], value)
        else:
            config[name] = dict(value) if isinstance(value, dict) else value


def _invalid(message: str) -> TrainshedError:
    return TrainshedError(ErrorCode.INVALID, message)
