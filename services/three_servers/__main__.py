"""`python -m services.three_servers make|streams`: see docs/three-servers.md.

Owns the words of its command line.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from services.access.identities import NodeIdentity, Person, PersonRole
from services.enrol.roster import Member
from services.settings import check_node_name
from services.three_servers.files import OPERATOR, make
from services.three_servers.layout import SERVERS, three, urls
from trainshed_client.endpoint import read_credentials
from trainshed_client.errors import ErrorCode, TrainshedError


@click.group()
def main() -> None:
    """Three nats-servers that keep one event log together: the files of fixed members, and the streams."""


@main.command("make")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--server", "servers", multiple=True, metavar="NAME=HOST[:PORT[:ROUTES[:MONITOR]]]")
@click.option("--node", "nodes", multiple=True, metavar="NODE", help="A machine that runs an agent.")
@click.option("--user", "users", multiple=True, metavar="NAME:viewer|submitter|admin")
@click.option("--at", type=click.Path(path_type=Path), help="Where the machines will have `credentials`.")
def make_files(
    folder: Path, servers: tuple[str, ...], nodes: tuple[str, ...], users: tuple[str, ...], at: Path | None
) -> None:
    """Make every file into FOLDER, or what is missing or old of it. Nothing is started."""
    members: dict[str, Member] = {f"node-{node}": NodeIdentity(check_node_name(node)) for node in nodes}
    members.update((f"user-{person.name}", person) for person in map(_person, users))
    named = three(servers)
    make(folder, named, members, at=at, now=datetime.now(UTC))
    click.echo(
        f"made {', '.join(str(folder / server.name) for server in named)} and {folder / 'credentials'}"
    )
    click.echo(f"TRAINSHED_NATS_URL={urls(named)}")


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--within", default=60.0, metavar="SECONDS", help="How long the servers are waited for (60).")
def streams(folder: Path, within: float) -> None:
    """Make the streams, a copy of each on every server, once these run. What is there stays."""
    asyncio.run(_streams(folder, within))
    click.echo("the streams are there, each on three servers")


async def _streams(folder: Path, within_s: float) -> None:
    from events.streams import ensure_streams
    from trainshed_client.nats_client import connect

    endpoint = read_credentials(folder / OPERATOR, given_by="FOLDER")
    try:
        async with asyncio.timeout(within_s):
            nc = await connect(endpoint, name="operator", forever=True)
            try:
                await ensure_streams(nc, replicas=SERVERS, patient=True)
            finally:
                await nc.close()
    except TimeoutError:
        raise TrainshedError(
            ErrorCode.UNAVAILABLE,
            f"no three servers at {endpoint.url} within {within_s:g} s; their words are in server.log of each",
        ) from None


def _person(text: str) -> Person:
    name, _, role = text.partition(":")
    try:
        return Person(name, PersonRole(role))
    except ValueError:
        raise TrainshedError(
            ErrorCode.INVALID,
            f"{text!r} is no user; accepted: NAME:viewer, NAME:submitter, NAME:admin",
            "--user",
        ) from None


if __name__ == "__main__":
    try:
        main()
    except TrainshedError as error:
        click.echo(f"Error: {error.message}", err=True)
        sys.exit(error.exit_code)
