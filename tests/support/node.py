"""The programs of tests/node: their packages, installed once for a checkout, and a run of one of them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REQUIRED = "NODE_REQUIRED"
FOLDER = Path(__file__).parents[1] / "node"
INSTALL = ("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline")


def installed() -> Path:
    """The folder with its packages (100 MB, 20 s the first time); without Node the test is skipped, where it is not required."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        assert not os.environ.get(REQUIRED), "nodejs and npm are not installed"
        pytest.skip("no Node here (Debian: nodejs, npm)")
    lock, stamp = FOLDER / "package-lock.json", FOLDER / "node_modules" / ".package-lock.json"
    if not stamp.exists() or stamp.stat().st_mtime < lock.stat().st_mtime:
        done = subprocess.run(INSTALL, cwd=FOLDER, capture_output=True, text=True, check=False, timeout=300)
        if done.returncode != 0:
            assert not os.environ.get(REQUIRED), f"npm ci: {done.stdout}{done.stderr}"
            pytest.skip(f"the packages cannot be installed: {done.stderr[-500:]}")
        stamp.touch()
    return FOLDER


def ran(program: str, given: str = "") -> str:
    """What a program writes; fails the test where it does not end well."""
    done = subprocess.run(
        ["node", program], cwd=FOLDER, input=given, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, f"{program}: {done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout
