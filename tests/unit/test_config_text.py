"""JSON and YAML text: what is read, and that it is read as anybody would."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from events import config_input
from events.config import RunConfig
from events.config_input import parse_json, parse_yaml
from events.text_fields import EACH, TEXT_FIELDS
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


def has_number_as_text(value: Any) -> bool:
    """Whether there is a string in it that PyYAML writes without quotes, and that a decimal number would be written as."""
    match value:
        case str():
            return re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?0o?\d+", value) is not None
        case dict():
            return any(has_number_as_text(item) for item in value.values())
        case list():
            return any(map(has_number_as_text, value))
        case _:
            return False


@given(documents)
def test_yaml_is_read_as_the_value_that_pyyaml_wrote(value: Any) -> None:
    assume(not has_number_as_text(value))
    for style in (None, True):
        text = yaml.safe_dump({"x": value}, default_flow_style=style, sort_keys=False)
        assert parse_yaml(text.encode()) == {"x": value}


numbers = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers(-SAFE, SAFE).map(str),
    st.from_regex(r"[-+]?(0|[1-9][0-9]{0,5})(\.[0-9]{0,5})?([eE][-+]?[0-9]{1,2})?", fullmatch=True),
    st.from_regex(r"[-+]?\.[0-9]{1,5}([eE][-+]?[0-9]{1,2})?", fullmatch=True),
)


@given(numbers)
def test_a_decimal_number_is_that_number_and_where_text_is_taken_what_was_typed(text: str) -> None:
    document = (
        f"arguments: [--lr, {text}]\nenvironment: {{LR: {text}}}\nmetadata: {{lr: {text}, more: [{text}]}}"
    )
    read = parse_yaml(document.encode())
    assert isinstance(read, dict)
    number = int(text) if re.fullmatch(r"[-+]?\d+", text) else float(text)
    assert repr(read["metadata"]) == repr({"lr": number, "more": [number]})
    assert (read["arguments"], read["environment"]) == (["--lr", text], {"LR": text})


plain = st.from_regex(
    r"[A-Za-z0-9~.+_][A-Za-z0-9.+_:-]{0,7}[A-Za-z0-9_]|-?[0-9.]{1,3}[eE_x:]?[0-9]{1,3}|~|y|on", fullmatch=True
)


@given(plain)
def test_a_plain_word_is_what_was_typed_where_text_is_taken_and_elsewhere_one_thing_or_refused(
    word: str,
) -> None:
    as_text = parse_yaml(f"labels: {{a: {word} }}".encode())
    isnull = word in ("~", "null", "Null", "NULL")
    assert as_text == {"labels": {"a": None if isnull else word}}
    try:
        read = parse_yaml(f"metadata: {{a: {word} }}".encode())
    except TrainshedError as error:
        assert error.path == "metadata.a"
        return
    assert isinstance(read, dict)
    # Whoever reads it by YAML 1.1, as PyYAML does, reads the same, but for the numbers that only YAML 1.2 has.
    by_1_1 = yaml.safe_load(word)
    assert read["metadata"]["a"] == by_1_1 or (by_1_1 == word and float(word) == read["metadata"]["a"])


def test_the_places_that_take_text_are_those_of_the_config_s_strings() -> None:
    def texts(kind: Any) -> Any:
        match kind:
            case msgspec.inspect.StrType():
                return True
            case msgspec.inspect.UnionType(types=types):
                return next(filter(None, map(texts, types)), None)
            case msgspec.inspect.VarTupleType(item_type=item) | msgspec.inspect.DictType(value_type=item):
                found = texts(item)
                return {EACH: found} if found else None
            case msgspec.inspect.StructType(fields=fields):
                return {field.name: found for field in fields if (found := texts(field.type))} or None
            case _:
                return None

    expected = texts(msgspec.inspect.type_info(RunConfig))
    worker = {"module": True, "script": True, "arguments": {EACH: True}, "worker_id": True}
    assert {**expected, "metadata": {"worker": worker}} == TEXT_FIELDS
    assert set(worker) == set(config_input._WORKER) - {"config"}


def test_all_that_is_wrong_with_a_text_is_told_at_once() -> None:
    with pytest.raises(TrainshedError) as refused:
        parse_yaml(b"metadata: {a: on, b: 012, c: 1_0, c: 2}\npriority: 1e999")
    assert [error.path for error in refused.value.errors] == [
        "metadata.a",
        "metadata.b",
        "metadata.c",
        "priority",
    ]
    with pytest.raises(TrainshedError) as refused:
        parse_json(b'{"a": 1, "a": {"x": 1, "x": 2}, "b": [NaN, 1, -Infinity]}')
    assert sorted(str(error.path) for error in refused.value.errors) == ["a", "a.x", "b[0]", "b[2]"]


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
        ("a: 1e-4", 1e-4),
        ("a: 1E5", 1e5),
        ("a: .5e3", 500.0),
        ("a: +1e3", 1000.0),
        ("a: -.5", -0.5),
        ("a: 5.", 5.0),
        ("a: +5", 5),
        ("a: 1.5e4", 15000.0),
        ("a: 0e-400", 0.0),
        ("a: 5e-324", 5e-324),
        ("a: 1e", "1e"),
        ("a: .e3", ".e3"),
        ("a: 0.5.1", "0.5.1"),
        ("a: 00:30", "00:30"),
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


def rows_of_the_page() -> list[tuple[str, str, str]]:
    """The rows of the table of docs/contracts/yaml.md, "How YAML is read": typed, read as text, read elsewhere."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "contracts" / "yaml.md").read_text()
    table = page.split("## How YAML is read")[1].split("\n\n")[1]
    rows = [
        [cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]
    ]
    assert len(rows) > 20
    return [(typed, as_text, elsewhere) for typed, as_text, elsewhere in rows]


@pytest.mark.parametrize(("typed", "as_text", "elsewhere"), rows_of_the_page())
def test_yaml_is_read_as_the_page_says(typed: str, as_text: str, elsewhere: str) -> None:
    for document, expected in (
        (f"environment: {{a: {typed} }}", as_text),
        (f"metadata: {{a: {typed} }}", elsewhere),
    ):
        try:
            read: Any = parse_yaml(document.encode())
        except TrainshedError as error:
            assert (error.path or "").endswith(".a")
            assert expected == "refused"
        else:
            (place,) = read.values()
            assert repr(place["a"]) == repr(json.loads(expected))
