"""Fixtures of whole stacks: one that a module's tests share, and new ones for those that stop and kill them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.stack import Stack


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """`trainshed up` with two declared GPUs, four CPUs and 4,096 MB, shared by the tests of a module."""
    shared = Stack(
        tmp_path_factory.mktemp("stack") / "state",
        environment={"STACK_SECRET": "s3cr3t-of-the-node", "NO_COLOR": "1"},
        hears_calls=True,
    )
    try:
        shared.start()
        yield shared
    finally:
        shared.close()


@pytest.fixture
def new_stack(tmp_path: Path) -> Iterator[Callable[..., Stack]]:
    """Makes stacks, each on a state folder of its own and started; all are ended with the test."""
    with contextlib.ExitStack() as made:

        def make(name: str = "state", *, start: bool = True, **options: Any) -> Stack:
            one = Stack(tmp_path / name, **options)
            made.callback(one.close)
            if start:
                one.start()
            return one

        yield make
