"""The configurations that are searched: what there is and what may go wrong in each.

Owns their names; the first two run in `make test`, the others by hand and in the fault suite.
"""

from __future__ import annotations

from tests.model.model import Config

CONFIGS: dict[str, Config] = {
    "one-node": Config(
        total=2,
        faults={
            "crash": 1,
            "kill": 1,
            "ack": 1,
            "timeout": 1,
            "silence": 1,
            "election": 1,
            "fail": 1,
            "reboot": 1,
            "wipe": 1,
            "cancel": 1,
        },
    ),
    "names": Config(
        machines=(("n", "a"), ("n", "b")),
        total=3,
        faults={"crash": 1, "silence": 1, "remove": 1, "leave": 1, "new disk": 1, "timeout": 1},
    ),
}
