"""docs/enrolment.md: its example is typed as it stands, and what it names of files and bounds is so."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from services.enrol import limits, listener, renewing, tokens, wire
from services.enrol.authority import CLIENT_LIFE
from services.enrol.enrolment import NEAR_ITS_END
from services.enrol.roster import MOST_MACHINES

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/enrolment.md").read_text()
PROSE = " ".join(PAGE.split())


def steps() -> list[tuple[str, str]]:
    """Each command of the example, with what the page shows of its output."""
    [block] = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    return [
        (step.partition("\n")[0], step.partition("\n")[2])
        for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
    ]


def test_the_example_is_typed_as_it_stands(tmp_path: Path) -> None:
    programs = Path(sys.executable).parent
    env = {"PATH": f"{programs}:{os.environ['PATH']}", "TRAINSHED_STATE_DIR": str(tmp_path / "state")}
    assert len(steps()) == 4
    for command, shown in steps():
        done = subprocess.run(command, shell=True, env=env, capture_output=True, text=True, check=True)
        wanted = "".join(
            ".*" if part == "…" else re.escape(part) for part in re.split("(…)", shown.removesuffix("\n"))
        )
        assert re.fullmatch(wanted, (done.stdout + done.stderr).strip("\n"), re.DOTALL), (command, done)


def test_the_numbers_of_the_page_are_those_of_the_code() -> None:
    assert f"{CLIENT_LIFE.days} days" in PROSE and f"secret ({tokens.SECRET_BYTES * 8} bits)" in PROSE
    assert f"The last {round(CLIENT_LIFE.days * NEAR_ITS_END)} days are logged" in PROSE
    assert f"within {tokens.LIFE.seconds // 60} minutes" in PROSE and f"({MOST_MACHINES} at most)" in PROSE
    assert f"at most {wire.MAX_REQUEST_BYTES // 1024} KiB" in PROSE
    assert f"each step of a connection {listener.REQUEST_WITHIN_S:g} s" in PROSE
    assert f"{limits.RATE:g} connections a second are taken ({limits.ADDRESS_RATE:g} of one address)" in PROSE
    assert f"{limits.MOST_OPEN} at a time ({limits.MOST_OPEN_OF_ADDRESS} of one address)" in PROSE
    assert renewing.LOOK_EVERY_S == 1800 and "half an hour at most" in PROSE
