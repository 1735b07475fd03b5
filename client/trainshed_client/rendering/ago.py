"""How long ago something was, for people.

Owns that spelling alone; reads no clock.
"""

from __future__ import annotations

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def ago(seconds: float) -> str:
    """In its largest unit: ``just now``, ``12 s ago``, ``3 min ago``, ``2 h ago``, ``5 d ago``."""
    for unit_s, unit in _UNITS:
        if seconds >= unit_s:
            return f"{int(seconds // unit_s)} {unit} ago"
    return "just now"
