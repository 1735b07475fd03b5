"""The contract's files by others' programs: AsyncAPI's parser, ajv, and TypeScript's compiler."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.node import FOLDER, installed, ran

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = ROOT / "docs" / "schema"
BUNDLE = (SCHEMA / "trainshed.schema.json").read_text()
ASYNCAPI = (SCHEMA / "asyncapi.json").read_text()
SAMPLES = (SCHEMA / "samples.json").read_text()
README = (SCHEMA / "README.md").read_text()

pytestmark = [pytest.mark.timeout(400)]


@pytest.fixture(scope="module", autouse=True)
def _packages() -> None:
    installed()


class TestAsyncapi:
    def test_the_official_parser_finds_nothing_wrong(self) -> None:
        assert json.loads(ran("parse_asyncapi.mjs", ASYNCAPI)) == []

    def test_it_would_find_a_message_that_is_not_there(self) -> None:
        name = "#/channels/watch.runs/messages/RunRecord"
        found = json.loads(ran("parse_asyncapi.mjs", ASYNCAPI.replace(name, f"{name}s")))
        assert [one["message"] for one in found] == [f"'{name}s' does not exist"]


def faults(bundle: Any, samples: Any) -> list[tuple[str, str, str]]:
    """(definition, sample, path) of what ajv refuses."""
    found = json.loads(ran("validate.mjs", json.dumps({"bundle": bundle, "samples": samples})))
    return [(definition, sample, path) for definition, sample, path, _ in found]


ALTERED: list[tuple[str, str, str, Any, str]] = [
    ("RunRecord", "running", "status", "RUNNIN", "/status"),
    ("RunRecord", "running", "metrics", {"loss": None}, "/metrics/loss"),
    ("RunRecord", "completed", "ended_at", "yesterday", "/ended_at"),
    ("RunRecord", "completed", "attempt", "1", "/attempt"),
    ("RunConfig", "some", "resources", {"cpu": 1}, "/resources"),
    ("FailedEvent", "failed", "source", "gateway", "/source"),
]
"""Definition, sample, a field, what is put there, and where ajv is to find it."""


class TestAjv:
    def test_every_sample_is_valid_in_strict_mode(self) -> None:
        assert faults(json.loads(BUNDLE), json.loads(SAMPLES)) == []

    def test_it_refuses_what_is_altered(self) -> None:
        samples = json.loads(SAMPLES)
        given: dict[str, dict[str, Any]] = {}
        wanted: set[tuple[str, str, str]] = set()
        for place, (definition, name, field, value, where) in enumerate(ALTERED):
            given.setdefault(definition, {})[f"{name} {place}"] = {**samples[definition][name], field: value}
            wanted.add((definition, f"{name} {place}", where))
        slot = samples["SlotRecord"]["gpu01_0"]
        given["SlotRecord"] = {"short": {name: slot[name] for name in slot if name != "uuid"}}
        found = set(faults(json.loads(BUNDLE), given))
        assert found >= wanted | {("SlotRecord", "short", "")}

    def test_a_newer_releases_record_passes_as_the_page_says(self) -> None:
        """A field more is allowed as it stands; a status more once the page's lines have opened the enums."""
        samples = json.loads(SAMPLES)
        newer = {**samples["RunRecord"]["running"], "status": "PAUSED", "paused_at": None}
        given = {"RunRecord": {"newer": newer, "wrong": {**newer, "attempt": "one"}}}
        bundle = json.loads(BUNDLE)
        found = faults(bundle, given)
        assert ("RunRecord", "newer", "/status") in found
        opening = re.search(r"```js\n(.+?)```", README, re.DOTALL)
        assert opening is not None
        source = f"{opening[1]}\nprocess.stdout.write(JSON.stringify(opened(bundle)));"
        program = f"import {{ readFileSync }} from 'node:fs';\nconst bundle = JSON.parse(readFileSync(0));\n{source}"
        opened = subprocess.run(
            ["node", "--input-type=module", "-e", program],
            input=BUNDLE,
            capture_output=True,
            text=True,
            check=True,
        )
        assert faults(json.loads(opened.stdout), given) == [("RunRecord", "wrong", "/attempt")]


class TestTypes:
    def test_the_committed_types_are_those_of_the_schema(self) -> None:
        same = ran("types.mjs", BUNDLE) == (SCHEMA / "trainshed.d.ts").read_text()
        assert same, "docs/schema/trainshed.d.ts is behind the schema. Run: make schema"

    def test_a_program_compiles_with_them_and_its_slips_do_not(self) -> None:
        done = subprocess.run(
            ["node", "node_modules/typescript/bin/tsc", "-p", "."],
            cwd=FOLDER,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, "")
