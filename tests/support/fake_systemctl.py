"""A stand-in for `systemctl --user` and `loginctl`: one user's services, as Type=notify and KillMode=process have it.

Run as `python fake_systemctl.py FOLDER PROGRAM WORDS...`; FOLDER keeps what it knows. No service manager stays behind:
what Restart= would do is not done here.
"""

from __future__ import annotations

import os
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

READY_WITHIN_S = 30.0


def main(folder: Path, program: str, words: list[str]) -> int:
    with (folder / "calls").open("a") as calls:
        calls.write(shlex.join([program, *words]) + "\n")
    if program == "loginctl":
        return 0 if words[:1] == ["enable-linger"] else fail(f"loginctl {words}")
    if words[:1] != ["--user"]:
        return fail("only systemctl --user is played here")
    match [word for word in words[1:] if word != "--now"]:
        case ["daemon-reload"]:
            return 0
        case ["enable" | "start", name]:
            return start(folder, name)
        case ["stop", name]:
            return stop(folder, name)
        case ["restart", name]:
            return stop(folder, name) or start(folder, name)
        case ["status" | "is-active", name]:
            pid = main_pid(folder, name)
            print(f"{name}: {'active' if pid else 'inactive'}")
            return 0 if pid else 3
        case other:
            return fail(f"systemctl {other}")


def start(folder: Path, name: str) -> int:
    """Start the unit's command and wait for READY=1."""
    if main_pid(folder, name):
        return 0
    text = (Path.home() / ".config" / "systemd" / "user" / f"{name}.service").read_text()
    (line,) = re.findall(r"(?m)^ExecStart=(.*)$", text)
    program, *words = shlex.split(line)
    command = [program.replace("%%", "%"), *(word.replace("$$", "$").replace("%%", "%") for word in words)]
    environment = {"HOME": os.environ["HOME"], "PATH": "/usr/bin:/bin"}
    for given in re.findall(r"(?m)^Environment=(.*)$", text):
        variable, _, value = shlex.split(given)[0].replace("%%", "%").partition("=")
        environment[variable] = value
    if "TEST_STACK" in os.environ:  # so that the test finds what it started
        environment["TEST_STACK"] = os.environ["TEST_STACK"]
    address = folder / "notify"
    address.unlink(missing_ok=True)
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening,
        (folder / "journal").open("ab") as journal,
    ):
        listening.bind(str(address))
        process = subprocess.Popen(
            command,
            env={**environment, "NOTIFY_SOCKET": str(address)},
            stdin=subprocess.DEVNULL,
            stdout=journal,
            stderr=journal,
            start_new_session=True,
            cwd="/",
        )
        (folder / f"{name}.pid").write_text(str(process.pid))
        while select.select([listening], [], [], READY_WITHIN_S)[0]:
            if b"READY=1" in listening.recv(4096).split(b"\n"):
                return 0
        return fail(f"{name} did not say READY=1")


def stop(folder: Path, name: str) -> int:
    """SIGTERM to the main process alone, and wait until it is gone."""
    if pid := main_pid(folder, name):
        waiting = os.pidfd_open(pid)
        os.kill(pid, signal.SIGTERM)
        select.select([waiting], [], [], READY_WITHIN_S)
        os.close(waiting)
    return 0


def main_pid(folder: Path, name: str) -> int | None:
    """The unit's main process while it lives."""
    try:
        pid = int((folder / f"{name}.pid").read_text())
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, ValueError):
        return None
    return pid if state not in ("Z", "X") else None


def fail(message: str) -> int:
    print(message, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
