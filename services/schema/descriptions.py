"""Descriptions for a schema, out of the docstrings of the types that it is made of.

Owns how a docstring is read: its text, and of which field it says what; knows no type.
"""

from __future__ import annotations

import inspect
import re

_PARAGRAPH = re.compile(r"\n\s*\n")
_FIELD = re.compile(r"``(\w+)``(?: \([^)]*\))?: ")
_NONE = re.compile(r"\bNone\b")
_END = re.compile(r"[.;]\s+(?=``\w+``)|\.\s+(?=[A-Z])")


def description(kind: type) -> str | None:
    """The type's own docstring, a line for each paragraph; None where it has none."""
    text = kind.__dict__.get("__doc__")
    return plain(inspect.cleandoc(text)) if text else None


def of_fields(kind: type) -> dict[str, str]:
    """What the docstrings of a type and of those that it is derived from have as ``field``: meaning."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        text = inspect.cleandoc(base.__dict__.get("__doc__") or "")
        for paragraph in _PARAGRAPH.split(text):
            found |= _fields(" ".join(paragraph.split()))
    return found


def plain(text: str) -> str:
    """A docstring as Markdown has it: paragraphs of one line each, code in single backticks, and null."""
    paragraphs = (" ".join(paragraph.split()) for paragraph in _PARAGRAPH.split(text.strip()))
    return _NONE.sub("null", "\n\n".join(paragraphs).replace("``", "`"))


def _fields(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for field in _FIELD.finditer(text):
        rest = text[field.end() :]
        end = _END.search(rest)
        meaning = rest[: end.start()] if end is not None else rest
        meaning = meaning.rstrip(".;, ")
        if meaning:
            found[field[1]] = plain(meaning[0].upper() + meaning[1:]) + ("" if meaning.endswith(")") else ".")
    return found
