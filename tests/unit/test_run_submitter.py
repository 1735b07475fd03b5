"""Whose run it is, on its way from Submitted to the node: by it a root agent chooses as whom the worker runs."""

from __future__ import annotations

import msgspec
import pytest

from events.state import Run, Snapshot, restore, snapshot
from events.types import Submitted, View
from projections.read_model.folds import fold_of, run_of
from services.dispatcher.decisions import dispatched
from services.scheduling.scheduler import Grant
from tests.support.builders import Story, config
from trainshed_client.subjects import Role


def submit(story: Story, run_id: str, by: str) -> Run:
    story.put(Role.GATEWAY, Submitted(run_id=run_id, config=config(), digest="0" * 64, submitted_by=by))
    return story.state.runs[run_id]


@pytest.fixture
def story() -> Story:
    made = Story()
    made.elect()
    made.join()
    return made


def launched_for(run: Run) -> object:
    event = dispatched(Grant(run, "gpu01", "a", (), 0, (), 0), 1, View(seq=1, now="2026-01-01T00:00:00Z"))
    return msgspec.json.decode(event.launch).get("submitted_by")


def test_the_node_is_given_the_name_unless_it_is_the_local_persons(story: Story) -> None:
    assert launched_for(submit(story, "r1", "sam")) == "sam"
    assert launched_for(submit(story, "r2", "local")) is None


def test_what_a_worker_submits_is_its_submitters_however_deep(story: Story) -> None:
    submit(story, "r1", "sam")
    assert launched_for(submit(story, "r2", "run/r1")) == "sam"
    assert launched_for(submit(story, "r3", "run/r2")) == "sam"


def test_a_run_that_is_not_known_any_more_makes_nobodys_run(story: Story) -> None:
    assert launched_for(submit(story, "r2", "run/r1")) == "run/r1"


def test_no_field_of_a_config_gives_another_name(story: Story) -> None:
    forged = Submitted(
        run_id="r1",
        config=config(metadata={"submitted_by": "root"}, labels={"submitted_by": "root"}),
        digest="0" * 64,
        submitted_by="sam",
    )
    story.put(Role.GATEWAY, forged)
    assert launched_for(story.state.runs["r1"]) == "sam"


def test_a_snapshot_and_the_read_model_keep_it(story: Story) -> None:
    run = submit(story, "r1", "sam")
    kept = msgspec.msgpack.encode(snapshot(story.state))
    assert restore(msgspec.msgpack.decode(kept, type=Snapshot)).runs["r1"].submitter == "sam"
    assert run_of(fold_of(run), run.run_id, run.submit_seq, run.config.decode()) == run
