"""To which of nats-server's accounts the store belongs: the folder of what is stored bears the account's name.

Owns that one move; the server must not run, and nothing is changed in what is stored.
"""

from __future__ import annotations

from pathlib import Path

from services.nats_server.server_config import GLOBAL_ACCOUNT, STACK_ACCOUNT
from trainshed_client.errors import ErrorCode, TrainshedError


def give_store(store_dir: Path, account: str) -> None:
    """Let ``account`` have what is stored, whichever of the two had it at the last start; one rename.

    Raises OSError, and TrainshedError (CONFLICT) where both have something.
    """
    folder = store_dir / "jetstream"
    other = folder / (STACK_ACCOUNT if account == GLOBAL_ACCOUNT else GLOBAL_ACCOUNT)
    wanted = folder / account
    if not other.exists():
        return
    if wanted.exists():
        raise TrainshedError(
            ErrorCode.CONFLICT,
            f"there are two stores, {other} and {wanted}: an older release ran here after `up --websocket`, which it "
            "does not know. Move away the one that it made, then try again: trainshed up",
        )
    other.rename(wanted)
