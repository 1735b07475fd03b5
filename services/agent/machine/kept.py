"""What the state folder keeps of ``--gpus`` and ``--slots-per-gpu``, so that the next start has what this one had.

Owns machine.json; knows neither devices nor slots.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from services.plain_trouble import may_pass, refusal
from trainshed_client.endpoint import write_private
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.os_errors import why

MACHINE_FILE = "machine.json"
ALL = "all"
"""``--gpus all``: every visible device again."""


class GpuOptions(msgspec.Struct, frozen=True, kw_only=True):
    """``gpus``: the first so many (None: all that are visible), each of them ``slots_per_gpu`` slots."""

    v: int = 1
    gpus: int | None = None
    slots_per_gpu: int = 1

    def after(self, gpus: int | str | None, slots_per_gpu: int | None) -> GpuOptions:
        """With what a start says (None: nothing) over it."""
        return GpuOptions(
            gpus=self.gpus if gpus is None else None if gpus == ALL else int(gpus),
            slots_per_gpu=self.slots_per_gpu if slots_per_gpu is None else slots_per_gpu,
        )

    def note(self, gpus: int | str | None, slots_per_gpu: int | None) -> str | None:
        """A sentence for who starts it without these options, where an earlier start gave them."""
        options, undone = [], []
        if gpus is None and self.gpus is not None:
            options.append(f"--gpus {self.gpus}")
            undone.append(f"--gpus {ALL}")
        if slots_per_gpu is None and self.slots_per_gpu != 1:
            options.append(f"--slots-per-gpu {self.slots_per_gpu}")
            undone.append("--slots-per-gpu 1")
        if not options:
            return None
        return f"As an earlier start said: {' '.join(options)} (undone by {' '.join(undone)})"


def read_kept(state_dir: Path) -> GpuOptions:
    """What the folder keeps; the defaults where it keeps nothing. Raises TrainshedError (INVALID)."""
    path = state_dir / MACHINE_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=GpuOptions)
    except FileNotFoundError:
        return GpuOptions()
    except (OSError, msgspec.MsgspecError) as error:
        if isinstance(error, OSError) and may_pass(error):
            raise refusal(error) from None
        raise TrainshedError(
            ErrorCode.INVALID,
            f"{path} cannot be read ({why(error)}). It keeps --gpus and --slots-per-gpu: remove it, and start with these again",
        ) from None


def write_kept(state_dir: Path, kept: GpuOptions) -> None:
    """Keep it for the next start."""
    write_private(state_dir / MACHINE_FILE, msgspec.json.encode(kept) + b"\n")
