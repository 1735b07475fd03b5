"""A log keeps its meaning: what each release decided is what is folded ever after (docs/protocol.md rule 17)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from events import rules
from tests.support.folded_logs import FOLDER, outcomes, read

LOGS = sorted(FOLDER.glob("*.jsonl"))


def named_rules(path: Path) -> list[int]:
    """The rules that each Elected of a log names, in order."""
    elected = (json.loads(line["body"])["data"] for line in read(path) if ".elected." in line["subject"])
    return [data.get("rules", rules.FIRST) for data in elected]


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.stem)
def test_each_event_does_what_it_did_when_it_was_written(path: Path) -> None:
    lines = read(path)
    for line, did in zip(lines, outcomes(lines), strict=True):
        assert json.loads(json.dumps(did)) == line["did"], f"{path.name} at {line['seq']}: {line['subject']}"


def test_there_is_a_log_for_each_change_of_rules_half_by_the_older_and_half_by_the_newer() -> None:
    named = [named_rules(path) for path in LOGS]
    for newer in range(rules.FIRST + 1, rules.KNOWN + 1):
        assert any({newer - 1, newer} <= set(each) for each in named), f"no log goes over to rules {newer}"
