"""`trainshed config`: the settings that are in force here, and where each comes from.

Owns how they are shown; services.settings knows them.
"""

from __future__ import annotations

import os

import click

from services.cli.common import json_option, print_json, warn
from services.cli.verb import verb
from services.settings import in_force, unknown_settings


@verb("trainshed config", "docker compose exec gateway trainshed config")
@json_option
def config(as_json: bool) -> None:
    """Print every setting with its value and where it comes from; a secret is not shown."""
    settings = in_force()
    for name, meant in unknown_settings(os.environ).items():
        warn(f"{name} is no setting" + (f"; did you mean {meant}?" if meant else ""))
    if as_json:
        rows = [{"name": one.name, "value": one.value, "from": one.source} for one in settings]
        print_json({"v": 1, "settings": rows})
        return
    names = max(len(one.name) for one in settings)
    values = min(60, max(len(one.value or "-") for one in settings))
    for one in settings:
        click.echo(f"{one.name:{names}}  {one.value or '-':{values}}  {one.source}")
