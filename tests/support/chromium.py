"""A headless Chromium, driven over its DevTools protocol: enough to open a page, ask what it shows and take its picture."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

START_WITHIN_S = 60.0
ANSWER_WITHIN_S = 30.0


class BrowserPage:
    """A page that is open. What is evaluated in it must be JSON."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self._session: str | None = None
        self._events: dict[str, Any] = {}
        """The last of each kind that came."""

    async def open(self, url: str) -> None:
        """Open ``url`` in a tab of its own; returns once it is loaded."""
        self._session = None
        target = await self._call("Target.createTarget", url="about:blank")
        attached = await self._call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        await self._call("Page.enable")
        await self._call("Page.navigate", url=url)
        async with asyncio.timeout(ANSWER_WITHIN_S):
            while self._events.pop("Page.loadEventFired", None) is None:
                await self._receive()

    async def evaluate(self, expression: str) -> Any:
        """What a JavaScript expression comes to."""
        answer = await self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def until(self, expression: str, *, within_s: float = 20.0) -> Any:
        """Evaluate until that is true, and return it; fails the test with what the page shows then."""
        end = asyncio.get_running_loop().time() + within_s
        while not (value := await self.evaluate(expression)):
            if asyncio.get_running_loop().time() > end:
                shown = await self.evaluate("document.body.innerText")
                raise AssertionError(f"not within {within_s} s: {expression}\nthe page shows:\n{shown}")
            await asyncio.sleep(0.05)
        return value

    async def screenshot(self, path: Path) -> None:
        """Write what is seen as a PNG."""
        answer = await self._call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(answer["data"]))

    async def _call(self, method: str, **params: Any) -> dict[str, Any]:
        id_ = next(self._ids)
        message: dict[str, Any] = {"id": id_, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        await self._socket.send_json(message)
        async with asyncio.timeout(ANSWER_WITHIN_S):
            while True:
                if (answer := await self._receive()).get("id") == id_:
                    assert "error" not in answer, (method, answer["error"])
                    result: dict[str, Any] = answer["result"]
                    return result

    async def _receive(self) -> dict[str, Any]:
        message: dict[str, Any] = await self._socket.receive_json()
        if "method" in message:
            self._events[message["method"]] = message["params"]
        return message


def chromium() -> str:
    """The browser; skips the test where there is none, unless CHROMIUM_REQUIRED says that there must be."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        if os.environ.get("CHROMIUM_REQUIRED") == "1":
            pytest.fail("CHROMIUM_REQUIRED=1 and there is no chromium")
        pytest.skip("there is no chromium (Debian: apt install chromium)")
    return program


@contextlib.asynccontextmanager
async def browser(folder: Path) -> AsyncIterator[BrowserPage]:
    """A Chromium with a profile in ``folder``, and one page to open in it."""
    process = await asyncio.create_subprocess_exec(
        chromium(),
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
        *("--disable-background-networking", "--remote-debugging-port=0", "--window-size=1280,900"),
        *(f"--user-data-dir={folder}", "about:blank"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        ready = folder / "DevToolsActivePort"  # its port and path, once it listens
        async with asyncio.timeout(START_WITHIN_S):
            while not (ready.exists() and len(lines := ready.read_text().splitlines()) == 2):
                assert process.returncode is None, f"chromium ended with {process.returncode}"
                await asyncio.sleep(0.05)
        port, path = lines
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"ws://127.0.0.1:{port}{path}", max_msg_size=0) as socket,
        ):
            yield BrowserPage(socket)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        await process.wait()
