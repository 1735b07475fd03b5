"""Which run an id, a part of one, or a name means."""

from __future__ import annotations

import pytest

from tests.unit.test_cli_words import record
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.naming import choose, title_of
from trainshed_client.records import QueuedRunRecord

A1 = record("aaaaaa" + "a" * 20, name="ppo", submit_seq=1)
A2 = record("aaaaab" + "a" * 20, name="ppo", submit_seq=2)
B = record("bbbbbb" + "a" * 20, name="aaaaa", submit_seq=3)
EVERY = [A1, A2, B]


def refusal(run: str, found: list[QueuedRunRecord], *, only: bool = False) -> TrainshedError:
    with pytest.raises(TrainshedError) as caught:
        choose(run, found, only=only)
    return caught.value


def test_an_id_means_its_run_whatever_is_named_like_it() -> None:
    assert choose(A1.run_id, [*EVERY, record(name=A1.run_id)], only=True) is A1


def test_a_unique_beginning_means_its_run() -> None:
    assert choose("aaaaab", EVERY, only=True) is A2
    assert choose("b", EVERY, only=True) is B


def test_a_beginning_of_several_is_refused_with_their_ids() -> None:
    error = refusal("aaaa", [A1, A2])
    assert error.code is ErrorCode.CONFLICT
    assert A1.run_id in str(error) and A2.run_id in str(error)


def test_a_name_comes_before_a_beginning() -> None:
    assert choose("aaaaa", EVERY, only=True) is B


def test_a_name_of_several_means_the_newest_for_reading_alone() -> None:
    assert choose("ppo", EVERY, only=False) is A2
    error = refusal("ppo", EVERY, only=True)
    assert error.code is ErrorCode.CONFLICT
    assert str(error).index(A2.run_id) < str(error).index(A1.run_id)


def test_of_many_the_newest_five_are_listed() -> None:
    many = [record(f"c{n}".ljust(26, "c"), name="x", submit_seq=n) for n in range(2, 8)]
    text = str(refusal("x", many, only=True))
    assert [one.run_id in text for one in many] == [False, True, True, True, True, True]


def test_nothing_found_is_not_found() -> None:
    error = refusal("zzz", [])
    assert error.code is ErrorCode.NOT_FOUND
    assert error.exit_code == 4


def test_what_is_no_beginning_of_an_id_is_not_taken_for_one() -> None:
    assert refusal("", EVERY).code is ErrorCode.NOT_FOUND


# --- names as a list shows them, and the beginnings of names ----------------------------------------------

TRAIN = record(
    "c" * 26,
    name="python3",
    named=False,
    command=["/venv/bin/python3", "train.py", "--lr", "1e-3"],
    submit_seq=4,
)
EVAL = record("d" * 26, name="python3", named=False, command=["/venv/bin/python3", "eval.py"], submit_seq=5)
OTHER = record("e" * 26, name="cart pole", named=True, submit_seq=6)


def test_what_a_list_shows_as_the_name_means_its_run() -> None:
    found = [TRAIN, EVAL, OTHER]
    assert choose("python3 train.py --lr 1e-3", found, only=True) is TRAIN
    assert choose("python3 eval.py", found, only=True) is EVAL


def test_the_beginning_of_one_name_alone_means_its_runs() -> None:
    assert choose("cart", [*EVERY, OTHER], only=True) is OTHER
    assert choose("python3 tr", [TRAIN, EVAL], only=True) is TRAIN
    assert choose("pp", [A1, A2], only=False) is A2
    assert refusal("pp", [A1, A2], only=True).code is ErrorCode.CONFLICT


def test_the_beginning_of_several_names_is_refused_with_them() -> None:
    error = refusal("python3", [TRAIN, EVAL, OTHER], only=True)
    assert error.code is ErrorCode.CONFLICT
    error = refusal("pyth", [TRAIN, EVAL])
    assert error.code is ErrorCode.CONFLICT
    assert "train.py" in str(error) and EVAL.run_id in str(error)


def test_the_beginning_of_an_id_and_of_anothers_name_is_refused() -> None:
    named = record("f" * 26, name="bbq", submit_seq=7)
    error = refusal("bb", [B, named])
    assert B.run_id in str(error) and named.run_id in str(error)


def test_a_name_that_a_list_has_cut_short_means_its_run() -> None:
    found = [TRAIN, EVAL]
    assert choose("python3 tr…1e-3", found, only=True) is TRAIN
    assert choose("python3 e…", found, only=True) is EVAL
    assert refusal("python3…x", found).code is ErrorCode.NOT_FOUND


def test_a_name_that_somebody_gave_is_shown_also_where_it_is_the_programs() -> None:
    def shown(
        named: bool | None, name: str = "python3", command: tuple[str, ...] = ("/bin/python3", "t.py", "a b")
    ) -> str:
        return title_of(record(name=name, named=named, command=list(command)))

    assert shown(True) == "python3"
    assert shown(False) == "python3 t.py 'a b'"
    assert shown(None) == "python3 t.py 'a b'"  # of an older release
    assert shown(True, "t.py") == "t.py"
    assert shown(None, "mine") == "mine"
    assert shown(False, command=()) == "python3"
