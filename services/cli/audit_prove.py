"""`trainshed audit prove`: a run's certificate, from the log's events and the projector's proofs.

Owns where files are written; what a certificate is, is projections.audit.certificate's.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from services.cli.common import connected, log_errors, nats_option, note, run_async, stored_log
from services.cli.run_argument import RUN
from services.cli.verb import verb
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.os_errors import cause

if TYPE_CHECKING:
    from projections.audit.certificate import Certificate
    from trainshed_client.client import Trainshed


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

    It has every event of the run, and the proof that each is in the log that a signed checkpoint speaks of: one that nodes
    have cosigned, where there is one with all these events. `trainshed audit check` verifies it anywhere.
    """
    from projections.audit.certificate import check, proof_files

    certificate, cosigned = run_async(_certificate(run))
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
    if not cosigned:
        note(
            "no node has cosigned all of these events yet: some seconds after a run's end its nodes have; ask again"
        )


async def _certificate(run: str) -> tuple[Certificate, bool]:
    """And whether a node has cosigned its checkpoint."""
    from projections.audit.certificate import Certificate, proved_event
    from trainshed_client import subjects

    async with connected() as trainshed:
        run_id = (await trainshed.resolve(run)).run_id
        signed: dict[str, Any] = msgspec.json.decode(await trainshed.call("audit.checkpoint", {}))
        events = []
        with log_errors(trainshed):
            log = stored_log(trainshed)
            messages = [
                message async for message in log.messages((subjects.run_events(run_id),), last=signed["seq"])
            ]
            last = await _proof(trainshed, messages[-1].seq, signed["size"])
            cosigned = msgspec.json.decode(await trainshed.call("audit.checkpoint", {"cosigned": True}))
            if cosigned["cosigned_by"] and last["index"] < cosigned["size"] <= signed["size"]:
                signed = cosigned
            for message in messages:
                proof = await _proof(trainshed, message.seq, signed["size"])
                events.append(proved_event(message, proof["index"], proof["proof"]))
            log_id = await log.log_id()
    certificate = Certificate(
        1, log_id, signed["origin"], signed["vkey"], run_id, signed["checkpoint"], tuple(events)
    )
    return certificate, bool(signed["cosigned_by"])


async def _proof(trainshed: Trainshed, event: int, size: int) -> dict[str, Any]:
    proof: dict[str, Any] = msgspec.json.decode(
        await trainshed.call("audit.inclusion", {"event": event, "size": size})
    )
    return proof
