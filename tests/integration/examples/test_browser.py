"""examples/browser in a real Chromium on a real stack: what the page shows of runs, slots, queue and output, over a killed server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.chromium import BrowserPage, browser, chromium
from tests.support.node import installed
from tests.support.stack import Stack, marked, until

ROOT = Path(__file__).resolve().parents[3]
NewStack = Callable[..., Stack]

CELLS = (
    "[...document.querySelectorAll('#%s tbody tr')].map(row => [...row.cells].map(cell => cell.textContent))"
)
"""The rows of a table as they are seen."""
OUTPUT = "document.getElementById('output').textContent"


def rows(table: str) -> str:
    return CELLS % table


@pytest.fixture(scope="module")
def folder() -> Path:
    chromium()
    installed(ROOT / "examples" / "node")
    return installed(ROOT / "examples" / "browser")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def served(stack: Stack, folder: Path, port: int) -> Iterator[str]:
    """The address that `node serve.mjs` prints, meanwhile."""
    process = subprocess.Popen(
        ["node", "serve.mjs", str(port)],
        cwd=folder,
        env=marked(stack.environment, stack.mark),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        url = process.stdout.readline().decode().strip()
        assert url.startswith("http"), process.communicate()[1].decode()
        yield url
    finally:
        process.kill()
        process.communicate()


def refused_to_serve(stack: Stack, folder: Path, port: int) -> str:
    ended = subprocess.run(
        ["node", "serve.mjs", str(port)],
        cwd=folder,
        env=stack.environment,
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (3, b"")
    return ended.stderr.decode()


@pytest.fixture
async def page(folder: Path, tmp_path: Path) -> AsyncIterator[BrowserPage]:
    async with browser(tmp_path / "profile") as opened:
        yield opened


def opened(new_stack: NewStack, port: int) -> Stack:
    """A stack that pages of this port may read."""
    return new_stack(options=("--websocket", "--websocket-origin", f"http://127.0.0.1:{port}"))


def kill_server(stack: Stack) -> None:
    os.kill(int((stack.state_dir / "nats" / "server.pid").read_text()), signal.SIGKILL)


GO_ON = 'while ! test -e "$1"; do sleep 0.05; done; rm "$1"'
"""Waits for a file, which the test makes."""


def steps(gate: Path) -> tuple[str, ...]:
    """A worker that writes a line, with telemetry, each time that the test lets it go on."""
    line = 'n=$((n+1)); echo "{\\"type\\":\\"step\\",\\"n\\":$n}"; echo "<b>line ü $n</b>" >&2'
    return ("--", "/bin/sh", "-c", f"n=0; while true; do {GO_ON}; {line}; done", "sh", str(gate))


def let_go_on(gate: Path) -> None:
    gate.touch()
    until(lambda: not gate.exists(), what="the worker goes on")


async def test_a_page_shows_a_run_live_and_what_is_true_after_a_restart_of_the_server(
    new_stack: NewStack, folder: Path, page: BrowserPage, tmp_path: Path
) -> None:
    port, gate = free_port(), tmp_path / "gate"
    stack = opened(new_stack, port)
    run = stack.submit("--gpus", "1", "--name", "trains", *steps(gate))
    stack.running(run)
    waits = stack.submit("--gpus", "2", "--name", "waits", shell="true")
    with served(stack, folder, port) as url:
        await page.open(url)
        await page.until(
            "document.body.dataset.queue === 'present' && document.body.dataset.runs === 'present'"
        )
        assert await page.evaluate("document.getElementById('connection').textContent") == "connected"
        assert [row[:4] for row in await page.evaluate(rows("runs"))] == [
            [run[:6], "trains", "RUNNING", "box:0"],
            [waits[:6], "waits", "PENDING", ""],
        ]
        await page.until(
            f"JSON.stringify({rows('slots')}) === JSON.stringify([['box.0','{run[:6]}'],['box.1','free']])"
        )
        (place,) = await page.until(f"(found => found.length === 1 && found)({rows('queue')})")
        assert place[:2] == ["1", waits[:6]]
        assert place[2] != ""

        # It follows the run that runs: its output as text, whatever stands in it, and its telemetry.
        let_go_on(gate)
        await page.until(f"{OUTPUT}.includes('<b>line ü 1</b>') && {OUTPUT}.includes('\"n\":1')")
        await page.until("document.getElementById('telemetry').textContent.includes('n1')")
        assert await page.evaluate("document.querySelectorAll('#output b').length") == 0

        kill_server(stack)
        await page.until("document.body.className === 'lost'")
        await page.until("document.body.className === 'connected'")
        # Output goes on. What the agent sent before it was connected again itself is heard by nobody, and the page says so.
        for _ in range(100):
            let_go_on(gate)
            if "<b>line ü " in (shown := (await page.evaluate(OUTPUT)).partition("<b>line ü 1</b>")[2]):
                break
            await asyncio.sleep(0.1)
        assert "<b>line ü " in shown
        assert ("<b>line ü 2</b>" in shown) != ("[stderr: bytes 17 to " in shown), shown
        assert "line ü 1<" not in shown

        stack.trainshed("cancel", run)
        stack.wait(run, waits, code=None)
        await page.until(f"{rows('runs')}.length === 0 && {rows('queue')}.length === 0")
        await page.until(f"{rows('slots')}.every(row => row[1] === 'free') && {rows('slots')}.length === 2")
        assert await page.evaluate("document.getElementById('followed-status').textContent") == "CANCELLED"
        assert await page.evaluate("document.getElementById('queue-total').textContent") == "0"


async def test_what_changed_while_the_page_was_not_connected_is_shown_and_nothing_older(
    new_stack: NewStack, folder: Path, page: BrowserPage
) -> None:
    port = free_port()
    stack = opened(new_stack, port)
    run = stack.submit("--gpus", "2", "--name", "ends", shell="sleep 100")
    stack.running(run)
    with served(stack, folder, port) as url:
        await page.open(url)
        await page.until(f"{rows('runs')}.length === 1 && {rows('slots')}.length === 2")
        stack.stop()
        await page.until("document.body.className === 'lost'")
        assert len(await page.evaluate(rows("runs"))) == 1  # dimmed, and said to be of before
        stack.start()
        stack.trainshed("cancel", run)
        stack.wait(run, code=None)
        await page.until(f"{rows('runs')}.length === 0 && document.body.className === 'connected'")
        # All that the table shows from here on.
        await page.evaluate(
            "globalThis.seen = []; new MutationObserver(() => seen.push(document.querySelector('#runs tbody').textContent))"
            ".observe(document.querySelector('#runs tbody'), {childList: true, subtree: true, characterData: true}); 0"
        )
        kill_server(stack)  # whose buckets are filled anew, with the run that ended
        later = stack.submit("--gpus", "2", "--name", "later", shell="sleep 100")
        stack.running(later)
        held = json.dumps([["box.0", later[:6]], ["box.1", later[:6]]])
        await page.until(f"JSON.stringify({rows('slots')}) === JSON.stringify({held})")
        seen: list[str] = await page.evaluate("seen")
        assert any("later" in text for text in seen)
        assert not any("ends" in text for text in seen)


async def test_a_page_of_another_origin_is_refused_and_says_what_to_do(
    new_stack: NewStack, folder: Path, page: BrowserPage
) -> None:
    port, other = free_port(), free_port()
    stack = opened(new_stack, port)
    text = refused_to_serve(stack, folder, other)
    assert f"trainshed up --websocket --websocket-origin http://127.0.0.1:{other}" in text
    with served(stack, folder, port) as url:
        # The same page by another name of this machine is of another origin.
        await page.open(url.replace("127.0.0.1", "localhost"))
        await page.until(
            f"document.getElementById('connection').textContent.includes('--websocket-origin http://localhost:{port}')"
        )
        assert await page.evaluate(rows("runs")) == []


async def test_what_the_page_may_not_do_and_a_wrong_password_are_shown(
    new_stack: NewStack, folder: Path, page: BrowserPage
) -> None:
    port = free_port()
    stack = opened(new_stack, port)
    shown = "document.getElementById('connection').textContent"
    with served(stack, folder, port) as url:
        await page.open(url.replace("_INBOX_web", "_INBOX"))
        await page.until(f"{shown}.toLowerCase().includes('permissions violation')")
        await page.open(url.replace("password=", "password=x"))
        await page.until(f"{shown}.toLowerCase().includes('authorization violation')")


def test_what_is_in_the_way_of_serving_the_page_is_said(new_stack: NewStack, folder: Path) -> None:
    port = free_port()
    stack = new_stack()
    assert "Open it: trainshed up --websocket" in refused_to_serve(stack, folder, port)
    stack.stop()
    stack.start("--websocket", "--websocket-origin", f"http://127.0.0.1:{port}")
    with socket.create_server(("127.0.0.1", port)):
        assert "Name another port: node serve.mjs PORT" in refused_to_serve(stack, folder, port)


def test_the_server_of_the_page_hands_out_no_password(new_stack: NewStack, folder: Path) -> None:
    port = free_port()
    stack = opened(new_stack, port)
    password: Any = json.loads((stack.state_dir / "websocket.json").read_text())["password"]
    with served(stack, folder, port) as url:
        base = url.partition("#")[0]
        assert password in url.partition("#")[2]
        for path in ("", "page.mjs", "output.mjs", "page.css", "trainshed.mjs", "nats-core.mjs"):
            with urllib.request.urlopen(base + path, timeout=10) as answer:
                assert password.encode() not in answer.read()
        for path in (
            "websocket.json",
            "serve.mjs",
            "../serve.mjs",
            "%2e%2e/serve.mjs",
            "node_modules/esbuild/package.json",
        ):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(base + path, timeout=10)
