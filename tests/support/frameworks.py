"""The Python that has a training framework: that of `make test-frameworks`, else the one that runs the tests.

Owns where it is looked for; knows no framework.
"""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OWN = ROOT / ".venv/frameworks/bin/python"
CLIENT = ROOT / "client"


@cache
def python_with(*modules: str) -> Path:
    """Skips the test where none has all of these."""
    look = (
        "import sys, importlib.util as u; sys.exit(any(u.find_spec(name) is None for name in sys.argv[1:]))"
    )
    for python in (OWN, Path(sys.executable)):
        if python.exists() and subprocess.run([python, "-c", look, *modules], check=False).returncode == 0:
            return python
    pytest.skip(f"no {' and no '.join(modules)} is installed: make test-frameworks")
