"""A runner that ends with its test, and what it talks to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pytestqt.qtbot import QtBot

from tests.integration.qt.backstage import Backstage
from trainshed_client.qt import TrainerClientRunner


@pytest.fixture
def backstage(tmp_path: Path) -> Iterator[Backstage]:
    """A nats-server whose services the test plays."""
    one = Backstage(tmp_path / "backstage")
    try:
        yield one
    finally:
        one.close()


@pytest.fixture
def new_runner(qtbot: QtBot) -> Iterator[Callable[[str], TrainerClientRunner]]:
    """Makes runners, which are stopped with the test."""
    made: list[TrainerClientRunner] = []

    def make(url: str) -> TrainerClientRunner:
        made.append(TrainerClientRunner(url))
        return made[-1]

    yield make
    for runner in made:
        runner.stop()
