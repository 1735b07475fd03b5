"""What the search found in the code, each as the shortest story: it must not come back."""

from __future__ import annotations

from services.dispatcher.obligations import owed_to_run
from tests.support.builders import Story


def test_a_stop_that_a_consumer_made_anew_at_the_join_would_not_bring_is_owed_again() -> None:
    """Lost cancel: told to stop while the agent was away, joined, and its consumer was removed by a deposed dispatcher."""
    story = Story()
    story.elect()
    story.join()
    story.submit()
    story.dispatch()
    story.start()
    story.cancel()
    story.stop()
    assert owed_to_run(story.state, story.run(), story.state.epoch) is None
    story.join(attempts=[("r1", 1)])
    owed = owed_to_run(story.state, story.run(), story.state.epoch)
    assert type(owed).__name__ == "Stopping"
    story.stop()
    assert owed_to_run(story.state, story.run(), story.state.epoch) is None


def test_another_incarnation_of_the_name_makes_no_stop_owed_again() -> None:
    story = Story()
    story.elect()
    story.join()
    story.submit()
    story.dispatch()
    story.cancel()
    story.stop()
    story.join(incarnation="b")
    assert story.active().placements[0].stopping
