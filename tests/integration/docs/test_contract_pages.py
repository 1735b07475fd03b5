"""The examples of the pages in docs/contracts, each typed as it stands there on one stack: what the terminal shows is what the page shows.

With ``--rewrite-golden`` this session's output goes into the pages: read it.
"""

from __future__ import annotations

import json
import re
import sysconfig
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support.played_page import Block, blocks, masked, on_a_terminal
from tests.support.stack import Stack
from tests.unit.test_contract_pages import EXAMPLE, WITH_EXAMPLES

COLUMNS = 110
SHORT_ID = re.compile(r"(?:\brun |^)([a-z2-7]{6})\b", re.MULTILINE)


class Reader:
    """A reader's shell in an empty folder: `python` has nats-py, `NATS_URL` names the stack."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.folder = folder
        endpoint = json.loads((stack.state_dir / "endpoint.json").read_text())
        url = endpoint["url"]
        if "user" in endpoint:
            login = f"{quote(endpoint['user'])}:{quote(endpoint['password'])}"
            url = url.replace("://", f"://{login}@", 1)
        tools = sysconfig.get_path("scripts")
        self.environment = {**stack.environment, "NATS_URL": url, "PATH": f"{tools}:/usr/bin:/bin"}
        self.places = {
            str(folder): "/home/me/case",
            str(stack.state_dir): "/home/me/state",
            tools: "/home/me/trainshed/bin",
        }

    def show(self, block: Block) -> str:
        """A session as the terminal shows it."""
        text = ""
        for command, _ in block.typed():
            text += f"$ {command}\n{on_a_terminal(command, self.environment, self.folder, COLUMNS)}"
        for here, there in self.places.items():
            text = text.replace(here, there)
        return text


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=lambda page: page.stem)
def test_the_example_of_a_page_does_what_it_shows(
    page: Path, stack: Stack, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    text = page.read_text()
    begin = text.index(EXAMPLE)
    reader = Reader(stack, tmp_path)
    shown: list[tuple[Block, str]] = []
    for block in blocks(text):
        if block.start < begin:
            continue
        if block.file is not None:
            (tmp_path / block.file).write_text(block.text)
        elif block.kind == "console":
            shown.append((block, reader.show(block)))
    assert shown
    if pytestconfig.getoption("--rewrite-golden"):
        for block, new in reversed(shown):
            text = text[: block.start] + new + text[block.end :]
        page.write_text(text)
        return
    for block, new in shown:
        assert plain(new) == plain(block.text), f"{block.text}\n{new}"


def plain(text: str) -> str:
    """``text`` without what differs between sessions, runs' ids among it."""
    return masked(text, dict.fromkeys(SHORT_ID.findall(text), "RUN"))
