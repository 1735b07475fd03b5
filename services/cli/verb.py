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


class NoSuchVerb(click.UsageError):
    """A word that is no verb; ``instead``: a line to try, as far as that can be guessed."""

    def __init__(self, given: str, context: click.Context, instead: str | None) -> None:
        hint = f" Did you mean {instead.partition(' ')[0]!r}?" if instead else ""
        super().__init__(f"there is no verb {given!r}.{hint}", context)
        self.instead = f"{context.command_path} {instead or '--help'}"


class VerbGroup(click.Group):
    """The same for a verb that has verbs of its own; for one that is not there it says which is probably meant."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **given: Any) -> None:
        super().__init__(*args, **given)
        self.examples = tuple(examples)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples, then what click writes."""
        _write(self.examples, formatter)
        super().format_help(ctx, formatter)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As in click, but for the error."""
        verbs = self.list_commands(ctx)
        if args and not args[0].startswith("-") and args[0] not in verbs:
            from services.cli import meant

            others = {} if ctx.parent is not None else meant.MEANT
            found = verbs[0] if len(verbs) == 1 else meant.meant(args[0], verbs, others)
            raise NoSuchVerb(args[0], ctx, found)
        return super().resolve_command(ctx, args)


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
