"""Fixtures that every test may ask for, and a clean environment for each."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.support import NatsServer

# Time is no property of what is tested: a busy machine must not fail an example.
hypothesis.settings.register_profile("trainshed", deadline=None)
hypothesis.settings.load_profile("trainshed")

collect_ignore_glob: list[str] = []


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """``pytest tests/unit/test_screens.py --rewrite-golden`` writes tests/golden anew: read what has changed there."""
    parser.addoption("--rewrite-golden", action="store_true", help="write the golden files of screens anew")
    # pytest-qt ends everything where Qt's libraries are missing (libEGL): so it is loaded here, and only where they are not.
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    try:
        from PySide6 import QtTest, QtWidgets  # noqa: F401
        from pytestqt import plugin
    except ImportError:
        if os.environ.get("QT_REQUIRED"):
            raise
        collect_ignore_glob.append("*/qt/*")
    else:
        pluginmanager.register(plugin, "qt")


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees the stack, the settings or the state folder of who runs the tests."""
    for name in [name for name in os.environ if name.startswith(("TRAINSHED_", "NATS_", "VAR_LOGS_DIR"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg-state"))


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A zone an hour ahead of UTC, without the data of zones: what stands on a screen is the caller's time."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "CET-1")
        time.tzset()
        yield
    time.tzset()


@pytest.fixture
async def nats_server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """A fresh nats-server 2.15.1 with JetStream (about 0.05 s), ended with the test."""
    server = NatsServer(tmp_path / "state")
    await server.embedded.start()
    try:
        yield server
    finally:
        await server.close()
