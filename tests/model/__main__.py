"""`python -m tests.model --config NAME --states N`: search one configuration, or all of them."""

from __future__ import annotations

import argparse
import sys

from tests.model.configs import CONFIGS
from tests.model.model import Model
from tests.model.mutants import MUTANTS
from tests.model.search import Search


def main() -> int:
    """Print a line for each configuration, and the trace of what is violated; 1 where something is."""
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument("--config", choices=[*CONFIGS, "all"], default="all")
    parser.add_argument("--states", type=int, default=60_000, metavar="N", help="states of each (60000)")
    parser.add_argument("--walk", type=int, metavar="SEED", help="take N steps by chance instead")
    parser.add_argument("--mutant", choices=[*MUTANTS], help="show what is missed without this rule")
    parser.add_argument("--mutants", action="store_true", help="the same for all, as a table")
    asked = parser.parse_args()
    if asked.mutant is not None or asked.mutants:
        return _mutants([asked.mutant] if asked.mutant is not None else list(MUTANTS), asked.mutants)
    names = list(CONFIGS) if asked.config == "all" else [asked.config]
    bad = False
    for name in names:
        model = Model(CONFIGS[name])
        model.code.objects = True
        search = Search(model)
        result = search.run(asked.states) if asked.walk is None else search.walk(asked.walk, asked.states)
        print(f"{name}: {result}", flush=True)
        if result.violation is not None:
            bad = True
            print(result.violation, flush=True)
    return int(bad)


def _mutants(names: list[str], table: bool) -> int:
    if table:
        print("| rule | switched off | what it says then | missed | steps | states |")
        print("| --- | --- | --- | --- | --- | --- |")
    found = 0
    for name in names:
        mutant = MUTANTS[name]
        model = Model(mutant.config)
        mutant.apply(model.code)
        violation = Search(model).run(mutant.states).violation
        found += violation is not None
        if violation is None or not table:
            print(f"{name}: {violation or 'nothing is missed'}")
        else:
            steps = len(violation.trace)
            what = violation.what.split(", at ")[0]
            print(f"| {mutant.rule} | {name} | {mutant.says} | {what} | {steps} | {violation.states} |")
    return int(found < len(names))


if __name__ == "__main__":
    sys.exit(main())
