"""`trainshed audit verify --files`: how the nodes are asked for what lies there, and what is printed of it.

Owns that; what is compared, and what counts as a difference, is projections.audit.files'.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import click

from services.cli.how_far import how_far
from services.cli.text import clean
from trainshed_client import subjects
from trainshed_client.answers import NodeFiles
from trainshed_client.asking import decoded
from trainshed_client.run_files import artifacts_list

if TYPE_CHECKING:
    from events.stored_log import StoredLog
    from projections.audit.files import FilesAudit, FilesCompared
    from projections.audit.logged_files import LoggedAttempt
    from trainshed_client.client import Trainshed

MANY_ATTEMPTS = 100


@contextmanager
def files_audit(trainshed: Trainshed, log: StoredLog, terminal: bool) -> Iterator[FilesAudit]:
    """What compares the files of this stack's nodes with its log."""
    from projections.audit.files import FilesAudit, Nodes

    async def files(node: str, attempts: list[dict[str, Any]], within_s: float) -> NodeFiles:
        body = await trainshed.call(f"node.{node}.files", {"attempts": attempts}, timeout=within_s)
        return decoded(body, NodeFiles)

    async def listed(attempt: LoggedAttempt) -> bytes:
        return await artifacts_list(trainshed, attempt)

    async def granted_after(run_id: str, seq: int) -> bool:
        return await log.next(seq + 1, subjects.grants(run_id)) is not None

    nodes = Nodes(files, listed, granted_after)
    with (
        how_far("comparing files", terminal, many=MANY_ATTEMPTS) as progress,
        closing(FilesAudit(nodes, progress)) as audit,
    ):
        yield audit


def print_compared(files: FilesCompared) -> None:
    """What was compared of how much, and what was not and why."""
    artifacts = f", with {_count(files.artifacts, 'artifact')}" if files.artifacts else ""
    if files.not_hashed:
        artifacts += f" ({files.not_hashed:,} by size alone, without a hash in the log)"
    click.echo(f"  files: {files.compared:,} of {_count(files.attempts, 'attempt')} compared{artifacts}")
    for away in files.away:
        click.echo(
            f"  files not compared: {_count(away.attempts, 'attempt')} on {away.node}: {clean(away.reason)}"
        )
    for count, why in (
        (files.pruned, "deleted by `trainshed prune`"),
        (files.unreadable, "their storage does not answer, or cannot be read"),
        (files.unknown, "the log says nothing of their files"),
    ):
        if count:
            click.echo(f"  files not compared: {_count(count, 'attempt')}: {why}")
    if files.output_unknown:
        click.echo(
            f"  output not compared: {_count(files.output_unknown, 'attempt')}: the log does not say how large it was"
        )
    if files.left_out:
        click.echo(
            f"  artifacts not compared: {files.left_out:,}: a later attempt of their run had them in hand, or no hash list "
            "names them"
        )


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
