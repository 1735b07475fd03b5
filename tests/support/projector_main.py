"""A projector in a process of its own, for tests that kill it: ``python -m tests.support.projector_main DATABASE``.

It takes small batches, so that a kill finds it in the middle of some transaction. The server is NATS_URL's.
"""

from __future__ import annotations

import asyncio
import sys

from services import projector
from trainshed_client.endpoint import discover
from trainshed_client.nats_client import connect


async def main(database: str) -> None:
    """Project until killed."""
    projector.BATCH = 137
    nc = await connect(discover(), name="projector-under-test", forever=True)
    await projector.ProjectorService(nc, database).run()


asyncio.run(main(sys.argv[1]))
