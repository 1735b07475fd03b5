"""docs/audit.md, typed from its first line to its last in one session on two nodes: what the terminal shows is what the page shows.

With ``--rewrite-golden`` this session's output goes into the page: read it.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.played_page import Block, blocks, masked, named, on_a_terminal
from tests.support.stack import Stack, marked, until

PAGE = Path(__file__).resolve().parents[3] / "docs/audit.md"
RUNS = ("seed-1", "seed-2", "paper", "again", "regretted")
COLUMNS = 110


class Session:
    """The reader's shell, in an empty folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stack = Stack(folder / "ada", node="ada")
        tools = sysconfig.get_path("scripts")
        environment = {**self.stack.environment, "PATH": f"{tools}:/usr/bin:/bin"}
        self.stack.environment = marked(environment, self.stack.mark)
        self.places = {
            str(folder): "/home/me/case",
            tools: "/home/me/trainshed/bin",
            socket.gethostname().split(".")[0]: "box",
        }
        """What is this machine's alone, and how the page has it."""
        with contextlib.ExitStack() as probes:
            bound = [probes.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
            self.ports = [one.getsockname()[1] for one in bound]

    def type(self, block: Block) -> None:
        """A block as one script that stops at the first command that fails."""
        text = block.text.replace(
            "cluster init", f"cluster init --port {self.ports[0]} --enrol-port {self.ports[1]}"
        )
        text = text.replace("4333", str(self.ports[2]))  # the page's ports may be taken here
        said = self.folder / "said"
        with said.open("wb") as file:  # what goes on in the background keeps it open
            done = subprocess.run(
                ["/bin/sh", "-ec", text],
                env=self.stack.environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                timeout=90,
                check=False,
            )
        assert done.returncode == 0, f"{block.text}\n{said.read_text()}"

    def show(self, block: Block) -> str:
        """A session as the terminal shows it, typed once the nodes have said what they have to say."""
        until(self._settled, 60.0, what="the nodes' word on the log")
        text = ""
        for command, _ in block.typed():
            text += f"$ {command}\n{on_a_terminal(command, self.stack.environment, self.folder, COLUMNS)}"
        for here, there in self.places.items():
            text = text.replace(here, there)
        return text

    def _settled(self) -> bool:
        """Both nodes are there, and each has cosigned the whole log or objects to it."""
        whole = self.stack.trainshed("audit", "checkpoint", json=True, code=None)["size"]
        nodes: list[dict[str, Any]] = self.stack.trainshed("nodes", json=True)["nodes"]
        return len(nodes) == 2 and all(
            node["status"] == "up" and (node["witness_objection"] or node["witnessed_size"] == whole)
            for node in nodes
        )

    def close(self) -> None:
        """End all of it."""
        with suppress(FileNotFoundError, ProcessLookupError, ValueError):
            os.kill(int((self.folder / "bell.pid").read_text()), signal.SIGTERM)
        self.stack.trainshed("down", "--stop-workers", code=None)
        self.stack.close()


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    one = Session(tmp_path)
    try:
        yield one
    finally:
        one.close()


@pytest.mark.timeout(300)  # some 100 s of it are what the reader waits for
def test_the_page_from_its_first_line_to_its_last(session: Session, pytestconfig: pytest.Config) -> None:
    page = PAGE.read_text()
    shown: list[tuple[Block, str]] = []
    for block in blocks(page):
        if block.file is not None:
            (session.folder / block.file).write_text(block.text)
        elif block.kind == "sh":
            session.type(block)
        elif block.kind == "console":
            shown.append((block, session.show(block)))
    if pytestconfig.getoption("--rewrite-golden"):
        for block, text in reversed(shown):
            page = page[: block.start] + text + page[block.end :]
        PAGE.write_text(page)
        return
    here, there = (named(text, RUNS) for text in ("\n".join(text for _, text in shown), page))
    for block, text in shown:
        assert objected(masked(text, here)) == objected(masked(block.text, there)), block.text


def objected(text: str) -> str:
    """What a node has against a rewritten log hangs on the checkpoint that it saw first: a larger one, or one as large."""
    return re.sub(r"(events were altered|there are two logs): [^.]*", "OBJECTION", text)
