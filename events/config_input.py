"""The run config as it may be written: every field's check, and the one way to a RunConfig.

Owns what is accepted and how a refusal reads; knows nothing of defaults (events/config.py) or of nodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import msgspec

from events.canonical import Digest, digest_of_json
from events.config import RETRY_ON, RUN_NAME_LENGTH, RunConfig
from events.config_checks import (
    Check,
    absolute_path,
    boolean,
    choice,
    integer,
    list_of,
    names_to,
    nullable,
    number,
    object_,
    run_id,
    sha256,
    signal_name,
    text,
    variable_name,
)
from events.config_text import parse_json, parse_yaml
from events.credentials import refuse_credentials
from events.own_variables import refuse_own_variables
from trainshed_client.errors import Refusals, TrainshedError
from trainshed_client.json_limits import MAX_BYTES, below, check_json, cut, invalid, kind, too_large
from trainshed_client.provenance import Provenance

__all__ = ["AcceptedConfig", "accepted_config", "parse_json", "parse_yaml"]

MAX_PROVENANCE_BYTES = 16 * 1024
SHOWN = 5

RETRY_REASONS = (*RETRY_ON, "time_limit", "out_of_memory")
"""What ``retry.on`` may name: every way for an attempt to fail that a new attempt can follow."""

Table: TypeAlias = "dict[str, Check | Table]"
"""A check for each field of an object; the table of its fields where that is an object too."""


class AcceptedConfig(msgspec.Struct, frozen=True):
    """A run config that may be submitted, and its normal form: taken apart once, for the event, its size and its name.

    ``stored``: the normalised config as JSON with sorted keys, which is what the log keeps. ``named``: whether it was sent
    with a name, which normalising leaves out where it is the derived one.
    """

    config: RunConfig
    stored: bytes
    digest: Digest
    named: bool


def accepted_config(raw: object, *, allow_credentials: bool = False) -> AcceptedConfig:
    """Check ``raw`` (parsed JSON or YAML), fill in the defaults and name it.

    Whether a node is large enough, or a run of ``after`` exists, is asked elsewhere.
    Raises TrainshedError (invalid, or too_large over 256 KiB) that names every field that is wrong by its path, what is
    wrong with it and what is accepted.
    """
    config = msgspec.convert(_checked(raw, allow_credentials), RunConfig)
    named = config.run_name is not None
    if config.run_name == config.default_name:
        config = msgspec.structs.replace(config, run_name=None)
    normalised = config.normalised()
    stored = msgspec.json.encode(normalised, order="sorted")
    if (size := len(stored)) > MAX_BYTES:
        raise too_large(size, MAX_BYTES)
    return AcceptedConfig(config, stored, digest_of_json(normalised), named)


def accepted_provenance(raw: object) -> Provenance | None:
    """What is sent as ``provenance`` beside a run config. Raises TrainshedError (invalid)."""
    if raw is None:
        return None
    check_json(raw)
    provenance = msgspec.convert(_fields(raw, "provenance", _PROVENANCE), Provenance)
    if (size := len(msgspec.json.encode(provenance))) > MAX_PROVENANCE_BYTES:
        raise invalid("provenance", f"must have at most {MAX_PROVENANCE_BYTES} bytes; this has {size}")
    return provenance


def _checked(raw: object, allow_credentials: bool) -> dict[str, object]:
    refused = Refusals()
    check_json(raw, refused=refused)
    if not isinstance(raw, dict):
        raise invalid("", f'a run config must be an object like {{"entry_point": ...}}, not {kind(raw)}')
    checked: dict[str, object] = {}
    with refused:
        checked = _fields(raw, "", _CONFIG)
    with refused:
        _require_worker(raw)
    with refused:
        refuse_own_variables(raw)
    if not allow_credentials:
        with refused:
            refuse_credentials(raw)
    refused.raise_any()
    return checked


def _require_worker(raw: dict[str, object]) -> None:
    metadata = raw.get("metadata", {})
    worker = metadata.get("worker") if isinstance(metadata, dict) else metadata
    if "entry_point" not in raw and worker is None:
        raise invalid(
            "entry_point", 'required: the program to run, as in "python3" with "arguments": ["train.py"]'
        )


def _fields(value: object, path: str, table: Table) -> dict[str, object]:
    """``value`` with each of its fields checked by ``table``; no field is required."""
    checked: dict[str, object] = {}
    refused = Refusals()
    for name, item in object_(value, path).items():
        with refused:
            check = table.get(name)
            if check is None:
                raise _unknown(name, path, table)
            where = below(path, name)
            checked[name] = _fields(item, where, check) if isinstance(check, dict) else check(item, where)
    refused.raise_any()
    return checked


def _metadata(value: object, path: str) -> object:
    """Anything, kept as sent; but ``worker`` decides what runs, so what is known of it is checked."""
    metadata = object_(value, path)
    if metadata.get("worker") is not None:
        path = below(path, "worker")
        worker = object_(metadata["worker"], path)
        known = {name: item for name, item in worker.items() if name in _WORKER}
        refused = Refusals()
        with refused:
            _fields(known, path, _WORKER)
        with refused:
            _exactly_one(known, ("module", "script"), path, [name for name in worker if name not in known])
        refused.raise_any()
    return metadata


def _retry_on(value: object, path: str) -> object:
    """A set in meaning: the default's reasons in another order are the default."""
    reasons = list_of(choice(*RETRY_REASONS))(value, path)
    return list(RETRY_ON) if sorted(map(str, reasons)) == sorted(RETRY_ON) else reasons


