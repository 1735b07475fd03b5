"""The one clock of the command line, for "how long ago".

Owns its spelling as records have it; nothing is decided by it.
"""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> str:
    """Now, in RFC 3339 with microseconds, in UTC."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
