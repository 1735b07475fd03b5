"""The JSON Schema (2020-12) of everything that crosses the wire: one document, a definition for each type.

Owns how the definitions are put together and named; knows no subject. Pure: the same types, the same document.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from typing import Any, get_args

import msgspec

from events.codec import SPEC_VERSION, event_type
from events.types import EVENT_KINDS, EVENT_NAMES, Event
from services.schema import catalogue, polish, run_config
from services.schema.polish import Schema

ID = "urn:trainshed:schema:1"
REF = "#/$defs/"
_TYPES = (
    *catalogue.RECORDS,
    *catalogue.ANSWERS,
    *catalogue.REQUESTS,
    *catalogue.PUBLISHED,
    *catalogue.EVENTS,
    *catalogue.HEARTBEATS,
)
HEARTBEAT_TYPES = {
    "RunHeartbeat": "trainshed.run.heartbeat.v1",
    "NodeHeartbeat": "trainshed.node.heartbeat.v1",
}
"""Of a heartbeat's data: the CloudEvents type."""


def ref(name: str) -> Schema:
    """A reference to a definition."""
    return {"$ref": REF + name}


def bundle() -> Schema:
    """The whole document."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": ID,
        "title": "Trainshed",
        "description": (
            "Every record, answer, request, event and heartbeat of Trainshed, a definition each: what this release writes. "
            "A newer one may add fields, and names to enums that have UNSPECIFIED."
        ),
        "$defs": definitions(),
    }


def definitions() -> dict[str, Schema]:
    """Every type's schema by its name, in the order of names."""
    _, made = msgspec.json.schema_components(_TYPES, ref_template=REF + "{name}")
    kinds = {kind.__name__: kind for kind in _reachable(_TYPES)}
    whole = {kind.__name__ for kind in _reachable(catalogue.WHOLE)}
    whole -= {kind.__name__ for kind in _reachable((*catalogue.EVENTS, *catalogue.HEARTBEATS))}
    found: dict[str, Schema] = {}
    for name, schema in made.items():
        kind = kinds[name]
        if issubclass(kind, enum.Enum):
            found[name] = polish.of_enum(kind)
            continue
        assert issubclass(kind, msgspec.Struct), kind
        found[name] = polish.of_struct(kind, schema, whole=name in whole, left_out=catalogue.left_out(kind))
    found["StoredRunConfig"] = run_config.stored(found)
    for name in run_config.FIELDS:
        found[name] = run_config.accepted(name, found[name])
    _refine(found)
    for data in (*catalogue.EVENTS, *catalogue.HEARTBEATS):
        found[envelope_name(data)] = _envelope(data)
    found["LogEvent"] = {
        "title": "LogEvent",
        "description": "Any event of the log, as CloudEvents 1.0 in structured mode.",
        "anyOf": [ref(envelope_name(data)) for data in catalogue.EVENTS],
    }
    return dict(sorted(found.items()))


def envelope_name(data: type[msgspec.Struct]) -> str:
    """What the CloudEvents object around an event's or a heartbeat's data is called."""
    return f"{data.__name__}Event" if issubclass(data, Event) else f"{data.__name__}Message"


def _envelope(data: type[msgspec.Struct]) -> Schema:
    name = data.__name__
    if issubclass(data, Event):
        type_ = event_type(EVENT_NAMES[data])
        roles = EVENT_KINDS[EVENT_NAMES[data]].roles
        source = "|".join(sorted("agent/[^/]+" if role == "agent" else role for role in roles))
    else:
        type_, source = HEARTBEAT_TYPES[name], "agent/[^/]+"
    return {
        "title": envelope_name(data),
        "description": f"CloudEvents 1.0 around {name}.",
        "type": "object",
        "properties": {
            "specversion": {"type": "string", "const": SPEC_VERSION},
            "id": {"description": "A UUIDv7; also the message's `Nats-Msg-Id`.", "type": "string"},
            "type": {"type": "string", "const": type_},
            "source": {"description": "Who wrote it.", "type": "string", "pattern": f"^({source})$"},
            "subject": {
                "description": "What it is about: the id of a run, a node's name, or `log`, `dispatch`.",
                "type": "string",
            },
            "time": {
                "description": "Of its writing, by the writer's clock.",
                "type": "string",
                "format": "date-time",
            },
            "datacontenttype": {"type": "string", "const": "application/json"},
            "data": ref(name),
        },
        "required": ["specversion", "id", "type", "source", "subject", "time", "datacontenttype", "data"],
    }


def _refine(found: dict[str, Schema]) -> None:
    """What a type leaves open, since it is kept encoded, or read by others."""

    def put(name: str, field: str, schema: Schema) -> None:
        properties = found[name]["properties"]
        meaning = properties[field].get("description")
        properties[field] = {"description": meaning, **schema} if meaning else schema

    put("Submitted", "config", ref("StoredRunConfig"))
    put("RunView", "config", ref("StoredRunConfig"))
    put("RunPage", "runs", {"type": "array", "items": ref("QueuedRunRecord")})
    put("Dispatched", "launch", {"type": "object", "additionalProperties": True})
    found["TelemetryLine"]["additionalProperties"] = True
    submitted = {"anyOf": [ref("RunConfig"), ref("SubmitRequest")]}
    put("BatchRequest", "runs", {**found["BatchRequest"]["properties"]["runs"], "items": submitted})


def _reachable(kinds: Sequence[Any]) -> Iterator[type]:
    """These types and all that their fields are of: structs and enums, each once."""
    seen: set[type] = set()
    waiting: list[Any] = list(kinds)
    while waiting:
        kind = waiting.pop()
        waiting += get_args(kind)
        if not isinstance(kind, type) or kind in seen:
            continue
        if issubclass(kind, msgspec.Struct):
            waiting += [field.type for field in msgspec.structs.fields(kind)]
        elif not issubclass(kind, enum.Enum):
            continue
        seen.add(kind)
        yield kind
