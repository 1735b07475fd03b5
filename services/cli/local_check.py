"""Before a submission: whether program and folder are there, where this machine is a node and so can tell.

Owns what is looked at and what is said of it; what a config may hold is the gateway's to judge.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from services.daemon_thread import in_daemon_thread
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.statuses import NodeStatus

if TYPE_CHECKING:
    from services.cli.config_file import Config
    from services.cli.request import Request
    from trainshed_client.client import Trainshed

ANSWERS_WITHIN_S = 2.0
"""Seconds for the storage of programs and folders to answer: a node may know better what it waits for."""


async def look_at_programs(trainshed: Trainshed, request: Request, *, refuse: bool = True) -> list[str]:
    """Refuse a run that no node could start, since all nodes are on this machine and its program or folder is not.

    Returned as a warning where there are other machines, which may have them, where the run comes after others, which may
    make them, and where not to ``refuse``. One that is a run already is not judged. Asks nobody where all is there. Raises
    TrainshedError.
    """
    missing = await _missing_within(request.configs) if request.check else []
    hosts = await _hosts(trainshed) if missing else set()
    warnings: list[str] = []
    for number, field, what in missing if socket.gethostname() in hosts else ():
        config = request.configs[number]
        if not await _is_new(trainshed, config):
            continue
        where = request.places[number] if request.places else ""
        place = f"{where}: {field}" if where else field
        alone = len(hosts) == 1
        if alone and refuse and not config.get("after"):
            raise TrainshedError(
                ErrorCode.INVALID,
                f"{what} on this machine, and no other runs anything here. Mend it or, if it will be there when the run "
                "starts, submit with --no-check",
                place,
            )
        warnings.append(f"{place}: {what} on this machine{'' if alone else '; other nodes may have it'}")
    return warnings


async def _missing_within(configs: Sequence[Config]) -> list[tuple[int, str, str]]:
    """What is missing; nothing where the storage does not answer."""
    try:
        async with asyncio.timeout(ANSWERS_WITHIN_S):
            return await in_daemon_thread(lambda: list(_missing(configs)))
    except TimeoutError:
        return []


def _missing(configs: Sequence[Config]) -> Iterator[tuple[int, str, str]]:
    """For each program and folder that is not here the first config that names it: its place, the field, what is wrong."""
    seen: set[tuple[str, str]] = set()
    for number, config in enumerate(configs):
        named = (str(config.get("working_dir")), str(config.get("entry_point")))
        if named not in seen and (missing := missing_here(config)) is not None:
            yield number, *missing
        seen.add(named)


async def _is_new(trainshed: Trainshed, config: Config) -> bool:
    """Whether it would be a new run; what is refused is not, and is refused again in its turn."""
    try:
        return (await trainshed.check(config)).new
    except TrainshedError:
        return False


async def _hosts(trainshed: Trainshed) -> set[str]:
    """The machines that are there as nodes; none where who asks may not know."""
    try:
        nodes = (await trainshed.nodes()).nodes
    except TrainshedError:
        return set()
    return {node.host for node in nodes if node.status in (NodeStatus.UP, NodeStatus.LOST)}


def missing_here(config: Config) -> tuple[str, str] | None:
    """The field that names what is not here, and what is wrong with it; None where nothing is, or only a node can tell."""
    folder, program = config.get("working_dir"), config.get("entry_point")
    if isinstance(folder, str) and os.path.isabs(folder):
        if not os.path.lexists(folder):
            return "working_dir", f"there is no folder {folder}"
        if not os.path.isdir(folder):
            return "working_dir", f"{folder} is no folder"
    metadata = config.get("metadata")
    older = isinstance(metadata, dict) and metadata.get("worker") is not None
    if older or not isinstance(program, str) or "/" not in program or "{{" in program:
        return None
    if not os.path.isabs(program):
        if not isinstance(folder, str):
            return None
        program = os.path.join(folder, program)
    try:
        os.stat(program)
    except (FileNotFoundError, NotADirectoryError):
        return "entry_point", f"there is no program {program}"
    except (OSError, ValueError):
        return None  # a node's user may see it
    if os.path.isdir(program):
        return "entry_point", f"{program} is a folder, no program,"
    return None if os.access(program, os.X_OK) else ("entry_point", f"{program} is not executable")
