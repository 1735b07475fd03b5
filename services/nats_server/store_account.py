"""To which of nats-server's accounts the store belongs: the folder of what is stored bears the account's name.

Owns that one move; the server must not run, and nothing is changed in what is stored.
"""

from __future__ import annotations

from pathlib import Path

from trainshed_client.errors import ErrorCode, TrainshedError

GLOBAL_ACCOUNT = "$G"
"""Where nats-server puts who has no account: everybody, in the first release."""


def give_store(store_dir: Path, account: str) -> None:
    """Let ``account`` have what an earlier release stored; one rename, once. A folder without a stream stores nothing.

    Raises OSError, and TrainshedError (CONFLICT) where both have something.
    """
    folder = store_dir / "jetstream"
    before = folder / GLOBAL_ACCOUNT
    wanted = folder / account
    if not _streams(before):
        return
    if _streams(wanted):
        raise TrainshedError(
            ErrorCode.CONFLICT,
            f"there are two stores, {before} and {wanted}: an older release ran here after a newer one, whose store it "
            "does not know. Move away the one that it made, then try again: trainshed up",
        )
    if wanted.exists():  # a server that made no stream left it
        for empty in (wanted / "streams", wanted):
            if empty.exists():
                empty.rmdir()
    before.rename(wanted)


def _streams(folder: Path) -> bool:
    """Whether a stream is stored there."""
    try:
        return any((folder / "streams").iterdir())
    except (FileNotFoundError, NotADirectoryError):  # the server itself says what is wrong with its folder
        return False
