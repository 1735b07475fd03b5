"""What a request may bear beside a run config: kept in Submitted, outside the digest.

Owns its fields and their bounds; knows nothing of what a config means.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from events.config_input import accepted_provenance
from trainshed_client.errors import TrainshedError
from trainshed_client.json_limits import check_json, cut, invalid, kind
from trainshed_client.provenance import Provenance

MAX_PATH_BYTES = 32 * 1024


class SentBeside(msgspec.Struct, frozen=True):
    """The caller's PATH, and where the run's code was read."""

    caller_path: str | None = None
    provenance: Provenance | None = None


NOTHING = SentBeside()


def beside_in(fields: Mapping[str, Any]) -> SentBeside:
    """What of it stands in an object. Raises TrainshedError (invalid)."""
    path = fields.get("caller_path")
    check_json({"caller_path": path})
    if path is not None and not isinstance(path, str):
        raise invalid("caller_path", f"must be a string, not {kind(path)}")
    if path is not None and (size := len(path.encode())) > MAX_PATH_BYTES:
        raise invalid("caller_path", f"must have at most {MAX_PATH_BYTES} bytes; this has {size}")
    return SentBeside(path or None, accepted_provenance(fields.get("provenance")))


def unwrapped(raw: object, others: SentBeside = NOTHING) -> tuple[object, SentBeside]:
    """The config, which is ``raw`` or its ``config``, and what is beside it; ``others``: where it names nothing itself.

    Raises TrainshedError (invalid).
    """
    if not isinstance(raw, dict) or "config" not in raw:
        return raw, others
    known = ("config", *SentBeside.__struct_fields__)
    for name in raw:
        if name not in known:
            raise invalid(cut(str(name)), f"unknown beside a config. Accepted here: {', '.join(known)}")
    return raw["config"], beside_in(raw)


def in_config(error: TrainshedError, raw: object) -> TrainshedError:
    """An error about the request ``raw`` with the paths that it has in its config."""
    if not isinstance(raw, dict) or "config" not in raw:
        return error
    return error.with_paths(lambda path: path and path.removeprefix("config."))
