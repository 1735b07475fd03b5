"""`trainshed service install`: the stack of this machine as a systemd user unit.

Owns which words and variables the unit is given and what is printed; its text is services.up.systemd_unit's.
"""

from __future__ import annotations

import os
import pwd
import sys
from pathlib import Path

import click

from services.cli.up import (
    agent_options,
    up_arguments,
    web_socket_arguments,
    web_socket_asked,
    web_socket_options,
    with_options,
)
from services.cli.verb import Verb, verb_group
from services.settings import Settings, given_settings
from services.up.systemd_unit import MARK, UNIT, unit_path, unit_text
from trainshed_client.endpoint import write_private
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.os_errors import why

_KEPT = ("PATH", "CUDA_VISIBLE_DEVICES")
"""What runs would find in this shell and not in the user manager's environment."""


@verb_group("trainshed service install", "trainshed service install --gpus 2", name="service")
def service() -> None:
    """Run the stack as a systemd service of yours: from boot on, and started again whenever it ends."""


@service.command(
    "install",
    cls=Verb,
    examples=(
        "trainshed service install",
        "trainshed service install --gpus 2 --node box1",
    ),
)
def install(
    node: str | None,
    gpus: int | str | None,
    slots_per_gpu: int | None,
    cpus: int | None,
    memory: int | None,
    heartbeat_timeout: str | None,
    web_port: int | None,
    origins: tuple[str, ...],
) -> None:
    """Write a systemd user unit that runs `trainshed up` with these options, and say how to start it.

    The settings (TRAINSHED_...) and the PATH of this shell go with it, passwords do not. Nothing is started.
    """
    settings = with_options(Settings.read(), node, heartbeat_timeout)
    web_socket_asked(web_port, origins)
    arguments = [
        *up_arguments(node, gpus, slots_per_gpu, cpus, memory, heartbeat_timeout),
        *web_socket_arguments(web_port, origins),
    ]
    environment = {
        "TRAINSHED_STATE_DIR": str(settings.state_dir),
        **given_settings(settings),
        **{name: os.environ[name] for name in _KEPT if name in os.environ},
    }
    try:
        text = unit_text([str(_program()), "up", *arguments], environment)
    except ValueError as error:
        raise TrainshedError(ErrorCode.INVALID, str(error)) from None
    path = unit_path(os.environ)
    _write(path, text)
    name = UNIT.removesuffix(".service")
    click.echo(str(path))
    click.echo(
        "written. Start it now and at every boot:\n"
        "  systemctl --user daemon-reload\n"
        f"  systemctl --user enable --now {name}\n"
        f"  loginctl enable-linger {_user()}      # else it ends when you log out",
        err=True,
    )


install = agent_options(web_socket_options(install))


def _program() -> Path:
    """This `trainshed`, by an absolute path that does not depend on any PATH."""
    program = Path(sys.executable).with_name("trainshed")
    if not os.access(program, os.X_OK):
        raise TrainshedError(
            ErrorCode.INVALID,
            f"{program} is missing; install Trainshed again (make, or pip install ./client .)",
        )
    return program


def _write(path: Path, text: str) -> None:
    try:
        if path.exists() and not path.read_text().startswith(MARK):
            raise TrainshedError(
                ErrorCode.CONFLICT, f"{path} is there and was not written by Trainshed; move it away first"
            )
        write_private(path, text.encode())
        path.chmod(0o644)
    except (OSError, UnicodeDecodeError) as error:
        cause = why(error) if isinstance(error, OSError) else "not UTF-8"
        raise TrainshedError(ErrorCode.INVALID, f"{path} cannot be written ({cause})") from None


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
