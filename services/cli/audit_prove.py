"""`trainshed audit prove`: a run's certificate, from the log's events and the projector's proofs.

Owns where files are written; what a certificate is, is projections.audit.certificate's.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from services.cli.common import connected, log_errors, nats_option, run_async
from services.cli.run_argument import RUN
from services.cli.verb import verb
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.os_errors import cause

if TYPE_CHECKING:
    from projections.audit.certificate import Certificate


@verb("trainshed audit prove ppo-cartpole", name="prove")
@click.argument("run", metavar="RUN", type=RUN)
@click.option(
    "--tlog-proof",
    "folder",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write each event's proof there as well, as a C2SP tlog-proof.",
)
@nats_option
def prove(run: str, folder: Path | None) -> None:
    """Write RUN's certificate into this folder, as <run id>.certificate.json, and print its name.

    It has every event of the run, and the proof that each is in the log that a signed checkpoint speaks of.
    `trainshed audit check` verifies it anywhere.
    """
    from projections.audit.certificate import check, proof_files

    certificate = run_async(_certificate(run))
    if wrong := check(certificate).wrong:
        raise TrainshedError(
            ErrorCode.CONFLICT,
            f"what the log and its tree answer does not fit: {wrong[0]}. Run: trainshed audit verify",
        )
    path = Path(f"{certificate.run_id}.certificate.json")
    try:
        path.write_bytes(msgspec.json.encode(certificate) + b"\n")
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in proof_files(certificate).items():
                (folder / name).write_text(text)
    except OSError as error:
        raise TrainshedError(
            ErrorCode.INVALID, f"cannot be written: {cause(error)}", "--tlog-proof"
        ) from None
    click.echo(str(path))


async def _certificate(run: str) -> Certificate:
    from events.log import EventLog
    from projections.audit.certificate import Certificate, proved_event
    from trainshed_client import subjects

    async with connected() as trainshed:
        run_id = (await trainshed.resolve(run)).run_id
        signed = msgspec.json.decode(await trainshed.call("audit.checkpoint", {}))
        events = []
        with log_errors(trainshed):
            log = EventLog(trainshed.nc)
            async for message in log.read_raw((subjects.run_events(run_id),), end_seq=signed["seq"]):
                question = {"event": message.seq, "size": signed["size"]}
                proof = msgspec.json.decode(await trainshed.call("audit.inclusion", question))
                events.append(proved_event(message, proof["index"], proof["proof"]))
            log_id = await log.log_id()
    return Certificate(
        1, log_id, signed["origin"], signed["vkey"], run_id, signed["checkpoint"], tuple(events)
    )
