"""The caller's PATH, and where its code is, on their way from Submitted to the node, however long that takes."""

from __future__ import annotations

import msgspec

from events.state import Run, Snapshot, restore, snapshot
from events.types import Dispatched, Submitted, View
from projections.read_model.folds import fold_of, run_of
from services.dispatcher.decisions import dispatched
from services.scheduling.scheduler import Grant
from tests.support.builders import Story, config
from trainshed_client.provenance import Provenance
from trainshed_client.subjects import Role

CODE = {"sha256": "ab" * 32}
PATH = "/home/ada/venv/bin:/usr/bin"


def submitted() -> Story:
    story = Story()
    story.elect()
    story.join()
    one = Submitted(
        run_id="r1",
        config=config(environment={"A": "1"}, code=CODE),
        digest="0" * 64,
        caller_path=PATH,
        provenance=Provenance(folder="/srv/rl", commit="9d31", ignore=("*.ipynb",)),
    )
    story.put(Role.GATEWAY, one)
    return story


def launch_of(run: Run) -> object:
    grant = Grant(run, "gpu01", "a", (), 0, (), 0)
    event = dispatched(grant, 1, View(seq=1, now="2026-01-01T00:00:00Z"))
    assert isinstance(event, Dispatched)
    return msgspec.json.decode(event.launch)


EXPECTED = {
    "entry_point": "/bin/true",
    "environment": {"A": "1"},
    "caller_path": PATH,
    "code": CODE,
    "code_folder": "/srv/rl",
    "code_ignore": ["*.ipynb"],
}


def test_it_stands_beside_the_environment_in_what_is_launched() -> None:
    assert launch_of(submitted().run()) == EXPECTED


def test_a_run_of_a_log_that_has_none_is_launched_as_ever() -> None:
    story = Story()
    story.submit("r1")
    assert launch_of(story.run()) == {"entry_point": "/bin/true"}


def test_a_retry_after_a_snapshot_has_it_too() -> None:
    story = submitted()
    story.dispatch()
    story.start()
    kept = msgspec.msgpack.encode(snapshot(story.state))
    story.state = restore(msgspec.msgpack.decode(kept, type=Snapshot))
    story.fail()
    story.retry()
    assert story.run().attempt == 2
    assert launch_of(story.run()) == EXPECTED


def test_the_read_model_gives_it_back() -> None:
    run = submitted().run()
    assert run_of(fold_of(run), run.run_id, run.submit_seq, run.config.decode()) == run
