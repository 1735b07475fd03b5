"""`make cluster`: the leader of three servers is killed ten times under load."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from tests.integration.three_servers.lab import ThreeServersLab, summary


async def _main(kills: int) -> int:
    lab = ThreeServersLab(Path(tempfile.mkdtemp(prefix="three-servers-")))
    good = False
    try:
        await lab.start()
        outcome = await lab.play(kills)
        print(summary(outcome))
        bad = (outcome.violations, outcome.missed, outcome.refused, outcome.own_ends)
        good = outcome.verified == "ok" and not any(bad)
    finally:
        await lab.close()
        if good:
            lab.delete()
        else:
            print(f"everything is in {lab.root}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(_main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)))
