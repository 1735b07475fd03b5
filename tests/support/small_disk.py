"""A disk of its own for a test, small enough to be really filled."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


class SmallDisk:
    """A mounted tmpfs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self, *, but: int = 0) -> None:
        """Take every byte that is left, or all ``but`` so many."""
        with self._filler.open("ab", buffering=0) as filler:
            if but:
                filler.write(bytes(shutil.disk_usage(self.folder).free - but))
                return
            with contextlib.suppress(OSError):
                while True:
                    filler.write(bytes(1 << 20))
        assert shutil.disk_usage(self.folder).free == 0

    def free(self) -> None:
        """Make room again."""
        self._filler.unlink(missing_ok=True)


@contextlib.contextmanager
def small_disk(folder: Path, mib: int) -> Iterator[SmallDisk]:
    """Mount one at ``folder`` while the block lasts; skips the test where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = shutil.which("mount")
    if (
        mount is None
        or subprocess.run(
            [mount, "-t", "tmpfs", "-o", f"size={mib}m", "none", folder], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("no disk of its own: this test must be allowed to mount a tmpfs")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
