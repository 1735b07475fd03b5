"""The agent's spawner with a seeded bug: `python -P -m tests.faults.seeded_spawner FD SOCKETS CGROUPS MEMORY_CGROUPS`."""

from __future__ import annotations

import os

from services.agent.shim import spawner
from tests.faults import launch, seeded

if __name__ == "__main__":
    seeded.spawner(os.environ[launch.SEEDED_BUG])
    spawner.main()
