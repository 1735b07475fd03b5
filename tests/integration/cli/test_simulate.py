"""`trainshed simulate` on a running stack: its own log, decided again and on other nodes."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.stack import Stack


def test_the_live_log_comes_out_as_recorded_and_otherwise_on_other_nodes(
    stack: Stack, tmp_path: Path
) -> None:
    runs = [stack.submit("--new", "--priority", str(n % 3), shell="sleep 0.3") for n in range(6)]
    stack.wait(*runs)
    again = stack.trainshed("simulate", "--json")
    assert "nothing is changed: of 6 grants decided again 6 came out as recorded" in again.stderr
    assert json.loads(again.text)["jobs"] == 6
    log = tmp_path / "events.jsonl"
    log.write_bytes(stack.trainshed("events").stdout)
    picture = tmp_path / "what-if.svg"
    options = ("--nodes", "1x0", "--policy", "fifo", "--gantt", str(picture))
    live = stack.trainshed("simulate", "--json", *options)
    filed = stack.trainshed("simulate", "--json", "--log", str(log), *options)
    assert json.loads(live.text)["mean_slowdown"] == 1.0
    assert json.loads(filed.text)["jobs"] == 6
    assert picture.read_text().startswith("<svg ")
