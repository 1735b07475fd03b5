"""The attempt's folder as the shim sees it: its lock, and JSON files that are there whole or not at all.

Owns how files are written and locked; knows nothing of what they say. All names are relative to the working directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os


def take_lock(name: str = "lock", *, make: bool = False) -> int | None:
    """The lock's file descriptor, held until this process ends; None: no such file (who comes up never makes it), or
    another holds it (docs/protocol.md rule 9)."""
    try:
        fd = os.open(name, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if make else 0), 0o644)
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
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.read(fd, 65536)
            while chunk := os.read(fd, 1 << 20):
                data += chunk
        finally:
            os.close(fd)
        return parse(data)
    except (OSError, ValueError, RecursionError):
        return None


def parse(data: bytes) -> dict[str, object]:
    """The object. Raises ValueError where it is none."""
    value = json.loads(data)
    if not isinstance(value, dict):
        raise ValueError("a JSON object was expected")  # noqa: TRY004 (as json says it)
    return value


def write_json(name: str, value: dict[str, object], *, durable: bool) -> None:
    """Write by temporary file and rename, with fsync of the file where `durable`. Raises OSError."""
    temporary = f".{name}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        data = memoryview(json.dumps(value, allow_nan=False).encode())
        while data:
            data = data[os.write(fd, data) :]
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(temporary, name)


def make_durable(name: str) -> None:
    """fsync what was written without it."""
    with contextlib.suppress(
        OSError
    ):  # a full or failing disk: the file's presence still speaks to this boot
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
