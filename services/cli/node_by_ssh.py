"""`trainshed node add NODE --ssh TARGET`: the agent there enrols and starts, by one command over ssh.

Owns what is typed there and what its failures mean; knows no token. The line goes over stdin: a command line is for all to see.
"""

from __future__ import annotations

import shlex
import subprocess

from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.os_errors import why

WITHIN_S = 180.0
_OF_SSH, _NOT_FOUND = 255, 127


def check_target(target: str) -> None:
    """Refuse what ssh would take for an option. Raises TrainshedError (INVALID)."""
    if not target or target.startswith("-") or any(letter.isspace() for letter in target):
        raise TrainshedError(
            ErrorCode.INVALID, f"--ssh is {target!r}; accepted is HOST or USER@HOST, as for ssh"
        )


def start_agent(target: str, program: str, line: str) -> None:
    """Enrol there and start the agent in the background; what is printed there is printed here.

    Raises TrainshedError: UNAVAILABLE where ssh does not get there, INVALID where it fails there.
    """
    there = f"{shlex.quote(program)} agent --join @/dev/stdin --detach"
    try:
        done = subprocess.run(
            ["ssh", "--", target, there], input=line.encode() + b"\n", timeout=WITHIN_S, check=False
        )
    except FileNotFoundError:
        raise TrainshedError(ErrorCode.INVALID, "there is no ssh on this machine") from None
    except subprocess.TimeoutExpired:
        raise TrainshedError(
            ErrorCode.UNAVAILABLE, f"ssh {target} has not ended in {WITHIN_S:.0f} s. Try there: {there}"
        ) from None
    except OSError as error:
        raise TrainshedError(ErrorCode.INVALID, f"ssh cannot be started ({why(error)})") from None
    match done.returncode:
        case 0:
            return
        case code if code == _OF_SSH:
            raise TrainshedError(
                ErrorCode.UNAVAILABLE, f"ssh does not get to {target} (its message stands above)"
            )
        case code if code == _NOT_FOUND:
            raise TrainshedError(
                ErrorCode.INVALID,
                f"{program} is not found on {target} by a shell without a terminal. Install it there, or give its path: "
                "trainshed node add NODE --ssh TARGET --program PATH",
            )
        case code:
            raise TrainshedError(
                ErrorCode.INVALID, f"on {target} it ended with code {code} (its message stands above)"
            )
