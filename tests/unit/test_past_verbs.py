"""Verbs with `--at`: every question is of that moment, also the later pages, and every duration is told as of it."""

from __future__ import annotations

import importlib
import re

import pytest
from click.testing import CliRunner, Result

from bench.log_maker import LogMaker
from events.types import Failed, NodeLost
from services.cli.main import cli
from tests.support.past_stack import PastStack
from trainshed_client import queries
from trainshed_client.statuses import FailureReason

pytestmark = pytest.mark.usefixtures("zone")
MODULES = ("at_rest", "audit_at", "audit_diff", "explain", "nodes", "slots")
DAYS = re.compile(r"\b\d+d\b")


class Told:
    """A log of some runs, and the verbs that ask it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        log = self.log = LogMaker()
        log.elect()
        log.join()
        self.failed, self.live, self.queued = (log.submit(_config(name)) for name in ("a", "b", "c"))
        for run_id, slot in ((self.failed, 0), (self.live, 1)):
            log.dispatch(run_id, slots=(slot,))
            log.start(run_id, slots=(slot,))
        log.by_agent(
            Failed(run_id=self.failed, attempt=1, failure_reason=FailureReason.EXIT_CODE, exit_code=3),
            "gpu01",
        )
        self.then = log.seq
        self.later = log.submit(_config("later"))
        log.submit({**_config("b"), "labels": {"again": "yes"}})
        log.by_dispatcher(NodeLost(node="gpu01", incarnation="gpu01-a", epoch=log.epoch, silent_s=15.0))
        self.stack = PastStack(log.messages)
        monkeypatch.setattr(queries, "PAGE", 2)
        for name in MODULES:
            module = importlib.import_module(f"services.cli.{name}")
            monkeypatch.setattr(module, "connected", self.stack.connected)
        monkeypatch.setattr("services.cli.explain._past", _no_past)
        monkeypatch.setattr("services.cli.audit_diff._retried", _none_retried)

    def ask(self, *words: str) -> Result:
        self.stack.asked.clear()
        return CliRunner().invoke(cli, words)


def _config(name: str) -> dict[str, object]:
    return {"entry_point": "/bin/x", "run_name": name, "resources": {"gpus": {"requested": 1}}}


async def _no_past(*_: object, **__: object) -> None:
    return None


async def _none_retried(*_: object) -> set[str]:
    return set()


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    return Told(monkeypatch)


COMMANDS = [
    ("ls",),
    ("ls", "--all"),
    ("ls", "-n", "3"),
    ("ls", "--json"),
    ("show", "a"),
    ("show", "b"),
    ("explain", "a"),
    ("explain", "b"),
    ("explain", "c"),
    ("slots",),
    ("nodes",),
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_question_is_of_that_moment_and_every_duration_as_of_it(
    told: Told, words: tuple[str, ...]
) -> None:
    done = told.ask(*words, "--at", str(told.then))
    assert done.exit_code == 0, done.output
    (first, moment), *others = told.stack.asked
    assert (first, moment) == ("audit.at", {"seq": told.then})
    mine = [fields for call, fields in others if not call.startswith("node.gpu01.")]
    assert mine
    assert {fields.get("at") for fields in mine} == {told.then}
    assert done.stderr.startswith(f"as of event {told.then}, stored 2026-09-21 15:13:20\n")
    assert not DAYS.search(done.stdout), "it was weeks ago, and nothing is told as of now"
    assert "lost" not in done.stdout


def test_more_than_one_page_is_asked_for_and_all_of_then_are_there(told: Told) -> None:
    done = told.ask("ls", "--all", "--at", str(told.then))
    names = [line.split()[1] for line in done.stdout.splitlines()[1:]]
    assert names == ["c", "b", "a"]
    assert sum(call == "run.list" for call, _ in told.stack.asked) == 3


def test_a_name_is_that_of_the_newest_then(told: Told) -> None:
    then, now = told.ask("show", "b", "--at", str(told.then), "--json"), told.ask("show", "b", "--json")
    assert told.live in then.stdout
    assert told.live not in now.stdout
    done = told.ask("show", told.later, "--at", str(told.then))
    assert f"event {told.then}" in str(done.exception)


def test_a_time_later_than_its_event_is_what_durations_are_told_by(told: Told) -> None:
    done = told.ask("ls", "--at", "2026-09-21T17:13:20")
    assert "as of event 13, stored 2026-09-21 15:13:20 (the last by 2026-09-21 17:13:20)" in done.stderr
    live = next(line for line in done.stdout.splitlines() if line.startswith(told.live))
    assert "  2h  " in live
    assert "metrics --at 2026-09-21T16:13:20.000000Z RUN" in done.stderr, "its files, by that very moment"


@pytest.mark.parametrize("words", [("audit", "at"), ("audit", "diff", "3")], ids=" ".join)
def test_what_the_audit_shows_is_of_its_moments_too(told: Told, words: tuple[str, ...]) -> None:
    done = told.ask(*words, str(told.then))
    assert done.exit_code == 0, done.output
    allowed = {told.then} if words == ("audit", "at") else {3, told.then}
    moments = {fields.get("at", fields.get("seq")) for _, fields in told.stack.asked}
    assert moments == allowed
    assert not DAYS.search(done.stdout)
    assert "lost" not in done.stdout


def test_what_cannot_be_done_about_the_past_is_not_advised(told: Told) -> None:
    assert "trainshed cancel" in told.ask("explain", "c").stdout
    assert "trainshed cancel" not in told.ask("explain", "c", "--at", str(told.then)).stdout
    assert "node remove" in told.ask("nodes").stderr
    lost = told.ask("nodes", "--at", str(told.log.seq))
    assert "lost" in lost.stdout
    assert "node remove" not in lost.stderr
