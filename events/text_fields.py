"""Which places of a run config hold text: there a plain YAML word or number is what was typed.

Owns that list (tests hold it to the types of events/config.py); knows nothing of YAML or of what a field takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

Texts: TypeAlias = "Mapping[str, Texts | bool]"
"""Names → True where the value is text, or the places in it that are; `EACH` for any name or entry."""

EACH = "*"
_ALL: Texts = {EACH: True}

TEXT_FIELDS: Texts = {
    "run_name": True,
    "entry_point": True,
    "arguments": _ALL,
    "environment": _ALL,
    "labels": _ALL,
    "metadata": {"worker": {"module": True, "script": True, "arguments": _ALL, "worker_id": True}},
    "working_dir": True,
    "artifacts": {"output_prefix": True},
    "retry": {"on": _ALL},
    "stop": {"signal": True},
    "heartbeat": {"source": True},
    "after": _ALL,
    "secrets": {EACH: {"file": True, "env": True}},
    "submission_key": True,
    "code": {"sha256": True},
}


def texts_at(place: Sequence[str | int]) -> Texts | bool | None:
    """What of the value at ``place`` is text: all that it is (True), these places in it, or nothing (None)."""
    here: Texts | bool | None = TEXT_FIELDS
    for name in place:
        if not isinstance(here, Mapping):
            return None
        here = here.get(name if isinstance(name, str) else EACH) or here.get(EACH)
    return here
