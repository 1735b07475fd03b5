"""What a program hands over as a run config: unchanged or refused, never turned into something else."""

from __future__ import annotations

import array
import collections
import datetime
import decimal
import enum
import json
import math
import pathlib
import types
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.configs import run_config
from trainshed_client.client import Trainshed
from trainshed_client.connection import Connection, Reply
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.json_limits import json_value
from trainshed_client.provenance import Provenance


class Words(enum.StrEnum):
    PPO = "ppo"


class OldWords(str, enum.Enum):
    PPO = "ppo"


class Numbers(enum.IntEnum):
    THREE = 3


class Float64(float):
    """As numpy's float64 is one."""


class Members(enum.Enum):
    PPO = "ppo"


Pair = collections.namedtuple("Pair", "a b")

UNCHANGED: list[tuple[Any, Any]] = [
    ((0.9, 0.999), [0.9, 0.999]),
    (types.MappingProxyType({"a": (1,)}), {"a": [1]}),
    (collections.OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
    (Words.PPO, "ppo"),
    (OldWords.PPO, "ppo"),
    ({OldWords.PPO: 1}, {"ppo": 1}),
    (Numbers.THREE, 3),
    (Float64(0.1), 0.1),
    (True, True),
    (None, None),
    (-0.0, -0.0),
]
REFUSED: list[tuple[Any, str]] = [
    (math.inf, "finite number"),
    (-math.inf, "finite number"),
    (math.nan, "finite number"),
    (Float64("inf"), "finite number"),
    (b"ppo", "(bytes); write text"),
    (bytearray(b"ppo"), "(bytearray); write text"),
    ({1, 2}, "(set); write sorted() of it"),
    (frozenset(), "(frozenset); write sorted() of it"),
    (array.array("d", [1]), "(array.array); write it with .tolist()"),
    (datetime.datetime(2026, 1, 31), "(datetime.datetime); write it with .isoformat()"),
    (datetime.date(2026, 1, 31), "write it with .isoformat()"),
    (datetime.timedelta(1), "write it with .total_seconds()"),
    (Members.PPO, "Members); write its .value"),
    (pathlib.Path("/data"), "write str() of it"),
    (Pair(1, 2), "Pair); write it with ._asdict()"),
    (Provenance(folder="/"), "Provenance)"),
    (decimal.Decimal("0.1"), "(decimal.Decimal)"),
    (1j, "(complex)"),
    (range(3), "(range)"),
    (2**53, "within ±(2^53 - 1)"),
    ("a\udcff", r"this string is not UTF-8, and so no text: a\xff"),
    ("\ud800", "half a character"),
    ({1: 2}, "a name must be a string, not a number"),
    ({b"a": 2}, "a name must be a string"),
]


@pytest.mark.parametrize(("value", "json_"), UNCHANGED, ids=lambda one: repr(one)[:40])
def test_what_equals_a_value_of_json_is_that_value(value: Any, json_: Any) -> None:
    plain = json_value({"a": value})
    assert repr(plain) == repr({"a": json_})


@pytest.mark.parametrize(("value", "says"), REFUSED, ids=lambda one: repr(one)[:40])
def test_anything_else_is_refused_by_its_path(value: Any, says: str) -> None:
    with pytest.raises(TrainshedError) as refused:
        json_value({"metadata": {"a": [0, value]}})
    assert refused.value.path == "metadata.a[1]"
    assert says in refused.value.message, refused.value


def test_all_of_it_is_told_at_once_and_where_it_stands() -> None:
    with pytest.raises(TrainshedError) as refused:
        json_value({"a": math.inf, "b": [b"", {1}]}, "runs[3]")
    assert [wrong.path for wrong in refused.value.errors] == ["runs[3].a", "runs[3].b[0]", "runs[3].b[1]"]


def test_a_loop_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(TrainshedError, match="nested more than 64 deep"):
        json_value({"a": loop})


class Heard:
    """A connection that keeps what was asked, and answers as a gateway would."""

    where = "here"

    def __init__(self) -> None:
        self.asked: list[Any] = []

    async def request(self, subject: str, payload: bytes, **_: Any) -> Reply:
        self.asked.append(json.loads(payload))
        one = {"run_id": "a" * 26, "digest": "", "created": True, "status": "PENDING", "seq": 1}
        return Reply(msgspec.json.encode({"runs": [one], **one, "new": True}), {})


@pytest.mark.parametrize("beside", [{}, {"caller_path": "/bin", "provenance": Provenance(folder="/p")}])
async def test_every_way_to_submit_sends_what_was_said_or_refuses_it(beside: dict[str, Any]) -> None:
    heard = Heard()
    client = Trainshed(cast(Connection, heard))
    good = {"entry_point": "x", "arguments": ("a",)}
    bad = {
        "entry_point": "x",
        "metadata": {"worker": {"script": "s", "config": {"max": math.inf, "n": b"p"}}},
    }
    await client.submit(good, **beside)
    await client.submit_many([good], **beside)
    await client.check(good)
    sent = [heard.asked[0].get("config", heard.asked[0]), heard.asked[1]["runs"][0], heard.asked[2]]
    assert sent == [{"entry_point": "x", "arguments": ["a"]}] * 3
    for asking, place in (
        (client.submit(bad, **beside), ""),
        (client.submit_many([good, bad], **beside), "runs[1]."),
        (client.check(bad), ""),
    ):
        with pytest.raises(TrainshedError) as refused:
            await asking
        assert refused.value.code is ErrorCode.INVALID
        assert [wrong.path for wrong in refused.value.errors] == [
            f"{place}metadata.worker.config.max",
            f"{place}metadata.worker.config.n",
        ]
    assert len(heard.asked) == 3


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.binary(max_size=3)
    | st.decimals(allow_nan=False)
    | st.dates()
    | st.fractions()
    | st.sampled_from([Words.PPO, OldWords.PPO, Numbers.THREE, Members.PPO, Float64(0.5)])
)


def _hashable(value: object) -> bool:
    return not (isinstance(value, decimal.Decimal) and value.is_snan())


values: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=6) | st.integers(), inner, max_size=3)
        | st.frozensets(scalars.filter(_hashable), max_size=2)
    ),
    max_leaves=8,
)


def with_lists(value: Any) -> Any:
    """The same with a list for each tuple: JSON has one kind."""
    match value:
        case dict():
            return {name: with_lists(item) for name, item in value.items()}
        case list() | tuple():
            return [with_lists(item) for item in value]
        case _:
            return value


@given(values)
def test_what_is_accepted_is_equal_when_it_arrives(value: Any) -> None:
    try:
        config = json_value(
            {"entry_point": "x", "metadata": {"worker": {"module": "m", "config": {"a": value}}}}
        )
    except TrainshedError as error:
        assert error.code is ErrorCode.INVALID
        return
    sent = json.loads(msgspec.json.encode(config))
    arrived = run_config(sent, allow_credentials=True).launch()["worker"]
    assert json.loads(json.dumps(arrived))["config"]["a"] == with_lists(value)
