"""Canonical JSON against RFC 8785's own vectors, and the names made from it."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.canonical import canonical_json, digest_of_json
from trainshed_client.errors import ErrorCode, TrainshedError

# RFC 8785, appendix B: the bits of a double, and how it is written.
NUMBERS = {
    "0000000000000000": "0",
    "8000000000000000": "0",
    "0000000000000001": "5e-324",
    "8000000000000001": "-5e-324",
    "7fefffffffffffff": "1.7976931348623157e+308",
    "ffefffffffffffff": "-1.7976931348623157e+308",
    "4340000000000000": "9007199254740992",
    "c340000000000000": "-9007199254740992",
    "4430000000000000": "295147905179352830000",
    "44b52d02c7e14af5": "9.999999999999997e+22",
    "44b52d02c7e14af6": "1e+23",
    "44b52d02c7e14af7": "1.0000000000000001e+23",
    "444b1ae4d6e2ef4e": "999999999999999700000",
    "444b1ae4d6e2ef4f": "999999999999999900000",
    "444b1ae4d6e2ef50": "1e+21",
    "3eb0c6f7a0b5ed8c": "9.999999999999997e-7",
    "3eb0c6f7a0b5ed8d": "0.000001",
    "41b3de4355555553": "333333333.3333332",
    "41b3de4355555554": "333333333.33333325",
    "41b3de4355555555": "333333333.3333333",
    "41b3de4355555556": "333333333.3333334",
    "41b3de4355555557": "333333333.33333343",
    "becbf647612f3696": "-0.0000033333333333333333",
    "43143ff3c1cb0959": "1424953923781206.2",
}

# RFC 8785, 3.2.2: the sample, and 3.2.4: its bytes.
SAMPLE = r"""{
  "numbers": [333333333.33333329, 1E30, 4.50,
              2e-3, 0.000000000000000000000000001],
  "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
  "literals": [null, true, false]
}"""
SAMPLE_BYTES = bytes.fromhex(
    "7b 22 6c 69 74 65 72 61 6c 73 22 3a 5b 6e 75 6c 6c 2c 74 72"
    "75 65 2c 66 61 6c 73 65 5d 2c 22 6e 75 6d 62 65 72 73 22 3a"
    "5b 33 33 33 33 33 33 33 33 33 2e 33 33 33 33 33 33 33 2c 31"
    "65 2b 33 30 2c 34 2e 35 2c 30 2e 30 30 32 2c 31 65 2d 32 37"
    "5d 2c 22 73 74 72 69 6e 67 22 3a 22 e2 82 ac 24 5c 75 30 30"
    "30 66 5c 6e 41 27 42 5c 22 5c 5c 5c 5c 5c 22 2f 22 7d"
)

# RFC 8785, 3.2.3: names sort by UTF-16 code units, so the emoji (d83d de00) comes before U+FB33.
UNSORTED = r"""{
  "\u20ac": "Euro Sign",
  "\r": "Carriage Return",
  "\ufb33": "Hebrew Letter Dalet With Dagesh",
  "1": "One",
  "\ud83d\ude00": "Emoji: Grinning Face",
  "\u0080": "Control",
  "\u00f6": "Latin Small Letter O With Diaeresis"
}"""
SORTED = [
    "Carriage Return",
    "One",
    "Control",
    "Latin Small Letter O With Diaeresis",
    "Euro Sign",
    "Emoji: Grinning Face",
    "Hebrew Letter Dalet With Dagesh",
]

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(("bits", "written"), NUMBERS.items())
def test_a_number_is_written_as_in_appendix_b(bits: str, written: str) -> None:
    (number,) = struct.unpack(">d", bytes.fromhex(bits))
    assert canonical_json(number) == written.encode()


@pytest.mark.parametrize("bits", ["7fffffffffffffff", "7ff0000000000000", "fff0000000000000"])
def test_nan_and_infinities_have_no_canonical_form(bits: str) -> None:
    (number,) = struct.unpack(">d", bytes.fromhex(bits))
    with pytest.raises(TrainshedError) as refused:
        canonical_json({"x": number})
    assert refused.value.code is ErrorCode.INVALID


def test_the_sample_gives_the_bytes_of_the_rfc() -> None:
    assert canonical_json(json.loads(SAMPLE)) == SAMPLE_BYTES


def test_names_are_sorted_by_utf16_code_units() -> None:
    assert list(json.loads(canonical_json(json.loads(UNSORTED))).values()) == SORTED


@pytest.mark.parametrize("odd", [2**53, -(2**53), "\ud800", {"\udfff": 1}, {1: 2}, {1, 2}, b"x"])
def test_what_json_cannot_say_is_refused(odd: object) -> None:
    with pytest.raises(TrainshedError):
        canonical_json([odd])


@given(json_values)
def test_canonical_json_is_read_back_as_the_same_value(value: object) -> None:
    # 5e16 is written 50000000000000000: a JSON number is a double, so it is read as one.
    assert json.loads(canonical_json(value), parse_int=float) == value


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_is_written_as_short_as_it_can_be_and_exact(number: float) -> None:
    written = canonical_json(number).decode()
    assert float(written) == number
    assert re.fullmatch(r"-?(0|[1-9]\d*)(\.\d*[1-9])?(e[+-][1-9]\d*)?", written)
    assert ("e" in written) == (number != 0 and not 1e-6 <= math.fabs(number) < 1e21)


def test_digest_and_run_id_are_made_from_the_same_bytes() -> None:
    digest = digest_of_json({"b": 1.0, "a": "é"})
    canonical = '{"a":"é","b":1}'.encode()
    raw = hashlib.sha256(canonical).digest()
    assert digest.hex == raw.hex()
    assert digest.run_id == base64.b32encode(raw).decode().lower().rstrip("=")[:26]
    assert re.fullmatch("[a-z2-7]{26}", digest.run_id)
