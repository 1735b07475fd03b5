"""What any JSON value must keep to before its fields are looked at, and how errors name a place in it.

Owns depth, integer range, finite numbers and clean strings, for values that were read and for those of a program;
knows no field of any document.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from trainshed_client.errors import ErrorCode, Refusals, TrainshedError

if TYPE_CHECKING:
    from typing_extensions import TypeAlias

MAX_BYTES = 256 * 1024
"""The most bytes of a run config, as text and as stored."""

MAX_DEPTH = 64
"""The most objects and lists within each other, the outermost counted."""

MAX_INTEGER = 2**53 - 1
"""Integers within ±MAX_INTEGER are the same number in every JSON reader (RFC 8785, RFC 7493)."""

Place: TypeAlias = "tuple[Place | None, str | int]"
"""A place in a document as a chain, innermost last: cheap to make, and written out for a refusal only."""

_SHOWN = 60


def invalid(path: str, message: str) -> TrainshedError:
    """A refusal of the value at ``path`` ("" for the whole document)."""
    return TrainshedError(ErrorCode.INVALID, message, path or None)


def too_large(size: int, most: int) -> TrainshedError:
    """A refusal of a document of ``size`` bytes where ``most`` are accepted."""
    return TrainshedError(
        ErrorCode.TOO_LARGE,
        f"this is {size:,} bytes, and at most {most:,} are accepted; put data into a file and name the file",
    )


def below(path: str, key: str | int) -> str:
    """The path of a field (``a.b``) or an entry of a list (``a[0]``); odd or long names are escaped, cut."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    shown = cut(key) or '""'
    return f"{path}.{shown}" if path else shown


def cut(text: str) -> str:
    """``text`` fit for a message: at most 60 characters, escaped where it does not print."""
    shown = text[:_SHOWN]
    return (shown if shown.isprintable() else ascii(shown)[1:-1]) + ("..." if len(text) > _SHOWN else "")


def kind(value: object) -> str:
    """What ``value`` is, in JSON's words, without showing it (it may be a credential)."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "an object"
    return f"a value that JSON does not have ({_type_name(type(value))})"


def _type_name(type_: type) -> str:
    return type_.__name__ if type_.__module__ == "builtins" else f"{type_.__module__}.{type_.__qualname__}"


def check_json(value: object, *, max_depth: int = MAX_DEPTH, refused: Refusals | None = None) -> None:
    """Raise TrainshedError (invalid) where ``value`` is no JSON that every program reads alike.

    Refused by path, all of them at once: integers outside ±(2^53 - 1), NaN and infinities, nul characters and lone
    surrogates (in names too), names that are no strings, and Python's other types. They are added to ``refused`` where it
    is given. More than ``max_depth`` levels are always raised, for then the rest was not looked at.
    """
    found = Refusals() if refused is None else refused
    _check(value, None, max_depth, found)
    if refused is None:
        found.raise_any()


def _check(value: object, place: Place | None, depth: int, refused: Refusals) -> None:
    if isinstance(value, str):
        _check_text(value, place, "this string", refused)
    elif value is None or isinstance(value, bool):
        pass
    elif isinstance(value, int):
        if not -MAX_INTEGER <= value <= MAX_INTEGER:
            refused.add(
                invalid(path_of(place), "an integer must lie within ±(2^53 - 1); longer ones go in quotes")
            )
    elif isinstance(value, float):
        if not math.isfinite(value):
            refused.add(
                invalid(
                    path_of(place),
                    'must be a finite number, as JSON has no NaN and no infinity (doubles reach from 4.9e-324 to 1.8e308); the string "inf" passes, and float() reads it',
                )
            )
    elif not isinstance(value, (dict, list)):
        refused.add(
            invalid(path_of(place), f"JSON has no such value ({_type_name(type(value))}){_instead(value)}")
        )
    elif depth <= 0:
        raise too_deep()
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check(item, (place, index), depth - 1, refused)
    else:
        for name, item in value.items():
            if not isinstance(name, str):
                refused.add(
                    invalid(path_of(place), f"a name must be a string, not {kind(name)}; write it in quotes")
                )
                continue
            _check_text(name, place, "a name in it", refused)
            _check(item, (place, name), depth - 1, refused)


_INSTEAD = {
    "tolist": "write it with .tolist()",
    "isoformat": "write it with .isoformat()",
    "total_seconds": "write it with .total_seconds()",
    "__fspath__": "write str() of it",
    "decode": "write text, as .decode() makes it",
    "_asdict": "write it with ._asdict()",
    "__dataclass_fields__": "write dataclasses.asdict() of it",
    "isdisjoint": "write sorted() of it",
    "_value_": "write its .value",
}
"""An attribute that tells what a value is → what to write instead of it."""


def _instead(value: object) -> str:
    return next((f"; {instead}" for name, instead in _INSTEAD.items() if hasattr(value, name)), "")


def json_value(value: object, path: str = "", *, max_depth: int = MAX_DEPTH) -> object:
    """What a program hands over, as JSON's own values, each equal to what was handed over.

    Mappings are objects, tuples are lists; a subclass of str, int or float is what it equals (members of StrEnum and
    IntEnum, numpy's float64). Nothing else is turned into something: sets, bytes, times, other enums, paths, dataclasses,
    named tuples and numpy's other numbers are refused. ``path``: where ``value`` stands. Raises as `check_json`.
    """
    plain = _plain(value, max_depth)
    try:
        check_json(plain, max_depth=max_depth)
    except TrainshedError as error:
        raise error.placed(path) from None
    return plain


def _plain(value: object, depth: int) -> object:
    """``value`` of JSON's types as far as it equals one of them; the rest as it is, for `check_json` to refuse."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, (Mapping, list, tuple)) and depth <= 0:
        raise too_deep()
    if isinstance(value, Mapping):
        return {
            str.__str__(name) if isinstance(name, str) else name: _plain(item, depth - 1)
            for name, item in value.items()
        }
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return [_plain(item, depth - 1) for item in value]
    return value


def path_of(place: Place | None) -> str:
    """The path of ``place``; "" for the whole document."""
    return below(path_of(place[0]), place[1]) if place else ""


def too_deep() -> TrainshedError:
    """A refusal of what is nested too deep; its path would be longer than what is wrong."""
    return invalid("", f"objects and lists are nested more than {MAX_DEPTH} deep")


def _check_text(text: str, place: Place | None, what: str, refused: Refusals) -> None:
    if "\0" in text:
        refused.add(invalid(path_of(place), f"{what} holds a nul character; leave it out"))
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = error
    else:
        return
    try:  # as Python has a byte of a command line, or of a path, in another encoding
        what_is_wrong = (
            f"is not UTF-8, and so no text: {str(text.encode('utf-8', 'surrogateescape'))[2:-1]:.200}"
        )
    except UnicodeEncodeError:
        unit = ord(text[half.start])
        what_is_wrong = (
            f"holds half a character (the lone surrogate \\u{unit:04x}); write the whole character"
        )
    refused.add(invalid(path_of(place), f"{what} {what_is_wrong}"))
