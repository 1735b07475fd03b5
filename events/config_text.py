"""JSON and YAML text to plain values, strict where two readers could understand two things.

Owns duplicate names, odd numbers, ambiguous YAML words and the limits of size and depth; knows fields only by
events/text_fields.py.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from events.text_fields import EACH, TEXT_FIELDS, Texts, texts_at
from trainshed_client.errors import Refusals, TrainshedError
from trainshed_client.json_limits import (
    MAX_BYTES,
    MAX_DEPTH,
    below,
    check_json,
    cut,
    invalid,
    too_deep,
    too_large,
)

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]')
_SAFE_DIGITS = 18
_OUT_OF_RANGE = 10**_SAFE_DIGITS
_NOT_ZERO = re.compile(r"[^1-9eE]*[1-9]")
_YAML_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_YAML_NUMBER = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_YAML_ODD_NUMBER = re.compile(r"[-+]?0(?:[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?|o[0-7]+)")
"""What YAML 1.2 makes a number of, and YAML 1.1 a string."""
_YAML_BOOLEANS = {"on", "off", "yes", "no"}
_YAML = "tag:yaml.org,2002:"


def parse_json(
    data: bytes,
    *,
    max_bytes: int = MAX_BYTES,
    max_depth: int = MAX_DEPTH,
    refused: Refusals | None = None,
) -> object:
    """The value of one JSON text (RFC 8259, UTF-8).

    Raises TrainshedError: too_large over ``max_bytes``; invalid, with line or path, for what is no JSON, is
    not UTF-8, has a name twice in one object, or is beyond the limits of `check_json`. What has a path is
    added to ``refused`` where that is given, and the value returned all the same.
    """
    found = Refusals() if refused is None else refused
    text = _decoded(data, max_bytes)
    twice: list[None] = []
    try:
        value = json.loads(
            text,
            object_pairs_hook=lambda pairs: _unique(pairs, twice),
            parse_int=_integer,
            parse_float=_float,
        )
    except json.JSONDecodeError as error:
        raise invalid(
            "", f"this is not JSON: {error.msg} (line {error.lineno}, column {error.colno})"
        ) from None
    except RecursionError:
        raise too_deep() from None
    check_json(value, max_depth=max_depth, refused=found)
    if twice:
        _find_duplicates(text, found)
    if refused is None:
        found.raise_any()
    return value


def parse_yaml(
    text: bytes, *, texts: Texts | bool | None = TEXT_FIELDS, refused: Refusals | None = None
) -> object:
    """The run config in one YAML document, of the part of YAML that reads the same everywhere (docs/contracts/yaml.md).

    A plain word or number where a field takes text is what was typed (null excepted: ``texts``). Elsewhere what JSON can say is
    read as JSON would, and a decimal number of YAML 1.2 as that number. Names are as written. Refused by line and path,
    beside what `parse_json` refuses: anchors, aliases, merge keys, tags, a second document, and plain words that one
    version of YAML makes a boolean, a date or another number of (``on``, ``no``, ``2026-01-31``, ``0x1f``, ``012``,
    ``1_000``, ``1:30``). ``refused``: as there.
    """
    found = Refusals() if refused is None else refused
    decoded = _decoded(text, MAX_BYTES)
    import yaml  # costs a command's start 15 ms, and JSON does not need it

    if odd := yaml.reader.Reader.NON_PRINTABLE.search(decoded):
        line = decoded.count("\n", 0, odd.start()) + 1
        raise invalid("", f"this is not YAML: the control character {odd.group()!a} (line {line})")
    try:
        value = _YamlReader(yaml, texts, found).read(decoded)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        problem = getattr(error, "problem", None) or "unreadable"
        raise invalid("", f"this is not YAML: {problem}{where}") from None
    check_json(value, refused=found)
    if refused is None:
        found.raise_any()
    return value


def parse_value(text: str, place: Sequence[str | int]) -> object:
    """``text`` as it is read where it stands as the value at ``place`` of a YAML run config.

    What begins with a quote or a bracket is a YAML value; all else is one plain word, whatever it holds (``a: b #c``).
    Raises TrainshedError (invalid, too_large) by the path within it.
    """
    texts = texts_at(place)
    stripped = text.strip()
    if stripped[:1] in ("'", '"', "[", "{"):
        return parse_yaml(text.encode("utf-8", "surrogatepass"), texts=texts)
    import yaml

    found = Refusals()
    as_typed = texts is True
    value = _plain(yaml, yaml.resolver.Resolver(), text if as_typed else stripped, as_typed, found.add)
    check_json(value, refused=found)
    found.raise_any()
    return value


def _decoded(data: bytes, max_bytes: int) -> str:
    if len(data) > max_bytes:
        raise too_large(len(data), max_bytes)
    if (nul := data.find(b"\0")) >= 0:
        raise invalid("", f"this is not text: byte {nul} (line {_line_at(data, nul)}) is nul")
    try:
        return data.decode("utf-8-sig")  # an editor's byte order mark says nothing more
    except UnicodeDecodeError as error:
        line = _line_at(data, error.start)
        raise invalid("", f"this is not UTF-8: byte {error.start} (line {line}): {error.reason}") from None


def _line_at(data: bytes, position: int) -> int:
    return data.count(b"\n", 0, position) + 1


def _integer(digits: str) -> int:
    """What is far out of range is refused by path later; Python would spend long on 100,000 digits."""
    return int(digits) if len(digits) <= _SAFE_DIGITS else _OUT_OF_RANGE


def _float(text: str) -> float:
    """A number too small for a double is refused by path later, as one too large is: neither is what was written."""
    value = float(text)
    return math.inf if value == 0 and _NOT_ZERO.match(text) else value


def _unique(pairs: list[tuple[str, Any]], twice: list[None]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        twice.append(None)  # `_find_duplicates` then finds out where
    return unique


def _given_twice(path: str, first: int, second: int) -> TrainshedError:
    where = f"on line {first}" if first == second else f"on lines {first} and {second}"
    return invalid(path, f"given twice, {where}; keep one of them")


class _Level:
    """An object or list that is being read: where in it we are, and the place of each name seen so far."""

    def __init__(
        self, path: str, values: dict[str, object] | list[object], texts: Texts | bool | None = None
    ) -> None:
        self.path = path
        self.values = values
        self.texts = texts
        self.places: dict[str, int] = {}
        self.name: str | None = None

    @property
    def wants_name(self) -> bool:
        return isinstance(self.values, dict) and self.name is None

    @property
    def here(self) -> str:
        """The path of the value that comes next."""
        return below(self.path, self.name if self.name is not None else len(self.values))

    @property
    def texts_here(self) -> Texts | bool | None:
        """What of the value that comes next is text as typed: all that it is, or these places in it."""
        if not isinstance(self.texts, Mapping):
            return None
        return self.texts.get(self.name or EACH) or self.texts.get(EACH)

    def take_name(self, name: str, place: int) -> int | None:
        """Remember ``name``; the place where it was given before, if it was."""
        self.name = name
        before = self.places.setdefault(name, place)
        return None if before == place else before

    def take_value(self, value: object) -> None:
        if isinstance(self.values, list):
            self.values.append(value)
        elif self.name is not None:
            self.values[self.name] = value
            self.name = None


def _find_duplicates(text: str, refused: Refusals) -> None:
    """Where the names stand that are given twice in their object. ``text`` was read as JSON before."""
    levels: list[_Level] = []
    for token in _TOKEN.finditer(text):
        mark, level = token.group(), levels[-1] if levels else None
        if mark in "{[":
            levels.append(_Level(level.here if level else "", {} if mark == "{" else []))
        elif mark in "}]":
            levels.pop()
        elif mark == "," and level:
            level.take_value(None)
        elif mark != ":" and level and level.wants_name:
            first = level.take_name(json.loads(mark), token.start())
            if first is not None:
                lines = (text.count("\n", 0, place) + 1 for place in (first, token.start()))
                refused.add(_given_twice(level.here, *lines))


class _YamlReader:
    """One document, event by event and without recursion: depth is refused before it costs anything."""

    def __init__(self, yaml: Any, texts: Texts | bool | None, refused: Refusals) -> None:
        self._yaml = yaml
        self._resolver = yaml.resolver.Resolver()
        self._texts = texts
        self._refused = refused
        self._levels: list[_Level] = []
        self._root: object = None
        self._documents = 0

    def read(self, text: str) -> object:
        yaml = self._yaml
        loader = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
        for event in yaml.parse(text, Loader=loader):
            match event:
                case yaml.DocumentStartEvent():
                    self._documents += 1
                    if self._documents > 1:
                        raise self._refusal(
                            event, "a second YAML document begins; one file holds one run config"
                        )
                case yaml.AliasEvent():
                    raise self._refusal(
                        event, f"aliases (*{cut(event.anchor)}) are not accepted; write the value out"
                    )
                case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                    self._take(self._levels.pop().values)
                case yaml.NodeEvent():
                    self._node(event)
                case _:
                    pass
        return self._root

    def _node(self, event: Any) -> None:
        yaml = self._yaml
        if event.anchor is not None:
            raise self._refusal(
                event, f"anchors (&{cut(event.anchor)}) are not accepted; write the value out"
            )
        if event.tag is not None:
            tag = event.tag.replace(_YAML, "!!")
            raise self._refusal(event, f"tags ({cut(tag)}) are not accepted; a string is written in quotes")
        level = self._levels[-1] if self._levels else None
        names = level is not None and level.wants_name
        if isinstance(event, yaml.ScalarEvent):
            if names and level is not None:
                self._name(event, level)
            else:
                as_typed = (level.texts_here if level else self._texts) is True
                self._take(self._scalar(event, as_typed))
            return
        if names:
            raise self._refusal(event, "a name must be a string, not a list or an object")
        if len(self._levels) >= MAX_DEPTH:
            raise too_deep()
        values: dict[str, object] | list[object] = {} if isinstance(event, yaml.MappingStartEvent) else []
        texts = level.texts_here if level else self._texts
        self._levels.append(_Level(level.here if level else "", values, texts))

    def _name(self, event: Any, level: _Level) -> None:
        if event.value == "<<" and event.implicit[0]:
            raise self._refusal(event, "merge keys (<<) are not accepted; write the fields out")
        line = event.start_mark.line + 1
        # Two names on one line are told apart by their column.
        first = level.take_name(event.value, line * (MAX_BYTES + 1) + event.start_mark.column)
        if first is not None:
            self._refused.add(_given_twice(level.here, first // (MAX_BYTES + 1), line))

    def _take(self, value: object) -> None:
        if self._levels:
            self._levels[-1].take_value(value)
        else:
            self._root = value

    def _scalar(self, event: Any, as_typed: bool) -> object:
        text: str = event.value
        if not event.implicit[0]:  # in quotes, or a block
            return text
        return _plain(
            self._yaml,
            self._resolver,
            text,
            as_typed,
            lambda error: self._refused.add(self._refusal(event, error.message)),
        )

    def _refusal(self, event: Any, message: str) -> TrainshedError:
        level = self._levels[-1] if self._levels else None
        path = "" if level is None else level.path if level.wants_name else level.here
        return invalid(path, f"{message} (line {event.start_mark.line + 1})")


def _plain(
    yaml: Any, resolver: Any, text: str, as_typed: bool, refuse: Callable[[TrainshedError], None]
) -> object:
    """A word that stands in no quotes; ``as_typed``: where a field takes text."""
    resolved = resolver.resolve(yaml.ScalarNode, text, (True, False)).removeprefix(_YAML)
    if resolved == "null":
        return None
    if as_typed:
        return text
    if _YAML_INTEGER.fullmatch(text):
        return _integer(text)
    if _YAML_NUMBER.fullmatch(text):
        return _float(text)
    quoted = f'in quotes, "{cut(text)}"'
    match resolved:
        case "str" if not _YAML_ODD_NUMBER.fullmatch(text):
            return text
        case "bool" if text.lower() not in _YAML_BOOLEANS:
            return text.lower() == "true"
        case "bool":
            meant = "true" if text.lower() in ("on", "yes") else "false"
            instead = f"{text} may mean a word or {meant}; write it {quoted}, or {meant}"
        case "float" if text.lower().endswith(("inf", "nan")):
            instead = f'JSON has no {text}; in quotes, "{text.replace(".", "")}", it passes as text, which float() reads'
        case "timestamp":
            instead = f"a date is no JSON value; write it {quoted}"
        case "str" | "int" | "float":
            instead = f"{cut(text)} is no plain decimal number; write it {quoted}, if it is a string, else as in JSON"
        case _:
            instead = f"write it {quoted}"
    refuse(invalid("", instead))
    return text
