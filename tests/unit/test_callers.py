"""Who asks: read from the subject alone, as what the server put there."""

from __future__ import annotations

import pytest

from services.callers import (
    AccountCaller,
    Caller,
    Insider,
    NodeCaller,
    PersonCaller,
    WorkerCaller,
    asking,
    stored_as,
    submitting_run,
)
from trainshed_client import subjects
from trainshed_client.errors import ErrorCode, TrainshedError


@pytest.mark.parametrize(
    ("subject", "caller", "by"),
    [
        ("trainshed.api.run.submit", Insider(), "local"),
        ("trainshed.api.u.P_sam.run.submit", PersonCaller("sam"), "sam"),
        ("trainshed.api.u.P_local.run.submit", PersonCaller("local"), "local"),
        ("trainshed.api.u.NODE_gpu01.audit.inclusion", NodeCaller("gpu01"), "node/gpu01"),
        ("trainshed.api.u.NODE_gpu01.w.abc.run.get", WorkerCaller("abc", "gpu01"), "run/abc"),
        ("trainshed.api.w.abc.run.get", WorkerCaller("abc"), "run/abc"),
        ("trainshed.api.u.PAGES.health", AccountCaller("PAGES"), "PAGES"),
    ],
)
def test_the_subject_names_who_asks(subject: str, caller: Caller, by: str) -> None:
    assert asking(subject) == caller
    assert stored_as(caller) == by


@pytest.mark.parametrize("account", ["P_sam", "PAGES", "*", "NODE_"])
def test_no_one_but_a_node_asks_for_a_worker(account: str) -> None:
    with pytest.raises(TrainshedError, match="is no node") as caught:
        asking(f"trainshed.api.u.{account}.w.abc.run.cancel")
    assert caught.value.code is ErrorCode.DENIED


def test_a_run_is_named_by_what_its_worker_is_stored_as() -> None:
    assert submitting_run(stored_as(WorkerCaller("abc", "gpu01"))) == "abc"
    assert submitting_run("sam") is None


def test_a_node_asks_for_its_workers_at_subjects_of_their_own() -> None:
    assert subjects.api_as_for("run.get") == "trainshed.api.u.*.w.*.run.get"
