"""The attempt's folder as the shim sees it: its lock, and JSON files that are there whole or not at all.

Owns how files are written and locked; knows nothing of what they say. All names are relative to the working directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os


def take_lock(name: str = "lock") -> int | None:
    """The lock's file descriptor, held until this process ends; None: no such file (it is never made here), or
    another holds it (docs/protocol.md rule 9)."""
    try:
        fd = os.open(name, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return fd


def read_json(name: str) -> dict[str, object] | None:
    """The object in the file; None where there is none, or (after a power cut) a torn one."""
    try:
        with open(name, "rb") as file:
            value = json.loads(file.read())
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def write_json(name: str, value: dict[str, object]) -> int:
    """Write by temporary file and rename; the descriptor it returns is for `make_durable` or `os.close`."""
    temporary = f".{name}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        write_whole(fd, json.dumps(value, allow_nan=False).encode())
        os.rename(temporary, name)
    except BaseException:
        os.close(fd)
        raise
    return fd


def make_durable(fd: int) -> None:
    """fsync and close."""
    with contextlib.suppress(
        OSError
    ):  # a full or failing disk: the file's presence still speaks to this boot
        os.fsync(fd)
    os.close(fd)


def write_json_durably(name: str, value: dict[str, object]) -> None:
    """Temporary file, fsync, rename, fsync of the folder. Raises OSError."""
    temporary = f".{name}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        write_whole(fd, json.dumps(value, allow_nan=False).encode())
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(temporary, name)


def write_whole(fd: int, data: bytes) -> None:
    """All of `data`, over short writes."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
