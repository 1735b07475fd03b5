"""Certificates that are near their end, as `trainshed nodes` and the metrics have them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from services.access.identities import NodeIdentity, Person, PersonRole
from services.cli.members import SOON
from services.cli.nodes import certificates
from services.enrol.roster import IssuedCertificate, Roster, ends, enrolled, revoked
from services.observe.metrics import Metrics
from tests.support.samples import samples
from trainshed_client.answers import NodePage

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)


def roster(**lives: timedelta) -> Roster:
    found = Roster()
    for number, (node, life) in enumerate(lives.items()):
        issued = IssuedCertificate(
            serial=f"{number}", key=f"{number:064}", issued_at=NOW, not_after=NOW + life, authority="a" * 64
        )
        found = enrolled(found, NodeIdentity(node), issued, now=NOW)
    return found


def page(*nodes: str) -> NodePage:
    one = next(iter(samples()["NodePage"].values()))["nodes"][0]
    records = [{**one, "node": node} for node in nodes]
    return msgspec.json.decode(msgspec.json.encode({"v": 1, "seq": 1, "nodes": records}), type=NodePage)


def test_nodes_says_what_to_do_about_each_and_nothing_of_the_others() -> None:
    known = roster(gpu01=timedelta(days=13), gpu02=timedelta(days=15), gpu03=-timedelta(days=1))
    found = list(certificates(page("gpu01", "gpu02", "gpu03", "gpu04"), known, NOW, SOON))
    assert found == [
        "gpu01's certificate expires on 2026-12-13 and was not renewed: see its agent's log, which says why. After that "
        + "day: trainshed node add gpu01",
        "gpu03's certificate expired on 2026-11-29: it is let in no more. Let it in anew: trainshed node add gpu03",
    ]


def test_one_who_was_revoked_has_no_end_any_more() -> None:
    known = roster(gpu01=timedelta(days=1))
    assert ends(known) == {"gpu01.node.trainshed": NOW + timedelta(days=1)}
    assert ends(revoked(known, NodeIdentity("gpu01"), now=NOW)) == {}


@pytest.mark.parametrize("left", [90.0, 0.0, -5.0])
async def test_the_metric_counts_down_and_on(left: float) -> None:
    metrics = Metrics("projector", clock=lambda: int(NOW.timestamp() * 1e9))
    issued = IssuedCertificate(
        serial="1", key="0" * 64, issued_at=NOW, not_after=NOW + timedelta(seconds=left), authority="a" * 64
    )
    known = enrolled(Roster(), Person("sam", PersonRole.VIEWER), issued, now=NOW)
    metrics.certificates(lambda: ends(known))
    text = (await metrics.page())[0].decode()
    assert f'trainshed_certificate_expires_seconds{{user="sam.user.trainshed"}} {left}' in text
