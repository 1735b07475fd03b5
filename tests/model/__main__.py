"""`python -m tests.model --config NAME --states N`: search one configuration, or all of them."""

from __future__ import annotations

import argparse
import sys

from tests.model.configs import CONFIGS
from tests.model.model import Model
from tests.model.search import Search


def main() -> int:
    """Print a line for each configuration, and the trace of what is violated; 1 where something is."""
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument("--config", choices=[*CONFIGS, "all"], default="all")
    parser.add_argument("--states", type=int, default=60_000, metavar="N", help="states of each (60000)")
    parser.add_argument("--walk", type=int, metavar="SEED", help="take N steps by chance instead")
    asked = parser.parse_args()
    names = list(CONFIGS) if asked.config == "all" else [asked.config]
    bad = False
    for name in names:
        search = Search(Model(CONFIGS[name]))
        result = search.run(asked.states) if asked.walk is None else search.walk(asked.walk, asked.states)
        print(f"{name}: {result}", flush=True)
        if result.violation is not None:
            bad = True
            print(result.violation, flush=True)
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
