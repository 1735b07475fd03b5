"""A projector in a process of its own: ``python -m tests.support.projector_main DATABASE [STATEMENTS]``.

After so many SQL statements (a commit counts as one) it kills itself with SIGKILL: at a chosen point of some transaction,
however fast the machine is. The server is NATS_URL's.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
from typing import Any

from sqlalchemy import Engine, event

from services.projector import service
from trainshed_client.endpoint import discover
from trainshed_client.nats_client import connect


def die_after(statements: int) -> None:
    """SIGKILL before the statement of that number."""
    counter = itertools.count(1)

    def count(*_: Any) -> None:
        if next(counter) >= statements:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Engine, "before_cursor_execute", count)
    event.listen(Engine, "commit", count)


async def main(database: str) -> None:
    """Project until killed."""
    service.BATCH = 137
    nc = await connect(discover(), name="projector-under-test", forever=True)
    await service.ProjectorService(nc, database).run()


if len(sys.argv) > 2:
    die_after(int(sys.argv[2]))
asyncio.run(main(sys.argv[1]))
