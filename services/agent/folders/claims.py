"""Who has a run's folder, where nodes share its storage: one who moves it away, or one who begins an attempt in it.

Owns the claims, ``.pruned/.claims/<run_id>@<attempt>.<node>.<token>`` beside the run's folder, and that no link which a
worker made leads out of ``.pruned`` (all goes by descriptors); knows neither what may go nor what becomes of it.

Who would move a run's folder away makes a claim, an empty folder, then looks for a younger attempt, then renames the
run's folder into the claim. Who begins an attempt makes its folder, then removes the older claims of the run, then looks
whether its folder is there still, else it begins again. A claim that was there is gone by then, and nothing can be
renamed into it, or has what it was for; and who claims later sees the attempt. So what was seen there stays, and nothing
is ever put back. (A folder is opened before each look into it: so NFS asks its server.)
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec

from events.types import AttemptRef
from trainshed_client.naming import RUN_ID

TRASH = ".pruned"
_CLAIMS = ".claims"
"""No name of a node: these have no dots. A node's name in it is an empty folder that its next claim is made of."""
_CLAIM = re.compile(rf"({RUN_ID})@([0-9]+)\.([a-z0-9-]+)\.[0-9a-f]+")
_FOLDER = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_LONGER_EMPTY = (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)


class Claim(msgspec.Struct, frozen=True):
    """The right to move one run's folder away from a root, until a younger attempt begins."""

    root: Path
    node: str
    name: str

    @property
    def run_id(self) -> str:
        """The name of the folder that it is for."""
        return self.name.partition("@")[0]

    @property
    def up_to(self) -> str:
        """``<run_id>@<the last attempt that may go>``."""
        return self.name.partition(".")[0]


def make_ready(root: Path, node: str) -> None:
    """Make all that a node's next claim and its trash need: later the disk may be full. Raises OSError."""
    with (
        opened(root, TRASH, node, make=0o700),
        opened(root, TRASH, _CLAIMS, make=0o777) as claims,
        contextlib.suppress(FileExistsError),
    ):
        os.mkdir(node, dir_fd=claims)


def make(place: Path, node: str, attempt: int) -> Claim:
    """Claim a run's folder up to this attempt; a look for a younger one is to follow. Raises OSError."""
    make_ready(place.parent, node)
    claim = Claim(place.parent, node, f"{place.name}@{attempt}.{node}.{secrets.token_hex(8)}")
    with all_claims(claim.root) as claims:
        os.rename(node, claim.name, src_dir_fd=claims, dst_dir_fd=claims)
    return claim


def take(claim: Claim) -> bool:
    """Move the run's folder, where it still is, into its claim. False where a younger attempt has removed that.

    Raises OSError.
    """
    with opened(claim.root) as root, all_claims(claim.root) as claims:
        try:
            with folder(claim.name, claims) as inside:
                move(claim.run_id, root, claim.run_id, inside)
        except FileNotFoundError:  # the claim, or the folder: then another node has taken it
            return exists(claim.name, claims)
    return True


def of_node(root: Path, node: str) -> list[Claim]:
    """Those that an earlier process of this node left, empty or not. Raises OSError."""
    with contextlib.suppress(FileNotFoundError), all_claims(root) as claims:
        names = ((name, _CLAIM.fullmatch(name)) for name in os.listdir(claims))
        return [Claim(root, node, name) for name, found in names if found and found[3] == node]
    return []


def remove_older(root: Path, ref: AttemptRef) -> None:
    """An attempt has its folder: remove the claims up to older ones. Raises OSError."""
    # Where a link or nothing at all is in the claims' place nobody claims.
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), all_claims(root) as claims:
        for name in os.listdir(claims):
            found = _CLAIM.fullmatch(name)
            if found and found[1] == ref.run_id and int(found[2]) < ref.attempt:
                try:
                    os.rmdir(name, dir_fd=claims)
                except OSError as error:
                    if error.errno not in _NO_LONGER_EMPTY:
                        raise


def all_claims(root: Path) -> contextlib.AbstractContextManager[int]:
    """The folder of all nodes' claims, while the block lasts. Raises OSError."""
    return opened(root, TRASH, _CLAIMS)


@contextlib.contextmanager
def opened(root: Path, *names: str, make: int | None = None) -> Iterator[int]:
    """A folder below a root while the block lasts; made with this mode where it is not there.

    The root may be reached by links, what is below it may not be one. Raises OSError.
    """
    with contextlib.ExitStack() as opening:
        within = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        opening.callback(os.close, within)
        for name in names:
            if make is not None:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, make if name == names[-1] else 0o777, dir_fd=within)
            try:
                within = os.open(name, os.O_RDONLY | _FOLDER, dir_fd=within)
            except OSError as error:
                if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                    raise
                why = f"{name} is a link or no folder, and nothing is moved or deleted there"
                raise NotADirectoryError(errno.ENOTDIR, why, str(root)) from None
            opening.callback(os.close, within)
        yield within


@contextlib.contextmanager
def folder(name: str, within: int) -> Iterator[int]:
    """A folder, never a link to one, while the block lasts; made readable and writable where it was not."""
    handle = os.open(name, os.O_PATH | _FOLDER, dir_fd=within)
    try:
        mode = stat.S_IMODE(os.fstat(handle).st_mode)
        if mode & stat.S_IRWXU != stat.S_IRWXU:
            with contextlib.suppress(PermissionError):  # another's, who may let us yet
                os.chmod(f"/proc/self/fd/{handle}", mode | stat.S_IRWXU)
        inside = os.open(".", os.O_RDONLY | _FOLDER, dir_fd=handle)
    finally:
        os.close(handle)
    try:
        yield inside
    finally:
        os.close(inside)


def move(name: str, within: int, new_name: str, to: int) -> None:
    """Rename something from one folder to another, also a folder that its worker made unwritable. Raises OSError."""
    try:
        os.rename(name, new_name, src_dir_fd=within, dst_dir_fd=to)
    except PermissionError:
        with folder(name, within):
            os.rename(name, new_name, src_dir_fd=within, dst_dir_fd=to)


def exists(name: str, within: int) -> bool:
    """Whether a folder has something of this name. Raises OSError."""
    try:
        os.stat(name, dir_fd=within, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
