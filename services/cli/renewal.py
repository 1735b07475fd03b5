"""A person's certificate is renewed by the way: by a command that was done with what it was asked for, once a day at most.

Owns when that is looked at, and that it never makes a command fail; how it is done is services.enrol.renewing's.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from services.cli.common import warn
from trainshed_client.endpoint import Endpoint
from trainshed_client.errors import TrainshedError
from trainshed_client.os_errors import cause

if TYPE_CHECKING:
    from trainshed_client.nats_client import SafeClient

EVERY = timedelta(days=1)
WITHIN_S = 5.0
SOON = timedelta(days=14)


def is_time(endpoint: Endpoint, now: datetime) -> bool:
    """Whether it is to be looked at: there is a certificate that a token gave, and a day has gone by. Costs one stat."""
    if endpoint.cert is None or endpoint.cert != endpoint.key:
        return False
    try:
        return datetime.fromtimestamp(_looked(endpoint).stat().st_mtime, UTC) + EVERY <= now
    except OSError:
        return True


async def look(nc: SafeClient, endpoint: Endpoint, now: datetime) -> None:
    """Renew the certificate if that is due; what goes wrong is told where it is about to expire, and tried again tomorrow."""
    import asyncio

    import nats.errors

    from services.enrol.renewing import HeldFiles, Renewal
    from trainshed_client.nats_client import connect

    try:
        _looked(endpoint).touch(mode=0o600)
        renewal = Renewal(
            nc, endpoint, connect=lambda by: connect(by, name="trainshed-renewal"), clock=lambda: now
        )
        async with asyncio.timeout(WITHIN_S):
            await renewal.look()
    except (TrainshedError, OSError, nats.errors.Error) as error:
        try:
            ends = HeldFiles(endpoint).not_after()
        except TrainshedError:
            return
        if ends - now < SOON:
            warn(
                f"your certificate expires on {ends:%Y-%m-%d} and could not be renewed ({cause(error)}); after that: a new token"
            )


def _looked(endpoint: Endpoint) -> Path:
    return Path(f"{endpoint.cert}.looked")
