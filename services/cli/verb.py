"""The verbs' common form: a help that begins with an example.

Owns how that is laid out; knows no verb.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
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


class LazyGroup(VerbGroup):
    """A group whose verbs are imported when they are called. ``verbs``: each with its ``module:command`` and line of help."""

    def __init__(self, *args: Any, verbs: Mapping[str, tuple[str, str]], **given: Any) -> None:
        super().__init__(*args, **given)
        self._verbs = verbs

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every verb, in the order of the table."""
        return list(self._verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one verb."""
        if cmd_name not in self._verbs:
            return None
        module, _, name = self._verbs[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The verbs with their lines, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self._verbs.items()])


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
