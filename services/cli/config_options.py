"""The options of `submit` and `run` that say what a run config may say, and what they become in one.

Owns their names, help and spelling of values; what a config may hold, the gateway judges alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from services.cli.config_file import Config
from services.cli.number import Number
from services.cli.run_argument import RUN
from services.cli.text import parse_memory_mb
from services.durations import parse_duration
from trainshed_client.errors import ErrorCode, TrainshedError

F = TypeVar("F", bound=Callable[..., Any])


def config_options(function: F) -> F:
    """The options that `submit` and `run` share, and the command to run."""
    for decorate in reversed(_OPTIONS):
        function = decorate(function)
    return function


_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "-f", "--file", "file", metavar="CONFIG|-", help="A run config, JSON or YAML (.jsonl: several)."
    ),
    click.option(
        "--set",
        "fields",
        multiple=True,
        metavar="PATH=VALUE",
        help="Any field, as in schedule.max_steps=1000; a value reads as in a YAML config.",
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
    click.option("--backoff", metavar="DURATION", help="Time between attempts (10s)."),
    click.option(
        "--retry-on",
        multiple=True,
        metavar="REASON",
        help="Only after such an end, as exit_code or node_lost.",
    ),
    click.option("--signal", metavar="NAME", help="What asks the worker to stop (SIGTERM)."),
    click.option("--grace", metavar="DURATION", help="Time from that to SIGKILL (5s)."),
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


def config_of(options: Mapping[str, Any], env: Mapping[str, str], here: str) -> Config:
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
    if (pause := options["backoff"]) is not None:
        put(_number(parse_duration(pause, given_by="--backoff")), "retry", "backoff_s")
    put(list(options["retry_on"]) or None, "retry", "on")
    if (name := options["signal"]) is not None:
        put(_signal(name), "stop", "signal")
    if (grace := options["grace"]) is not None:
        put(_number(parse_duration(grace, given_by="--grace")), "stop", "grace_s")
    if (folder := options["working_dir"]) is not None:
        put(os.path.normpath(os.path.join(here, folder)), "working_dir")
    put(dict(_pair("--label", label) for label in options["labels"]) or None, "labels")
    put(dict(_variable(one, env) for one in options["env"]) or None, "environment")
    put(dict(_secret(one) for one in options["secret"]) or None, "secrets")
    return given


def _number(value: float) -> int | float:
    return int(value) if value.is_integer() else value


def _signal(text: str) -> str:
    """A signal's full name, also as kill(1) takes it: ``USR1``."""
    name, at, _ = text.upper().partition("@")
    if at:
        raise _invalid(
            f"--signal is {text!r}; write --signal {name} --grace 60s: the signal comes at the time limit, and SIGKILL "
            "so much later"
        )
    return name if name.startswith("SIG") else f"SIG{name}"


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
