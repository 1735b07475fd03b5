"""The AsyncAPI 3.0.0 document: every subject that others may use, what is sent there, and the calls with their answers.

Owns channels, messages and operations, as the stack has them: it sends what others hear, and receives what they ask. Pure.
"""

from __future__ import annotations

import re
from typing import Any

from services.schema import bundle
from services.schema.calls import CALLS, ApiCall, address
from services.schema.channels import BYTES, GONE, PARAMETERS, Channel, published
from services.schema.polish import Schema
from services.version import VERSION
from trainshed_client import subjects

REF = "#/components/schemas/"
ERROR = "ErrorAnswer"
STORED, END, RANGE, LAST = "StoredMessage", "EndOfBatch", "RangeOfBytes", "LastMessage"
_PARAMETER = re.compile(r"{(\w+)}")
_TEXT = """Trainshed's subjects on NATS. `send`: the stack publishes there, and others subscribe. `receive`: others send a request, and
the answer comes to their inbox; a refusal is an `ErrorAnswer`. Where a server vouches for accounts, a call is at
`trainshed.api.u.{account}.…` too. A newer release may add fields, and names to enums that have UNSPECIFIED."""


def document() -> Schema:
    """The whole document."""
    channels: Schema = {}
    operations: Schema = {}
    messages = _own_messages()
    for one in published():
        _add_published(one, channels, operations, messages)
    for name, call in CALLS.items():
        _add_call(name, call, channels, operations, messages)
    _add_direct_get(channels, operations, messages)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Trainshed",
            "version": VERSION,
            "description": " ".join(_TEXT.split()),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "nats": {
                "host": "{host}:{port}",
                "protocol": "nats",
                "description": "The stack's nats-server; `trainshed up` writes where it is into `endpoint.json` of its state folder.",
                "variables": {"host": {"default": "127.0.0.1"}, "port": {"default": "4222"}},
                "security": [{"$ref": "#/components/securitySchemes/userPassword"}],
            }
        },
        "channels": channels,
        "operations": operations,
        "components": {
            "securitySchemes": {"userPassword": {"type": "userPassword"}},
            "messages": messages,
            "schemas": {name: _moved(schema) for name, schema in bundle.definitions().items()},
        },
    }


def _add_published(one: Channel, channels: Schema, operations: Schema, messages: Schema) -> None:
    channels[one.name] = _channel(one.address, one.messages, one.text, messages)
    if not one.stored:
        operations[f"send.{one.name}"] = {
            "action": "send",
            "summary": one.text,
            **_of_channel(one.name, one.messages),
        }


def _add_call(name: str, call: ApiCall, channels: Schema, operations: Schema, messages: Schema) -> None:
    name_of = f"node.{name}" if call.node else name
    answers = (*((RANGE,) if call.raw else ()), *call.answers, *((LAST,) if call.ends else ()), ERROR)
    asked, answered = f"api.{name_of}", f"reply.{name_of}"
    channels[asked] = _channel(address(name, call), call.requests, call.text, messages)
    several = " In several messages." if call.many else ""
    channels[answered] = _channel(None, answers, f"The inbox of who asked `{name_of}`.{several}", messages)
    operations[f"receive.{name_of}"] = {
        "action": "receive",
        "summary": call.text,
        **_of_channel(asked, call.requests),
        "reply": _of_channel(answered, answers),
    }


def _add_direct_get(channels: Schema, operations: Schema, messages: Schema) -> None:
    text = "Stored messages by direct get, in batches (NATS ADR-31): the log, heartbeats, and the present records."
    answers = (STORED, END)
    channels["direct.get"] = _channel("$JS.API.DIRECT.GET.{store}", ("DirectGet",), text, messages)
    channels["reply.direct.get"] = _channel(
        None, answers, "The inbox of who asked: stored messages in their order, then the end.", messages
    )
    operations["receive.direct.get"] = {
        "action": "receive",
        "summary": text,
        **_of_channel("direct.get", ("DirectGet",)),
        "reply": _of_channel("reply.direct.get", answers),
    }


