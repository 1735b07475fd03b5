"""`trainshed submit`: queue a run, or a file of them, and return at once.

Owns what a submission prints; building the config is services/cli/request.py's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from services.cli.common import connected, json_option, nats_option, note, print_json, run_async, warn
from services.cli.request import Config, Request, build, config_options
from services.cli.text import seconds_between, short
from services.durations import format_ago
from trainshed_client.errors import TrainshedError

if TYPE_CHECKING:
    from trainshed_client.answers import Submission
    from trainshed_client.client import Trainshed


@click.command()
@config_options
@json_option
@nats_option
def submit(as_json: bool, **options: Any) -> None:
    """Queue a run and return at once.

    The same config is the same run: submitted again, it starts nothing and says which run it is (--new makes
    another). `-- CMD ...` runs a program of yours, in this folder; only the variables named with --env go with it.

    \b
        trainshed submit --gpus 1 --name ppo -- python3 train.py --seed 1
        trainshed submit -f run.yaml
        trainshed submit -f sweep.jsonl --priority 5
    """
    request = build(options)
    for warning in request.warnings:
        warn(warning)
    run_async(_submit(request, as_json))


async def _submit(request: Request, as_json: bool) -> None:
    import msgspec

    async with connected() as trainshed:
        await resolve_after(trainshed, request.configs)
        if request.batch:
            submissions = await trainshed.submit_many(request.configs)
        else:
            submissions = [await trainshed.submit(request.configs[0])]
        for submission in submissions:
            if as_json:
                print_json(msgspec.json.encode(submission))
            else:
                click.echo(f"{submission.run_id}  {submission.status}")
        if request.batch:
            existing = sum(not one.created for one in submissions)
            if existing:
                note(f"{existing} of {len(submissions)} were runs already; nothing started for them")
        elif not submissions[0].created:
            note(await already(trainshed, submissions[0]))


async def resolve_after(trainshed: Trainshed, configs: list[Config]) -> None:
    """In ``after``, put run ids where prefixes or names stand."""
    from trainshed_client.naming import is_run_id

    known: dict[str, str] = {}
    for config in configs:
        after = config.get("after")
        if not isinstance(after, list):
            continue  # wrong; the gateway says how
        for place, run in enumerate(after):
            if isinstance(run, str) and not is_run_id(run):
                if run not in known:
                    known[run] = (await trainshed.resolve(run, only=True)).run_id
                after[place] = known[run]


async def already(trainshed: Trainshed, submission: Submission) -> str:
    """What to tell of a config that is a run already."""
    from services.cli.clock import now

    run = short(submission.run_id)
    if not submission.status.ended:
        return f"nothing started: this config is run {run} already ({submission.status}). Another: trainshed submit --new ..."
    when = ""
    try:
        view = await trainshed.run(submission.run_id)
        seconds = seconds_between(view.run.ended_at, now())
        when = "" if seconds is None else f" {format_ago(seconds)}"
    except TrainshedError:
        pass  # when it ended is a courtesy; that it exists is the answer
    return (
        f"nothing started: this config is run {run} ({submission.status}{when}). "
        f"Again: trainshed submit --new ..., or: trainshed retry {run}"
    )
