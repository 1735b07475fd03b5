"""The code that a submission names: of which folder, and what the caller hears of it.

Owns these words and options' meaning; which files count is trainshed_client/code.py's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from trainshed_client.errors import ErrorCode, TrainshedError

if TYPE_CHECKING:
    from trainshed_client.provenance import Provenance


class NamedCode(NamedTuple):
    """What goes into the config, what goes beside it, and what to say on stderr."""

    code: dict[str, Any] | None = None
    provenance: Provenance | None = None
    warnings: tuple[str, ...] = ()


def named_code(options: Mapping[str, Any], working_dir: str | None, here: str) -> NamedCode | None:
    """The code that these options ask for; ``working_dir``: that of a ``-- CMD``, whose code counts unasked.

    None where the config's own field stands. Raises TrainshedError (invalid) where options exclude each other.
    """
    given, ignore = options["code"], tuple(options["code_ignore"])
    if options["no_code"]:
        if given or ignore:
            raise _invalid("--no-code goes with neither --code nor --code-ignore; leave it out")
        return NamedCode()
    if given is not None:
        folder = os.path.join(here, given)
        if not os.path.isdir(folder):
            raise _invalid(f"--code {given}: no such folder; write --code DIR")
        return _read(folder, ignore)
    if working_dir is not None:
        return _read(working_dir, ignore)
    if ignore:
        raise _invalid(
            "--code-ignore goes with --code DIR, or with -- CMD; write: trainshed submit -f … --code DIR"
        )
    return None


def _read(folder: str, ignore: tuple[str, ...]) -> NamedCode:
    from concurrent.futures import ThreadPoolExecutor  # by now asyncio has it too

    from trainshed_client.code import MAX_BYTES, MAX_FILES, provenance_of, read_code, root_of

    root = root_of(folder)
    if root is None:
        why = "no project's folder" if os.path.isdir(folder) else "not on this machine"
        return NamedCode(
            warnings=(
                f"the code is no part of this run: {folder} is {why}; --code DIR names another, --no-code none",
            )
        )
    with ThreadPoolExecutor(1) as beside:
        provenance = beside.submit(provenance_of, root, ignore)
        code = read_code(root, ignore)
        if code is None:
            return NamedCode()
        warnings = (_only_a_part(root, MAX_FILES, MAX_BYTES),) if code.partial else ()
        return NamedCode({"sha256": code.sha256, "partial": code.partial}, provenance.result(), warnings)


def _only_a_part(root: str, files: int, size: int) -> str:
    return (
        f"only a part of the code in {root} counts: there are more than {files:,} program files or {size >> 20} MiB, or "
        "some cannot be read; --code-ignore GLOB leaves out what is not yours"
    )


def _invalid(message: str) -> TrainshedError:
    return TrainshedError(ErrorCode.INVALID, message)
