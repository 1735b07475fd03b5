"""The kinds of values that a run config's fields take, each as a check that returns the value or refuses it.

Owns the wording of "must be ..., not ..."; knows no field by name.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import TypeAlias

from trainshed_client.errors import Refusals, TrainshedError
from trainshed_client.json_limits import below, cut, invalid, kind
from trainshed_client.naming import is_run_id

Check: TypeAlias = Callable[[object, str], object]
"""Takes a value and its path; returns the value, or raises TrainshedError (invalid)."""

_LONGEST_HINT = 24
_SHA256 = re.compile(r"[0-9a-f]{64}")


def object_(value: object, path: str) -> dict[str, object]:
    """A JSON object; a name that is no string is refused as any such value is, and passed over here."""
    if not isinstance(value, dict):
        raise invalid(path, f"must be an object like {{...}}, not {kind(value)}")
    return value if all(isinstance(name, str) for name in value) else {}


def boolean(value: object, path: str) -> bool:
    """``true`` or ``false``, and no word or number for them."""
    if not isinstance(value, bool):
        raise invalid(path, f"must be true or false, not {kind(value)}{_unquote(value)}")
    return value


def text(*, least: int = 0, most: int | None = None, visible: bool = False) -> Check:
    """A string of ``least`` to ``most`` characters; with ``visible`` one that shows on a screen."""

    def check(value: object, path: str) -> str:
        if not isinstance(value, str):
            hint = "; write it in quotes" if isinstance(value, bool | int | float) else ""
            hint = '; an empty one is ""' if value is None else hint
            raise invalid(path, f"must be a string, not {kind(value)}{hint}")
        if len(value) < least:
            raise invalid(path, "must not be empty")
        if visible and not any(char.isprintable() and not char.isspace() for char in value):
            raise invalid(path, "must not be blank: nobody could read it on a screen")
        if most is not None and len(value) > most:
            raise invalid(path, f"must have at most {most} characters; this has {len(value)}")
        return value

    return check


def integer(*, least: int | None = None) -> Check:
    """A JSON integer (neither 5.0 nor true) of at least ``least``."""
    wanted = "an integer" if least is None else f"an integer of at least {least}"

    def check(value: object, path: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            found = f"{value!r}" if isinstance(value, float) else kind(value)
            hint = (
                f"; write {int(value)}"
                if isinstance(value, float) and value.is_integer()
                else _unquote(value)
            )
            raise invalid(path, f"must be {wanted}, not {found}{hint}")
        if least is not None and value < least:
            raise invalid(path, f"must be {wanted}, not {value}")
        return value

    return check


def number(*, least: float | None = None, above: float | None = None) -> Check:
    """A finite JSON number of at least ``least``, or greater than ``above``."""
    wanted = "a number"
    if least is not None:
        wanted += f" of at least {least:g}"
    if above is not None:
        wanted += f" greater than {above:g}"

    def check(value: object, path: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise invalid(path, f"must be {wanted}, not {kind(value)}{_unquote(value)}")
        if (least is not None and value < least) or (above is not None and value <= above):
            raise invalid(path, f"must be {wanted}, not {value}")
        return value

    return check


def nullable(check: Check, *, meaning: str = "not given") -> Check:
    """What ``check`` accepts, or null, which stands for ``meaning``."""

    def check_or_null(value: object, path: str) -> object:
        if value is None:
            return None
        try:
            return check(value, path)
        except TrainshedError as error:
            if error.path != path or len(error.errors) > 1:  # the fault lies deeper
                raise
            raise invalid(path, f"{error.message} (or null: {meaning})") from None

    return check_or_null


def list_of(check: Check) -> Callable[[object, str], list[object]]:
    """A list whose entries ``check`` accepts."""

    def check_list(value: object, path: str) -> list[object]:
        if not isinstance(value, list):
            raise invalid(path, f"must be a list like [...], not {kind(value)}")
        checked, refused = [], Refusals()
        for index, item in enumerate(value):
            with refused:
                checked.append(check(item, below(path, index)))
        refused.raise_any()
        return checked

    return check_list


def names_to(check: Check) -> Check:
    """An object with free names (not empty, without "="), whose values ``check`` accepts."""

    def check_names(value: object, path: str) -> dict[str, object]:
        checked, refused = {}, Refusals()
        for name, item in object_(value, path).items():
            where = below(path, name)
            with refused:
                checked[variable_name(name, where)] = check(item, where)
        refused.raise_any()
        return checked

    return check_names


def variable_name(value: object, path: str) -> str:
    """A name as an environment can hold it."""
    if not isinstance(value, str):
        raise invalid(path, f"must be a name, not {kind(value)}")
    if not value:
        raise invalid(path, "a name must not be empty")
    if "=" in value:
        raise invalid(path, 'a name must not hold "="')
    return value


def absolute_path(value: object, path: str) -> str:
    """A path from the root."""
    if not isinstance(value, str):
        raise invalid(path, f"must be a string, not {kind(value)}")
    if not value.startswith("/"):
        raise invalid(path, f'must be an absolute path, as "/home/me/project", not "{cut(value)}"')
    return value


def choice(*choices: str) -> Check:
    """One of ``words``."""

    def check(value: object, path: str) -> str:
        if not isinstance(value, str):
            raise invalid(path, f"must be one of {', '.join(choices)}, not {kind(value)}")
        if value not in choices:
            raise invalid(path, f'must be one of {", ".join(choices)}, not "{cut(value)}"')
        return value

    return check


def signal_name(value: object, path: str) -> str:
    """A signal's full name, as kill(1) lists it with SIG in front."""
    if not isinstance(value, str):
        raise invalid(path, f'must be a signal\'s name like "SIGTERM", not {kind(value)}')
    if value not in signal.Signals.__members__:
        meant = value.upper() if value.upper().startswith("SIG") else f"SIG{value.upper()}"
        hint = f"; did you mean {meant}?" if meant in signal.Signals.__members__ else ""
        raise invalid(path, f'must be a signal\'s name like "SIGTERM" or "SIGINT", not "{cut(value)}"{hint}')
    return value


def run_id(value: object, path: str) -> str:
    """A full run id."""
    if not isinstance(value, str):
        raise invalid(path, f"must be a run id, a string, not {kind(value)}")
    if not is_run_id(value):
        raise invalid(
            path,
            "must be a full run id, 26 of the characters a-z and 2-7 (ls --json prints it), "
            f'not "{cut(value)}"',
        )
    return value


def sha256(value: object, path: str) -> str:
    """A SHA-256 in lower-case hex."""
    if not isinstance(value, str) or _SHA256.fullmatch(value) is None:
        found = f'"{cut(value)}"' if isinstance(value, str) else kind(value)
        raise invalid(path, f"must be a SHA-256, 64 of the characters 0-9 and a-f, not {found}")
    return value


def _unquote(value: object) -> str:
    """How to write the number or boolean that a string holds."""
    if not isinstance(value, str):
        return ""
    if value.lower() in ("true", "false"):
        return f"; write {value.lower()} without quotes"
    try:
        meant = Decimal(value)
    except InvalidOperation:
        return ""
    if not meant.is_finite() or abs(meant.adjusted()) > _LONGEST_HINT or len(value) > _LONGEST_HINT:
        return ""
    return f"; write {meant:f} without quotes"
