"""The Go program of tests/golang, built once for a module and run: Go's own word on what Trainshed signs and proves."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

REQUIRED = "GO_REQUIRED"
SOURCE = Path(__file__).parents[1] / "golang" / "check.go"
PACKAGES = Path("/usr/share/gocode/src/golang.org/x/mod/sumdb")


def built(folder: Path) -> Path:
    """The program, built in an empty folder; without Go the test is skipped, where that is not required."""
    if shutil.which("go") is None or not PACKAGES.is_dir():
        assert not os.environ.get(REQUIRED), "golang-go and golang-golang-x-mod-dev are not installed"
        pytest.skip("no Go here (Debian: golang-go, golang-golang-x-mod-dev)")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "GO111MODULE": "off",
        "GOPATH": "/usr/share/gocode",
        "GOCACHE": str(folder / "cache"),
        "CGO_ENABLED": "0",
    }
    subprocess.run(["go", "build", "-o", folder / "check", SOURCE], env=environment, check=True)
    return folder / "check"


def ran(program: Path, told: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """What the program says of its input."""
    return subprocess.run(
        [program], input=json.dumps(told), capture_output=True, text=True, check=False, timeout=30
    )


def flipped(text: str) -> str:
    """A base64 text with one bit of its middle byte the other way."""
    data = bytearray(base64.b64decode(text))
    data[len(data) // 2] ^= 1
    return base64.b64encode(data).decode()


def flipped_line(text: str, number: int) -> str:
    """A note with one bit of the base64 that ends a line the other way."""
    lines = text.split("\n")
    before, space, last = lines[number].rpartition(" ")
    lines[number] = before + space + flipped(last)
    return "\n".join(lines)
