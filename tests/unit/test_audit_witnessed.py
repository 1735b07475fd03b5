"""What an audit makes of the nodes' word on the log: cosignatures to compare, findings, and whether a policy is met."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from msgspec.structs import replace

from projections.audit.against import Against, KeptHead, Misfit
from projections.audit.witnessed import PolicyVerdict, judged, reported
from projections.transparency.checkpoint import SignedHead, TreeHead, origin_of
from projections.transparency.cosignatures import most_cosigned, valid_cosignatures
from projections.transparency.fold import TreeFold
from projections.transparency.note import KeyKind, SignerKey, signed
from projections.transparency.policy import WitnessPolicy, parse_policy
from services.cli.audit_witnesses import Evidence, policy_line
from tests.support.times import at
from trainshed_client.direct_get import Message
from trainshed_client.records import NodeRecord, WitnessObjection
from trainshed_client.statuses import NodeStatus

ORIGIN = origin_of("of-this-test")
LOG = SignerKey(ORIGIN, KeyKind.ED25519, b"l" * 32)
AT = 1_764_412_800
OTHER = bytes(32)


def key(name: str) -> SignerKey:
    return SignerKey(f"{ORIGIN}/{name}", KeyKind.COSIGNATURE, name.encode().ljust(32))


def messages(count: int) -> list[Message]:
    return [Message(seq, 10**18, "trainshed.events.n", b"%d" % seq) for seq in range(1, count + 1)]


def head(size: int) -> TreeHead:
    fold = TreeFold()
    fold.extend(messages(size))
    return TreeHead(ORIGIN, size, fold.root)


def node(name: str, seen: TreeHead | None, **fields: Any) -> NodeRecord:
    """A node that has cosigned ``seen``."""
    record = NodeRecord(
        node=name, host=name, incarnation="a", status=NodeStatus.UP, witness=str(key(name).verifier)
    )
    if seen is not None:
        record = replace(
            record,
            witnessed_size=seen.size,
            witnessed_root=base64.b64encode(seen.root).decode(),
            witnessed_at=AT,
            witness_signature=base64.b64encode(key(name).sign(seen.text, AT).signature[8:]).decode(),
        )
    return replace(record, **fields)


def misfits(*nodes: NodeRecord, events: int = 20) -> list[Misfit]:
    report = reported(nodes, ORIGIN)
    against = Against(report.kept, None, report.misfits)
    against.take(messages(events))
    return against.misfits()


def test_what_nodes_cosigned_of_this_log_is_no_finding() -> None:
    assert misfits(node("gpu01", head(12)), node("gpu02", head(20)), node("gpu03", None)) == []
    assert misfits(node("gpu01", None, witness=None)) == []


def test_a_node_that_cosigned_another_log_is_named_with_the_range() -> None:
    found = misfits(node("gpu01", head(12)), node("gpu02", replace(head(15), root=OTHER)))
    assert found == [
        Misfit(
            13,
            "the checkpoint of 15 leaves that gpu02 cosigned at 2025-11-29T10:40:00Z no longer fits; the last that does has "
            "12: one of the events 13 to 15 is not what it was",
        )
    ]
    [cut] = misfits(node("gpu01", head(12)), events=9)
    assert cut.seq == 10
    assert (
        "the checkpoint that gpu01 cosigned at 2025-11-29T10:40:00Z has 12: what was stored from 10"
        in cut.message
    )


def test_a_key_of_another_node_and_a_time_that_no_calendar_has_are_findings() -> None:
    borrowed = replace(node("gpu01", head(12)), node="gpu02")
    [found] = misfits(node("gpu01", head(12)), borrowed)
    assert "gpu02's cosignature of 12 leaves is none" in found.message
    assert [one.node for one in valid_cosignatures([borrowed, node("gpu01", head(12))], ORIGIN)] == ["gpu01"]
    late = 1 << 62  # a signature that holds, by a node whose clock or mind is elsewhere
    signature = base64.b64encode(key("gpu01").sign(head(12).text, late).signature[8:]).decode()
    [found] = misfits(node("gpu01", head(12), witnessed_at=late, witness_signature=signature))
    assert "gpu01's cosignature of 12 leaves is none" in found.message


def test_an_objection_is_a_finding_whatever_the_node_cosigned() -> None:
    objection = WitnessObjection(
        kind="rolled_back", kept_size=30, size=11, since=at("2026-11-24T09:41:07Z"), text="it was cut"
    )
    assert misfits(node("gpu01", head(12), witness_objection=objection)) == [
        Misfit(11, "gpu01 objects to the log since 2026-11-24T09:41:07.000000Z: it was cut")
    ]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"witnessed_at": AT + 1}, "does not hold under the key of its NodeJoined"),
        ({"witnessed_size": 13}, "does not hold under the key of its NodeJoined"),
        ({"witness": str(key("gpu02").verifier)}, "is none"),
        (
            {"witness": str(replace(key("gpu01"), seed=bytes(32)).verifier)},
            "does not hold under the key of its",
        ),
        ({"witness": None}, "is none"),
        ({"witness": "nonsense"}, "is none"),
        ({"witnessed_root": "AAAA"}, "is none"),
        ({"witnessed_root": None}, "is none"),
        ({"witness_signature": None}, "is none"),
        ({"witnessed_at": -1}, "is none"),
        ({"witnessed_size": -1}, "is none"),
    ],
)
def test_a_cosignature_that_its_key_did_not_make_is_a_finding_and_counts_for_nothing(
    fields: dict[str, Any], why: str
) -> None:
    forged = node("gpu01", head(12), **fields)
    [misfit] = misfits(forged)
    assert misfit.message.startswith("gpu01's cosignature of ") and why in misfit.message
    assert valid_cosignatures([forged], ORIGIN) == []


def test_the_checkpoint_that_most_nodes_cosigned_is_of_those_that_fit_and_are_up() -> None:
    cosigned = valid_cosignatures(
        [
            node("gpu01", head(12)),
            node("gpu02", head(12)),
            node("gpu03", head(15)),
            *(node(f"gone{n}", head(5), status=NodeStatus.LOST) for n in range(3)),
            *(node(f"fork{n}", replace(head(9), root=OTHER)) for n in range(3)),
        ],
        ORIGIN,
    )
    assert most_cosigned(cosigned, lambda one: one.root != OTHER) == head(12)
    assert most_cosigned(cosigned[-2:], lambda one: True) == head(15)  # gpu02 and gpu03
    assert most_cosigned(cosigned, lambda one: False) is None
    assert most_cosigned([], lambda one: True) is None


def checkpoint(seen: TreeHead, *names: str) -> SignedHead:
    signatures = [LOG.sign(seen.text), *(key(name).sign(seen.text, AT) for name in names)]
    return SignedHead.parse(signed(seen.text, signatures))


def policy(*lines: str) -> WitnessPolicy:
    names = ("gpu01", "gpu02", "gpu03")
    witnesses = [f"witness {name} {key(name).verifier}" for name in names]
    return parse_policy("\n".join([f"log {LOG.verifier}", *witnesses, *lines]).encode())


def test_the_largest_valid_checkpoint_of_this_log_meets_a_policy() -> None:
    two = policy("group two 2 gpu01 gpu02 gpu03", "quorum two")
    given = [
        checkpoint(head(5), "gpu01", "gpu02", "gpu03"),
        checkpoint(head(9), "gpu01", "gpu03"),
        checkpoint(head(12), "gpu01"),
        checkpoint(replace(head(14), root=OTHER), "gpu01", "gpu02", "gpu03"),
    ]
    against = Against(KeptHead(one.head) for one in given)
    against.take(messages(20))
    valid = judged(two, given, against.fits)
    assert valid == PolicyVerdict(True, 9, ("gpu01", "gpu03"), None)
    assert policy_line(valid, "p") == "valid by p: the first 9 events, cosigned by gpu01, gpu03"
    lacking = judged(two, given[2:3], against.fits)
    assert lacking == PolicyVerdict(
        False, 12, ("gpu01",), "1 of (a cosignature of gpu02, a cosignature of gpu03)"
    )
    assert policy_line(lacking, "p") == (
        "not valid by p: the checkpoint of 12 leaves, cosigned by gpu01, lacks 1 of (a cosignature of gpu02, a cosignature of "
        "gpu03)"
    )
    other = judged(two, given[3:], against.fits)
    assert (other.met, other.lacks) == (False, "a log that begins as it says")
    nothing = judged(two, [], against.fits)
    assert nothing == PolicyVerdict(False, None, (), "any checkpoint")
    assert policy_line(nothing, "p") == "not valid by p: there is no checkpoint"


def test_a_signature_of_the_policys_that_was_altered_meets_nothing() -> None:
    text = str(checkpoint(head(12), "gpu01").note)
    lines = text.split("\n")
    lines[2] = base64.b64encode(OTHER).decode()
    forged = SignedHead.parse("\n".join(lines))
    verdict = judged(policy("quorum gpu01"), [forged], lambda one: True)
    assert not verdict.met and "does not hold" in (verdict.lacks or "")


def test_whose_cosignatures_the_log_bears_out_is_printed_by_name_where_these_are_few() -> None:
    named = "gpu00 (the first 12 events), gpu01 (the first 13 events)"
    for count, by in (
        (0, None),
        (1, "gpu00: the first 12 events"),
        (2, named),
        (5, "5 nodes: the first 12 events, 16 by some"),
    ):
        fork = node("fork", replace(head(9), root=OTHER))
        report = reported([*(node(f"gpu{n:02}", head(12 + n)) for n in range(count)), fork], ORIGIN)
        against = Against(report.kept)
        against.take(messages(20))
        evidence = Evidence(against, (), None, report.cosigned)
        expected = [] if by is None else [f"cosigned by {by}"]
        assert (evidence.lines(None, "p"), evidence.judged()) == (expected, None)
        assert evidence.borne_out() == [{"node": f"gpu{n:02}", "size": 12 + n} for n in range(count)]
