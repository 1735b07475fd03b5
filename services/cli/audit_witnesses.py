"""What `audit verify` holds against the log: checkpoints kept from before, the nodes' cosignatures, and by which policy they count.

Owns what is asked of the stack for that, and what is printed of the policy; comparing is projections.audit's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click
import msgspec

from services.cli.text import clean
from trainshed_client.answers import NodePage
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.os_errors import why

if TYPE_CHECKING:
    from events.stored_log import StoredLog
    from projections.audit.against import Against
    from projections.audit.witnessed import PolicyVerdict
    from projections.transparency.checkpoint import SignedHead, TreeHead
    from projections.transparency.policy import WitnessPolicy
    from trainshed_client.client import Trainshed

MOST_NAMED = 3


class Brought(NamedTuple):
    """What the caller has from elsewhere."""

    checkpoints: tuple[SignedHead, ...] = ()
    tiles: Path | None = None
    policy: WitnessPolicy | None = None


class Evidence(NamedTuple):
    """All that the log is compared with. ``by_nodes``: of each node the checkpoint that it cosigned, with a key from the log
    itself."""

    against: Against
    checkpoints: tuple[SignedHead, ...]
    policy: WitnessPolicy | None
    by_nodes: Mapping[str, TreeHead]
    strangers: bool = False
    """Whether a key that cosigned is not one of the policy's."""

    @property
    def size(self) -> int | None:
        """The size of the largest checkpoint; None: there is none."""
        return self.against.size if self.checkpoints or self.by_nodes else None

    def borne_out(self) -> list[dict[str, object]]:
        """The nodes whose cosignature is of this log, which was read, for JSON."""
        return [{"node": node, "size": size} for node, size in self._sizes().items()]

    def _sizes(self) -> dict[str, int]:
        return {node: head.size for node, head in self.by_nodes.items() if self.against.fits(head)}

    def judged(self) -> PolicyVerdict | None:
        """What the policy says, the log having been read; None where there is no policy."""
        from projections.audit.witnessed import judged

        return None if self.policy is None else judged(self.policy, self.checkpoints, self.against.fits)

    def lines(self, by_policy: PolicyVerdict | None, file: str) -> list[str]:
        """What is printed of all this beside what does not fit."""
        lines = []
        if sizes := self._sizes():
            lines.append(f"cosigned by {_by_whom(sizes)}")
        if by_policy is not None:
            lines.append(policy_line(by_policy, file))
        return lines


def _by_whom(sizes: dict[str, int]) -> str:
    """Who cosigned how many events, and nobody more than he did: who objects has cosigned fewer."""
    least, most = min(sizes.values()), max(sizes.values())
    if len(sizes) > MOST_NAMED:
        more = "" if least == most else f", {most:,} by some"
        return f"{len(sizes)} nodes: the first {least:,} events{more}"
    if least == most:
        return f"{', '.join(map(clean, sizes))}: the first {most:,} events"
    return ", ".join(f"{clean(node)} (the first {size:,} events)" for node, size in sizes.items())


def brought(against: Path | None, tiles: Path | None, policy: WitnessPolicy | None) -> Brought:
    """The files of these options. Raises what names the option: also where a signature of one of the policy's keys does not
    hold in a file that the caller kept."""
    if against is None:
        return Brought(policy=policy)
    from projections.audit.against import OPTION, read_checkpoints

    try:
        checkpoints = tuple(read_checkpoints(against.read_bytes(), str(against)))
    except OSError as error:
        raise click.BadParameter(f"{against}: {why(error)}", param_hint=OPTION) from None
    if policy is not None:
        for each in checkpoints:
            policy.signers(each.note, OPTION)
    if tiles is not None:
        _look_for_tiles(tiles, checkpoints)
    return Brought(checkpoints, tiles, policy)


def _look_for_tiles(folder: Path, checkpoints: tuple[SignedHead, ...]) -> None:
    """Raises what names the option where the first full tile of these checkpoints is not in a folder: it is some other one."""
    from projections.transparency.fold import TILE_WIDTH
    from projections.transparency.tiles import TileMissing, Tiles

    if checkpoints[-1].head.size >= TILE_WIDTH:
        try:
            Tiles(folder).read(0, 0)
        except TileMissing as error:
            raise click.BadParameter(
                f"{error}; expected: a copy of <state>/audit from before", param_hint="--tiles"
            ) from None


async def gathered(trainshed: Trainshed, log: StoredLog, own: Brought) -> Evidence:
    """These, and what the nodes have cosigned. Asked before the log is read: all that it speaks of is stored by then.

    Raises TrainshedError where a checkpoint is of another log.
    """
    from projections.audit.against import Against, KeptHead, of_this_log
    from projections.audit.witnessed import reported
    from projections.transparency.checkpoint import origin_of
    from projections.transparency.tiles import Tiles

    log_id = await log.log_id()
    of_this_log(own.checkpoints, log_id)
    page = msgspec.json.decode(await trainshed.call("node.list", {}), type=NodePage)
    report = reported(page.nodes, origin_of(log_id))
    stacks = () if own.policy is None else await _cosigned(trainshed)
    kept = [
        *(KeptHead(each.head) for each in own.checkpoints),
        *(KeptHead(each.head, " that the stack gave") for each in stacks),
        *report.kept,
    ]
    against = Against(kept, None if own.tiles is None else Tiles(own.tiles), report.misfits)
    known = set() if own.policy is None else set(map(str, own.policy.witnesses.values()))
    strangers = any(node.witness not in known for node in page.nodes if node.node in report.cosigned)
    return Evidence(against, (*own.checkpoints, *stacks), own.policy, report.cosigned, strangers)


async def _cosigned(trainshed: Trainshed) -> tuple[SignedHead, ...]:
    """The stack's checkpoint that most nodes have cosigned; none where its signer does not answer."""
    from projections.transparency.checkpoint import SignedHead

    try:
        answer = await trainshed.call("audit.checkpoint", {"cosigned": True})
    except TrainshedError as error:
        if error.code is not ErrorCode.UNAVAILABLE:
            raise
        return ()
    return (SignedHead.parse(msgspec.json.decode(answer)["checkpoint"]),)


def policy_line(verdict: PolicyVerdict, file: str) -> str:
    """What is printed of it."""
    by = f"cosigned by {', '.join(map(clean, verdict.cosigned_by)) or 'none of its witnesses'}"
    if verdict.met:
        return f"valid by {file}: the first {verdict.size:,} events, {by}"
    if verdict.size is None:
        return f"not valid by {file}: there is no checkpoint"
    return f"not valid by {file}: the checkpoint of {verdict.size} leaves, {by}, lacks {clean(verdict.lacks or '')}"
