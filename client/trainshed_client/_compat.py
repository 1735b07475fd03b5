"""What Python 3.9 and 3.10 lack of the enums that the client uses, so that no other module asks for the version.

Owns that stand-in (`_compat_asyncio` has those for tasks); knows nothing of Trainshed, and imports next to nothing.
"""

from __future__ import annotations

import enum
import sys

if sys.version_info >= (3, 11):
    from enum import StrEnum
else:

    class StrEnum(str, enum.Enum):
        """An enum whose members are strings, and read as these."""

        __str__ = str.__str__
        __format__ = str.__format__


__all__ = ["StrEnum"]
