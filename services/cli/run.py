"""`trainshed run`: submit, follow the output to the end, and be the worker to whoever called.

Owns where the output goes and what the command exits with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from services.cli.clock import now
from services.cli.common import connected, detach_on_interrupt, exit_with, nats_option, note, run_async, warn
from services.cli.config_options import config_options
from services.cli.describe import exit_code_of, summary
from services.cli.local_check import look_at_programs
from services.cli.output import print_attempt, print_chunks
from services.cli.request import Request, build
from services.cli.stdin_notice import data_waits
from services.cli.submit import Submitting, already, resolve_after
from services.cli.text import clean, seconds_between, short
from services.cli.verb import verb
from services.cli.wait_notice import WaitNotice
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.rendering.ago import ago

if TYPE_CHECKING:
    from trainshed_client.answers import Submission
    from trainshed_client.records import RunRecord

NO_INPUT = (
    "what is sent to this command's standard input is not read: a worker gets none. Put it into a file, "
    "and name that file to the program"
)


@verb("trainshed run --gpus 1 -- python3 train.py --seed 1", "trainshed run -f run.yaml")
@config_options
@nats_option
def run(**options: Any) -> None:
    """Submit a run, follow its output until it ends, and exit with the worker's code.

    Its stdout goes to stdout, its stderr to stderr. Ctrl-C detaches: the run goes on. A config that is a run
    already is not started again: its output is shown. The exit code is 128 + n for signal n, and 125 for a run that
    ended without a code of its own (cancelled, timed out, lost, not started).
    """
    request = build(options)
    if request.batch:
        raise TrainshedError(
            ErrorCode.INVALID, "run follows one run; for JSON lines: trainshed submit -f FILE.jsonl"
        )
    for warning in request.warnings:
        warn(warning)
    exit_with(run_async(_run(request)))


async def _run(request: Request) -> int:
    async with connected(patient=True) as trainshed:
        await resolve_after(trainshed, request)
        warnings = await look_at_programs(trainshed, request, refuse=False)
        async with Submitting(trainshed, request.configs) as submitting:
            submission = await trainshed.submit(request.configs[0], **request.beside)
            run_id = submission.run_id
            detach_on_interrupt(lambda: f"detached; to stop it: trainshed cancel {short(run_id)}")
            note(
                f"run {short(run_id)}" if submission.created else await already(trainshed, submission, "run")
            )
            for warning in warnings:
                warn(warning)
            if data_waits():
                note(NO_INPUT)
            if submission.created:
                await submitting.note_what_it_gets()
        # A run that fails at once may be at a later attempt already.
        first = 1 if submission.created else None
        async with (
            WaitNotice(trainshed) as notice,
            trainshed.output(
                run_id, first_attempt=first, patient=True, on_attempt=print_attempt, on_record=notice.seen
            ) as output,
        ):
            await print_chunks(output, merged=False)
            for missing in output.missing:
                warn(missing)
            record = output.record
            note(f"run {short(run_id)} {clean(summary(record, now()))}")
            if not submission.created:
                note(_not_started(submission, record))
            return exit_code_of(record)


def _not_started(submission: Submission, record: RunRecord) -> str:
    """The last line where a run that there was answered: whoever reads the end alone must not take it for a new one."""
    was = "was under way"
    if submission.status.ended:
        seconds = seconds_between(record.ended_at, now())
        was = "had ended before" if seconds is None else f"ended {ago(seconds)}"
    return (
        f"nothing was started: this was the output of run {short(record.run_id)}, which {was}. "
        "For a new run: trainshed run --new …"
    )
