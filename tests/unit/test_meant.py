"""The verb that is meant by a word that is none."""

from __future__ import annotations

import pytest

from services.cli.main import VERBS
from services.cli.meant import MEANT, meant, slips


@pytest.mark.parametrize(
    ("given", "verb"),
    [
        ("ps", "ls"),
        ("list", "ls"),
        ("status", "ls"),
        ("squeue", "ls"),
        ("top", "ls"),
        ("kill", "cancel"),
        ("stop", "cancel"),
        ("rm", "cancel"),
        ("scancel", "cancel"),
        ("sbatch", "submit"),
        ("queue", "ls"),
        ("sumbit", "submit"),
        ("submti", "submit"),
        ("lgos", "logs"),
        ("shw", "show"),
        ("sl", "ls"),
        ("canel", "cancel"),
        ("Submit", "submit"),
        ("KILL", "cancel"),
        ("klil", "cancel"),
        ("expl", "explain"),
    ],
)
def test_another_programs_verb_and_a_slip_mean_one_of_ours(given: str, verb: str) -> None:
    found = meant(given, VERBS)
    assert found is not None
    assert found.split()[0] == verb


@pytest.mark.parametrize("given", ["", "x", "xyzzy", "train.py", "ppo-cartpole"])
def test_what_is_like_no_verb_means_none(given: str) -> None:
    assert meant(given, VERBS) is None


def test_every_verb_that_is_named_instead_is_there() -> None:
    named = {text.removeprefix("--").split()[0] for text in MEANT.values()}
    named |= {part.split()[0] for text in MEANT.values() for part in text.split("trainshed ")[1:]}
    assert named <= {*VERBS, "version"}


def test_no_verb_of_ours_is_taken_for_another() -> None:
    assert not set(MEANT) & set(VERBS)


@pytest.mark.parametrize(
    ("one", "other", "count"),
    [
        ("", "", 0),
        ("ls", "ls", 0),
        ("sl", "ls", 1),
        ("shw", "show", 1),
        ("sumbit", "submit", 1),
        ("ab", "", 2),
        ("kitten", "sitting", 3),
    ],
)
def test_slips_are_counted(one: str, other: str, count: int) -> None:
    assert slips(one, other) == slips(other, one) == count
