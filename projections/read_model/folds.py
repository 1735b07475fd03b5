"""The folds of runs and nodes as the tables keep them, and back.

Owns that form; knows no SQL and not what changes a fold.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import msgspec

from events.config import stored_config
from events.run_machine import run_of_config
from events.state import Node, Run, RunProgress

_ENCODER = msgspec.json.Encoder(
    order="deterministic"
)  # sets too: a row is the same whichever process wrote it
_NODE_FOLD = msgspec.json.Decoder(Node)
_PROGRESS = RunProgress.__struct_fields__
_PROGRESS_OF = attrgetter(*_PROGRESS)
_PROGRESS_JSON = msgspec.json.Decoder(RunProgress)


def fold_of(run: Run) -> str:
    """A run's fold as the table keeps it. (JSON: it holds any number that an event can bear.)"""
    return _ENCODER.encode(RunProgress(*_PROGRESS_OF(run))).decode()


def run_of(fold: str, run_id: str, submit_seq: int, config: str) -> Run:
    """The inverse of :func:`fold_of`: what the config decides is made of it as ``evolve`` did at first."""
    return run_with(progress_of(fold), run_id, submit_seq, config)


def progress_of(fold: str) -> RunProgress:
    """All of a run that its config does not decide, from its fold."""
    return _PROGRESS_JSON.decode(fold)


def run_with(kept: RunProgress, run_id: str, submit_seq: int, config: str) -> Run:
    """The run of this config that stands so."""
    raw = config.encode()
    run = run_of_config(run_id, submit_seq, raw, stored_config(msgspec.Raw(raw)), kept.phase)
    return msgspec.structs.replace(run, **{name: getattr(kept, name) for name in _PROGRESS})


def fold_of_node(node: Node) -> str:
    """A node's fold as the table keeps it."""
    return _ENCODER.encode(_ordered(node)).decode()


def _ordered(value: Any) -> Any:
    """``value`` with its sets as sorted lists: of structs, which have no order of their own."""
    match value:
        case msgspec.Struct():
            return {name: _ordered(getattr(value, name)) for name in value.__struct_fields__}
        case frozenset():
            return sorted(map(_ordered, value), key=_ENCODER.encode)
        case tuple():
            return list(map(_ordered, value))
        case _:
            return value


def node_of(fold: str) -> Node:
    """A node's fold."""
    return _NODE_FOLD.decode(fold)
