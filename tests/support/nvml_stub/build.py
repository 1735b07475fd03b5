"""Compiles the stub NVML library and runs Python programs on it.

Owns the compiler call, the control folder and the child's environment; knows nothing of what is tested with it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("nvml_stub.c")
# On two PCI buses, listed here in the other order, as NVML may.
TWO_GPUS = (
    "86 GPU-bbbb0000-1111-2222-3333-444444444444 Stub-B 24576\n"
    "3b GPU-aaaa0000-1111-2222-3333-444444444444 Stub-A 81920\n"
)


def compiler() -> str | None:
    """The C compiler of this machine, None where there is none."""
    return shutil.which("cc") or shutil.which("gcc")


def build(folder: Path) -> Path:
    """Compile the stub into ``folder``, as the file that pynvml loads by name; needs ``compiler()``."""
    library = folder / "libnvidia-ml.so.1"
    command = [
        compiler() or "cc",
        "-shared",
        "-fPIC",
        "-O1",
        "-Wall",
        "-Werror",
        "-o",
        str(library),
        str(SOURCE),
    ]
    subprocess.run(command, check=True, timeout=60)
    return library


class StubNvml:
    """One machine made of the stub: a control folder, and programs that run on it."""

    def __init__(self, library: Path, control: Path) -> None:
        self.library = library
        self.control = control
        self.set("gpus", TWO_GPUS)

    def set(self, name: str, text: str = "") -> None:
        """Write a control file (see nvml_stub.c)."""
        (self.control / name).write_text(text)

    def starts(self) -> int:
        """How often NVML was started."""
        inits = self.control / "inits"
        return len(inits.read_text().splitlines()) if inits.exists() else 0

    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to have the stub as its NVML (the loader reads it at exec)."""
        return {
            **{name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"},
            "LD_LIBRARY_PATH": str(self.library.parent),
            "NVML_STUB_DIR": str(self.control),
        }

    def python(self, program: str) -> str:
        """Run a Python program on the stub; its stdout. ``control`` in it is the control folder's path."""
        prelude = f"from pathlib import Path\ncontrol = Path({str(self.control)!r})\n"
        done = subprocess.run(
            [sys.executable, "-c", prelude + program],
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=60,
            check=True,
            text=True,
        )
        return done.stdout