def _channel(where: str | None, names: tuple[str, ...], text: str, messages: Schema) -> Schema:
    for name in names:
        messages.setdefault(name, _message(name))
    found: Schema = {"address": where, "description": text}
    parameters = _PARAMETER.findall(where or "")
    if parameters:
        found["parameters"] = {name: _parameter(name) for name in parameters}
    found["messages"] = {name: {"$ref": f"#/components/messages/{name}"} for name in names}
    return found


def _of_channel(name: str, names: tuple[str, ...]) -> Schema:
    return {
        "channel": {"$ref": f"#/channels/{name}"},
        "messages": [{"$ref": f"#/channels/{name}/messages/{one}"} for one in names],
    }


def _parameter(name: str) -> Schema:
    text, values = PARAMETERS[name]
    return {"description": text, **({"enum": values} if values else {})}


def _message(name: str) -> Schema:
    return {"name": name, "title": name, "payload": {"$ref": REF + name}}


def _own_messages() -> Schema:
    """Those that are no JSON."""
    offset = {"description": "Where the bytes begin in their file.", "type": "string", "pattern": "^[0-9]+$"}
    size = {"description": "How large the file is.", "type": "string", "pattern": "^[0-9]+$"}
    identity = {"description": "Another one where the file was written to or replaced.", "type": "string"}
    stored = {
        "Nats-Stream": "Where it is stored.",
        "Nats-Subject": "Its own subject.",
        "Nats-Sequence": "Its sequence.",
        "Nats-Time-Stamp": "When it was stored (RFC 3339).",
        "Nats-Num-Pending": "How many are left after it.",
    }
    return {
        GONE: {
            "name": GONE,
            "title": GONE,
            "summary": "Empty: the key has left the bucket; a run is not gone by that, a slot or node is.",
            "headers": _headers({"KV-Operation": {"type": "string", "enum": ["PURGE", "DEL"]}}),
            "contentType": "application/octet-stream",
            "payload": {"type": "string", "maxLength": 0},
        },
        BYTES: {
            "name": BYTES,
            "title": BYTES,
            "summary": "Raw bytes. An empty one with a size is the last of its stream.",
            "headers": _headers(
                {subjects.OFFSET_HEADER: offset, subjects.SIZE_HEADER: size}, [subjects.OFFSET_HEADER]
            ),
            "contentType": "application/octet-stream",
            "payload": {"type": "string", "contentEncoding": "binary"},
        },
        RANGE: {
            "name": RANGE,
            "title": RANGE,
            "summary": "Raw bytes, 128 KiB at most. Without these headers the answer is an error.",
            "headers": _headers(
                {subjects.OFFSET_HEADER: offset, subjects.SIZE_HEADER: size, subjects.FILE_HEADER: identity},
                [subjects.OFFSET_HEADER, subjects.SIZE_HEADER],
            ),
            "contentType": "application/octet-stream",
            "payload": {"type": "string", "contentEncoding": "binary"},
        },
        STORED: {
            "name": STORED,
            "title": STORED,
            "summary": "A stored message as it was sent to its own subject (`Nats-Subject`): see the channel of that.",
            "headers": _headers(
                {name: {"description": text, "type": "string"} for name, text in stored.items()},
                ["Nats-Stream", "Nats-Subject", "Nats-Sequence", "Nats-Time-Stamp"],
            ),
            "payload": {},
        },
        LAST: {
            "name": LAST,
            "title": LAST,
            "summary": "Empty: there is no more.",
            "contentType": "application/octet-stream",
            "payload": {"type": "string", "maxLength": 0},
        },
        END: {
            "name": END,
            "title": END,
            "summary": "Empty: the batch is over (204), or there is nothing like it (404).",
            "headers": _headers(
                {"Status": {"type": "string", "enum": ["204", "404", "408", "413"]}}, ["Status"]
            ),
            "contentType": "application/octet-stream",
            "payload": {"type": "string", "maxLength": 0},
        },
    }


def _headers(properties: Schema, required: list[str] | None = None) -> Schema:
    return {"type": "object", "properties": properties, "required": required or []}


def _moved(value: Any) -> Any:
    """A definition of the bundle, with its references where this document has them."""
    match value:
        case dict():
            return {
                name: part.replace(bundle.REF, REF)
                if name == "$ref" and isinstance(part, str)
                else _moved(part)
                for name, part in value.items()
            }
        case list():
            return [_moved(part) for part in value]
        case _:
            return value
