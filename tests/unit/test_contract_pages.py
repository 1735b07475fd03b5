"""The pages in docs/contracts: short enough to be read, each with an example, and each in the index.

Owns that check; that the examples do what they show, the integration tests of that name hold.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.played_page import blocks

ROOT = Path(__file__).resolve().parents[2]
INDEX = ROOT / "docs/contracts.md"
CONTRACT_PAGES = sorted((ROOT / "docs/contracts").glob("*.md"))
EXAMPLE = "\n## Example\n"
MOST_WORDS = 1_500
WITH_EXAMPLES = [*CONTRACT_PAGES, ROOT / "docs/client.md"]
"""The client's page is held to the same."""


@pytest.mark.parametrize("page", [INDEX, *WITH_EXAMPLES], ids=lambda page: page.stem)
def test_a_page_is_short_enough_to_be_read(page: Path) -> None:
    assert len(page.read_text().split()) <= MOST_WORDS


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=lambda page: page.stem)
def test_a_page_has_one_example_that_shows_what_comes_of_it(page: Path) -> None:
    _, example, after = page.read_text().partition(EXAMPLE)
    assert example, f"{page.name} has no section {EXAMPLE.strip()!r}"
    assert EXAMPLE not in after
    assert [command for block in blocks(after) if block.kind == "console" for command, _ in block.typed()]


def test_the_index_has_every_page() -> None:
    named = set(re.findall(r"\(contracts/([\w-]+\.md)", INDEX.read_text()))
    assert named == {page.name for page in CONTRACT_PAGES}
