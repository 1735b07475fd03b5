"""`trainshed audit`: the group of what is asked of the log itself, and the list of its verbs.

Owns that list; each verb is a module of its own, loaded when it is used.
"""

from __future__ import annotations

import click

from services.cli.verb import LazyGroup

VERBS: dict[str, tuple[str, str]] = {
    "verify": ("services.cli.audit_verify:verify", "Replay the log and compare with the stack's own tables."),
    "checkpoint": (
        "services.cli.audit_checkpoint:checkpoint",
        "Print a signed checkpoint of the log's tree.",
    ),
    "prove": (
        "services.cli.audit_prove:prove",
        "Write a run's certificate: its events, and that they are logged.",
    ),
    "accept": (
        "services.cli.audit_accept:accept",
        "Answer for it that the log is not what was signed before.",
    ),
    "rebuild": (
        "services.cli.audit_rebuild:rebuild",
        "Build the read model again from the log, beside the live one.",
    ),
    "at": ("services.cli.audit_at:at", "Show the queue, the slots and the nodes as they were."),
    "diff": ("services.cli.audit_diff:diff", "Show what changed between two moments."),
    "export": ("services.cli.audit_export:export", "Print the log, or a part of it, as CloudEvents."),
    "check": ("services.cli.audit_check:check", "Check a certificate, without any stack."),
}
"""Verb → where it is (``module:command``), and its line of help."""


@click.group(cls=LazyGroup, verbs=VERBS, examples=("trainshed audit verify",))
def audit() -> None:
    """Ask the log what happened, and prove it."""
