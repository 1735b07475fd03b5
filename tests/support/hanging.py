"""Storage that really hangs, for a test: nothing on it is answered until it is let go again.

Owns two kinds: a disk that is frozen (writes hang) and a mount whose daemon is stopped (reads hang as well). Both are
let go and unmounted at the end, also where the test, or the whole test process, was killed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HANGS_READS = {"frozen": False, "stopped": True}
"""The kinds, and whether reads hang too."""

LONGEST_S = 150
"""Seconds after which nothing hangs any more, whatever became of the test."""


class HangingStorage:
    """A mounted folder; ``hang`` and ``answer`` may be called again and again."""

    def __init__(self, folder: Path, hang: Callable[[], object], answer: Callable[[], object]) -> None:
        self.folder = folder
        self._hang = hang
        self._answer = answer

    def hang(self) -> None:
        """From now on whoever touches it waits in the kernel."""
        self._hang()

    def answer(self) -> None:
        """Whoever waits goes on."""
        self._answer()


@contextlib.contextmanager
def hanging_storage(kind: str, folder: Path) -> Iterator[HangingStorage]:
    """Mount one of a kind at ``folder`` while the block lasts; skips the test where that cannot be had."""
    folder.mkdir(parents=True, exist_ok=True)
    with _frozen(folder) if kind == "frozen" else _stopped(folder) as storage:
        yield storage


@contextlib.contextmanager
def _frozen(folder: Path) -> Iterator[HangingStorage]:
    _need("mkfs.ext4", "fsfreeze", "mount")
    image = folder.with_name(f"{folder.name}.img")
    with image.open("wb") as file:
        file.truncate(64 << 20)
    _run("mkfs.ext4", "-q", "-F", image)
    if _fails("mount", "-o", "loop", image, folder):
        pytest.skip("no disk to freeze: this test must be allowed to mount a loop device")
    with _let_go(f'fsfreeze -u "{folder}"; umount -l "{folder}"'):
        folder.chmod(0o777)
        yield HangingStorage(
            folder, lambda: _run("fsfreeze", "-f", folder), lambda: _run("fsfreeze", "-u", folder)
        )


@contextlib.contextmanager
def _stopped(folder: Path) -> Iterator[HangingStorage]:
    _need("bindfs", "mount")
    below = folder.with_name(f"{folder.name}.below")
    below.mkdir()
    # Nothing is cached: what was read before is asked for again, and hangs.
    options = "attr_timeout=0,entry_timeout=0,negative_timeout=0"
    daemon = subprocess.Popen(["bindfs", "-f", "-o", options, below, folder], stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 10
        while not os.path.ismount(folder):
            if daemon.poll() is not None or time.monotonic() > deadline:
                pytest.skip("no mount whose daemon can be stopped: this test needs /dev/fuse")
            time.sleep(0.01)
        with _let_go(f'kill -CONT {daemon.pid}; umount -l "{folder}"'):
            yield HangingStorage(
                folder,
                lambda: daemon.send_signal(signal.SIGSTOP),
                lambda: daemon.send_signal(signal.SIGCONT),
            )
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            daemon.wait(10)
        daemon.kill()
        daemon.communicate()


@contextlib.contextmanager
def _let_go(script: str) -> Iterator[None]:
    """Run the script when the block ends, and also when this process is killed: a guard sees its pipe close.

    A process that hangs there itself cannot be killed: then the guard lets go after a while.
    """
    guard = subprocess.Popen(
        ["/bin/sh", "-c", f"timeout {LONGEST_S} cat >/dev/null; {script}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        guard.communicate(timeout=30)


def _need(*programs: str) -> None:
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"no storage that hangs: {' and '.join(missing)} is not installed")
    if os.geteuid() != 0:
        pytest.skip("no storage that hangs: only root may mount it")


def _run(*words: str | Path) -> None:
    subprocess.run(words, check=True, capture_output=True)


def _fails(*words: str | Path) -> bool:
    return subprocess.run(words, check=False, capture_output=True).returncode != 0