def _secret(value: object, path: str) -> object:
    """Where a value is found, never the value: so a wrong one is not shown either."""
    if not isinstance(value, dict):
        raise invalid(
            path,
            'must be {"file": "/path/on/the/node"} or {"env": "NAME"}, never the value itself, '
            f"not {kind(value)}",
        )
    secret = _fields(value, path, _SECRET)
    _exactly_one(secret, ("file", "env"), path)
    return secret


def _code(value: object, path: str) -> object:
    code = _fields(value, path, _CODE)
    if "sha256" not in code:
        raise invalid(path, 'must have "sha256", as trainshed_client.code_of(folder) makes it')
    return code


def refuse_unknown(place: Sequence[str | int]) -> None:
    """Raise TrainshedError (invalid), with what is there instead, where no run config has a field at ``place``."""
    table: Check | Table = _CONFIG
    path = ""
    for name in place:
        if not isinstance(table, dict):
            return  # of free names, or no object: what is put there tells
        if not isinstance(name, str) or name not in table:
            raise _unknown(name if isinstance(name, str) else f"[{name}]", path, table)
        table, path = table[name], below(path, name)


def _exactly_one(
    fields: dict[str, object], names: tuple[str, str], path: str, passed_over: Sequence[str] = ()
) -> None:
    given = [name for name in names if fields.get(name) is not None]
    if len(given) != 1:
        found = "both are given" if given else "neither is"
        if passed_over:
            found += f" (passed over: {', '.join(map(cut, passed_over[:SHOWN]))})"
        raise invalid(path, f'must have exactly one of "{names[0]}" and "{names[1]}"; {found}')


def _unknown(name: str, path: str, table: Table) -> TrainshedError:
    """The refusal of a field that is not in ``table``, with the closest one there, else anywhere."""
    import difflib  # only for a refusal; costs a command's start 5 ms

    everywhere = {field.rpartition(".")[2]: field for field in reversed(list(_every_field(_CONFIG)))}
    closest = difflib.get_close_matches(name.lower(), table, n=1)
    closest = [
        below(path, field) for field in closest or [t for t in table if len(name) > 2 and t.startswith(name)]
    ]
    closest = closest or [everywhere[t] for t in difflib.get_close_matches(name.lower(), everywhere, n=1)]
    hint = f"; did you mean {closest[0]}?" if closest else "."
    return invalid(below(path, name), f"unknown field{hint} Accepted here: {', '.join(sorted(table))}")


def _every_field(table: Table, path: str = "") -> Iterator[str]:
    for name, check in table.items():
        yield below(path, name)
        if isinstance(check, dict):
            yield from _every_field(check, below(path, name))


_CONFIG: Table = {
    "run_name": text(least=1, most=RUN_NAME_LENGTH, visible=True),
    "entry_point": text(least=1, visible=True),
    "arguments": list_of(text()),
    "environment": names_to(text()),
    "labels": names_to(text()),
    "metadata": _metadata,
    "working_dir": nullable(absolute_path, meaning="the run's folder"),
    "resources": {
        "cpus": integer(least=1),
        "memory_mb": integer(least=0),
        "gpus": {"requested": integer(least=0), "mandatory": boolean, "whole": boolean},
    },
    "artifacts": {"output_prefix": text(), "persist_logs": boolean, "keep_checkpoints": boolean},
    "schedule": {
        "max_duration_seconds": nullable(number(above=0), meaning="no limit"),
        "max_steps": nullable(integer(least=0), meaning="no limit"),
    },
    "priority": integer(),
    "retry": {
        "max_attempts": integer(least=1),
        "backoff_s": number(least=0),
        "on": _retry_on,
    },
    "stop": {"signal": signal_name, "grace_s": number(least=0)},
    "heartbeat": {
        "source": choice("process", "output", "notify"),
        "timeout_s": nullable(number(above=0), meaning="the node's"),
    },
    "after": list_of(run_id),
    "secrets": names_to(_secret),
    "submission_key": nullable(text(), meaning="no key"),
    "code": nullable(_code, meaning="the code is no part of it"),
}

_WORKER: Table = {
    "module": nullable(text(least=1, visible=True)),
    "script": nullable(text(least=1, visible=True)),
    "arguments": nullable(list_of(text())),
    "config": nullable(object_),
    "worker_id": nullable(text(least=1)),
}

_PROVENANCE: Table = {
    "folder": absolute_path,
    "commit": nullable(text(least=1), meaning="not known"),
    "dirty": nullable(boolean, meaning="not known"),
    "ignore": list_of(text(least=1)),
}

_CODE: Table = {"sha256": sha256, "partial": boolean}

_SECRET: Table = {"file": nullable(text(least=1)), "env": nullable(variable_name)}
