"""What a database's error means for the read model: rebuild it, or try again."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import DatabaseError, DataError, IntegrityError, OperationalError, ProgrammingError

from services.projector.trouble import Damaged, damage_in


@pytest.mark.parametrize(
    ("error", "damaged"),
    [
        (DatabaseError("", {}, Exception("database disk image is malformed")), True),
        (IntegrityError("", {}, Exception("UNIQUE constraint failed")), True),
        (OperationalError("", {}, Exception("no such table: runs")), True),
        (OperationalError("", {}, Exception("database or disk is full")), False),
        (OperationalError("", {}, Exception("database is locked")), False),
        # what a question may hold and this database cannot take: no reason to build everything anew
        (DataError("", {}, Exception("invalid byte sequence for encoding UTF8: 0x00")), False),
        (ProgrammingError("", {}, Exception("can't adapt type")), False),
        (Damaged("a row is garbage"), True),
        (OSError("no space left on device"), False),
    ],
    ids=str,
)
def test_only_damage_is_rebuilt(error: Exception, damaged: bool) -> None:
    assert (damage_in(error) is not None) == damaged
