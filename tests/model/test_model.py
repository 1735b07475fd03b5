"""The protocol, searched: no state breaks a rule, each has a way to a good end, and each rule is needed."""

from __future__ import annotations

import pytest

from tests.model.configs import CONFIGS
from tests.model.model import Model
from tests.model.mutants import MUTANTS
from tests.model.search import Search

EVENTS = {
    "Submitted",
    "CancelRequested",
    "NodeRemoved",
    "Elected",
    "Dispatched",
    "Stopping",
    "NodeLost",
    "NodeJoined",
    "NodeLeft",
    "Started",
    "Completed",
    "Failed",
    "Cancelled",
}
INPUTS = {
    "Begun",
    "NameRead",
    "Swept",
    "Joined",
    "JoinRefused",
    "Granted",
    "StopOrdered",
    "CountedLost",
    "FoldersPrepared",
    "StartedWritten",
    "ShimLost",
    "ShimAlive",
    "ExitWritten",
    "EndStored",
    "LeaveAsked",
    "LeaveStored",
}


@pytest.mark.timeout(600)
def test_every_pair_of_faults_on_one_node_leaves_the_rules_standing_and_a_way_to_a_good_end() -> None:
    model = Model(CONFIGS["one-node"])
    model.code.objects = True
    result = Search(model).run(60_000)
    assert result.violation is None, str(result.violation)
    assert result.whole, str(result)
    assert result.states > 40_000, str(result)
    assert model.code.stored >= EVENTS
    assert model.code.fed >= INPUTS - {"JoinRefused"}


@pytest.mark.timeout(600)
def test_two_state_folders_of_one_name_leave_the_rules_standing_and_a_way_to_a_good_end() -> None:
    model = Model(CONFIGS["names"])
    model.code.objects = True
    result = Search(model).run(30_000)
    assert result.violation is None, str(result.violation)
    assert result.states == 30_000, str(result)
    assert "JoinRefused" in model.code.fed


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", MUTANTS)
def test_a_rule_that_is_switched_off_is_missed_and_only_then(name: str) -> None:
    mutant = MUTANTS[name]
    model = Model(mutant.config)
    mutant.apply(model.code)
    violation = Search(model).run(mutant.states).violation
    assert violation is not None, f"{name}: {mutant.says}, and nothing was missed"
    print(violation)
    assert violation.what.startswith(mutant.catches), str(violation)
    with_the_rule = Search(Model(mutant.config)).run(violation.states).violation
    assert with_the_rule is None, str(with_the_rule)


def test_a_trace_tells_the_shortest_way_in_few_words() -> None:
    mutant = MUTANTS["free on silence"]
    model = Model(mutant.config)
    mutant.apply(model.code)
    violation = Search(model).run(mutant.states).violation
    assert violation is not None
    assert "d0 NodeLost a" in violation.trace
    assert len(violation.trace) <= 8
    assert str(violation).startswith(
        "I3: a worker of r1.1 runs, but the log does not have that attempt active"
    )
