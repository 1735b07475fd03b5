"""Node programs of this checkout: their packages, installed once, and a run of one of those in tests/node."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

REQUIRED = "NODE_REQUIRED"
FOLDER = Path(__file__).parents[1] / "node"
INSTALL = ("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline")


def installed(folder: Path = FOLDER) -> Path:
    """The folder with its packages (tests/node: 100 MB, 20 s the first time); without Node the test is skipped, where it is not required."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        assert not os.environ.get(REQUIRED), "nodejs and npm are not installed"
        pytest.skip("no Node here (Debian: nodejs, npm)")
    lock, stamp = folder / "package-lock.json", folder / "node_modules" / ".package-lock.json"
    with lock.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # another test process may come for it at the same time
        if not stamp.exists() or stamp.stat().st_mtime < lock.stat().st_mtime:
            done = subprocess.run(
                INSTALL, cwd=folder, capture_output=True, text=True, check=False, timeout=300
            )
            if done.returncode != 0:
                assert not os.environ.get(REQUIRED), f"npm ci: {done.stdout}{done.stderr}"
                pytest.skip(f"the packages cannot be installed: {done.stderr[-500:]}")
            stamp.touch()
    return folder


def ran(program: str, given: str = "") -> str:
    """What a program writes; fails the test where it does not end well."""
    done = subprocess.run(
        ["node", program], cwd=FOLDER, input=given, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, f"{program}: {done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout
