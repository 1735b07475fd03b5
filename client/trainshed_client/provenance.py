"""Of what code a run is: the digest in its config, and where that was read.

Owns these two values; knows neither how they come about nor who compares them.
"""

from __future__ import annotations

from typing import Optional

import msgspec


class Code(msgspec.Struct, frozen=True):
    """SHA-256 of what was read; ``partial``: of a part alone, since there is more than counts, or some cannot be read."""

    sha256: str = ""
    partial: bool = False


class Provenance(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where code was read: the folder, and of a git repository its commit, and whether what is there differs from it.

    ``ignore``: the patterns of what was left out. None is unknown.
    """

    folder: str = ""
    commit: Optional[str] = None
    dirty: Optional[bool] = None
    ignore: tuple[str, ...] = ()
