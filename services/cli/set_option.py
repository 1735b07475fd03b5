"""`--set PATH=VALUE`: any field of a run config, by its path as errors name it.

Owns how a path is written and how it goes over a config; what is a field events/config_input.py knows, and how a value
is read events/config_text.py.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from services.cli.config_file import Config, absolute_folder
from trainshed_client.errors import Refusals, TrainshedError
from trainshed_client.json_limits import below, cut, invalid, kind

_STEP = re.compile(r'(?P<dot>\.)?(?:"(?P<quoted>[^"]+)"|(?P<name>[^.\[\]="]+))|\[(?P<index>\d{1,6})\]')
_SHOWN = 20
_EXAMPLE = "--set resources.gpus.requested=2"


class Setting(NamedTuple):
    """A value, and the names and indexes that lead to its place; ``path``: these as errors write them."""

    names: tuple[str | int, ...]
    value: object
    path: str

    def put_in(self, config: Config) -> None:
        """Put the value into ``config``; an object or list that is not there is made. Raises TrainshedError (invalid)."""
        here: Any = config
        path = ""
        for name, then in zip(self.names, (*self.names[1:], None), strict=True):
            _make_room(here, name, path)
            if then is None:
                here[name] = copy.deepcopy(self.value)
                return
            if here[name] is None:
                here[name] = [] if isinstance(then, int) else {}
            here, path = here[name], below(path, name)


def settings_of(given: Sequence[str], here: str) -> list[Setting]:
    """What these options say, in their order; a folder among them is one of ``here``, the caller's.

    Raises TrainshedError (invalid), with all that is wrong: a path that no run config has, a value that cannot be read.
    """
    settings: list[Setting] = []
    refused = Refusals()
    for text in given:
        with refused:
            settings.append(_setting(text, here))
    if (error := refused.error) is not None:
        raise error.placed("--set", " ")
    return settings


def put_in(config: Config, settings: Sequence[Setting], place: str, refused: Refusals) -> None:
    """Put all of them into ``config``, in their order; ``place``: where that stands in a file of several, else ""."""
    for setting in settings:
        try:
            setting.put_in(config)
        except TrainshedError as error:
            refused.add(error.placed(place, ": "))


def new_names(settings: Sequence[Setting], configs: Sequence[Config], file: str) -> list[str]:
    """What to say of names in ``metadata`` that ``file`` has not where it has others: one may be a slip."""
    found: dict[str, str] = {}
    for setting in settings:
        for config in configs if setting.names[0] == "metadata" else ():
            if (there := _others(config, setting.names)) is not None:
                found.setdefault(
                    setting.path, f"--set {setting.path} is new in {file}, which has there: {_listed(there)}"
                )
    return list(found.values())


def _setting(text: str, here: str) -> Setting:
    from events.config_input import refuse_unknown
    from events.config_text import parse_value

    names, value = _split(text)
    path = ""
    for name in names:
        path = below(path, name)
    refuse_unknown(names)
    if names[0] == "code":
        raise invalid(
            path,
            "what of the code counts is read from a folder: --code DIR, --code-ignore GLOB, or --no-code",
        )
    try:
        read = parse_value(value, names)
    except TrainshedError as error:
        placed = error.with_paths(lambda within: _joined(path, within))
        if len(error.errors) > 1 or "in quotes" not in error.message:
            raise placed from None
        hint = f"{error.message}. A shell takes quotes away, so in others: --set '{path}=\"…\"'"
        raise invalid(placed.path or path, hint) from None
    if names == ("working_dir",):
        read = absolute_folder(read, here)
    return Setting(names, read, path)


def _split(text: str) -> tuple[tuple[str | int, ...], str]:
    """The path's names and indexes, and the value."""
    names: list[str | int] = []
    at = 0
    while found := _STEP.match(text, at):
        if (found["index"] is None or not names) and bool(found["dot"]) != bool(names):
            break
        names.append(int(found["index"]) if found["index"] else found["quoted"] or found["name"])
        at = found.end()
    if not names or text[at : at + 1] != "=":
        raise invalid(
            "",
            f"{cut(text)!r} is no PATH=VALUE; write {_EXAMPLE} (a list's first entry: arguments[0]=…, a name with a dot "
            'in quotes: labels."a.b"=…)',
        )
    return tuple(names), text[at + 1 :]


def _joined(path: str, within: str | None) -> str:
    return f"{path}{'' if not within or within.startswith('[') else '.'}{within or ''}"


def _make_room(here: Any, name: str | int, path: str) -> None:
    """See to it that ``here``, what stands at ``path``, has a place of this name or index."""
    match here:
        case dict() if isinstance(name, str):
            here.setdefault(name, None)
            return
        case list() if isinstance(name, int) and name <= len(here):
            here.extend([None] * (name == len(here)))
            return
        case dict():
            there = f"its fields have names; there: {_listed(here) or 'none'}"
        case list():
            last = f"{len(here)} entries, the first of which is [0]" if here else "no entries"
            there = f"it has {last}; [{len(here)}] adds one"
        case _:
            there = "nothing is in it"
    raise invalid(below(path, name), f"{path} is {kind(here)}: {there}")


def _listed(names: Iterable[str]) -> str:
    shown = sorted(names)
    return ", ".join(map(cut, shown[:_SHOWN])) + (" …" if len(shown) > _SHOWN else "")


def _others(config: object, names: Sequence[str | int]) -> Iterable[str] | None:
    """The names that stand where the first of ``names`` that is not there would; None where all are, or nothing is."""
    here = config
    for name in names:
        if isinstance(here, dict) and here and name not in here:
            return here
        try:
            here = here[name]  # type: ignore[index]  # of a place that has none it is told elsewhere
        except (TypeError, LookupError):
            return None
    return None
