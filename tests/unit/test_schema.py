"""The contract's files: what is committed is what the types say, and it names every call, event and subject."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from events.types import EVENT_KINDS
from services.cli import main as cli
from services.enrol.wire import RENEW_CALL
from services.schema import asyncapi, bundle, files, run_config
from services.schema.calls import CALLS

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / "docs" / "schema"
MADE = files.texts()
BUNDLE = bundle.bundle()
DOCUMENT = asyncapi.document()


@pytest.mark.parametrize("name", MADE)
def test_the_committed_files_are_what_the_types_say(name: str) -> None:
    same = (COMMITTED / name).read_text() == MADE[name]
    assert same, f"docs/schema/{name} is behind the types. Run: make schema"


def test_they_are_the_same_each_time() -> None:
    assert files.texts() == MADE


def references(value: Any) -> set[str]:
    match value:
        case dict():
            own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
            return own.union(*(references(part) for part in value.values()))
        case list():
            return set().union(*(references(part) for part in value))
        case _:
            return set()


def at(document: Any, reference: str) -> Any:
    for name in reference.removeprefix("#/").split("/"):
        document = document[name]
    return document


@pytest.mark.parametrize("document", [BUNDLE, DOCUMENT], ids=["bundle", "asyncapi"])
def test_every_reference_leads_somewhere(document: Any) -> None:
    found = references(document)
    assert len(found) > 50
    for reference in found:
        assert at(document, reference) is not None


def test_nobody_need_know_python_to_read_it() -> None:
    texts = re.findall(r'"description": "(.+)"', MADE[files.BUNDLE])
    assert [text for text in texts if re.search(r"``|\bNone\b|\n", text)] == []


def test_each_event_is_on_the_channel_of_its_scope() -> None:
    for kind in EVENT_KINDS.values():
        name = bundle.envelope_name(kind.type)
        assert name in DOCUMENT["channels"][f"log.{kind.scope}"]["messages"]
        assert name in DOCUMENT["channels"][f"events.{kind.scope}"]["messages"]


def test_the_calls_are_those_that_services_serve() -> None:
    """Each is spelled in the source of the service that answers it."""
    served = "".join(
        file.read_text()
        for name in ("gateway", "projector", "agent")
        for file in (ROOT / "services" / name).rglob("*.py")
    )
    asked = set(re.findall(r'"((?:run|node|slot|audit)\.[a-z_]+|health)":', served))
    asked |= {RENEW_CALL}  # of the service enrol
    asked |= set(re.findall(r'calls\["([a-z_.]+)"\]', served))
    asked |= set(re.findall(r'f"node\.\{[\w.]+\}\.(\w+)"', served))
    assert asked - {"run.watch"} == set(CALLS)  # that one is a worker's own, by its socket


def test_a_definition_of_an_answer_requires_what_is_always_there() -> None:
    record = BUNDLE["$defs"]["RunRecord"]
    assert record["required"] == list(record["properties"])
    assert "waiting" not in BUNDLE["$defs"]["QueuedRunRecord"]["required"]
    assert "additionalProperties" not in record


def test_every_field_of_a_run_config_is_explained() -> None:
    for name, fields in run_config.FIELDS.items():
        schema = BUNDLE["$defs"][name]
        assert set(fields) == set(schema["properties"])
        assert schema["additionalProperties"] is False
        assert all(one["description"] for one in schema["properties"].values())


class TestCommand:
    def test_writes_what_is_not_there_and_no_more(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = tmp_path / "made" / "schema"
        assert cli.run(["schema", "--out", str(folder)]) == 0
        assert {path.name: path.read_text() for path in folder.iterdir()} == MADE
        assert capsys.readouterr().err.count(" written\n") == len(MADE)
        assert cli.run(["schema", "--out", str(folder)]) == 0
        assert "written" not in capsys.readouterr().err

    def test_check_finds_one_changed_letter_and_writes_nothing(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        cli.run(["schema", "--out", str(tmp_path)])
        assert cli.run(["schema", "--out", str(tmp_path), "--check"]) == 0
        changed = tmp_path / files.BUNDLE
        changed.write_text(MADE[files.BUNDLE].replace("run_id", "run_it", 1))
        capsys.readouterr()
        assert cli.run(["schema", "--out", str(tmp_path), "--check"]) == 1
        assert capsys.readouterr().err == (
            f"{changed} is not what the types say\nRun: trainshed schema --out {tmp_path}\n"
        )
        assert "run_it" in changed.read_text()

    def test_without_a_folder_the_bundle_is_printed(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.run(["schema"]) == 0
        assert capsys.readouterr().out == MADE[files.BUNDLE]

    @pytest.mark.parametrize(
        ("words", "wrong"),
        [
            (["--check"], "--check: name the folder"),
            (["--check", "--out", "/nowhere"], "--out: must be a folder"),
            (["--out", "/dev/null"], "--out: /dev/null cannot be used"),
        ],
    )
    def test_what_is_wrong_is_named_by_its_option(
        self, words: list[str], wrong: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.run(["schema", *words]) == 2
        assert wrong in capsys.readouterr().err
