"""A file of a run, fetched in pieces: whole and unchanged at its place, or not there at all."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import msgspec
import pytest

from services.cli import artifacts as command
from services.cli import path as path_command
from services.cli.whole_file import whole_file
from tests.support.timeline import entry
from tests.unit.test_cli_words import record
from trainshed_client import subjects
from trainshed_client.answers import RunFolder, RunView
from trainshed_client.connection import Reply
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.output_range import RANGE_BYTES
from trainshed_client.records import AttemptRecord
from trainshed_client.rendering.timeline import ArtifactsHashedData, DispatchedData, TimelineData
from trainshed_client.run_files import artifact, is_hashed
from trainshed_client.statuses import RunStatus

RUN = "a" * 26
DATA = os.urandom(RANGE_BYTES * 6 + 17)


def attempt(number: int = 1, status: RunStatus = RunStatus.COMPLETED) -> AttemptRecord:
    return AttemptRecord(run_id=RUN, attempt=number, status=status, node="box")


class Agent:
    """Answers ranges of one file, which changes after ``changes_after`` requests."""

    def __init__(self, data: bytes = DATA, changes_after: int | None = None) -> None:
        self.data = data
        self.asked = 0
        self._changes_after = changes_after

    async def request(self, subject: str, payload: bytes) -> Reply:
        self.asked += 1
        wanted = msgspec.json.decode(payload)
        assert (subject, wanted["path"]) == ("trainshed.api.node.box.output", "m")
        changed = self._changes_after is not None and self.asked > self._changes_after
        headers = {subjects.SIZE_HEADER: str(len(self.data)), subjects.FILE_HEADER: "b" if changed else "a"}
        return Reply(self.data[wanted["offset"] :][: wanted["limit"]], headers)


async def fetched(agent: Agent, hashed: str | None = None) -> bytes:
    return b"".join([piece async for piece in artifact(agent, attempt(), "m", hashed)])


@pytest.mark.parametrize("size", [0, 1, RANGE_BYTES, RANGE_BYTES + 1, len(DATA)])
async def test_the_pieces_are_the_file(size: int) -> None:
    assert await fetched(Agent(DATA[:size]), hashlib.sha256(DATA[:size]).hexdigest()) == DATA[:size]


async def test_another_file_than_was_hashed_is_refused() -> None:
    with pytest.raises(TrainshedError) as caught:
        await fetched(Agent(), "0" * 64)
    assert caught.value.code is ErrorCode.CONFLICT


@pytest.mark.parametrize("requests", range(1, 7))
async def test_a_file_that_is_written_to_meanwhile_is_refused(requests: int) -> None:
    with pytest.raises(TrainshedError) as caught:
        await fetched(Agent(changes_after=requests))
    assert caught.value.code is ErrorCode.CONFLICT


async def test_a_file_that_is_cut_short_is_refused() -> None:
    agent = Agent()
    with pytest.raises(TrainshedError):
        async for _ in artifact(agent, attempt(), "m", None):
            agent.data = DATA[:RANGE_BYTES]


def view(attempts: list[AttemptRecord], *happened: str) -> RunView:
    data: dict[str, TimelineData] = {
        "dispatched": DispatchedData(node="box"),
        "artifacts_hashed": ArtifactsHashedData(count=1, bytes=1),
    }
    entries = [entry(seq, "2026-11-24T10:00:00Z", one, data[one]) for seq, one in enumerate(happened, 1)]
    return RunView(seq=9, run=record(RUN), config={}, attempts=attempts, timeline=entries)


def test_hashes_count_for_the_last_attempt_once_it_is_hashed() -> None:
    first, second = attempt(1), attempt(2, RunStatus.FAILED)
    assert is_hashed(view([first], "dispatched", "artifacts_hashed"), first)
    assert not is_hashed(view([first], "dispatched"), first)
    again = view([first, second], "dispatched", "artifacts_hashed", "dispatched")
    assert not is_hashed(again, first)
    assert not is_hashed(again, second)
    third = attempt(2)
    assert not is_hashed(view([first, third], "dispatched", "artifacts_hashed", "dispatched"), third)


# --- where it is put --------------------------------------------------------------------------------------


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_a_file_is_at_its_place_once_it_is_whole(tmp_path: Path) -> None:
    with whole_file(str(tmp_path / "m")) as file:
        file.write(b"half")
        assert names(tmp_path) == []
        file.write(b", whole")
    assert (tmp_path / "m").read_bytes() == b"half, whole"
    assert names(tmp_path) == ["m"]


@pytest.mark.parametrize("nameless", [True, False])
def test_half_a_file_never_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nameless: bool) -> None:
    if not nameless:  # storage that has no files without names
        monkeypatch.setattr(os, "O_TMPFILE", os.O_CREAT | os.O_EXCL)
    (tmp_path / "m").write_bytes(b"before")
    with pytest.raises(TrainshedError), whole_file(str(tmp_path / "m")) as file:
        file.write(b"half")
        raise TrainshedError(ErrorCode.CONFLICT, "changed")
    assert (tmp_path / "m").read_bytes() == b"before"
    assert names(tmp_path) == ["m"]
    with whole_file(str(tmp_path / "m")) as file:
        file.write(b"after")
    assert (tmp_path / "m").read_bytes() == b"after"
    assert names(tmp_path) == ["m"]


def test_a_file_that_is_written_over_keeps_its_mode_and_its_links(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"before")
    (tmp_path / "m").chmod(0o640)
    (tmp_path / "link").symlink_to("m")
    with whole_file(str(tmp_path / "link")) as file:
        file.write(b"after")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "m").read_bytes() == b"after"
    assert stat.S_IMODE((tmp_path / "m").stat().st_mode) == 0o640


def test_what_is_no_file_is_written_to_and_not_replaced() -> None:
    with whole_file(os.devnull) as file:
        file.write(b"x")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


def test_where_nothing_can_be_put_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(TrainshedError) as caught, whole_file(str(tmp_path / "nosuch/m")):
        pass
    assert caught.value.exit_code == 2


def test_a_folder_takes_the_file_by_its_own_name_and_nothing_unnamed_is_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command._dest("deep/m", None) == "m"
    assert command._dest("deep/m", str(tmp_path)) == str(tmp_path / "m")
    assert command._dest("deep/m", "other") == "other"
    (tmp_path / "m").touch()
    assert command._dest("deep/m", "m") == "m"
    with pytest.raises(TrainshedError) as caught:
        command._dest("deep/m", None)
    assert caught.value.exit_code == 2


# --- where it is ------------------------------------------------------------------------------------------


def folder(path: Path, *, exists: bool = True, host: str = "other.lab") -> RunFolder:
    return RunFolder(
        node="gpu02", host=host, folder=str(path), exists=exists, output=str(path / "attempts/1")
    )


def test_a_folder_that_is_not_here_is_told_with_its_machine(tmp_path: Path) -> None:
    there = folder(tmp_path / "nosuch")
    assert path_command._problem(str(tmp_path), there, "k3") is None  # storage that is shared
    told = path_command._problem(there.folder, there, "k3")
    assert told is not None and "other.lab" in told and "trainshed artifacts k3" in told
    for gone in (
        folder(tmp_path / "nosuch", exists=False),
        folder(tmp_path / "nosuch", host=os.uname().nodename),
    ):
        told = path_command._problem(gone.folder, gone, "k3")
        assert told is not None and "no more" in told
