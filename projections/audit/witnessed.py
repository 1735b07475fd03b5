"""What the nodes as witnesses say of the log, and which checkpoint is valid by a policy: for an audit to compare.

Owns what of their word is kept and what is a finding by itself; knows no bus, and whether the log bears it out is against's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from events.times import rfc3339
from projections.audit.against import KeptHead, Misfit
from projections.transparency.checkpoint import SignedHead, TreeHead
from projections.transparency.cosignatures import cosigned_by
from projections.transparency.policy import WitnessPolicy
from trainshed_client.errors import TrainshedError
from trainshed_client.records import NodeRecord
from trainshed_client.times import utc_text


class WitnessReport(msgspec.Struct, frozen=True):
    """What nodes cosigned, to be compared with the log (``cosigned``: by the node), and what is wrong whatever it says."""

    cosigned: dict[str, TreeHead]
    kept: tuple[KeptHead, ...]
    misfits: tuple[Misfit, ...]


def reported(nodes: Iterable[NodeRecord], origin: str) -> WitnessReport:
    """Of each node the last checkpoint that it cosigned, if its key did sign it; and what it has against the log."""
    heads, kept, misfits = dict[str, TreeHead](), list[KeptHead](), list[Misfit]()
    for node in nodes:
        if (objection := node.witness_objection) is not None:
            seq = objection.event or max(1, min(objection.kept_size, objection.size))
            text = f"{node.node} objects to the log since {utc_text(objection.since)}: {objection.text}"
            misfits.append(Misfit(seq, text))
        try:
            cosigned = cosigned_by(node, origin)
            holds = cosigned is None or cosigned.holds
        except TrainshedError as error:
            holds, cosigned = False, None
            why = f"is none ({error})"
        else:
            why = "does not hold under the key of its NodeJoined"
        if not holds:
            size = node.witnessed_size or 0
            text = f"{node.node}'s cosignature of {size} leaves {why}: its heartbeat or that key was altered"
            misfits.append(Misfit(size, text))
        elif cosigned is not None:
            at = rfc3339(cosigned.at * 1_000_000_000)
            heads[node.node] = cosigned.head
            kept.append(KeptHead(cosigned.head, f" that {node.node} cosigned at {at[:19]}Z"))
    return WitnessReport(heads, tuple(kept), tuple(misfits))


class PolicyVerdict(msgspec.Struct, frozen=True):
    """Whether a checkpoint that the log bears out is valid by the policy: the largest, else the one that lacks something.

    ``size``: of which (None: there is none at all); ``cosigned_by``: as the policy calls them; ``lacks``: what would make it valid.
    """

    met: bool
    size: int | None
    cosigned_by: tuple[str, ...]
    lacks: str | None


def judged(
    policy: WitnessPolicy, checkpoints: Sequence[SignedHead], fits: Callable[[TreeHead], bool]
) -> PolicyVerdict:
    """What the policy says of these."""
    verdicts = []
    for each in checkpoints:
        try:
            signers, altered = policy.signers(each.note), None
        except TrainshedError as error:
            signers, altered = (), f"signatures that hold: {error.message}"
        lacks = altered or policy.lacks(each.head.origin, signers)
        if lacks is None and not fits(each.head):
            lacks = "a log that begins as it says"
        verdicts.append(PolicyVerdict(lacks is None, each.head.size, policy.cosigners(signers), lacks))
    nothing = PolicyVerdict(False, None, (), "any checkpoint")
    return max(
        verdicts, key=lambda one: (one.met, one.met or len(one.cosigned_by), one.size), default=nothing
    )
