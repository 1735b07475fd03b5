"""`trainshed submit`: queue a run, or a file of them, and return at once.

Owns what a submission prints; building the config is services/cli/request.py's.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click

from services.cli.common import connected, json_option, nats_option, note, print_json, run_async, warn
from services.cli.config_file import Config
from services.cli.config_options import config_options
from services.cli.local_check import look_at_programs
from services.cli.number import Number
from services.cli.request import Request, build
from services.cli.text import seconds_between, short
from services.cli.verb import verb
from trainshed_client.errors import ErrorCode, Refusals, TrainshedError
from trainshed_client.rendering.ago import ago
from trainshed_client.statuses import RunStatus

if TYPE_CHECKING:
    from trainshed_client.answers import Check, Submission
    from trainshed_client.client import Trainshed

NO_GPU = "no GPU asked for (CUDA_VISIBLE_DEVICES will be empty); --gpus 1 asks for one"
_THREADS = "OMP_NUM_THREADS"
_NOTE_WITHIN_S = 1.0
_CHECKS_AT_ONCE = 16
_BATCH_BYTES = 800_000
"""Of configs; the server takes 1 MB, with all that is beside them."""
_IN_BATCH = re.compile(r"runs\[(\d+)\](?:\.(.+))?\Z")


@verb(
    "trainshed submit --gpus 1 --name ppo -- python3 train.py --seed 1",
    "trainshed submit -f run.yaml",
    "trainshed submit -f run.yaml --set metadata.worker.config.lr=1e-4",
    "trainshed submit -f sweep.jsonl --priority 5",
)
@config_options
@click.option("--count", type=Number(1, 1000), help="So many runs of it; again, they are the same runs.")
@click.option(
    "--dry-run", is_flag=True, help="Submit nothing: say which run it would be and where it could run."
)
@json_option
@nats_option
def submit(as_json: bool, dry_run: bool, **options: Any) -> None:
    """Queue a run and return at once.

    The same config is the same run: submitted again, it starts nothing and says which run it is (--new makes
    another). `-- CMD ...` runs a program of yours, in this folder, with your PATH and active venv, and
    the variables named with --env.
    JSON lines (a .jsonl file, or -f -) are several runs: all are queued, or none. Options stand beside -f too: they
    go over what the file says (--label, --env and --secret are added to it), and --set over both.
    """
    request = build(options)
    for warning in request.warnings:
        warn(warning)
    if dry_run:
        run_async(_check(request, as_json))
    else:
        run_async(_submit(request, as_json))


async def _submit(request: Request, as_json: bool) -> None:
    import msgspec

    configs, batch = request.configs, request.batch
    async with connected() as trainshed:
        await resolve_after(trainshed, request)
        for warning in await look_at_programs(trainshed, request):
            warn(warning)
        async with Submitting(trainshed, configs) as submitting:
            if batch:
                submissions = await _submit_lines(trainshed, request)
            else:
                submissions = [await trainshed.submit(configs[0], **request.beside)]
            for submission in submissions:
                if as_json:
                    print_json(msgspec.json.encode(submission))
                else:
                    click.echo(f"{submission.run_id}  {submission.status}")
            if batch:
                existing = sum(not one.created for one in submissions)
                if existing:
                    note(f"{existing} of {len(submissions)} were runs already; nothing started for them")
            elif not submissions[0].created:
                note(await already(trainshed, submissions[0]))
            if any(one.created for one in submissions):
                await submitting.note_what_it_gets()


async def _submit_lines(trainshed: Trainshed, request: Request) -> list[Submission]:
    """Raises TrainshedError that names the file's line where the gateway names the place in the batch."""
    submissions: list[Submission] = []
    for configs in _batches(request):
        try:
            submissions += await trainshed.submit_many(configs, **request.beside)
        except TrainshedError as error:
            raise _in_lines(error, request.places[len(submissions) :]) from None
    return submissions


def _batches(request: Request) -> Iterator[list[Config]]:
    """What is sent at once: a file as a whole, for all of it is queued or none; of a ``--count`` as much as the server takes."""
    import msgspec

    batch: list[Config] = []
    size = 0
    for config in request.configs:
        size += len(msgspec.json.encode(config))
        if request.counted and batch and size > _BATCH_BYTES:
            yield batch
            batch, size = [], len(msgspec.json.encode(config))
        batch.append(config)
    yield batch


def _in_lines(error: TrainshedError, places: Sequence[str]) -> TrainshedError:
    """The gateway's error about a batch with the file's lines for its places."""

    def in_line(path: str | None) -> str | None:
        found = _IN_BATCH.match(path or "")
        if found is None or int(found[1]) >= len(places):
            return path
        return ": ".join(filter(None, (places[int(found[1])], found[2]))) or None

    return error.with_paths(in_line)


class Submitting:
    """An async context manager around a submission: meanwhile it is asked whether there are GPUs to ask for."""

    def __init__(self, trainshed: Trainshed, configs: Sequence[Config]) -> None:
        self._trainshed = trainshed
        self._configs = configs
        self._wanted = any(_asks_for_no_gpu(config) for config in configs)
        self._asking: asyncio.Task[bool] | None = None

    async def __aenter__(self) -> Self:
        if self._wanted:
            self._asking = asyncio.create_task(self._has_gpus())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait({self._asking})

    async def note_what_it_gets(self) -> None:
        """Say on stderr that a run asks for no GPU where nodes have some, and how many threads it is told to start
        where it says nothing of that."""
        if self._asking is not None and await self._asking:
            note(NO_GPU)
        if len(self._configs) == 1 and (threads := _threads(self._configs[0])):
            note(threads)

    async def _has_gpus(self) -> bool:
        try:
            async with asyncio.timeout(_NOTE_WITHIN_S):
                slots = (await self._trainshed.slots()).slots
        except (TrainshedError, TimeoutError):
            return False  # a courtesy
        return any(slot.uuid is not None for slot in slots)  # not those that are only declared


