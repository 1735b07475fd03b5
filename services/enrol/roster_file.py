"""The roster's file in the cluster folder: read, changed by one process at a time, and what of it the server knows.

Owns roster.json, its lock and `applied`; knows no rule of the roster.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from services.enrol.roster import VERSION, Roster
from trainshed_client.endpoint import write_private
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.os_errors import why

T = TypeVar("T")
CLUSTER_DIR = "cluster"
"""In the state folder of the control side."""
ROSTER_FILE = "roster.json"
BUNDLE_FILE = "ca.crt"
SERVER_FILE = "server.pem"
"""The server's key, its certificate and the authority's."""
LOCK_FILE = "roster.lock"
APPLIED_FILE = "applied"
LOCK_WITHIN_S = 10.0


def change(folder: Path, step: Callable[[Roster], tuple[Roster, T]]) -> T:
    """Change the roster by ``step``, alone; what that returns counts once the roster is on the disk.

    Blocks. Raises what ``step`` raises (nothing is written then), and TrainshedError: UNAVAILABLE where another process does
    not let go of it, and as `read_roster`.
    """
    with _alone(folder):
        before = read_roster(folder)
        after, result = step(before)
        if after != before:
            write_roster(folder, after)
        return result


def read_roster(folder: Path) -> Roster:
    """The roster of a cluster folder; an empty one where there is none yet.

    Raises TrainshedError: INVALID for one that is damaged or of a newer release (whoever cannot read it must change nothing),
    DENIED where it may not be read.
    """
    path = folder / ROSTER_FILE
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return Roster()
    except OSError as error:
        raise TrainshedError(ErrorCode.DENIED, f"{path} cannot be read ({why(error)})") from None
    try:
        version = msgspec.json.decode(content, type=_Versioned).v
        if version > VERSION:
            raise TrainshedError(
                ErrorCode.INVALID,
                f"{path} was written by a newer release (version {version}, and this one reads {VERSION}). Use that release",
            )
        return msgspec.json.decode(content, type=Roster)
    except msgspec.MsgspecError as error:
        raise TrainshedError(
            ErrorCode.INVALID, f"{path} is damaged ({error}). Bring it back from a backup"
        ) from None


def write_roster(folder: Path, roster: Roster) -> None:
    """Write it, whole or not at all, readable for its owner alone; it is on the disk when this returns."""
    write_private(folder / ROSTER_FILE, msgspec.json.format(msgspec.json.encode(roster), indent=1) + b"\n")
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def read_with_state(folder: Path) -> tuple[Roster, str]:
    """The roster, and `state` as it was with it."""
    with _alone(folder):
        return read_roster(folder), state(folder)


def state(folder: Path) -> str:
    """A sum over what the server must know (roster, authorities, its certificate) as it is on the disk: another one than
    `applied` means that it is behind. Raises TrainshedError as `read_roster`."""
    known = msgspec.structs.replace(read_roster(folder), tokens=())  # of tokens the server need know nothing
    summed = hashlib.sha256(msgspec.json.encode(known))
    for name in (BUNDLE_FILE, SERVER_FILE):
        with contextlib.suppress(FileNotFoundError):
            summed.update((folder / name).read_bytes())
        summed.update(b"\0")
    return summed.hexdigest()


def applied(folder: Path) -> str | None:
    """That sum as the server was last made to know it; None where it never was."""
    try:
        return (folder / APPLIED_FILE).read_text().strip()
    except OSError:
        return None


def write_applied(folder: Path, state: str) -> None:
    """The server knows the roster and the authorities of that sum."""
    write_private(folder / APPLIED_FILE, state.encode() + b"\n")


class _Versioned(msgspec.Struct, frozen=True):
    v: int


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + LOCK_WITHIN_S
        while not _locked(fd):
            if time.monotonic() > deadline:
                raise TrainshedError(
                    ErrorCode.UNAVAILABLE,
                    f"another process has held {folder / LOCK_FILE} for {LOCK_WITHIN_S:.0f} s; see which: fuser {folder / LOCK_FILE}",
                )
            time.sleep(0.01)
        yield
    finally:
        os.close(fd)


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
