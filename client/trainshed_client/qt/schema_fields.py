"""The fields of a form, from the JSON Schema of a run config; and the config, from what stands in them.

Owns how a schema's kinds become kinds of input, and text a value; pure, and knows no widget.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

SCHEMA_FILE = Path(__file__).with_name("run_config.schema.json")
"""That of this release; `trainshed schema` prints it as part of all."""


class InputKind(enum.Enum):
    """How a value is put in."""

    TEXT = "text"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    CHOICE = "choice"
    LINES = "lines"
    """Texts, one a line."""
    CHOICES = "choices"
    """Some of several."""
    PAIRS = "pairs"
    """``NAME=VALUE``, one a line."""
    JSON = "json"


class FormField(NamedTuple):
    """A field: its path in the config, as errors name it, and what the schema says of it."""

    path: str
    kind: InputKind
    description: str
    default: Any = None
    minimum: float | None = None
    choices: tuple[str, ...] = ()
    is_optional: bool = False
    """Whether nothing at all may stand there."""

    @property
    def title(self) -> str:
        """The path as people read it: ``gpus requested``."""
        return self.path.replace(".", " ").replace("_", " ")


def run_config_schema() -> dict[str, Any]:
    """The schema that this release of the client bears."""
    schema: dict[str, Any] = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    return schema


def fields_of(schema: Mapping[str, Any]) -> list[FormField]:
    """Every field of a schema, those of objects in objects too."""
    return list(_fields(schema, schema.get("$defs", {}), "", None))


def _fields(
    schema: Mapping[str, Any], known: Mapping[str, Any], before: str, defaults: Any
) -> Iterator[FormField]:
    for name, given in schema.get("properties", {}).items():
        path = f"{before}{name}"
        one, is_optional = _resolved(given, known)
        default = one.get("default")
        if isinstance(defaults, Mapping) and name in defaults:
            default = defaults[name]
        if one.get("properties") and one.get("additionalProperties") is False and not is_optional:
            yield from _fields(one, known, f"{path}.", default)
            continue
        kind, choices = _kind(one, known)
        yield FormField(path, kind, one.get("description", ""), default, _minimum(one), choices, is_optional)


def _resolved(given: Mapping[str, Any], known: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """A field's own schema with what it refers to, and whether null stands beside it."""
    one = dict(given)
    is_optional = False
    if "anyOf" in one:
        real = [each for each in one["anyOf"] if each.get("type") != "null"]
        is_optional = len(real) < len(one["anyOf"])
        if len(real) == 1:
            del one["anyOf"]
            one = {**real[0], **one}
    if "$ref" in one:
        one = {**known[one["$ref"].rpartition("/")[2]], **one}
    return one, is_optional


def _kind(one: Mapping[str, Any], known: Mapping[str, Any]) -> tuple[InputKind, tuple[str, ...]]:
    kind = one.get("type")
    if "enum" in one:
        return InputKind.CHOICE, tuple(map(str, one["enum"]))
    if kind == "array":
        items, _ = _resolved(one.get("items", {}), known)
        if "enum" in items:
            return InputKind.CHOICES, tuple(map(str, items["enum"]))
        return (InputKind.LINES if items.get("type") == "string" else InputKind.JSON), ()
    if kind == "object":
        values = one.get("additionalProperties")
        pairs = isinstance(values, Mapping) and values.get("type") == "string"
        return (InputKind.PAIRS if pairs else InputKind.JSON), ()
    plain = {
        "string": InputKind.TEXT,
        "integer": InputKind.INTEGER,
        "number": InputKind.NUMBER,
        "boolean": InputKind.BOOLEAN,
    }
    return plain.get(kind or "", InputKind.JSON), ()


def _minimum(one: Mapping[str, Any]) -> float | None:
    found = one.get("minimum", one.get("exclusiveMinimum"))
    return found if isinstance(found, (int, float)) else None


def value_of(field: FormField, text: str) -> Any:
    """The value that a text means; None where nothing stands there. Raises ValueError with what would be accepted."""
    text = text.strip() if field.kind is not InputKind.LINES else text.strip("\n")
    if not text:
        return None
    if field.kind in (InputKind.LINES, InputKind.CHOICES):
        return text.split("\n")
    if field.kind is InputKind.PAIRS:
        pairs = [line.partition("=") for line in text.split("\n") if line.strip()]
        wrong = next((name for name, sign, _ in pairs if not sign or not name.strip()), None)
        if wrong is not None:
            raise ValueError(f"{wrong!r} is no NAME=VALUE; write one a line")
        return {name.strip(): value for name, _, value in pairs}
    if field.kind is InputKind.INTEGER:
        return _number(text, int, "a whole number")
    if field.kind is InputKind.NUMBER:
        return _number(text, float, "a number")
    if field.kind is InputKind.JSON:
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"this is no JSON ({error})") from None
    return text


def text_of(field: FormField, value: Any) -> str:
    """The text that stands for a value."""
    if value is None:
        return ""
    if field.kind in (InputKind.LINES, InputKind.CHOICES):
        return "\n".join(map(str, value))
    if field.kind is InputKind.PAIRS:
        return "\n".join(f"{name}={each}" for name, each in value.items())
    if field.kind is InputKind.JSON:
        return json.dumps(value, indent=1) if value else ""
    return str(value)


def _number(text: str, kind: type[int | float], wanted: str) -> float:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{text!r} is not {wanted}") from None


def put(config: dict[str, Any], path: str, value: Any) -> None:
    """Set what stands at a path."""
    *folders, name = path.split(".")
    for folder in folders:
        config = config.setdefault(folder, {})
    config[name] = value


def taken(config: Mapping[str, Any], path: str) -> Any:
    """What stands at a path; None where nothing does."""
    value: Any = config
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
