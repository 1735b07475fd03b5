"""`make test-client`: the client on the Pythons of Debian bullseye (3.9) and trixie (3.13), against a stack of this checkout.

Owns the two chroots, made once by debootstrap below .venv, and what is installed there, as a user would: by pip, from wheels.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.support.stack import Stack

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".venv" / "chroots"
PROGRAM = Path(__file__).with_name("program.py")
SUITES = {"bullseye": "3.9", "trixie": "3.13"}
PACKAGES = "python3,python3-venv"
WITHIN_S = 120.0


def main() -> int:
    """Run it on every Python. Returns an exit code: of what the program found, or that it could not be run."""
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        print(
            "make test-client needs root and debootstrap (Debian: apt-get install debootstrap)",
            file=sys.stderr,
        )
        return 2
    chroots = {suite: chroot(suite) for suite in SUITES}
    with tempfile.TemporaryDirectory(prefix="trainshed-client-") as folder:
        wheel = built(Path(folder) / "wheel")
        stack = Stack(Path(folder) / "state", gpus=1, cpus=4)
        try:
            stack.start()
            url = url_of(stack.state_dir)
            failed = [suite for suite in SUITES if not passes(suite, chroots[suite], wheel, url)]
        finally:
            stack.close()
    print("failed on " + ", ".join(failed) if failed else "the client runs on every Python", flush=True)
    return 1 if failed else 0


def chroot(suite: str) -> Path:
    """The chroot of a suite, made where it is not there."""
    place = CACHE / suite
    if not place.is_dir():
        print(f"making a chroot of Debian {suite} (once, some minutes) ...", flush=True)
        part = place.with_name(f"{suite}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.parent.mkdir(exist_ok=True)
        run(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", suite, str(part)], quiet=True)
        part.rename(place)
    return place


def built(folder: Path) -> Path:
    """The client's wheel."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    run(
        [
            *pip,
            "wheel",
            "-q",
            "--no-deps",
            "--no-build-isolation",
            "--no-index",
            "-w",
            str(folder),
            str(ROOT / "client"),
        ]
    )
    (wheel,) = folder.iterdir()
    return wheel


def passes(suite: str, place: Path, wheel: Path, url: str) -> bool:
    """Install the client in an environment of its own, and run the program there."""
    tested = place / "tested"
    shutil.rmtree(tested, ignore_errors=True)
    tested.mkdir()
    pins = ROOT / "requirements" / "client.txt"
    python = SUITES[suite]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    wheels = ["--no-deps", "--only-binary", ":all:", "--python-version", python, "--require-hashes"]
    run([*pip, "download", "-q", *wheels, "-d", str(tested / "wheels"), "-r", str(pins)], quiet=True)
    for file in (wheel, PROGRAM):
        shutil.copy(file, tested)
    inside = ["chroot", str(place)]
    run([*inside, "python3", "-m", "venv", "/tested/env"])
    install = ["/tested/env/bin/pip", "install", "-q", "--no-index", "--find-links", "/tested/wheels"]
    run([*inside, *install, f"/tested/{wheel.name}"], quiet=True)
    program = [*inside, "/tested/env/bin/python", "-X", "dev", "-W", "error", "/tested/program.py", url]
    done = subprocess.run(program, env=environment(), timeout=WITHIN_S, check=False)
    return done.returncode == 0


def environment() -> dict[str, str]:
    """Nothing of this machine's but where its programs are."""
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8"}


def url_of(state_dir: Path) -> str:
    """The stack's URL with its credentials."""
    found = json.loads((state_dir / "endpoint.json").read_text())
    scheme, _, rest = found["url"].partition("://")
    return f"{scheme}://{found['user']}:{found['password']}@{rest}"


def run(command: Sequence[str], *, quiet: bool = False) -> None:
    """Run it; what it prints is shown where it fails, or at once."""
    done = subprocess.run(
        command, capture_output=quiet, text=True, env={**os.environ, "LC_ALL": "C.UTF-8"}, check=False
    )
    if done.returncode != 0:
        print(done.stdout or "", done.stderr or "", sep="\n", file=sys.stderr)
        raise SystemExit(f"{' '.join(command[:3])} ... ended with {done.returncode}")


if __name__ == "__main__":
    sys.exit(main())
