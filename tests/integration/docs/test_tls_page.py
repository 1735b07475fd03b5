"""docs/tls.md: the programs on it connect to a server that shakes hands first, and without that option none does."""

from __future__ import annotations

import asyncio
import re
import shutil
import ssl
import sys
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.authority import TestAuthority, TlsServer
from tests.support.node import installed
from trainshed_client.endpoint import write_endpoint

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "tls.md").read_text()


def block(language: str) -> str:
    """The page's one example in that language."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[TlsServer]:
    """One whose endpoint.json lies in ``tmp_path``."""
    async with TlsServer(TestAuthority(tmp_path / "tls")) as server:
        write_endpoint(tmp_path, server.endpoint())
        yield server


async def ended(*command: str | Path, cwd: Path) -> tuple[int | None, str]:
    """Exit code and output."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(60):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    return process.returncode, output.decode()


async def test_nats_py_connects_as_the_page_shows_it(server: TlsServer, tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text(block("python"))
    code, output = await ended(sys.executable, "-P", "plain.py", cwd=tmp_path)
    assert code == 0, output
    assert "connected" in output.splitlines()  # and asyncio's warning of nats-py's protocol
    without = block("python").replace(", tls_handshake_first=True", ", allow_reconnect=False")
    (tmp_path / "plain.py").write_text(without)
    code, output = await ended(sys.executable, "-P", "plain.py", cwd=tmp_path)
    assert code == 1
    assert "expecting INFO" in output


async def test_nats_js_connects_as_the_page_shows_it(server: TlsServer, tmp_path: Path) -> None:
    packages = installed(ROOT / "examples" / "node") / "node_modules"
    (tmp_path / "node_modules").symlink_to(packages)
    program = tmp_path / "plain.mjs"
    program.write_text(block("js"))
    assert await ended("node", program, cwd=tmp_path) == (0, "connected\n")
    program.write_text(block("js").replace("handshakeFirst: true, ", ""))
    code, output = await ended("node", program, cwd=tmp_path)
    assert code != 0, output


async def test_the_node_example_connects_with_what_endpoint_json_bears(
    server: TlsServer, tmp_path: Path
) -> None:
    folder = tmp_path / "example"
    folder.mkdir()
    shutil.copy(installed(ROOT / "examples" / "node") / "connect.mjs", folder)
    (folder / "node_modules").symlink_to(ROOT / "examples" / "node" / "node_modules")
    program = folder / "try.mjs"
    program.write_text(
        'import { toStack } from "./connect.mjs";\n'
        'const nc = await toStack("try"); await nc.flush(); console.log("connected"); await nc.close();\n'
    )
    code, output = await ended(
        "env", "-u", "NATS_URL", f"TRAINSHED_STATE_DIR={tmp_path}", "node", program, cwd=folder
    )
    assert (code, output) == (0, "connected\n")


async def test_the_servers_monitoring_asks_nobody_for_a_certificate(tmp_path: Path) -> None:
    """Why the page wants it on loopback."""
    async with TlsServer(TestAuthority(tmp_path / "tls"), monitored=True) as server:
        url = f"https://127.0.0.1:{server.monitor_port}/connz"
        stranger = ssl.create_default_context(cafile=server.authority.ca)

        def status() -> int:
            with urllib.request.urlopen(url, timeout=5, context=stranger) as answer:
                return int(answer.status)

        assert await asyncio.to_thread(status) == 200
