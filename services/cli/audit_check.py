"""`trainshed audit check`: a run's certificate, verified without any stack.

Owns what is printed, above all what a certificate does not prove; the check is projections.audit.certificate's.
"""

from __future__ import annotations

from pathlib import Path

import click

from services.cli.common import exit_with
from services.cli.policy_option import policy_option, read_policy
from services.cli.text import clean
from services.cli.verb import verb
from trainshed_client.errors import ExitCode
from trainshed_client.os_errors import why
from trainshed_client.subjects import parse_event_subject


@verb("trainshed audit check mfrggzdfmztwq2lknnwg23tpob.certificate.json", name="check")
@click.argument("file", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@policy_option
def check(file: Path, policy: Path | None) -> None:
    """Verify a run's certificate offline, and say what it does not prove. Exit code 1 where it does not hold, or its
    checkpoint is not what the policy asks for.
    """
    from projections.audit.certificate import check as check_certificate
    from projections.audit.certificate import read_certificate
    from projections.read_model.times import stored_time

    try:
        certificate = read_certificate(file.read_bytes())
    except OSError as error:
        raise click.BadParameter(f"{file}: {why(error)}", param_hint="FILE") from None
    checked = check_certificate(certificate, read_policy(policy))
    for text in checked.wrong:
        click.echo(clean(text))
    if checked.wrong:
        exit_with(ExitCode.VIOLATION)
    count = len(checked.events)
    click.echo(
        f"run {certificate.run_id}: {count} event{'' if count == 1 else 's'} in the log {clean(certificate.log_id)}"
    )
    for message in checked.events:
        what = where.type if (where := parse_event_subject(message.subject)) else message.subject
        click.echo(f"  {message.seq}  {stored_time(message.stored_ns)}  {clean(what)}")
    click.echo(
        f"each is in the tree of {checked.head.size} leaves that was signed by\n  {clean(certificate.vkey)}"
    )
    if policy is not None:
        by = f", cosigned by {', '.join(map(clean, checked.cosigners))}" if checked.cosigners else ""
        click.echo(f"which is valid by {policy}{by}")
    click.echo("This does not prove\n  that no other event of the run exists: trainshed audit verify does")
    if policy is None:
        click.echo(
            "  whose key that is: it came with the certificate; compare it with what you were given (--policy FILE)"
        )
    if checked.strangers:
        unknown = "whose keys nobody here knows" if policy is None else "whose keys are not the policy's"
        click.echo(f"  that these cosigned it, {unknown}: {', '.join(map(clean, checked.strangers))}")
    click.echo(
        "  that the log is still this one: keep the checkpoint, and compare it with a later one\n"
        "  that what was reported is true: a node's word is a node's word"
    )
