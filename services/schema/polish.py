"""What msgspec makes of a type, made fit to be read: descriptions, enums in their own order, plain unions, times.

Owns these turns; knows neither which types there are nor what a document made of them looks like.
"""

from __future__ import annotations

import enum
from typing import Any

import msgspec

from services.schema import descriptions

Schema = dict[str, Any]
_NUMBER = [{"type": "integer"}, {"type": "number"}]


def of_struct(kind: type[msgspec.Struct], made: Schema, *, whole: bool, left_out: frozenset[str]) -> Schema:
    """The schema of a struct. ``whole``: its writers leave nothing out but ``left_out``."""
    meanings = descriptions.of_fields(kind)
    names = {field.name: field.encode_name for field in msgspec.structs.fields(kind)}
    properties: Schema = {}
    required = list(made.get("required", ()))
    if whole and not kind.__struct_config__.omit_defaults:
        required = [name for name in made["properties"] if name not in left_out]
    for field, name in names.items():
        one = of_value(made["properties"][name])
        if name.endswith("_at") and _is_text(one):
            one = _time(one)
        if name in required:
            one.pop("default", None)
        meaning = meanings.get(field.rstrip("_"))
        properties[name] = {"description": meaning, **one} if meaning else one
    done: Schema = {"title": kind.__name__}
    if (text := descriptions.description(kind)) is not None:
        done["description"] = text
    done |= {"type": "object", "properties": properties, "required": required}
    if made.get("additionalProperties") is False:
        done["additionalProperties"] = False
    return done


def of_enum(kind: type[enum.Enum]) -> Schema:
    """The schema of an enum of strings."""
    text = descriptions.description(kind)
    described = {"description": text} if text else {}
    return {
        "title": kind.__name__,
        **described,
        "type": "string",
        "enum": [str(member.value) for member in kind],
    }


def of_value(made: Schema) -> Schema:
    """The schema of a field's value: an integer or a number is a number, an enum has its type, and what is open is so."""
    done = dict(made)
    if "anyOf" in done:
        kinds = [of_value(one) for one in done.pop("anyOf")]
        if all(number in kinds for number in _NUMBER):
            kinds.remove({"type": "integer"})
        done = {**kinds[0], **done} if len(kinds) == 1 else {"anyOf": kinds, **done}
    if isinstance(done.get("items"), dict):
        done["items"] = of_value(done["items"])
    if isinstance(done.get("additionalProperties"), dict):
        done["additionalProperties"] = of_value(done["additionalProperties"])
    if done.get("type") == "object" and not done.keys() & {"properties", "additionalProperties"}:
        done["additionalProperties"] = True
    if "enum" in done and all(isinstance(one, str) for one in done["enum"]):
        done = {"type": "string", **done}
    return done


def _is_text(value: Schema) -> bool:
    kinds = value.get("anyOf", [value])
    return any(one.get("type") == "string" and "enum" not in one for one in kinds)


def _time(value: Schema) -> Schema:
    """RFC 3339, also where the type has it as text."""
    if "anyOf" in value:
        return {
            **value,
            "anyOf": [_time(one) if one.get("type") == "string" else one for one in value["anyOf"]],
        }
    return {**value, "format": "date-time"}
