"""What a state folder holds while no stack answers: its read model, and the files of its node's attempts.

Owns which calls of the API are answered from there, as `Connection` has it, and that nothing is written; knows no screen.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import msgspec
from sqlalchemy.exc import SQLAlchemyError

from events.types import AttemptRef
from projections.queries.answers import Queries
from projections.queries.at_rest import AsOf, DatabaseAtRest
from projections.queries.listing import run_query
from services.agent.folders.paths import Folders
from services.agent.identity import IDENTITY_FILE, Identity
from services.agent.output import run_files
from services.agent.output.service import read_range, read_request
from services.api import error_answer
from services.daemon_thread import in_daemon_thread
from services.parts import DATABASE_FILE
from services.projector.waiting import WaitingRuns
from services.settings import Settings
from trainshed_client import subjects
from trainshed_client.connection import ABSENT_S, ReceiveOutput, ReceiveRun, Reply
from trainshed_client.errors import ErrorCode, TrainshedError


class StateAtRest:
    """Answers from the state folder of these settings. See Connection. Raises TrainshedError (UNAVAILABLE) where that
    holds no read model that can be read."""

    def __init__(self, settings: Settings) -> None:
        self._state_dir = settings.state_dir
        self._folders = Folders(settings.state_dir, settings.runs_dir, settings.var_logs_dir)
        database = settings.state_dir / DATABASE_FILE
        if not database.exists():
            raise TrainshedError(
                ErrorCode.UNAVAILABLE,
                f"There is no read model {database}; one in PostgreSQL, or that `projector --database` keeps elsewhere, is "
                "not read without its stack",
            )
        self._database = DatabaseAtRest(database)
        self._queries = Queries(self._database)
        self._waiting = WaitingRuns(time.time_ns)
        self._calls: dict[str, Callable[[bytes], Reply]] = {
            "run.list": self._run_list,
            "run.get": self._run_get,
        }
        if (node := _own_node(settings.state_dir)) is not None:
            self._calls |= {
                f"node.{node}.output": self._output,
                f"node.{node}.folder": partial(self._folder, node),
                f"node.{node}.artifacts": partial(self._artifacts, node),
            }

    @property
    def as_of(self) -> AsOf:
        """Up to when it tells what happened."""
        return self._database.as_of

    @property
    def where(self) -> str:
        """See Connection."""
        return str(self._state_dir)

    async def request(
        self, subject: str, payload: bytes, *, timeout: float, tries: int = 1, absent_s: float = ABSENT_S
    ) -> Reply:
        """See Connection."""
        call = subject.removeprefix(f"{subjects.API}.")
        if (answer := self._calls.get(call)) is None:
            raise self._not_here(call)
        try:
            return await in_daemon_thread(partial(answer, payload))
        except TrainshedError as error:
            return Reply(msgspec.json.encode(error_answer(error)), {})
        except (SQLAlchemyError, msgspec.MsgspecError) as error:
            raise TrainshedError(
                ErrorCode.UNAVAILABLE, f"the read model in {self._state_dir} cannot be read ({error})"
            ) from None

    def _not_here(self, call: str) -> TrainshedError:
        parts = call.split(".")
        what = (
            f"it is on {parts[1]}, not in"
            if parts[0] == "node" and len(parts) == 3
            else f"{call} is not answered from"
        )
        return TrainshedError(
            ErrorCode.UNAVAILABLE, f"{what} {self._state_dir}. Start the stack: trainshed up"
        )

    def _run_list(self, payload: bytes) -> Reply:
        query = run_query(**msgspec.json.decode(payload))
        return _json(self._waiting.listing(self._queries.runs(query)))

    def _run_get(self, payload: bytes) -> Reply:
        return _json(self._waiting.run(self._queries.run(str(msgspec.json.decode(payload)["run_id"]))))

    def _output(self, payload: bytes) -> Reply:
        found = read_range(self._folders, read_request(payload))
        headers = {subjects.OFFSET_HEADER: str(found.offset), subjects.SIZE_HEADER: str(found.size)}
        return Reply(
            found.data, headers if found.file is None else {**headers, subjects.FILE_HEADER: found.file}
        )

    def _folder(self, node: str, payload: bytes) -> Reply:
        ref, _ = _attempt(payload)
        return _json(run_files.run_folder(self._folders, ref, node))

    def _artifacts(self, node: str, payload: bytes) -> Reply:
        ref, after = _attempt(payload)
        return _json(run_files.artifact_page(self._folders, ref, node, after))

    async def watch_runs(
        self, run_ids: frozenset[str] | None, receive: ReceiveRun, again: Callable[[], None]
    ) -> NoReturn:
        """See Connection."""
        raise self._not_here("a watch")

    async def watch_output(
        self, run_id: str, attempt: int, node: str, receive: ReceiveOutput, again: Callable[[], None]
    ) -> NoReturn:
        """See Connection."""
        raise self._not_here("a watch")

    async def close(self) -> None:
        """See Connection."""
        self._database.close()

    async def abandon(self) -> None:
        """See Connection."""
        self._database.close()


def _own_node(state_dir: Path) -> str | None:
    """The node whose attempts' files lie in this state folder."""
    try:
        return msgspec.json.decode((state_dir / IDENTITY_FILE).read_bytes(), type=Identity).node
    except (OSError, msgspec.MsgspecError):
        return None


def _attempt(payload: bytes) -> tuple[AttemptRef, str | None]:
    fields: dict[str, Any] = msgspec.json.decode(payload)
    return AttemptRef(str(fields["run_id"]), int(fields["attempt"])), fields.get("after")


def _json(answer: object) -> Reply:
    return Reply(msgspec.json.encode(answer), {})
