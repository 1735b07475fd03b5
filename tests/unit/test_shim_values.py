"""The shim's frozen values: what `dataclasses` would promise, without its imports."""

from __future__ import annotations

import subprocess
import sys

import pytest

from services.agent.shim.values import columns, replace, value


@value
class Point:
    """A value with a default."""

    x: int
    y: int = 0


@value
class Other:
    """The same fields, another kind."""

    x: int
    y: int = 0


def test_a_value_takes_its_fields_by_place_and_by_name() -> None:
    assert Point(1, 2) == Point(x=1, y=2)
    assert columns(Point(1)) == {"x": 1, "y": 0}
    assert repr(Point(1)) == "Point(x=1, y=0)"


@pytest.mark.parametrize(
    ("given", "named"), [((), {}), ((1, 2, 3), {}), ((1,), {"z": 3}), ((1,), {"x": 1, "y": 2})]
)
def test_what_does_not_fit_is_refused(given: tuple[int, ...], named: dict[str, int]) -> None:
    with pytest.raises(TypeError, match="Point takes x, y"):
        Point(*given, **named)


def test_a_value_cannot_be_changed_and_replace_makes_another() -> None:
    point = Point(1)
    with pytest.raises(AttributeError):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(AttributeError):
        point.z = 2  # type: ignore[attr-defined]
    assert replace(point, y=5) == Point(1, 5)
    assert point == Point(1)


def test_values_of_two_kinds_differ_also_as_keys() -> None:
    point: object = Point(1)
    assert point != Other(1)
    assert len({Point(1), Other(1), Point(1, 0)}) == 2


def test_a_value_can_be_matched() -> None:
    match Point(1, 2):
        case Point(x, y=2):
            assert x == 1
        case _:
            pytest.fail("not matched")


def test_the_spawner_loads_none_of_the_heavy_modules() -> None:
    """Each of them costs every shim memory that is mapped, copied and unmapped on the way to exec."""
    heavy = {"dataclasses", "inspect", "asyncio", "logging", "msgspec"}
    code = "import sys, services.agent.shim.spawner; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert heavy.isdisjoint(loaded.split())
