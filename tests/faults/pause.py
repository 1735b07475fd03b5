"""A pause that ends early when the faults do."""

from __future__ import annotations

import asyncio


async def within(stop: asyncio.Event, seconds: float) -> bool:
    """Wait so long, or until told to stop: then True."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return False
    return True
