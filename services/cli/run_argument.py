"""RUN and NODE on the command line: plain words, which a shell may complete from what the stack has.

Owns those questions and that they never fail or wait for long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import click
from click.shell_completion import CompletionItem

T = TypeVar("T")

WITHIN_S = 1.0
AT_MOST = 50


class _NameArgument(click.ParamType[str]):
    """A word that ``known`` offers completions for: (word, help)."""

    name = "text"

    def __init__(self, known: Callable[[str], Awaitable[list[tuple[str, str]]]]) -> None:
        self._known = known

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """What begins so; nothing where no stack answers at once."""

        return [
            CompletionItem(given, help=described)
            for given, described in within_a_moment(self._known(incomplete))
            if given.startswith(incomplete)
        ]


def within_a_moment(question: Awaitable[list[T]]) -> list[T]:
    """What it answers within a second; nothing else, for a key press waits for it."""

    async def ask() -> list[T]:
        async with asyncio.timeout(WITHIN_S):
            return await question

    try:
        return asyncio.run(ask())
    except Exception:  # noqa: BLE001 — whatever it is, a key press gets no answer rather than a trace
        return []


async def _runs(begins: str) -> list[tuple[str, str]]:
    from services.cli.common import connected

    found: dict[str, str] = {}
    async with connected() as trainshed:
        async for record in trainshed.list(limit=AT_MOST):
            found[record.run_id] = f"{record.name} {record.status}"
            found.setdefault(record.name, f"{record.status}, the newest of this name")
    # Names first: an id is completed by who has begun to type it.
    offered = sorted(found, key=lambda given: found[given].endswith("of this name"), reverse=True)
    return [(given, found[given]) for given in offered if begins or found[given].endswith("of this name")]


async def _nodes(begins: str) -> list[tuple[str, str]]:
    from services.cli.common import connected

    async with connected() as trainshed:
        return [(one.node, str(one.status)) for one in (await trainshed.nodes()).nodes]


RUN = _NameArgument(_runs)
NODE = _NameArgument(_nodes)
