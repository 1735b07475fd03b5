"""The run config's schema, as a form or an editor needs it: what each field means, and which values are accepted.

Owns both beside the types; whether a config is accepted the gateway alone decides (a test holds the two together).
"""

from __future__ import annotations

import signal
from typing import Any

from events.config import RUN_NAME_LENGTH
from events.config_input import RETRY_REASONS
from trainshed_client.naming import RUN_ID

Schema = dict[str, Any]

_NAMES: Schema = {"propertyNames": {"pattern": "^[^=]+$"}}
_ABOVE_0: Schema = {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "null"}]}
_WORKER: Schema = {
    "description": "The older way to name the worker: where it is there it decides over `entry_point`.",
    "type": "object",
    "properties": {
        name: {"description": text, "anyOf": [value, {"type": "null"}]}
        for name, (text, value) in {
            "module": ("It is run as `python -m module`.", {"type": "string", "minLength": 1}),
            "script": ("In place of `module`: a script's path.", {"type": "string", "minLength": 1}),
            "arguments": ("Its arguments.", {"type": "array", "items": {"type": "string"}}),
            "config": (
                "Written to a file, which `--config PATH` and `TRAINER_WORKER_CONFIG_PATH` name.",
                {"type": "object", "additionalProperties": True},
            ),
            "worker_id": ("Told as `--worker-id` and `WORKER_ID`.", {"type": "string", "minLength": 1}),
        }.items()
    },
    "additionalProperties": True,
}

TEXT = """What a user asks for. Only the program is required: `entry_point`, or the older `metadata.worker`. The same config is the same run."""
FIELDS: dict[str, dict[str, tuple[str, Schema]]] = {
    "RunConfig": {
        "run_name": (
            "By which it can be named everywhere; the program's name where it is left out.",
            {"type": "string", "minLength": 1, "maxLength": RUN_NAME_LENGTH},
        ),
        "entry_point": (
            "The program: an absolute path, one with a slash below `working_dir`, or a name looked for in the PATH.",
            {"type": "string", "minLength": 1},
        ),
        "arguments": (
            "Its arguments; `{{run_id}}`, `{{attempt}}`, `{{run_dir}}` and `{{node}}` are filled in.",
            {},
        ),
        "environment": ("Variables, over what the node has for every worker. No credentials.", _NAMES),
        "labels": ("Names and texts to find runs by.", _NAMES),
        "metadata": (
            "Anything; kept and shown. Only `worker` in it has a meaning.",
            {"properties": {"worker": {"anyOf": [_WORKER, {"type": "null"}]}}},
        ),
        "working_dir": (
            "The folder that it starts in; null: the run's own.",
            {"anyOf": [{"type": "string", "pattern": "^/"}, {"type": "null"}]},
        ),
        "resources": ("What it needs of a node.", {}),
        "artifacts": ("Kept for the clients that send it, not acted on.", {}),
        "schedule": ("Its limits.", {}),
        "priority": ("Higher runs first; of the same, the one submitted first.", {}),
        "retry": ("When a failed attempt is followed by another.", {}),
        "stop": ("How its processes are ended.", {}),
        "heartbeat": ("What counts as a sign of life.", {}),
        "after": (
            "It waits until these runs have completed, and is cancelled where one ends otherwise.",
            {"items": {"type": "string", "pattern": f"^{RUN_ID}$"}},
        ),
        "secrets": ("Variables whose values the node finds.", _NAMES),
        "submission_key": ("Any text: another one makes another run of the same config.", {}),
        "code": ("A digest of the program files, so that an edited program is another run.", {}),
    },
    "Resources": {
        "cpus": ("CPU cores, and how many threads it is told to start.", {"minimum": 1}),
        "memory_mb": ("Memory in MiB; 0: not accounted.", {"minimum": 0}),
        "gpus": ("GPUs.", {}),
    },
    "GpusConfig": {
        "requested": ("So many different GPUs, a slot of each.", {"minimum": 0}),
        "mandatory": ("False: it starts with fewer, or none, rather than wait.", {}),
        "whole": ("True: all slots of each, so that nobody shares these GPUs.", {}),
    },
    "ArtifactsConfig": {
        "output_prefix": ("Not acted on.", {}),
        "persist_logs": ("Not acted on.", {}),
        "keep_checkpoints": ("Not acted on.", {}),
    },
    "Schedule": {
        "max_duration_seconds": (
            "Seconds that an attempt may take, from its start; null: no limit.",
            _ABOVE_0,
        ),
        "max_steps": (
            "Told to the worker as `TRAINSHED_MAX_STEPS`; nobody enforces it.",
            {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "null"}]},
        ),
    },
    "RetryPolicy": {
        "max_attempts": ("Attempts in all.", {"minimum": 1}),
        "backoff_s": ("Seconds between an attempt's end and the next, constant.", {"minimum": 0}),
        "on": (
            "Only after such an end.",
            {"items": {"type": "string", "enum": list(RETRY_REASONS)}},
        ),
    },
    "StopPolicy": {
        "signal": ("What its processes are sent first.", {"enum": list(signal.Signals.__members__)}),
        "grace_s": ("Seconds from that to SIGKILL.", {"minimum": 0}),
    },
    "HeartbeatConfig": {
        "source": (
            "`process`: it is there; `output`: it writes some; `notify`: it reports.",
            {"enum": ["process", "output", "notify"]},
        ),
        "timeout_s": ("Seconds without one that end the attempt; null: the node's, 300.", _ABOVE_0),
    },
    "Secret": {
        "file": ("A file's path on the node. Exactly one of `file` and `env` is given.", {}),
        "env": ("The name of a variable of the node's agent.", {}),
    },
    "Code": {
        "sha256": (
            "SHA-256 in hex, as `trainshed_client.code_of(folder)` makes it.",
            {"pattern": "^[0-9a-f]{64}$"},
        ),
        "partial": ("Whether there are more program files than count.", {}),
    },
}
"""Of each struct's fields: the meaning, and what is accepted beside the type, or (``type``, ``anyOf``) in its place."""
REQUIRED: dict[str, list[str]] = {"Code": ["sha256"]}


