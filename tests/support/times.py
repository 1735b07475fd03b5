"""Times as records have them, from the text that a reader of a test can read."""

from __future__ import annotations

from datetime import datetime


def at(text: str) -> datetime:
    """RFC 3339."""
    return datetime.fromisoformat(text)
