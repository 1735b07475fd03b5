"""Times as text: RFC 3339 in UTC with microseconds, and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.times import nanoseconds, nanoseconds_exact, rfc3339, rfc3339_exact

YEAR_9999_NS = 253_402_300_799_999_999_999


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (1_795_508_260_123_456_789, "2026-11-24T08:17:40.123456Z"),
        (YEAR_9999_NS, "9999-12-31T23:59:59.999999Z"),
    ],
)
def test_times_are_written_in_utc_with_microseconds(ns: int, text: str) -> None:
    assert rfc3339(ns) == text


@given(st.integers(min_value=0, max_value=YEAR_9999_NS))
def test_a_time_is_read_as_it_was_written_to_the_microsecond(ns: int) -> None:
    assert nanoseconds(rfc3339(ns)) == ns // 1000 * 1000


@given(st.integers(min_value=0, max_value=YEAR_9999_NS))
def test_an_exact_time_is_read_to_the_nanosecond_as_it_was_written(ns: int) -> None:
    assert nanoseconds_exact(rfc3339_exact(ns)) == ns
    assert nanoseconds_exact(rfc3339(ns)) == nanoseconds(rfc3339(ns)) == nanoseconds(rfc3339_exact(ns))


@pytest.mark.parametrize(
    ("text", "fraction_ns"),
    [
        ("2026-11-24T08:17:40Z", 0),
        ("2026-11-24T08:17:40.5Z", 500_000_000),
        ("2026-11-24T09:17:40.000000007+01:00", 7),
        ("2026-11-24T08:17:40.12345678Z", 123_456_780),
    ],
)
def test_an_exact_time_has_as_many_digits_as_it_likes(text: str, fraction_ns: int) -> None:
    assert nanoseconds_exact(text) == nanoseconds("2026-11-24T08:17:40Z") + fraction_ns


@given(st.lists(st.integers(min_value=0, max_value=YEAR_9999_NS), min_size=2, max_size=2))
def test_texts_sort_as_times_do(pair: list[int]) -> None:
    earlier, later = sorted(pair)
    assert rfc3339(earlier) <= rfc3339(later)


def test_another_zone_is_understood() -> None:
    assert nanoseconds("2026-11-24T09:17:40+01:00") == nanoseconds("2026-11-24T08:17:40.000000Z")


@pytest.mark.parametrize("text", ["", "yesterday", "2026-11-24T08:17:40", "2026-13-01T00:00:00Z", "12"])
def test_what_is_no_time_or_has_no_zone_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        nanoseconds(text)
