"""docs/attacks.md: each test that it names is there."""

from __future__ import annotations

import re
from pathlib import Path

ATTACKS_ROOT = Path(__file__).resolve().parents[2]
ATTACKS = (ATTACKS_ROOT / "docs" / "attacks.md").read_text()


def test_every_test_of_the_table_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py): (test_\w+)`", ATTACKS)
    assert len(named) > 30
    missing = [
        (path, name)
        for path, name in named
        if not re.search(rf"^(async )?def {name}\(", (ATTACKS_ROOT / path).read_text(), re.MULTILINE)
    ]
    assert missing == []


def test_every_attack_has_its_test() -> None:
    rows = [line for line in ATTACKS.splitlines() if line.startswith("| ")][2:]
    assert rows and all(": test_" in row.split(" | ")[-1] for row in rows)
