"""The systemd user unit of a one-machine stack, as text.

Owns its settings, each with its reason, and systemd's quoting; writes no file and runs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

UNIT = "trainshed.service"
MARK = "# Written by `trainshed service install`"

_TEXT = """\
{mark}; run it again to change it.
[Unit]
Description=Trainshed: queues and runs training jobs on this machine
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
{environment}Restart=always
RestartSec=2
# Exit code 2: a setting that is wrong, or a stack that runs already. Trying again would not help.
RestartPreventExitStatus=2
# A long log takes its time to be opened.
TimeoutStartSec=infinity
TimeoutStopSec=30
# A stop or a restart ends Trainshed and leaves the workers, each under its shim.
KillMode=process
# A worker that the kernel ends for its memory fails alone: the others, and Trainshed, go on.
OOMPolicy=continue
ManagedOOMPreference=omit
# The control groups below are ours: systemd moves and ends nothing in them.
Delegate=yes
# Trainshed itself is in one beside those of its workers, whose memory can then be limited (systemd 254; older ones pass over this).
DelegateSubgroup=trainshed-agent

[Install]
WantedBy=default.target
"""


def unit_text(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """The unit that runs ``command`` (its program an absolute path) with these variables over the user manager's.

    Raises ValueError for what systemd cannot hold: a line break.
    """
    program, *arguments = command
    lines = [f'Environment="{_escaped(f"{name}={value}")}"\n' for name, value in environment.items()]
    return _TEXT.format(
        mark=MARK,
        # systemd fills in $VARIABLE in the words after the program, and % everywhere.
        command=" ".join(
            [_quoted(program), *(_quoted(argument).replace("$", "$$") for argument in arguments)]
        ),
        environment="".join(lines),
    )


def unit_path(environ: Mapping[str, str]) -> Path:
    """Where systemd looks for a user's own units."""
    xdg = environ.get("XDG_CONFIG_HOME", "")
    base = Path(xdg) if xdg.startswith("/") else Path("~/.config").expanduser()
    return base / "systemd" / "user" / UNIT


def _quoted(argument: str) -> str:
    plain = argument and all(char.isalnum() or char in "/._-+=:@," for char in argument)
    return argument if plain else f'"{_escaped(argument)}"'


def _escaped(text: str) -> str:
    if any(char in text for char in "\n\r\0"):
        raise ValueError(f"{text!r} has a line break, which a systemd unit cannot hold")
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
