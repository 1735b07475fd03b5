"""Messages as they were taken off the wire, held against the committed contract: its AsyncAPI document and its schemas.

Owns which channel a subject is of and how strictly a message is read: here its writers are this release, so a field that the
contract does not have is a fault too. Knows no connection.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema_rs

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "schema" / "asyncapi.json"
NOT_FOR_OTHERS = ("trainshed.push.", "trainshed.alive.", "trainshed.api.w.")
"""Subjects that the contract leaves out."""
API = "trainshed.api."
MOST_FAULTS = 20
_VOUCHED = re.compile(r"^trainshed\.api\.u\.[^.]+\.")
_PARAMETER = re.compile(r"\\{\w+\\}")
_OFFSET = "Trainshed-Offset"
_NO_JSON = object()


class Heard(NamedTuple):
    """A message. ``reply``: where its answer goes; ``asked``: of an answer, the subject of its request."""

    subject: str
    data: bytes
    headers: Mapping[str, str]
    reply: str = ""
    asked: str | None = None


class Fault(NamedTuple):
    """What of a message is not as the contract has it: where in it, and what was expected."""

    subject: str
    path: str
    expected: str
    data: bytes

    def __str__(self) -> str:
        return f"{self.subject}: {self.path or 'the message'}: {self.expected}\n    {self.data[:300]!r}"


def faults(messages: Sequence[Heard]) -> list[Fault]:
    """What is wrong with these, the first of each kind and at most 20. A request that was refused is as its sender liked."""
    contract = Contract.committed()
    refused = {one.subject for one in messages if one.asked is not None and _is_refusal(one.data)}
    found: dict[tuple[str, str], Fault] = {}
    for message in messages:
        if message.reply in refused:
            continue
        for fault in contract.faults(message):
            found.setdefault((fault.path, fault.expected), fault)
        if len(found) >= MOST_FAULTS:
            break
    return list(found.values())


def _is_refusal(data: bytes) -> bool:
    value = _json(data)
    error = value.get("error") if isinstance(value, dict) else None
    return isinstance(error, dict) and error.get("code") in ("invalid", "too_large")


class Contract:
    """An AsyncAPI document as a judge of messages."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._channels = [
            (_pattern(channel["address"]), name, list(channel["messages"]))
            for name, channel in document["channels"].items()
            if channel["address"] is not None
        ]
        self._answers = {
            name.removeprefix("reply."): list(channel["messages"])
            for name, channel in document["channels"].items()
            if name.startswith("reply.")
        }
        self._messages = document["components"]["messages"]
        self._schemas = {name: _closed(schema) for name, schema in document["components"]["schemas"].items()}
        self._validators: dict[str, Any] = {}
        self._of: dict[str, tuple[str, list[str]] | None] = {}

    @classmethod
    @cache
    def committed(cls) -> Contract:
        """The one in docs/schema."""
        return cls(json.loads(DOCUMENT.read_text()))

    def channel(self, subject: str) -> str | None:
        """The channel of a subject; None where there is none."""
        found = self._found(subject)
        return None if found is None else found[0]

    def faults(self, message: Heard) -> Iterator[Fault]:
        """What is wrong with a message."""
        if (message.asked or message.subject).startswith(NOT_FOR_OTHERS):
            return
        if message.asked is not None:
            found = self._found(message.asked)
            names = None if found is None else self._answers.get(found[0].removeprefix("api."))
            where = f"{message.asked} (answer)"
        else:
            found = self._found(message.subject)
            names, where = (None if found is None else found[1]), message.subject
        if names is None:
            yield Fault(where, "", "no channel of the contract has this subject", message.data)
            return
        of_form = [name for name in names if self._is_of_form(name, message)] or names
        fields = min(self._others(name, message.data) for name in of_form)
        closest = [name for name in of_form if self._others(name, message.data) == fields]
        for path, expected in min((self._wrong(name, message) for name in closest), key=len):
            yield Fault(where, path, expected, message.data)

    def _found(self, subject: str) -> tuple[str, list[str]] | None:
        if subject not in self._of:
            plain = _VOUCHED.sub(API, subject)
            self._of[subject] = next(
                ((name, names) for pattern, name, names in self._channels if pattern.fullmatch(plain)), None
            )
        return self._of[subject]

    def _is_of_form(self, name: str, message: Heard) -> bool:
        """Whether a message could be of this kind at all: empty, raw bytes, or JSON."""
        kind = self._messages[name]
        if kind.get("contentType", "application/json") == "application/json":
            return bool(message.data) and not (message.asked and _OFFSET in message.headers)
        return "maxLength" not in kind["payload"] or not message.data

    def _others(self, name: str, data: bytes) -> int:
        """How many fields of the JSON object a message of this kind does not have, and how many it lacks."""
        schema = self._schemas.get(name, {})
        value = _json(data)
        fields = set(value if isinstance(value, dict) else ())
        return len(fields - set(schema.get("properties", ()))) + len(set(schema.get("required", ())) - fields)

    def _wrong(self, name: str, message: Heard) -> list[tuple[str, str]]:
        """(path, what was expected) of a message of this kind."""
        kind = self._messages[name]
        wrong: list[tuple[str, str]] = []
        if "headers" in kind:
            validator = self._validator(f"headers of {name}", kind["headers"])
            wrong += [(f"header {path}", text) for path, text in _errors(validator, dict(message.headers))]
        if kind.get("contentType", "application/json") != "application/json":
            empty = "maxLength" in kind["payload"]
            return [*wrong, ("", "an empty message")] if empty and message.data else wrong
        value = _json(message.data or b"{}")
        if value is _NO_JSON:
            return [*wrong, ("", "JSON")]
        return wrong + _errors(self._validator(name, kind["payload"]), value)

    def _validator(self, name: str, schema: Any) -> Any:
        if name not in self._validators:
            whole = {**schema, "components": {"schemas": self._schemas}}
            self._validators[name] = jsonschema_rs.Draft202012Validator(whole, validate_formats=True)
        return self._validators[name]


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return _NO_JSON


def _errors(validator: Any, value: Any) -> list[tuple[str, str]]:
    if validator.is_valid(value):
        return []
    return [
        ("/".join(map(str, ("", *error.instance_path))), error.message[-500:])
        for error in validator.iter_errors(value)
    ]


def _pattern(address: str) -> re.Pattern[str]:
    return re.compile(_PARAMETER.sub(r"[^.]+", re.escape(address)))


def _closed(schema: Any) -> Any:
    """A schema with no more fields than it names, where it leaves that open."""
    match schema:
        case dict():
            closed = {name: _closed(part) for name, part in schema.items()}
            if schema.get("type") == "object" and "properties" in schema:
                closed.setdefault("additionalProperties", False)
            return closed
        case list():
            return [_closed(part) for part in schema]
        case _:
            return schema
