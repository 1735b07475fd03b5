"""JSON and YAML text: what is read, and that it is read as anybody would."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from events.config_input import parse_json, parse_yaml
from tests.support.configs import digest_of, run_config
from trainshed_client.errors import ErrorCode, TrainshedError

SAFE = 2**53 - 1
strings = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
documents: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-SAFE, SAFE)
    | st.floats(allow_nan=False, allow_infinity=False)
    | strings
    | st.sampled_from(
        ["on", "no", "Yes", "1e-4", "0x1f", "2026-01-31", "~", "null", "", "=", "<<", "1:30", "*a", "&a"]
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(strings, inner, max_size=4),
    max_leaves=12,
)


@given(documents)
def test_json_is_read_as_the_value_that_was_written(value: Any) -> None:
    assert repr(parse_json(json.dumps(value).encode())) == repr(value)
    assert repr(parse_json(json.dumps(value, indent=1, ensure_ascii=False).encode())) == repr(value)


@given(documents)
def test_yaml_is_read_as_the_value_that_pyyaml_wrote(value: Any) -> None:
    assert parse_yaml(yaml.safe_dump(value).encode()) == value
    assert parse_yaml(yaml.safe_dump(value, default_flow_style=True, sort_keys=False).encode()) == value


@given(
    st.binary(max_size=40)
    | st.text(alphabet='{}[]:,"\\\n\t -?&*!|>#%@`abn01.eu', max_size=40).map(str.encode)
)
def test_any_bytes_are_read_or_refused_clearly(data: bytes) -> None:
    for parse in (parse_json, parse_yaml):
        try:
            parse(data)
        except TrainshedError as error:
            assert error.code is ErrorCode.INVALID
            assert error.message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1e-4", "1e-4"),
        ("a: 1e4", "1e4"),
        ("a: 1.5e4", "1.5e4"),
        ("a: 1.5e-4", 0.00015),
        ("a: -0.5", -0.5),
        ("a: 42", 42),
        ("a: -1", -1),
        ("a: true", True),
        ("a: False", False),
        ("a:", None),
        ("a: ~", None),
        ("a: null", None),
        ("a: python3", "python3"),
        ("a: 'no'", "no"),
        ('a: "on"', "on"),
        ("a: |\n  yes\n", "yes\n"),
        ("a: 1-02:00:00", "1-02:00:00"),
        ("a: 3.11.2", "3.11.2"),
        ("a: y", "y"),
        ("a: north", "north"),
        ("a: {{run_id}}".replace("{", '"{', 1).replace("}}", '}}"'), "{{run_id}}"),
    ],
)
def test_a_plain_yaml_value_is_read_as_json_would_or_stays_a_string(text: str, value: object) -> None:
    assert parse_yaml(text.encode()) == {"a": value}


def test_yaml_names_are_taken_as_written() -> None:
    text = (
        b"retry:\n  on: [exit_code, signal]\nenvironment:\n  NO: 'a'\n  1: b\n  ~: c\nentry_point: python3\n"
    )
    config = run_config(parse_yaml(text))
    assert config.retry.on == ("exit_code", "signal")
    assert config.environment == {"NO": "a", "1": "b", "~": "c"}


def test_a_config_is_the_same_run_in_json_and_in_yaml() -> None:
    written = b"""\
# a sweep's first run
entry_point: python3
arguments: [train.py, --lr, 1e-4, --seed, "1"]
resources:
  cpus: 2
  gpus: {requested: 1}
schedule:
  max_duration_seconds: 3600
"""
    sent = (
        b'\xef\xbb\xbf{"schedule": {"max_duration_seconds": 3600.0},'
        b'"resources": {"gpus": {"requested": 1}, "cpus": 2},'
        b'"arguments": ["train.py", "--lr", "1e-4", "--seed", "1"], "entry_point": "python3"}'
    )
    assert digest_of(run_config(parse_yaml(written))) == digest_of(run_config(parse_json(sent)))


@pytest.mark.parametrize(
    ("data", "path", "lines"),
    [
        (b'{"a": 1,\n"b": 2,\n"a": 3}', "a", "lines 1 and 3"),
        (b'{"a": 1, "a": 1}', "a", "on line 1;"),
        (b'{"x": [0, {"y": {"k": 1},\n"k": {},\n\n"k": []}]}', "x[1].k", "lines 2 and 4"),
        (b'{"a": {"k": 1}, "b": {"k": 1,\n"\\u006b": 2}}', "b.k", "lines 1 and 2"),
        (b'{"}{\\"": "\\\\", "s": "{\\"q\\": 1, \\"q\\": 1}",\n"q": [], "q": 1}', "q", "on line 2;"),
        (b'{"environment": {"A.B": "1", "A.B": "2"}}', "environment.A.B", "on line 1;"),
        (b'[[], [{"": 1, "": 2}]]', '[1][0].""', "on line 1;"),
    ],
)
def test_a_json_name_given_twice_is_refused_by_path_and_line(data: bytes, path: str, lines: str) -> None:
    with pytest.raises(TrainshedError) as refused:
        parse_json(data)
    assert refused.value.path == path
    assert "given twice" in refused.value.message
    assert lines in refused.value.message


def nested(depth: int) -> bytes:
    return b'{"a":' * (depth - 1) + b"[]" + b"}" * (depth - 1)


def test_64_levels_are_read_and_65_are_not() -> None:
    for parse in (parse_json, parse_yaml):
        parse(nested(64))
        with pytest.raises(TrainshedError, match="nested more than 64 deep"):
            parse(nested(65))
    parse_json(nested(66), max_depth=66)


def test_256_kib_are_read_and_a_byte_more_is_not() -> None:
    fits = b'"' + b"x" * (256 * 1024 - 2) + b'"'
    for parse in (parse_json, parse_yaml):
        assert parse(fits) == "x" * (256 * 1024 - 2)
        with pytest.raises(TrainshedError, match="262,145 bytes, and at most 262,144") as refused:
            parse(fits + b" ")
        assert refused.value.code is ErrorCode.TOO_LARGE
    assert parse_json(fits + b" ", max_bytes=1_000_000)


def test_the_largest_exact_integers_are_read() -> None:
    assert parse_json(b"[9007199254740991, -9007199254740991]") == [SAFE, -SAFE]
    assert parse_yaml(b"[9007199254740991, -9007199254740991]") == [SAFE, -SAFE]
    assert parse_json(b"[1.7976931348623157e308]") == [sys.float_info.max]
    assert math.copysign(1, parse_json(b"-0.0")) == -1  # type: ignore[arg-type]


def test_reading_json_does_not_load_yaml() -> None:
    code = (
        'import sys; from events.config_input import *; accepted_config(parse_json(b\'{"entry_point":"x"}\'))'
    )
    loaded = subprocess.run(
        [sys.executable, "-c", f"{code}; print('yaml' in sys.modules, 'difflib' in sys.modules)"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert loaded.stdout == "False False\n"
