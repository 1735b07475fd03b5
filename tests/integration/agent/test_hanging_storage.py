"""Run folders on storage that hangs: what the agent's node and the rest of the stack go on with."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hanging import HANGS_READS, HangingStorage, hanging_storage


@pytest.fixture(params=HANGS_READS)
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[HangingStorage]:
    """Storage of each kind."""
    with hanging_storage(request.param, tmp_path / "shared") as mounted:
        yield mounted


def test_the_storage_really_hangs_and_answers_again(storage: HangingStorage) -> None:
    for name in ("first", "second"):
        made = threading.Event()

        def make(path: Path = storage.folder / name, made: threading.Event = made) -> None:
            path.mkdir()
            made.set()

        storage.hang()
        threading.Thread(target=make, daemon=True).start()
        assert not made.wait(0.5)
        storage.answer()
        assert made.wait(10)
