"""The measurement of a disk that does not answer: it holds up nothing, not even the process's end."""

from __future__ import annotations

import subprocess
import sys

HANGS = """if True:
    import asyncio, threading
    from pathlib import Path
    from services.agent.machine import disk

    asked = []

    def hang(folder):
        asked.append(folder)
        threading.Event().wait()

    disk._free_mb = hang
    disk.EVERY_S = 0

    async def main():
        async with asyncio.TaskGroup() as tasks:
            measuring = tasks.create_task(disk.Disk(Path("/")).run())
            while not asked:
                await asyncio.sleep(0.01)
            for _ in range(100):
                await asyncio.sleep(0)
            measuring.cancel()
        print(len(asked))

    asyncio.run(main())
"""


def test_a_process_whose_disk_hangs_ends_and_asks_it_once() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANGS], capture_output=True, check=False, timeout=60, text=True
    )
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
