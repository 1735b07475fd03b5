"""The verbs' common form: a help that begins with an example.

Owns how that is laid out; knows no verb.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click


class Verb(click.Command):
    """A command whose help shows its examples before all else."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **given: Any) -> None:
        super().__init__(*args, **given)
        self.examples = tuple(examples)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples, then what click writes."""
        _write(self.examples, formatter)
        super().format_help(ctx, formatter)


class VerbGroup(click.Group):
    """The same for a verb that has verbs of its own."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **given: Any) -> None:
        super().__init__(*args, **given)
        self.examples = tuple(examples)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples, then what click writes."""
        _write(self.examples, formatter)
        super().format_help(ctx, formatter)


def verb(*examples: str, name: str | None = None) -> Callable[[Callable[..., Any]], Verb]:
    """Make a function a verb; each example is a whole command line."""
    return click.command(name, cls=Verb, examples=examples)


def verb_group(*examples: str, name: str | None = None) -> Callable[[Callable[..., Any]], VerbGroup]:
    """Make a function a group of verbs."""
    return click.group(name, cls=VerbGroup, examples=examples)


def _write(examples: Sequence[str], formatter: click.HelpFormatter) -> None:
    if examples:
        formatter.write("Example:\n" if len(examples) == 1 else "Examples:\n")
        for line in examples:
            formatter.write(f"  {line}\n")
        formatter.write("\n")
