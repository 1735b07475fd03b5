"""What `audit verify` prints: what it did not check, and how far it is in a long log."""

from __future__ import annotations

import pytest

from projections.audit.files import FilesCompared, NodeAway
from projections.audit.legality import Acceptance, NotCounted
from projections.audit.verify import Verdict
from projections.audit.violation import MAX_VIOLATIONS, Violation
from services.cli.audit_verify import NOT_CHECKED, _print, not_checked
from services.cli.how_far import MANY, how_far
from services.cli.text import time_of_day
from services.dispatcher.decided_again import UNCHECKED, DecidedAgain


def verdict(*violations: Violation) -> Verdict:
    return Verdict(
        ok=not violations,
        seq=9,
        end=9,
        events=9,
        state_hash="ab" * 32,
        violations=violations,
        late=1,
        unreadable=2,
        not_counted=(NotCounted("started", 3, 4),),
        accepted=(Acceptance(8, "2026-11-24T10:32:05.000000Z", "restored from \x1b[1mlast night", "ann"),),
    )


@pytest.mark.parametrize(
    ("acks", "kept", "keys", "decisions", "expected"),
    [
        (False, None, True, False, ["acks", "checkpoints", "decisions", "files", "authors", "unhashed"]),
        (True, None, True, False, ["checkpoints", "decisions", "files", "authors", "unhashed"]),
        (False, 9, True, True, ["acks", "files", "authors", "unhashed"]),
        (True, 8, True, False, ["after_checkpoints", "decisions", "files", "authors", "unhashed"]),
        (True, 9, False, True, ["keys", "files", "authors", "unhashed"]),
    ],
)
def test_what_was_not_asked_for_was_not_checked(
    acks: bool, kept: int | None, keys: bool, decisions: bool, expected: list[str]
) -> None:
    asked = {"acks": acks, "keys": keys, "decisions": decisions}
    assert not_checked(kept=kept, events=9, files=False, **asked) == expected
    without = [name for name in expected if name != "files"]
    assert not_checked(kept=kept, events=9, files=True, **asked) == without


def test_a_verdict_says_what_counted_for_nothing_and_what_it_knows_nothing_of(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _print(verdict(), ["files"])
    assert capsys.readouterr().out.splitlines() == [
        "replayed 9 events, up to 9: the tables are the same (state hash abababababab…)",
        f"  accepted at 8 by ann, {time_of_day('2026-11-24T10:32:05Z')}: restored from \\x1b[1mlast night",
        "  late: 1 (ends after their attempt's first: results kept, no status changed)",
        "  not counted: 3 started (the first at 4)",
        "  not readable, in quarantine: 2",
        f"  not checked: {NOT_CHECKED['files']}",
    ]


def test_what_of_the_files_was_compared_and_what_was_not_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    away = [NodeAway("gpu02", 1, "it is not\x1b there")]
    files = FilesCompared(
        attempts=1_007,
        compared=1_000,
        pruned=2,
        unreadable=1,
        unknown=3,
        output_unknown=4,
        artifacts=10,
        not_hashed=1,
        left_out=5,
        away=away,
    )
    assert files.done == files.attempts
    _print(verdict(), [], None, files)
    said = [line for line in capsys.readouterr().out.splitlines() if "compared" in line]
    assert said == [
        "  files: 1,000 of 1,007 attempts compared, with 10 artifacts (1 by size alone, without a hash in the log)",
        "  files not compared: 1 attempt on gpu02: it is not\\x1b there",
        "  files not compared: 2 attempts: deleted by `trainshed prune`",
        "  files not compared: 1 attempt: their storage does not answer, or cannot be read",
        "  files not compared: 3 attempts: the log says nothing of their files",
        "  output not compared: 4 attempts: the log does not say how large it was",
        "  artifacts not compared: 5: a later attempt of their run had them in hand, or no hash list names them",
    ]


@pytest.mark.parametrize(
    ("invariants", "note"),
    [
        (("I4",), "the tables are not what the log says"),
        (("I4", "I9"), "no part of Trainshed should have written"),
        (("I10",), "what lies on the nodes is not what the log says"),
        (("I10", "I4"), "the tables are not what the log says"),
        (("I10", "I2"), "no part of Trainshed should have written"),
        (("I2",), "no part of Trainshed should have written"),
        (("I9", "I6"), "the log lacks what was acknowledged"),
        (("I8", "I9"), "not what was signed before"),
    ],
)
def test_a_verdict_claims_that_the_log_is_right_only_where_that_is_known(
    invariants: tuple[str, ...], note: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _print(verdict(*(Violation(one, 3, "wrong") for one in invariants)), ["files"])
    printed = capsys.readouterr()
    assert note in printed.err
    assert f"up to 9: {len(invariants)} violation" in printed.out
    assert f"  not checked: {NOT_CHECKED['files']}" in printed.out


def test_what_is_named_may_not_be_all(capsys: pytest.CaptureFixture[str]) -> None:
    _print(verdict(*[Violation("I9", 3, "wrong")] * MAX_VIOLATIONS), [])
    assert "100 or more violations" in capsys.readouterr().out


@pytest.mark.parametrize(("terminal", "end"), [(False, MANY), (True, MANY - 1)])
def test_a_short_log_or_a_pipe_sees_no_bar(
    terminal: bool, end: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with how_far("replaying", terminal) as progress:
        progress(end // 2, end)
        progress(end, end)
    assert capsys.readouterr() == ("", "")


def test_a_long_log_shows_how_far_it_is_on_stderr(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with how_far("replaying", True) as progress:
        progress(MANY // 4, MANY)
        progress(MANY, MANY)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "replaying" in printed.err and " 25%" in printed.err and "100%" in printed.err


def test_a_replay_that_begins_anew_has_a_bar_of_its_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with how_far("replaying", True, again="once more") as progress:
        progress(MANY, MANY)
        progress(MANY // 2, MANY - 1)
    printed = capsys.readouterr().err
    assert printed.index("100%") < printed.index("once more")


def test_what_was_decided_again_is_counted_and_what_was_not_too(capsys: pytest.CaptureFixture[str]) -> None:
    _print(verdict(), [], DecidedAgain(same=1200, different=1, unchecked=2))
    printed = capsys.readouterr().out
    assert "  grants decided again: 1,200 the same, 1 otherwise\n" in printed
    assert f"  grants not checked: 2 ({UNCHECKED})\n" in printed
