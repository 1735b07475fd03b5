"""A played page: two sessions that differ in times, ids and counts are alike, and in anything else they are not."""

from __future__ import annotations

import pytest

from tests.support.played_page import blocks, masked, named

RUNS = ("paper", "seed-1")
FIRST = """\
RUN     NAME   STATUS   WHERE   SINCE  WAITED   RAN  LAST
ylz7g6  paper  RUNNING  bell:0  15:52    3.6s    0s  accuracy 0.911
cosigned by ada, bell: the first 24 events
  I9 at 19: completed from ada on run ylz7g6bqjonnidmwnp3wnbjeu3 attempt 1: it was granted to bell
  trainshed/01a22801-bdf5-7cf6-9f98-d57c25e8a0dc+49d4249b+AbQOCM2j0fVSgZbheXmPZ4yBuVkX42QX/MPylv1iNYbX
memory_mb is enforced on ada, bell
    held by ylz7g6 (paper,
    ada:0)
"""
SECOND = """\
RUN     NAME   STATUS   WHERE   SINCE  WAITED    RAN  LAST
sample  paper  RUNNING  bell:0  03:07     2m  950ms  accuracy 0.911
cosigned by ada, bell: the first 1,024 events
  I9 at 1,019: completed from ada on run sampleazmk34vbikn3xmrhppp4 attempt 1: it was granted to bell
  trainshed/01a2280d-cc95-7870-b43e-42299fec4df2+644e0ec7+AeUEeVwSjwuKsS6iCQegYrRRm6lnf6b/PNNrHMG8MyPF
    held by sample (paper, ada:0)
"""


def alike(first: str, second: str) -> bool:
    return masked(first, named(first, RUNS)) == masked(second, named(second, RUNS))


def test_two_sessions_are_alike() -> None:
    assert alike(FIRST, SECOND)


@pytest.mark.parametrize(
    ("there", "instead"),
    [
        ("0.911", "0.930"),
        ("RUNNING", "PENDING"),
        ("paper  RUNNING", "seed-1  RUNNING"),
        ("I9", "I10"),
        ("granted to bell", "granted to ada"),
        ("cosigned by ada, bell", "cosigned by ada"),
        ("on run sampleazmk34vbikn3xmrhppp4", "on run bethok3kb67rtje2bcw7qijb27"),
        ("    held by sample (paper, ada:0)\n", ""),
    ],
)
def test_another_word_is_told(there: str, instead: str) -> None:
    assert there in SECOND
    assert not alike(FIRST, SECOND.replace(there, instead))


def test_a_page_is_files_scripts_and_sessions() -> None:
    page = "```python\n# a.py: a file\nx = 1\n```\n```sh\n# no file\nls\n```\n```console\n$ ls\na.py\n$ true\n```\n"
    file, script, session = blocks(page)
    assert (file.file, script.file, session.file) == ("a.py", None, None)
    assert list(session.typed()) == [("ls", "a.py\n"), ("true", "")]
    assert page[session.start : session.end] == session.text
