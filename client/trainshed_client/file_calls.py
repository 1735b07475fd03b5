"""The calls about what lies on the nodes: what runs left in artifacts/, and what is deleted of runs that ended long ago.

Owns which attempt's files are meant and that a file is whole where it was fetched to; knows nothing of how a node keeps them.
"""

from __future__ import annotations

import asyncio
import builtins
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from trainshed_client.queries import QueryCalls

if TYPE_CHECKING:
    from trainshed_client.answers import ArtifactFile
    from trainshed_client.prune import PruneReport


class FileCalls(QueryCalls):
    """What lies on the nodes; see `trainshed_client.Trainshed`."""

    async def artifacts(self, run: str, *, attempt: int | None = None) -> builtins.list[ArtifactFile]:
        """What is in the run's artifacts/ where ``attempt`` (else the latest) ran, with hashes as far as they are known.

        Raises NOT_FOUND where it has no such attempt, UNAVAILABLE where that node does not answer.
        """
        from trainshed_client.run_files import artifacts, chosen_attempt

        view = await self.get(run)
        return await artifacts(self, view, chosen_attempt(view, attempt))

    async def artifact_pieces(
        self, run: str, path: str, *, attempt: int | None = None, checked: bool = True
    ) -> AsyncIterator[bytes]:
        """The bytes of one of these files, piece by piece; ``path`` as `artifacts` lists it.

        Raises CONFLICT at the end where it was written to meanwhile, or (``checked``) is not what the run left: what was
        handed out is then no file. NOT_FOUND and INVALID where there is no such file, or may be none.
        """
        from trainshed_client.run_files import artifact, artifacts, chosen_attempt, is_hashed

        view = await self.get(run)
        chosen = chosen_attempt(view, attempt)
        hashed = None
        if checked and is_hashed(view, chosen):
            found = await artifacts(self, view, chosen)
            hashed = next((one.sha256 for one in found if one.path == path), None)
        async for piece in artifact(self, chosen, path, hashed):
            yield piece

    async def read_artifact(
        self, run: str, path: str, *, attempt: int | None = None, checked: bool = True
    ) -> bytes:
        """The content of one of these files. Raises as `artifact_pieces`."""
        pieces = self.artifact_pieces(run, path, attempt=attempt, checked=checked)
        return b"".join([piece async for piece in pieces])

    async def fetch_artifact(
        self,
        run: str,
        path: str,
        to: str | os.PathLike[str],
        *,
        attempt: int | None = None,
        checked: bool = True,
    ) -> Path:
        """Write one of these files to ``to``, whole or not at all; into it where that is a folder. Returns where it is.

        Raises as `artifact_pieces`, and OSError where it cannot be written.
        """
        place = Path(to) / path.rpartition("/")[2] if os.path.isdir(to) else Path(to)
        part = place.with_name(f".{place.name}.{os.getpid()}.part")
        try:
            with await asyncio.to_thread(open, part, "xb") as file:
                async for piece in self.artifact_pieces(run, path, attempt=attempt, checked=checked):
                    await asyncio.to_thread(file.write, piece)
            os.replace(part, place)
        finally:
            with suppress(FileNotFoundError):
                part.unlink()
        return place

    async def prune(self, *, ended_before: datetime, dry_run: bool = False) -> PruneReport:
        """Delete the folders of runs that ended before a time (aware), with output and artifacts, on every node that is up.

        The events stay, so do the runs in every list. What runs, waits or was tried again since is kept. ``dry_run``:
        count, and delete nothing. A node that cannot be asked is named with its error; it is safe to ask again.
        """
        from trainshed_client.prune import prune

        return await prune(self, ended_before, dry_run=dry_run)
