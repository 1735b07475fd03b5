"""What any JSON value must keep to before its fields are looked at, and how errors name a place in it.

Owns depth, integer range, finite numbers and clean strings; knows no field of any document.
"""

from __future__ import annotations

import math
from typing import TypeAlias

from trainshed_client.errors import ErrorCode, TrainshedError

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
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "a list"
        case dict():
            return "an object"
        case _:
            return f"a value that JSON does not have ({type(value).__name__})"


def check_json(value: object, *, max_depth: int = MAX_DEPTH) -> None:
    """Raise TrainshedError (invalid) where ``value`` is no JSON that every program reads alike.

    Refused by path: more than ``max_depth`` levels, integers outside ±(2^53 - 1), NaN and infinities, nul
    characters and lone surrogates (in names too), names that are no strings, and Python's other types.
    """
    _check(value, None, max_depth)


def _check(value: object, place: Place | None, depth: int) -> None:
    match value:
        case str():
            _check_text(value, place, "this string")
        case bool() | None:
            pass
        case int():
            if not -MAX_INTEGER <= value <= MAX_INTEGER:
                raise invalid(
                    path_of(place), "an integer must lie within ±(2^53 - 1); longer ones go in quotes"
                )
        case float():
            if not math.isfinite(value):
                raise invalid(
                    path_of(place), "must be a finite number, not NaN, an infinity or beyond 1.8e308"
                )
        case dict() | list() if depth <= 0:
            raise too_deep()
        case dict():
            for name, item in value.items():
                if not isinstance(name, str):
                    raise invalid(
                        path_of(place), f"a name must be a string, not {kind(name)}; write it in quotes"
                    )
                _check_text(name, place, "a name in it")
                _check(item, (place, name), depth - 1)
        case list():
            for index, item in enumerate(value):
                _check(item, (place, index), depth - 1)
        case _:
            raise invalid(path_of(place), f"must be a JSON value, not {kind(value)}")


def path_of(place: Place | None) -> str:
    """The path of ``place``; "" for the whole document."""
    return below(path_of(place[0]), place[1]) if place else ""


def too_deep() -> TrainshedError:
    """A refusal of what is nested too deep; its path would be longer than what is wrong."""
    return invalid("", f"objects and lists are nested more than {MAX_DEPTH} deep")


def _check_text(text: str, place: Place | None, what: str) -> None:
    if "\0" in text:
        raise invalid(path_of(place), f"{what} holds a nul character; leave it out")
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        unit = ord(text[error.start])
        raise invalid(
            path_of(place),
            f"{what} holds half a character (the lone surrogate \\u{unit:04x}); write the whole character",
        ) from error
