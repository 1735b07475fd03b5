"""The type of the options that take a whole number: one of at most 15 digits, as every reader of JSON has it.

Owns how such a word is refused; knows no option.
"""

from __future__ import annotations

from typing import Any

import click

_MOST_DIGITS = 15


class Number(click.IntRange):
    """As click's, and of a longer word no more is shown than its begin. Help says nothing of a range that is none."""

    def __init__(self, least: int | None = None, most: int | None = None) -> None:
        super().__init__(min=least, max=most)
        if least is None and most is None:
            self.name = "integer"

    def _describe_range(self) -> str:
        return "" if self.name == "integer" else super()._describe_range()

    def convert(self, value: Any, option: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number. Raises click.BadParameter."""
        if isinstance(value, str) and len(value.strip().lstrip("+-")) > _MOST_DIGITS:
            self.fail(
                f"{value[:_MOST_DIGITS]!r}… is no whole number of at most {_MOST_DIGITS} digits.", option, ctx
            )
        return super().convert(value, option, ctx)