def accepted(name: str, schema: Schema) -> Schema:
    """The schema of one of the config's structs with these, and no other names."""
    properties = {
        field: _with(schema["properties"][field], meaning, more)
        for field, (meaning, more) in FIELDS[name].items()
    }
    described = {"description": TEXT} if name == "RunConfig" else {}
    required = REQUIRED.get(name, [])
    for field in required:
        properties[field].pop("default", None)
    return {
        **schema,
        **described,
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def stored(definitions: dict[str, Schema]) -> Schema:
    """The config as the log has it: without all that equals its default, and open to what a newer release may add."""
    config = _inlined(definitions["RunConfig"], definitions)
    return {
        **config,
        "title": "StoredRunConfig",
        "description": "A run config as it is stored: what equals its default is left out.",
    }


def _with(value: Schema, meaning: str, more: Schema) -> Schema:
    if "type" in more or "anyOf" in more:
        kept = {name: value[name] for name in ("default",) if value.get(name) is not None}
        return {"description": meaning, **kept, **more}
    return {"description": meaning, **value, **more}


def _inlined(value: Schema, definitions: dict[str, Schema]) -> Schema:
    """Without references, defaults and texts."""
    if "$ref" in value:
        return _inlined(definitions[value["$ref"].rpartition("/")[2]], definitions)
    done = {
        name: part
        for name, part in value.items()
        if name not in ("default", "description", "title", "required")
    }
    if "properties" in done:
        done["properties"] = {name: _inlined(part, definitions) for name, part in done["properties"].items()}
    for name in ("items", "additionalProperties"):
        if isinstance(done.get(name), dict):
            done[name] = _inlined(done[name], definitions)
    if "anyOf" in done:
        done["anyOf"] = [_inlined(part, definitions) for part in done["anyOf"]]
    return done
