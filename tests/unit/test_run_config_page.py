"""docs/run-config.md: each field of a run config stands there, its example is accepted, and the options say the same.

Owns that check; which fields there are, the structs say.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import msgspec
import pytest

from events import config_input
from events.config import RunConfig
from events.config_input import accepted_config, parse_yaml
from services.cli.request import build
from services.cli.submit import submit

PAGE = Path(__file__).resolve().parents[2] / "docs" / "run-config.md"
ROW = re.compile(r"\| `([\w.]+)` \| (.+?) \| `(.+?)` \| `(.+?)`(?: \(.+\))? \|")
ROWS = {
    found[1]: (found[3], found[4]) for found in map(ROW.fullmatch, PAGE.read_text().splitlines()) if found
}


def fields(struct: Any = RunConfig, path: str = "") -> list[str]:
    """Every field of a run config; what is no struct of its own is one field."""
    found: list[str] = []
    for field in msgspec.structs.fields(struct):
        name = f"{path}{field.name}"
        nested = isinstance(field.type, type) and issubclass(field.type, msgspec.Struct)
        found += fields(field.type, f"{name}.") if nested else [name]
    return found


def at(value: Any, field: str) -> Any:
    for name in field.split("."):
        value = value.get(name) if isinstance(value, dict) else getattr(value, name, None)
    return value


def test_every_field_stands_there_and_no_other() -> None:
    assert "resources.gpus.whole" in fields()
    worker = [f"metadata.worker.{name}" for name in config_input._WORKER]
    assert sorted(ROWS) == sorted([*fields(), *worker])


def test_every_row_of_its_tables_is_read_here() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert len(rows) == len(ROWS)


@pytest.mark.parametrize("field", ROWS)
def test_an_example_is_accepted_and_its_options_say_the_same(field: str, tmp_path: Path) -> None:
    example, options = ROWS[field]
    written = parse_yaml(example.encode())
    assert isinstance(written, dict)
    in_file = accepted_config({"entry_point": "/bin/true"} | written).config
    assert at(in_file, field) != at(RunConfig(), field), "the example says nothing"

    words = shlex.split(options)
    command = [] if "--" in words else ["--", "/bin/true"]
    (tmp_path / "train.py").write_text("1\n")
    parsed = submit.make_context("submit", [*words, *command]).params
    (config,) = build(parsed, environ={"PATH": "/usr/bin:/bin"}, cwd=str(tmp_path)).configs
    typed = accepted_config(config).config
    if field == "code":
        assert typed.code is not None
    else:
        assert at(typed, field) == at(in_file, field)
        other = {"code", "working_dir", "entry_point"} - {field}
        assert typed.normalised().keys() - other == in_file.normalised().keys() - other
