"""A run's memory on a whole stack: who needs more than its `memory_mb` ends for it, and every screen says so."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from services.agent.processes import memory_cgroups, sweep
from tests.support.stack import Stack

MARKS = sweep.Marks("", "test")
pytestmark = pytest.mark.skipif(
    not memory_cgroups.memory_cgroups_of(MARKS, sweep.cgroups_of(MARKS)),
    reason="memory can be limited in no cgroup here",
)
GROW = "held = []\nwhile True: held.append(b'x' * 1_000_000)\n"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    made = Stack(tmp_path_factory.mktemp("memory"), gpus=0, cpus=2)
    try:
        made.start()
        yield made
    finally:
        made.close()


def test_who_needs_more_is_ended_tried_again_and_said_so(stack: Stack) -> None:
    config = {
        "entry_point": sys.executable,
        "arguments": ["-S", "-c", GROW],
        "resources": {"memory_mb": 100},
        "retry": {"max_attempts": 2, "backoff_s": 0, "on": ["signal"]},
    }
    run_id = stack.submit_config(config)
    stack.wait(run_id, code=137)
    view = stack.trainshed("show", run_id, json=True)
    assert (view["run"]["failure_reason"], view["run"]["attempt"]) == ("out_of_memory", 2)
    for row in (view["run"], *view["attempts"]):
        assert row["memory_enforced"] is True
        assert 90 <= row["usage"]["memory_peak_mb"] <= 100
        assert row["usage"]["cpu_s"] > 0
    shown = stack.trainshed("show", run_id).text
    assert "100 MB of memory (enforced)" in shown
    assert "FAILED: out of memory: it needed more memory than its resources.memory_mb, 100" in shown
    (node,) = stack.trainshed("nodes", json=True)["nodes"]
    assert node["memory_enforced"] is True
    assert stack.trainshed("audit", "verify", json=True)["ok"] is True
