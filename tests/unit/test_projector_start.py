"""Which trouble of a projector ends its start, or `up`, which is waited for, and when a silent one is ended."""

from __future__ import annotations

import errno
import itertools
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest
from sqlalchemy.exc import DatabaseError, OperationalError

from services.projector.start import Hindrance, Start, ends
from services.projector.trouble import LONGEST_PATH, closer_look, hindrance_of, open_database, start_refused
from services.up.child_link import Refusal
from services.up.child_watch import (
    FIRST_LOOKS,
    HUNG_LOOKS,
    STARTS,
    ChildAct,
    after_child_look,
    why_given_up,
)
from trainshed_client.errors import ErrorCode, ExitCode, TrainshedError


def _of_sqlite(code: int) -> Exception:
    error = sqlite3.OperationalError("unable to open database file")
    error.sqlite_errorcode = code
    return OperationalError("", {}, error)


@pytest.mark.parametrize(
    ("error", "is_a"),
    [
        (_of_sqlite(sqlite3.SQLITE_CANTOPEN), Hindrance.UNUSABLE),
        (
            _of_sqlite(sqlite3.SQLITE_CANTOPEN | 2 << 8),
            Hindrance.UNUSABLE,
        ),  # an extended code: it is a directory
        (_of_sqlite(sqlite3.SQLITE_READONLY), Hindrance.UNUSABLE),
        (_of_sqlite(sqlite3.SQLITE_FULL), Hindrance.FULL),
        (_of_sqlite(sqlite3.SQLITE_BUSY), Hindrance.PASSING),
        (OperationalError("", {}, Exception("connection refused")), Hindrance.PASSING),  # PostgreSQL
        (DatabaseError("", {}, Exception("malformed")), Hindrance.PASSING),  # rebuilt
        (OSError(errno.ENOSPC, "No space left on device"), Hindrance.FULL),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), Hindrance.FULL),
        (PermissionError(errno.EACCES, "Permission denied"), Hindrance.UNUSABLE),
        (OSError(errno.EROFS, "Read-only file system"), Hindrance.UNUSABLE),
        (OSError(errno.EMFILE, "Too many open files"), Hindrance.PASSING),
        (OSError(errno.EIO, "Input/output error"), Hindrance.PASSING),
    ],
    ids=str,
)
def test_what_an_error_is(error: Exception, is_a: Hindrance) -> None:
    assert hindrance_of(error) is is_a


def test_what_a_start_ends_by() -> None:
    """`up` ends where somebody waits for it in vain; once it has served, reading ends nothing."""
    assert {
        (why, how): code for why, how in itertools.product(Hindrance, Start) if (code := ends(why, how))
    } == {
        (Hindrance.UNUSABLE, Start.ALONE): ErrorCode.INVALID,
        (Hindrance.UNUSABLE, Start.AWAITED): ErrorCode.INVALID,
        (Hindrance.FULL, Start.AWAITED): ErrorCode.UNAVAILABLE,
    }


def test_what_sqlite_cannot_open_is_named(tmp_path: Path) -> None:
    failed = _of_sqlite(sqlite3.SQLITE_CANTOPEN)
    folder = tmp_path / "folder.db"
    folder.mkdir()
    text = str(start_refused(str(folder), closer_look(folder, failed), ErrorCode.INVALID, Start.AWAITED))
    assert "(is a directory)" in text
    assert text.endswith("then: trainshed up")
    long = tmp_path / "/".join(["x" * 100] * 6)
    assert len(os.fsencode(long)) > LONGEST_PATH
    text = str(start_refused(str(long), closer_look(long, failed), ErrorCode.INVALID, Start.AWAITED))
    assert f"has {len(os.fsencode(long))} bytes, and SQLite takes {LONGEST_PATH}" in text
    assert "TRAINSHED_STATE_DIR=DIR" in text
    assert closer_look(tmp_path / "good.db", failed) is failed
    full = start_refused(
        "/d/t.db", OSError(errno.ENOSPC, "No space left on device"), ErrorCode.UNAVAILABLE, Start.AWAITED
    )
    assert "df -h /d" in str(full)
    alone = start_refused("/d", OSError(errno.EISDIR, "Is a directory"), ErrorCode.INVALID, Start.ALONE)
    assert str(alone).endswith("trainshed projector --database PATH")


@pytest.mark.parametrize(
    ("url", "accepted"),
    [("mysql+foo://x", "accepted: a path"), ("postgresql+nosuchdriver://x", "accepted: a path")],
)
def test_a_database_that_is_none_is_refused(url: str, accepted: str) -> None:
    with pytest.raises(TrainshedError, match=accepted) as refused:
        open_database(url)
    assert (refused.value.code, refused.value.path) == (ErrorCode.INVALID, "--database")


def test_up_ends_with_a_projector_that_cannot_start_and_with_no_other() -> None:
    wrong, absent = Refusal(ErrorCode.INVALID, "bad"), Refusal(ErrorCode.UNAVAILABLE, "taken")
    for refusal, code in ((wrong, 2), (absent, 3), (None, -9)):
        assert why_given_up("projector", refusal, code, 99, has_served=True) is None
    given_up = why_given_up("projector", wrong, 2, 1, has_served=False)
    assert given_up is not None
    assert (given_up.exit_code, str(given_up)) == (ExitCode.BAD_INPUT, "bad")
    for refusal, code in ((absent, 3), (None, 1), (None, -9)):  # what may pass is tried again first
        assert [
            why_given_up("projector", refusal, code, n, has_served=False) is None
            for n in range(1, STARTS + 1)
        ] == [
            *[True] * (STARTS - 1),
            False,
        ]
    killed = why_given_up("projector", None, -9, STARTS, has_served=False)
    assert killed is not None
    assert killed.exit_code is ExitCode.NO_SERVICE
    assert "by signal 9" in str(killed)


def acts(answered: Sequence[bool], *, begun: bool = True) -> list[ChildAct]:
    silent, done = 0, []
    for one in answered:
        silent, act = after_child_look(silent, answered=one, begun=begun)
        done.append(act)
    return done


def test_a_silent_projector_is_ended_only_when_it_goes_on() -> None:
    nothing, silent, well, end = ChildAct
    assert acts([True, *[False] * HUNG_LOOKS]) == [nothing, silent, *[nothing] * (HUNG_LOOKS - 2), end]
    # an answer in between begins the count anew: a machine that was suspended is late once
    assert acts([True, *[*[False] * (HUNG_LOOKS - 1), True] * 3]).count(end) == 0
    assert acts([True, False, True]) == [nothing, silent, well]
    # at its start it has longer
    assert acts([False] * FIRST_LOOKS, begun=False) == [*[nothing] * (FIRST_LOOKS - 1), end]
