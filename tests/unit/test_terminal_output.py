"""What of a worker's output reaches a terminal as it is, and what is shown instead."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cli.terminal_output import TerminalOutput

HARMLESS = [
    b"epoch 1\tloss 0.5\r\n",
    b"\r 10%|#         | 1/10 [00:01<00:09]",
    b"\x1b[1;31mError\x1b[0m: \x1b[38;2;1;2;3mred\x1b[m",
    b"\x1b[38:2::1:2:3mred\x1b[m",
    b"\x1b[A\x1b[2K\r\x1b[12G\x1b[3C",
    "é 你好 👩‍💻 \u00a0می‌خواهم".encode(),
    b"ab\b\bcd",
]
LIVE = [
    (b"\x1b]0;owned\x07", rb"\x1b]0;owned\x07"),
    (b"\x1b]52;c;aGk=\x1b\\", rb"\x1b]52;c;aGk=\x1b" + b"\\"),
    (b"\x1b[2J\x1b[H", rb"\x1b[2J\x1b[H"),
    (b"\x1b[6n", rb"\x1b[6n"),
    (b"\x1b[?1049h", rb"\x1b[?1049h"),
    (b'\x1bP$q"p\x1b\\', rb"\x1bP$q" + b'"p' + rb"\x1b" + b"\\"),
    (b"\x1bc", rb"\x1bc"),
    ("\x9b31m\x85".encode(), rb"\x9b31m\x85"),
    ("\u202eevil\u2066".encode(), rb"\u202eevil\u2066"),
    (b"\x00\x0b\x0c\x0e\x7f", rb"\x00\x0b\x0c\x0e\x7f"),
    (b"\x9b2J\xff", rb"\x9b2J\xff"),
    (b"\x1b[" + b"1;" * 100 + b"m", rb"\x1b[" + b"1;" * 100 + b"m"),
    ("\u2028\ud7ff\ufeff".encode(), rb"\u2028\ud7ff\ufeff"),
]


def shown(*pieces: bytes) -> bytes:
    stream = TerminalOutput()
    return b"".join([*map(stream.feed, pieces), stream.finish()])


@pytest.mark.parametrize("data", HARMLESS)
def test_text_colours_and_progress_bars_are_as_they_were_written(data: bytes) -> None:
    assert shown(data) == data


@pytest.mark.parametrize(("data", "instead"), LIVE)
def test_what_a_terminal_would_obey_otherwise_is_shown(data: bytes, instead: bytes) -> None:
    assert shown(data) == instead


def test_a_colour_that_was_left_on_is_taken_back() -> None:
    assert shown(b"\x1b[31mred") == b"\x1b[31mred\x1b[0m"
    assert shown(b"\x1b[31mred\x1b[m") == b"\x1b[31mred\x1b[m"


@pytest.mark.parametrize(
    ("data", "instead"), [(b"\x1b", rb"\x1b"), (b"\x1b[3", rb"\x1b[3"), (b"\xe4\xbd", rb"\xe4\xbd")]
)
def test_what_is_cut_off_at_the_end_is_shown(data: bytes, instead: bytes) -> None:
    assert shown(data) == instead


def test_a_line_is_not_held_back_for_what_may_follow_it() -> None:
    stream = TerminalOutput()
    assert stream.feed(b"50 %\r") == b"50 %\r"
    assert (stream.feed(b"a\x1b[3"), stream.feed(b"1mb")) == (b"a", b"\x1b[31mb")


@given(
    st.lists(
        st.sampled_from([*HARMLESS, *(data for data, _ in LIVE), b"\x1b", b"[", b"2J", b"31m", b"x"]),
        max_size=8,
    ),
    st.data(),
)
def test_however_it_is_cut_the_same_is_shown_and_nothing_else_is_obeyed(
    pieces: list[bytes], data: st.DataObject
) -> None:
    whole = b"".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    parts = [whole[i:j] for i, j in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert shown(*parts) == shown(whole)
    left = re.sub(r"\x1b\[[\d;:]*[mKABCDG]", "", shown(whole).decode())
    assert not re.search("[\x00-\x07\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", left)
