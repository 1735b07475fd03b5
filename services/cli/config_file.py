"""The file that `-f` names: read within bounds, one run config in JSON or YAML or several as JSON lines.

Owns how it is read and where in it something stands; what a config may hold is events/config_input.py's.
"""

from __future__ import annotations

import os
import select
import stat
from collections.abc import Callable
from typing import IO, Any

from services.cli.common import note
from trainshed_client.errors import ErrorCode, Refusals, TrainshedError
from trainshed_client.json_limits import MAX_BYTES, invalid, kind
from trainshed_client.os_errors import why

Config = dict[str, Any]

MOST_BYTES = 16 * 1024 * 1024
"""So much is read: more than any batch that is accepted."""
_BATCH_BYTES = 1_000_000
_NOTE_AFTER_S = 2.0


def read_configs(
    file: str, read_input: Callable[[], bytes] | None = None, *, here: str = ""
) -> tuple[list[Config], list[str]]:
    """The configs, and of JSON lines where each stands. ``file``: its path, or ``-``. ``here``: the caller's folder.

    A relative ``working_dir`` is made absolute: it is one of the file's folder, of what is no file (stdin, a pipe) of ``here``.

    JSON lines are what is called ``.jsonl``, and what has no such name and begins with a line that is an object of its
    own while others follow. Raises TrainshedError, with all that is wrong in it.
    """
    shown = "stdin" if file == "-" else file
    try:
        data = _read(file, shown) if file != "-" or read_input is None else read_input()
    except OSError as error:
        raise invalid("", f"{shown} cannot be read ({why(error)})") from None
    folder = os.path.join(here, os.path.dirname(file)) if file != "-" and os.path.isfile(file) else here
    if file.endswith(".jsonl"):
        return _lines(data, shown, folder)
    named_yaml = file.endswith((".yaml", ".yml"))
    if not file.endswith(".json") and not named_yaml and _begins_with_a_line(data):
        return _lines(data, shown, folder)
    yaml = named_yaml or not (file.endswith(".json") or data.lstrip()[:1] in (b"{", b"[", b""))
    return _parsed([(data, shown)], folder, yaml=yaml), []


def absolute_folder(value: object, folder: str) -> object:
    """A relative path as one of ``folder``. What a shell would make something else of (``~``, ``$HOME``) is left to be refused."""
    if not isinstance(value, str) or not folder or value.startswith(("/", "~", "$", "{{")) or not value:
        return value
    return os.path.normpath(os.path.join(folder, value))


def _read(file: str, shown: str) -> bytes:
    # Not blocking, for a pipe without a writer: who waits for one is told so.
    descriptor = 0 if file == "-" else os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb", closefd=descriptor != 0) as opened:
        status = os.fstat(opened.fileno())
        size = status.st_size if stat.S_ISREG(status.st_mode) else None
        if size is None:
            _await_data(opened, shown)
            os.set_blocking(opened.fileno(), True)
        data = b"" if size is not None and size > MOST_BYTES else opened.read(MOST_BYTES + 1)
    if (size or len(data)) > MOST_BYTES:
        found = f"{size:,} bytes" if size else f"more than {MOST_BYTES:,} bytes"
        raise TrainshedError(
            ErrorCode.TOO_LARGE,
            f"{shown} has {found}; a run config has at most {MAX_BYTES:,}, and JSON lines {_BATCH_BYTES:,} together: "
            "put data into a file and name the file",
        )
    return data


def _await_data(opened: IO[bytes], shown: str) -> None:
    """Wait for the first byte or the end; of a terminal for its first line."""
    waiting = select.poll()
    waiting.register(opened.fileno(), select.POLLIN)
    if not waiting.poll(_NOTE_AFTER_S * 1000):
        note(f"waiting for a run config from {shown}")
        waiting.poll()


def _begins_with_a_line(data: bytes) -> bool:
    from events.config_text import parse_json

    first, _, rest = data.lstrip().partition(b"\n")
    if first[:1] != b"{" or not rest.strip():
        return False
    try:
        parse_json(first, refused=Refusals())
    except TrainshedError:
        return False
    return True


def _lines(data: bytes, shown: str, folder: str) -> tuple[list[Config], list[str]]:
    lines = [
        (line, f"{shown}, line {number}") for number, line in enumerate(data.splitlines(), 1) if line.strip()
    ]
    if not lines:
        raise invalid("", f"{shown} holds no run config; write one JSON object a line")
    return _parsed(lines, folder, yaml=False), [place for _, place in lines]


def _parsed(parts: list[tuple[bytes, str]], folder: str, *, yaml: bool) -> list[Config]:
    from events.config_text import parse_json, parse_yaml

    read = parse_yaml if yaml else parse_json
    configs: list[tuple[object, Refusals]] = []
    for data, _ in parts:
        refused, value = Refusals(), None
        with refused:
            value = read(data, refused=refused)
            if not isinstance(value, dict):
                raise invalid(
                    "", f'a run config must be an object like {{"entry_point": ...}}, not {kind(value)}'
                )
            if "working_dir" in value:
                value["working_dir"] = absolute_folder(value["working_dir"], folder)
        configs.append((value, refused))
    if any(refused.error for _, refused in configs):
        raise _all_that_is_wrong(configs, [place for _, place in parts])
    return [value for value, _ in configs if isinstance(value, dict)]


def _all_that_is_wrong(configs: list[tuple[object, Refusals]], places: list[str]) -> TrainshedError:
    """What the gateway would find, too, but for ``after``, which may hold names here."""
    from events.config_input import accepted_config
    from services.setting_values import switch

    try:
        allowed = switch(os.environ.get("TRAINSHED_ALLOW_CREDENTIALS", "0"))
    except ValueError:
        allowed = False

    everything = Refusals()
    for (value, refused), place in zip(configs, places, strict=True):
        if isinstance(value, dict):
            with refused:
                accepted_config(
                    {name: item for name, item in value.items() if name != "after"}, allow_credentials=allowed
                )
        if (error := refused.error) is not None:
            everything.add(error.placed(place, ": "))
    assert everything.error is not None
    return everything.error
