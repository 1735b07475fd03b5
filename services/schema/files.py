"""The contract's files: their names and texts, and how they differ from what lies in a folder.

Owns which there are; the texts are the same for the same types, wherever they are made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from services.schema import asyncapi, bundle
from services.schema.polish import Schema

BUNDLE = "trainshed.schema.json"
ASYNCAPI = "asyncapi.json"


def texts() -> dict[str, str]:
    """Each file's name and text."""
    return {BUNDLE: _text(bundle.bundle()), ASYNCAPI: _text(asyncapi.document())}


def differing(folder: Path, wanted: Mapping[str, str]) -> list[str]:
    """The files that are not there, or not as wanted. Raises OSError for one that cannot be read."""
    return [name for name, text in wanted.items() if _read(folder / name) != text]


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        return None


def _text(document: Schema) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"
