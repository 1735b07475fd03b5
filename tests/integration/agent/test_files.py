"""The call by which an audit has a node look at what lies on its disk: sizes, hashes, and how much one answer takes."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.types import ArtifactsHashed, Completed
from services.agent.folders.files import PrunedFile, PrunedUpTo
from services.agent.folders.paths import Folders
from services.agent.output import files_now, files_service
from services.agent.output.artifacts import HASHED_BYTES
from services.agent.output.files_service import BYTES_PER_S, pause_s
from tests.integration.agent.stage import NODE, Stage, new_ref, python
from tests.integration.agent.test_prune import ask as prune
from tests.support import NatsServer, eventually
from trainshed_client import subjects

LEAVES = """
import os, pathlib
folder = pathlib.Path(os.environ["TRAINSHED_RUN_DIR"], "artifacts")
(folder / "sub").mkdir()
for name in ("a", "b", "sub/c"):
    (folder / name).write_text(name)
os.symlink("/etc/passwd", folder / "link")
print("out")
"""
FILES = ["a", "b", "sub/c"]
WHOLE_SECOND = "2026-11-27T09:00:00.000000Z"


@pytest.fixture
async def stage(nats_server: NatsServer, tmp_path: Path) -> Stage:
    return await Stage.set_up(nats_server, tmp_path)


async def ask(stage: Stage, *attempts: Any, **fields: Any) -> dict[str, Any]:
    body = msgspec.json.encode({"attempts": attempts, **fields})
    answer = await stage.nc.request(subjects.api(f"node.{NODE}.files"), body, timeout=20)
    found: dict[str, Any] = msgspec.json.decode(answer.data)
    return found


async def left(stage: Stage, number: int = 1) -> Path:
    """A run that has left artifacts, which are hashed; its folder."""
    ref = new_ref(number)
    await stage.dispatch(ref, python(LEAVES))
    assert isinstance(await stage.ended(ref), Completed)
    await stage.told(ref, ArtifactsHashed)
    await eventually(lambda: not list((stage.root / "node/unhashed").glob(f"{ref.run_id}.*")))
    return stage.runs_dir / ref.run_id


def wanted(number: int = 1, *artifacts: str, **fields: Any) -> dict[str, Any]:
    return {"run_id": new_ref(number).run_id, "attempt": 1, "artifacts": list(artifacts), **fields}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def test_sizes_and_hashes_are_those_of_the_disk_now(stage: Stage) -> None:
    async with stage.agent():
        folder = await left(stage)
        answer = await ask(stage, wanted(1, *FILES, "link", "../artifacts.json", "no", "sub", "", list=True))
        assert (answer["v"], answer["node"], answer["handled"]) == (1, NODE, 1)
        assert answer["incarnation"]
        (one,) = answer["attempts"]
        assert (one["output"], one["pruned_at"], one["error"]) == ({"stdout": 4, "stderr": 0}, None, None)
        assert one["list"] == {
            "path": "artifacts.json",
            "bytes": (folder / "artifacts.json").stat().st_size,
            "sha256": sha256((folder / "artifacts.json").read_bytes()),
        }
        there = {each["path"]: (each["bytes"], each["sha256"]) for each in one["artifacts"]}
        assert there == {
            **{name: (len(name), sha256(name.encode())) for name in FILES},
            **dict.fromkeys(["link", "../artifacts.json", "no", "sub", ""], (None, None)),
        }
        (folder / "artifacts/a").write_text("otherwise")
        (folder / "attempts/1/stderr.log").unlink()
        (one,) = (await ask(stage, wanted(1, "a")))["attempts"]
        assert one["output"] == {"stdout": 4, "stderr": None} and one["list"] is None
        assert one["artifacts"] == [{"path": "a", "bytes": 9, "sha256": sha256(b"otherwise")}]


async def test_a_file_beyond_64_mib_is_weighed_and_one_of_several_pieces_hashed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files_now, "PIECE_BYTES", 1_000)
    async with stage.agent():
        folder = await left(stage) / "artifacts"
        content = os.urandom(3_500)
        (folder / "a").write_bytes(content)
        (folder / "b").touch()
        os.truncate(folder / "b", HASHED_BYTES + 1)
        (one,) = (await ask(stage, wanted(1, "a", "b")))["attempts"]
        assert one["artifacts"] == [
            {"path": "a", "bytes": 3_500, "sha256": sha256(content)},
            {"path": "b", "bytes": HASHED_BYTES + 1, "sha256": None},
        ]
        read: list[bytes] = []
        files_now.read_artifact(folder.parent, "b", 0, read.append)
        assert read == [b""]


async def test_what_was_pruned_is_so_and_what_never_was_here_is_not_there(stage: Stage) -> None:
    async with stage.agent():
        await left(stage)
        await left(stage, 2)
        shutil.rmtree(stage.root / "node/attempts" / new_ref(2).run_id)  # then where things are now counts
        await prune(stage, (new_ref(1).run_id, 1))
        answer = await ask(stage, wanted(1, "a"), wanted(2, "a"), wanted(3, "a"))
        assert answer["handled"] == 3
        first, second, third = answer["attempts"]
        assert first["pruned_at"] is not None and first["artifacts"] == []
        assert (second["output"], second["artifacts"][0]["bytes"]) == ({"stdout": 4, "stderr": 0}, 1)
        assert (third["output"], third["artifacts"][0]["bytes"]) == ({"stdout": None, "stderr": None}, None)
        assert second["pruned_at"] is None and third["pruned_at"] is None
        # as it was written down, to the microsecond
        folders = Folders(stage.root / "node", stage.runs_dir)
        for text, error in ((WHOLE_SECOND, None), ("lately", "pruned at 'lately', which is no time")):
            folders.write_pruned(new_ref(1).run_id, PrunedFile(pruned=(PrunedUpTo(attempt=1, at=text),)))
            (one,) = (await ask(stage, wanted(1, "a")))["attempts"]
            if error is None:
                assert (one["pruned_at"], one["error"]) == (text, None)
            else:
                assert one["pruned_at"] is None and error in one["error"]


async def test_a_call_answers_with_what_it_came_to_and_one_file_at_the_least(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files_service, "TURN_S", -1.0)
    async with stage.agent():
        for number in (1, 2):
            await left(stage, number)
        answer = await ask(stage, wanted(1, *FILES), wanted(2, *FILES))
        assert (answer["handled"], len(answer["attempts"])) == (0, 1)
        assert [each["path"] for each in answer["attempts"][0]["artifacts"]] == FILES[:1]
        answer = await ask(stage, wanted(1, FILES[2]), wanted(2, *FILES))
        assert (answer["handled"], len(answer["attempts"])) == (1, 1)
        assert (await ask(stage))["attempts"] == []


async def test_a_node_that_stops_does_not_read_to_the_end(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files_service, "BYTES_PER_S", 100)
    monkeypatch.setattr(files_now, "PIECE_BYTES", 10)
    async with stage.agent() as running:
        folder = await left(stage)
        (folder / "artifacts/a").write_bytes(bytes(100_000))
        asked = asyncio.create_task(ask(stage, wanted(1, "a")))
        await asyncio.sleep(0.2)
        running.agent.stop()
        (one,) = (await asked)["attempts"]
        assert "stopping" in one["error"]


@pytest.mark.parametrize(
    ("attempts", "path"),
    [
        ([{"run_id": "../x", "attempt": 1}], "attempts.0"),
        ([wanted(1), {"run_id": new_ref(1).run_id, "attempt": 0}], "attempts.1"),
        (["x"], "attempts.0"),
        ([wanted(1, file="a")], "attempts.0.file"),
        ([{**wanted(1), "artifacts": "a"}], "attempts.0.artifacts"),
        ([{**wanted(1), "artifacts": [1]}], "attempts.0.artifacts"),
        ([wanted(1, list=1)], "attempts.0.list"),
        ([wanted(1)] * 501, "attempts"),
        ([wanted(1, *["a"] * 1_001), wanted(2, *["a"] * 1_000)], "attempts"),
    ],
)
async def test_what_is_no_question_is_refused_by_its_field(stage: Stage, attempts: Any, path: str) -> None:
    async with stage.agent():
        error = (await ask(stage, *attempts))["error"]
        assert (error["code"], error["path"]) == ("invalid", path)


@given(st.lists(st.tuples(st.integers(0, 64 << 20), st.floats(0.0, 3.0))))
def test_no_more_is_read_than_50_mb_a_second(reads: list[tuple[int, float]]) -> None:
    begin, now, read = 1_000.0, 1_000.0, 0
    for count, took in reads:
        begun, now, read = now, now + took, read + count
        now += pause_s(begun, now, count)
        assert now - begin >= read / BYTES_PER_S - 1e-6
    slowest = sum(took for _, took in reads) + read / BYTES_PER_S
    assert now - begin <= slowest + 1e-6
