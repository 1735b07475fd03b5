"""`trainshed user`: people who may use the stack from other machines.

Owns their options; services.cli.members prints.
"""

from __future__ import annotations

import click

from services.cli.common import json_option
from services.cli.number import Number
from services.cli.verb import Verb, verb_group

_ROLES = ("viewer", "submitter", "admin")


@verb_group("trainshed user add sam --role submitter")
def user() -> None:
    """People: let them in, list them, put them out."""


@user.command(cls=Verb, examples=("trainshed user add sam --role submitter",))
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice(_ROLES),
    required=True,
    help="viewer reads, submitter also submits and cancels what is his own, admin may do all.",
)
@click.option("--rate", type=Number(least=1), metavar="N", help="Requests a second that he may send.")
@click.option("--queued", type=Number(least=0), metavar="N", help="Runs that he may have queued.")
@json_option
def add(name: str, role: str, rate: int | None, queued: int | None, as_json: bool) -> None:
    """Print a token that counts once, for 15 minutes: he types it into `trainshed login`."""
    from services.access.identities import PersonRole
    from services.cli.members import print_token
    from services.enrol.tokens import ForPerson

    whom = ForPerson(name=name, role=PersonRole(role), rate=rate, queued=queued)
    print_token(whom, "login", f"On the machine of {name}", None, as_json)


@user.command(cls=Verb, examples=("trainshed user revoke sam",))
@click.argument("name")
def revoke(name: str) -> None:
    """Put somebody out: he is cut off at once. His runs go on."""
    from services.access.identities import Person, PersonRole
    from services.cli import members

    members.revoke(Person(name, PersonRole.VIEWER))


@user.command(cls=Verb, examples=("trainshed user rotate sam", "trainshed user rotate --all"))
@click.argument("name", required=False)
@click.option("--all", "everybody", is_flag=True, help="Everybody who is enrolled, nodes too.")
def rotate(name: str | None, everybody: bool) -> None:
    """Ask somebody, or everybody, for a new key. Nobody is cut off."""
    from services.access.identities import Person, PersonRole
    from services.cli import members

    if (name is None) != everybody:
        raise click.UsageError("give a NAME, or --all")
    members.rotate(None if name is None else Person(name, PersonRole.VIEWER), "everybody is")


@user.command("list", cls=Verb, examples=("trainshed user list",))
@json_option
def list_users(as_json: bool) -> None:
    """List people: their roles, and when their certificates expire."""
    from services.cli.members import print_members

    print_members("user", lambda roster: roster.people, as_json)
