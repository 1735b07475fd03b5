"""A server of its own for each test, with everybody on it and the stack's streams."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from events.streams import ensure_streams
from services.access.identities import Control, ControlRole
from tests.support.everybody import EverybodyServer


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EverybodyServer]:
    """The streams are made by the operator, with what he may do."""
    async with EverybodyServer(tmp_path) as server:
        await ensure_streams(await server.client(Control(ControlRole.OPERATOR)))
        yield server
