"""Options that take a whole number: what is no number anybody means is refused, shortly."""

from __future__ import annotations

import pytest

from services.cli.main import run

LONG = ["9" * 5000, "-" + "9" * 5000, "9" * 4000, "9" * 16]


@pytest.mark.parametrize("number", LONG, ids=lambda number: f"{number[:3]}...{len(number)}")
@pytest.mark.parametrize(
    "words",
    [
        ("submit", "--gpus={}", "--", "true"),
        ("submit", "--priority={}", "--", "true"),
        ("submit", "--memory={}", "--", "true"),
        ("submit", "--retries={}", "--", "true"),
        ("submit", "--count={}", "--", "true"),
        ("ls", "-n", "{}"),
        ("up", "--gpus={}"),
        ("up", "--cpus={}"),
        ("up", "--memory={}"),
        ("logs", "--tail={}", "x"),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_a_number_of_thousands_of_digits_is_refused_by_its_option(
    words: tuple[str, ...], number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([word.format(number) for word in words]) == 2
    told = capsys.readouterr().err
    option = words[1].removesuffix("={}")
    assert option in told
    assert len(told) < 300


def test_more_gpus_than_a_node_can_tell_of_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["up", "--gpus", "1025"]) == 2
    assert "'1025' is neither a number of GPUs (0 to 1024) nor all" in capsys.readouterr().err
