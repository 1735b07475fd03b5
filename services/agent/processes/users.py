"""As whom the workers of an agent run: as the agent does, or, where root runs it, as its setting says.

Owns the setting's meaning on this machine and what is refused at the start; knows no run, no file and no process.
"""

from __future__ import annotations

import os
import pwd
import re
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path

import msgspec

from services.agent.folders.files import WorkerUser
from services.setting_values import EVERYBODY, UserMap
from services.settings import Settings
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.os_errors import cause

SETTING = "TRAINSHED_WORKER_USERS"
ROOT = 0
_NEEDED = {"CHOWN": 0, "DAC_OVERRIDE": 1, "FOWNER": 3, "KILL": 5, "SETGID": 6, "SETUID": 7}
"""Capabilities by their numbers in the kernel."""
REACH_S = 10.0
"""Seconds in which a user comes to a folder, or never."""


class NotMapped(Exception):
    """Nobody is named as whom the workers of a submitter run; the text is for people."""


class WorkerUsers(msgspec.Struct, frozen=True, kw_only=True):
    """As whom workers run. ``chosen``: None where all run as the agent does."""

    chosen: UserMap | None = None
    users: Mapping[str, WorkerUser] = {}
    """Each user that the map names, by name."""
    no_new_privs: bool = False

    def of(self, submitter: str, node: str) -> WorkerUser | None:
        """Who runs the workers of that submitter; None: whoever runs the agent. Raises NotMapped."""
        if self.chosen is None:
            return None
        name = self.chosen.user_of(submitter)
        if name is None:
            raise NotMapped(
                f"node {node} does not know as which of its users the workers of {submitter!r} run: whoever operates it adds "
                f"SUBMITTER=USER, or {EVERYBODY}=USER for everybody else, to {SETTING} ({self.chosen}) and starts its agent again"
            )
        user = self.users[name]
        return None if user.uid == os.geteuid() else user

    @property
    def others(self) -> tuple[WorkerUser, ...]:
        """Those who are not the agent's own."""
        return tuple(user for user in self.users.values() if user.uid != os.geteuid())


AS_AGENT = WorkerUsers()


def worker_users(settings: Settings) -> WorkerUsers:
    """What the settings mean for an agent that this process runs. Blocks: users may be looked up over a network.

    Raises TrainshedError where root runs it and nobody, or an unknown user, is named, or one that could not work here.
    """
    chosen = settings.worker_users
    if os.geteuid() != ROOT:
        return WorkerUsers(no_new_privs=bool(settings.no_new_privs))
    if chosen is None:
        caller = os.environ.get("SUDO_USER", "root")
        example = f"{EVERYBODY}={caller if caller != 'root' else 'USER'}"
        raise TrainshedError(
            ErrorCode.INVALID,
            f"root runs this agent, and no worker runs as root unless that is asked for. Set {SETTING}='{example}' (or a user for "
            f"each submitter: 'sam=sam,ann=ann'; '{EVERYBODY}=root' where all may be root here), or start it as another user",
        )
    users = {name: _look_up(name) for _, name in chosen.users}
    made = WorkerUsers(chosen=chosen, users=users, no_new_privs=settings.no_new_privs is not False)
    if made.others:
        _check_rights()
        _close(settings.state_dir)
    for user in made.others:
        _check_reach(user, "TRAINSHED_RUNS_DIR", settings.runs_dir)
        if settings.var_logs_dir is not None:
            _check_reach(user, "VAR_LOGS_DIR", settings.var_logs_dir)
    return made


def _check_rights() -> None:
    """A container's root may have less than it takes."""
    rights = int(
        re.findall(r"^CapEff:\s*([0-9a-f]+)$", Path("/proc/self/status").read_text(), re.MULTILINE)[0], 16
    )
    missing = [name for name, bit in _NEEDED.items() if not rights >> bit & 1]
    if missing:
        raise TrainshedError(
            ErrorCode.INVALID,
            f"{SETTING} names other users than root, and root lacks here what running workers as these takes: "
            f"{', '.join(missing)} (a container: cap_add)",
        )


def _close(state_dir: Path) -> None:
    """Nothing in the state folder is for workers of other users, whatever mode it was made with, and by whom."""
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        state_dir.chmod(0o700)
        if state_dir.stat().st_uid != ROOT:  # the folder of an image, or of an agent that another user ran
            os.chown(state_dir, ROOT, ROOT)
    except OSError as error:
        raise TrainshedError(
            ErrorCode.UNAVAILABLE,
            f"TRAINSHED_STATE_DIR: {state_dir} cannot be closed to others ({cause(error)})",
        ) from None


def _check_reach(user: WorkerUser, setting: str, folder: Path) -> None:
    """Raise TrainshedError where a user could not come to the folder of runs' folders, or others than root may write there.
    ``setting``: by which another folder is chosen. Blocks."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = stat.S_IMODE(folder.stat().st_mode) & 0o022
        # A process of that user's: access lists and storage of its own mind count as they will for the worker.
        looked = subprocess.run(
            ["/bin/sh", "-c", 'cd -- "$1"', "sh", str(folder)],
            user=user.uid,
            group=user.gid,
            extra_groups=user.groups,
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=REACH_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        why = cause(error) if isinstance(error, OSError) else "its storage does not answer"
        raise TrainshedError(ErrorCode.UNAVAILABLE, f"{setting}: {folder}: {why}") from None
    if writable:
        raise TrainshedError(
            ErrorCode.INVALID,
            f"{folder} may be written by others than root, who could put links in the place of runs' folders: "
            f"chmod go-w {folder}, or set {setting} to another",
        )
    if looked.returncode != 0:
        raise TrainshedError(
            ErrorCode.INVALID,
            f"workers run as {user.name} ({SETTING}), who cannot come to {folder}: set {setting} to a folder to which "
            "everybody can, such as /srv/trainshed/runs",
        )


def _look_up(name: str) -> WorkerUser:
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        raise TrainshedError(
            ErrorCode.INVALID, f"{SETTING} names the user {name!r}, and there is none on this machine"
        ) from None
    return WorkerUser(
        name=name,
        uid=found.pw_uid,
        gid=found.pw_gid,
        groups=tuple(os.getgrouplist(name, found.pw_gid)),
        home=found.pw_dir,
        shell=found.pw_shell,
    )
