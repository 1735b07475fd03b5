"""Frozen values without the module `dataclasses`: what that imports would be half of the memory of every shim.

Owns how they are made, compared and copied; knows none of them. Every page that a shim has is mapped, copied and
unmapped once or twice for each attempt, so it counts in each start of a worker.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn, TypeVar, dataclass_transform

    T = TypeVar("T")
else:

    def dataclass_transform(**_: object):
        """For type checkers alone."""
        return lambda decorator: decorator


@dataclass_transform(frozen_default=True)
def value(cls: type[T]) -> type[T]:
    """The class, with its annotated names as the slots of a frozen value; methods that it has itself are kept."""
    names = tuple(cls.__annotations__)
    defaults = {name: cls.__dict__[name] for name in names if name in cls.__dict__}
    left_out = {*names, "__dict__", "__weakref__"}
    body = {name: each for name, each in cls.__dict__.items() if name not in left_out}
    made = {**_METHODS, "__slots__": names, "__match_args__": names, "_defaults": defaults, **body}
    again: type[T] = type(cls.__name__, cls.__bases__, made)
    return again


def columns(one: object) -> dict[str, Any]:
    """Its fields by name."""
    return {name: getattr(one, name) for name in _names(one)}


def replace(one: T, **changes: object) -> T:
    """A copy with other fields."""
    return type(one)(**{**columns(one), **changes})


def _names(one: object) -> tuple[str, ...]:
    names: tuple[str, ...] = type(one).__match_args__  # type: ignore[attr-defined]
    return names


def _init(self: object, *given: object, **named: object) -> None:
    names = _names(self)
    fields = {**type(self)._defaults, **dict(zip(names, given)), **named}  # type: ignore[attr-defined]
    if len(fields) != len(names) or len(given) + len(named) > len(names):
        raise TypeError(f"{type(self).__name__} takes {', '.join(names) or 'nothing'}")
    for name in names:
        object.__setattr__(self, name, fields[name])


def _frozen(self: object, name: str, *_: object) -> NoReturn:
    raise AttributeError(f"{type(self).__name__} is frozen: {name} cannot be changed")


def _equal(self: object, other: object) -> bool:
    if type(other) is not type(self):
        return NotImplemented  # type: ignore[no-any-return]
    return all(bool(getattr(self, name) == getattr(other, name)) for name in _names(self))


def _hash(self: object) -> int:
    return hash((type(self), *columns(self).values()))


def _repr(self: object) -> str:
    return f"{type(self).__name__}({', '.join(f'{name}={each!r}' for name, each in columns(self).items())})"


_METHODS = {
    "__init__": _init,
    "__setattr__": _frozen,
    "__delattr__": _frozen,
    "__eq__": _equal,
    "__hash__": _hash,
    "__repr__": _repr,
}