def _threads(config: Config) -> str | None:
    """What to say of the threads that its libraries start; None where the config decides."""
    resources, variables = config.get("resources"), config.get("environment")
    asked = resources if isinstance(resources, dict) else {}
    if "cpus" in asked or (isinstance(variables, dict) and _THREADS in variables):
        return None
    if _asks_for_no_gpu(config) or not asked["gpus"]["requested"]:
        return f"1 CPU asked for, so 1 thread ({_THREADS}); --cpus N asks for more"
    return f"it gets threads by its share of the node's GPUs ({_THREADS}); --cpus N asks for more"


def _asks_for_no_gpu(config: Config) -> bool:
    """Whether it says nothing of GPUs; who writes 0 has thought of them."""
    resources = config.get("resources")
    gpus = resources.get("gpus") if isinstance(resources, dict) else None
    return not isinstance(gpus, dict) or "requested" not in gpus


async def resolve_after(trainshed: Trainshed, request: Request) -> None:
    """In ``after``, put run ids where prefixes or names stand.

    One that means no run is wrong in its config, and told with all else that is wrong there. Raises TrainshedError.
    """
    from trainshed_client.naming import is_run_id

    known: dict[str, str] = {}
    refused = Refusals()
    for number, config in enumerate(request.configs):
        after = config.get("after")
        if not isinstance(after, list):
            continue  # wrong; the gateway says how
        found = Refusals()
        for place, run in enumerate(after):
            if isinstance(run, str) and not is_run_id(run):
                try:
                    if run not in known:
                        known[run] = (await trainshed.resolve(run, only=True)).run_id
                    after[place] = known[run]
                except TrainshedError as error:
                    if request.after_given or error.code is ErrorCode.UNAVAILABLE:
                        raise
                    found.add(TrainshedError(ErrorCode.INVALID, error.message, f"after[{place}]"))
        if found.error is not None:
            with found:
                await trainshed.check({name: item for name, item in config.items() if name != "after"})
            refused.add(found.error.placed(request.places[number] if request.places else "", ": "))
    refused.raise_any()


async def already(trainshed: Trainshed, submission: Submission, verb: str = "submit") -> str:
    """What to tell of a config that is a run already, whoever submits it with ``verb``."""
    run = short(submission.run_id)
    if not submission.status.ended:
        return (
            f"nothing started: this config is run {run} ({submission.status}). "
            f"Follow it: trainshed logs -f {run}, or another: trainshed {verb} --new …"
        )
    ended = await _ended_ago(trainshed, submission.run_id)
    return (
        f"nothing started: this config is run {run} ({submission.status}{ended}). "
        f"Again: trainshed {verb} --new …, or: trainshed retry {run}"
    )


async def _ended_ago(trainshed: Trainshed, run_id: str) -> str:
    """`` 2 h ago``, or nothing: when it ended is a courtesy."""
    from services.cli.clock import now

    try:
        seconds = seconds_between((await trainshed.get(run_id)).run.ended_at, now())
    except TrainshedError:
        return ""
    return "" if seconds is None else f" {ago(seconds)}"


# --- --dry-run --------------------------------------------------------------------------------------------


async def _check(request: Request, as_json: bool) -> None:
    import msgspec

    configs = request.configs
    at_once = asyncio.Semaphore(_CHECKS_AT_ONCE)
    async with connected() as trainshed:
        await resolve_after(trainshed, request)
        for warning in await look_at_programs(trainshed, request):
            warn(warning)

        async def check(number: int, config: Config) -> Check:
            async with at_once:
                try:
                    return await trainshed.check(config)
                except TrainshedError as error:
                    if not request.batch or error.code is ErrorCode.UNAVAILABLE:
                        raise
                    raise error.placed(request.places[number], ": ") from None

        try:
            async with asyncio.TaskGroup() as tasks:
                checking = [tasks.create_task(check(*one)) for one in enumerate(configs)]
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        checks = [one.result() for one in checking]
        for one in checks:
            if as_json:
                print_json(msgspec.json.encode(one))
            elif len(checks) == 1:
                ended = await _ended_ago(trainshed, one.run_id) if one.status and one.status.ended else ""
                click.echo("\n".join(_check_lines(one, _code(request), ended)))
            else:
                click.echo(f"{one.run_id}  {'new' if one.new else one.status}  {_where(one)}")
    if len(checks) > 1:
        note(f"{sum(one.new for one in checks)} of {len(checks)} are new; nothing was submitted")
    elif checks[0].new:
        note("nothing was submitted; to do it, leave out --dry-run")
    else:
        note(
            "nothing was submitted, and without --dry-run nothing would start; --new makes another run of it"
        )


def _check_lines(check: Check, code: str, ended: str) -> list[str]:
    status = RunStatus.UNSPECIFIED if check.status is None else check.status
    new = "yes" if check.new else f"no, there is one: {status}{ended}"
    return [
        f"run:           {check.run_id}",
        f"digest:        {check.digest}",
        f"code:          {code}",
        f"new:           {new}",
        f"could run on:  {_where(check)}",
    ]


def _code(request: Request) -> str:
    """The code that is part of the run, and the folder in which it was read just now."""
    from services.cli.describe import code_named

    code, beside = request.configs[0].get("code"), request.provenance
    if not isinstance(code, dict):
        return "none: an edit of the program makes no other run"
    shown = code_named(code, beside)
    return shown if beside is None else f"{shown}, in {beside.folder}"


def _where(check: Check) -> str:
    return ", ".join(check.nodes) or "no node that takes work now; see: trainshed nodes"
