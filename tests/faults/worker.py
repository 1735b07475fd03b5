"""The workers of the fault suite: each writes down that it ran, and itself finds out whether another one does.

Owns the witness files and locks; nothing but the standard library, and it knows nothing of Trainshed but its variables.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

LONG_S = 600.0
"""Seconds that a worker which never ends by itself would go on."""


def main() -> int:
    """``worker.py KIND SECONDS``: behave as KIND says, for so many seconds."""
    kind, seconds = sys.argv[1], float(sys.argv[2])
    witness = Path(os.environ["FAULTS_WITNESS"])
    run_id = os.environ["TRAINSHED_RUN_ID"]
    who = {
        "run_id": run_id,
        "attempt": int(os.environ["TRAINSHED_ATTEMPT"]),
        "node": os.environ["TRAINSHED_NODE"],
        "pid": os.getpid(),
        "devices": [each for each in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if each],
        "kind": kind,
    }
    devices = [f"device-{who['node']}-{device}" for device in who["devices"]]  # type: ignore[attr-defined]
    # Kept open, also by everything that is forked below: a tree that is not gone holds them.
    locks = [_hold(witness, name, who) for name in (f"run-{run_id}", *devices)]
    assert all(lock >= 0 for lock in locks)
    _say(witness / "workers.jsonl", {"what": "start", "at": time.clock_gettime(time.CLOCK_BOOTTIME), **who})
    code = _behave(kind, seconds)
    _say(
        witness / "workers.jsonl",
        {"what": "end", "at": time.clock_gettime(time.CLOCK_BOOTTIME), "code": code, **who},
    )
    return code


def _behave(kind: str, seconds: float) -> int:
    match kind:
        case "plain":
            time.sleep(seconds)
            return 0
        case "talks":
            for step in range(int(seconds * 10)):
                print(json.dumps({"type": "step", "step": step}), flush=True)
                time.sleep(0.1)
            return 0
        case "fails":
            time.sleep(seconds)
            print("it fails", file=sys.stderr, flush=True)
            return 3
        case "crashes":
            time.sleep(seconds)
            os.kill(os.getpid(), signal.SIGKILL)
        case "hangs":
            time.sleep(LONG_S)
        case "ignores":
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            time.sleep(LONG_S)
        case "forks":
            _daemon()
            time.sleep(seconds)
            return 0
        case "secret":
            told = hashlib.sha256(os.environ["FAULTS_SECRET"].encode()).hexdigest()
            time.sleep(seconds)
            return 0 if told == os.environ["FAULTS_SECRET_SHA256"] else 9
        case _:
            raise SystemExit(f"no such kind: {kind}")
    return 1


def _daemon() -> None:
    """A grandchild in a session of its own that ignores SIGTERM; returns once it is there."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.write(write, b"1")
            os.close(write)
            os.close(read)
            time.sleep(LONG_S)
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    os.read(read, 1)
    os.close(read)


def _hold(witness: Path, name: str, who: dict[str, object]) -> int:
    """Take the lock of that name, which nobody else may have; say so where somebody has."""
    fd = os.open(witness / "locks" / name, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        other = os.pread(fd, 4096, 0).decode(errors="replace").strip()
        _say(witness / "conflicts.jsonl", {"lock": name, "other": other, **who})
        return fd
    os.ftruncate(fd, 0)
    os.pwrite(fd, json.dumps(who).encode(), 0)
    return fd


def _say(path: Path, line: dict[str, object]) -> None:
    """One line, in one write."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(fd, (json.dumps(line) + "\n").encode())
    os.close(fd)


if __name__ == "__main__":
    sys.exit(main())
