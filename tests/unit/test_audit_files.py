"""The comparison of an audit's files: what a node answers against what the log says, however the answers come."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from events.codec import StoredEvent, decode
from events.types import (
    Artifact,
    Artifacts,
    ArtifactsHashed,
    Completed,
    Failed,
    NodeJoined,
    OutputBytes,
)
from projections.audit import file_question
from projections.audit.files import FilesAudit, FilesCompared, Nodes
from projections.audit.logged_files import ArtifactsList, LoggedAttempt
from projections.audit.violation import MAX_VIOLATIONS
from tests.support.builders import Story
from tests.support.times import at
from tests.unit.test_audit_legality import RELEASE_0_1
from trainshed_client.answers import AttemptFiles, FileNow, NodeFiles, OutputNow
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.statuses import FailureReason
from trainshed_client.subjects import Role

SHA = hashlib.sha256(b"content").hexdigest()
OTHER = hashlib.sha256(b"another").hexdigest()


def artifacts(*paths: str, sha256: str | None = None, count: int | None = None, **fields: Any) -> Artifacts:
    """What an event says of these files, 7 bytes each."""
    entries = tuple(Artifact(path=path, bytes=7, sha256=sha256) for path in paths)
    return Artifacts(
        count=len(paths) if count is None else count, bytes=7 * len(paths), entries=entries, **fields
    )


class Disks:
    """The nodes, played: what they have of each attempt, and how they answer."""

    def __init__(self) -> None:
        self.there: dict[tuple[str, str, int], AttemptFiles] = {}
        self.incarnations = {"gpu01": "a"}
        self.calls: list[tuple[str, list[dict[str, Any]]]] = []
        self.turn = 10_000
        """So many files a call answers at most."""
        self.before_call: Callable[[int], None] = lambda number: None
        self.granted: set[str] = set()
        self.lists: dict[str, bytes] = {}

    def has(self, run_id: str, attempt: int = 1, node: str = "gpu01", **fields: Any) -> None:
        """What that node has of an attempt."""
        fields = {"output": OutputNow(stdout=5, stderr=0), **fields}
        self.there[node, run_id, attempt] = AttemptFiles(run_id=run_id, attempt=attempt, **fields)

    async def files(self, node: str, attempts: list[dict[str, Any]], within_s: float) -> NodeFiles:
        """The call."""
        self.calls.append((node, attempts))
        self.before_call(len(self.calls))
        if node not in self.incarnations:
            raise TrainshedError(ErrorCode.UNAVAILABLE, f"the agent of {node} is not there")
        room, handled = self.turn, 0
        answers: list[AttemptFiles] = []
        for one in attempts:
            if answers and room <= 0:
                break
            found = self.there[node, one["run_id"], one["attempt"]]
            named = {each.path: each for each in found.artifacts}
            wanted = one.get("artifacts", [])
            answered = wanted[: max(1, room)]
            room -= max(1, len(answered))
            answers.append(
                msgspec.structs.replace(
                    found,
                    artifacts=tuple(named.get(path, FileNow(path=path)) for path in answered),
                    list=found.list if one.get("list") else None,
                )
            )
            if len(answered) < len(wanted):
                break
            handled += 1
        return NodeFiles(node=node, incarnation=self.incarnations[node], handled=handled, attempts=answers)

    async def listed(self, attempt: LoggedAttempt) -> bytes:
        """artifacts.json."""
        return self.lists[attempt.run_id]

    async def granted_after(self, run_id: str, seq: int) -> bool:
        """Whether it was granted since."""
        return run_id in self.granted


@pytest.fixture
def disks() -> Disks:
    return Disks()


@pytest.fixture
def story() -> Story:
    told = Story()
    told.elect()
    told.join()
    return told


def ended(story: Story, run_id: str, attempt: int = 1, node: str = "gpu01", **fields: Any) -> int:
    """An attempt that ended with 5 bytes of stdout."""
    fields = {"duration_s": 1.0, "output": OutputBytes(stdout=5, stderr=0), **fields}
    return story.put(Role.AGENT, Completed(run_id=run_id, attempt=attempt, **fields), node)


async def compared(story: Story, disks: Disks) -> tuple[list[tuple[int, str]], dict[str, Any]]:
    """What is found, and what is counted (but zeros)."""
    audit = FilesAudit(Nodes(disks.files, disks.listed, disks.granted_after))
    try:
        for stored in story.log:
            audit.take(stored, {})
        violations = await audit.violations()
        assert {one.invariant for one in violations} <= {"I10"}
        counts = msgspec.to_builtins(audit.compared)
        assert audit.compared.done == audit.compared.attempts
        return [(one.seq, one.message) for one in violations], {k: v for k, v in counts.items() if v}
    finally:
        audit.close()


async def test_what_is_as_the_log_says_is_no_finding(story: Story, disks: Disks) -> None:
    ended(story, "r1", artifacts=artifacts("a", "b"))
    hashed = artifacts("a", "b", sha256=SHA)
    story.put(
        Role.AGENT,
        ArtifactsHashed(run_id="r1", attempt=1, artifacts=msgspec.structs.replace(hashed, sha256=SHA)),
        "gpu01",
    )
    there = tuple(FileNow(path=path, bytes=7, sha256=SHA) for path in "ab")
    disks.has("r1", artifacts=there, list=FileNow(path="artifacts.json", bytes=90, sha256=SHA))
    assert await compared(story, disks) == ([], {"attempts": 1, "compared": 1, "artifacts": 2})
    disks.has("r1", artifacts=there, list=FileNow(path="artifacts.json", bytes=90, sha256=OTHER))
    found, _ = await compared(story, disks)
    of = "run r1 attempt 1 on gpu01:"
    assert found == [(4, f"{of} artifacts.json has the SHA-256 {OTHER}, the log says {SHA}")]


@pytest.mark.parametrize(
    ("fields", "seq", "how"),
    [
        ({"output": OutputNow(stdout=6, stderr=0)}, 3, "stdout has 6 bytes, the log says 5"),
        ({"output": OutputNow(stdout=5)}, 3, "stderr is not there, the log says 0 bytes"),
        ({"artifacts": ()}, 3, "artifacts/a is not there, the log says 7 bytes"),
        (
            {"artifacts": (FileNow(path="a", bytes=8, sha256=SHA),)},
            3,
            "artifacts/a has 8 bytes, the log says 7",
        ),
        (
            {"artifacts": (FileNow(path="a", bytes=7, sha256=OTHER),)},
            4,
            f"artifacts/a has the SHA-256 {OTHER}, the log says {SHA}",
        ),
    ],
)
async def test_what_differs_is_named_by_the_first_event_that_says_otherwise(
    story: Story, disks: Disks, fields: dict[str, Any], seq: int, how: str
) -> None:
    ended(story, "r1", artifacts=artifacts("a"))
    hashed = ArtifactsHashed(run_id="r1", attempt=1, artifacts=artifacts("a", sha256=SHA))
    story.put(Role.AGENT, hashed, "gpu01")
    disks.has("r1", **{"artifacts": (FileNow(path="a", bytes=7, sha256=SHA),), **fields})
    found, counts = await compared(story, disks)
    assert found == [(seq, f"run r1 attempt 1 on gpu01: {how}")]
    assert counts == {"attempts": 1, "compared": 1, "artifacts": 1}


@pytest.mark.parametrize("turn", [1, 2, 3, 7])
async def test_however_few_files_an_answer_has_all_are_compared(
    story: Story, disks: Disks, turn: int
) -> None:
    disks.turn = turn
    for number in range(4):
        paths = [f"{name}" for name in range(number * 2)]
        ended(story, f"r{number}", artifacts=artifacts(*paths))
        last = len(paths) - 1
        there = (FileNow(path=path, bytes=8 if int(path) == last else 7, sha256=SHA) for path in paths)
        disks.has(f"r{number}", artifacts=tuple(there))
    found, counts = await compared(story, disks)
    assert [message.split()[1] for _, message in found] == ["r1", "r2", "r3"]
    assert counts == {"attempts": 4, "compared": 4, "artifacts": 12, "not_hashed": 12}


async def test_a_question_names_no_more_than_an_agent_takes(
    story: Story, disks: Disks, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1_201):
        ended(story, f"r{number}")
        disks.has(f"r{number}")
    assert await compared(story, disks) == ([], {"attempts": 1_201, "compared": 1_201})
    assert [len(attempts) for _, attempts in disks.calls] == [0, 500, 500, 201]
    disks.calls.clear()
    monkeypatch.setattr(file_question, "MAX_ARTIFACTS", 3)
    ended(story, "x", artifacts=artifacts("a", "b"))
    ended(story, "y", artifacts=artifacts("a", "b"))
    for run_id in "xy":
        disks.has(run_id, artifacts=tuple(FileNow(path=path, bytes=7, sha256=SHA) for path in "ab"))
    await compared(story, disks)
    assert max(sum(len(one.get("artifacts", ())) for one in asked) for _, asked in disks.calls) == 2


async def test_what_was_pruned_or_granted_anew_meanwhile_is_no_finding(story: Story, disks: Disks) -> None:
    for run_id in ("r1", "r2"):
        ended(story, run_id, artifacts=artifacts("a"))
        disks.has(run_id)  # its artifact is gone
    disks.granted.add("r2")

    def prune(call: int) -> None:
        if call == 3:  # the first, then all, then what seemed to differ
            disks.has("r1", output=OutputNow(), pruned_at=at("2026-11-27T09:00:00Z"))

    disks.before_call = prune
    found, counts = await compared(story, disks)
    assert found == []
    assert counts == {"attempts": 2, "compared": 1, "pruned": 1, "left_out": 1}


async def test_artifacts_are_the_last_attempts_and_output_is_each_ones_own(
    story: Story, disks: Disks
) -> None:
    story.submit("r1")
    story.dispatch("r1")
    ended(story, "r1", artifacts=artifacts("a"))
    story.retry("r1")
    story.dispatch("r1", attempt=2)
    second = ended(story, "r1", 2, artifacts=artifacts("a"))
    disks.has("r1", 1, output=OutputNow(stdout=4, stderr=0))
    disks.has("r1", 2)
    found, counts = await compared(story, disks)
    assert found == [
        (5, "run r1 attempt 1 on gpu01: stdout has 4 bytes, the log says 5"),
        (second, "run r1 attempt 2 on gpu01: artifacts/a is not there, the log says 7 bytes"),
    ]
    assert counts == {"attempts": 2, "compared": 2, "artifacts": 1, "not_hashed": 1, "left_out": 1}


async def test_nodes_that_do_not_answer_or_are_others_now_are_away(story: Story, disks: Disks) -> None:
    ended(story, "r1")
    disks.has("r1")
    story.put(Role.AGENT, NodeJoined(node="gpu02", incarnation="old", host="h", cpus=1, memory_mb=1), "gpu02")
    ended(story, "r2", node="gpu02")
    ended(story, "r3", node="gpu03")
    disks.incarnations["gpu02"] = "new"
    found, counts = await compared(story, disks)
    assert found == []
    away = {one["node"]: (one["attempts"], one["reason"]) for one in counts.pop("away")}
    assert counts == {"attempts": 3, "compared": 1}
    assert away["gpu03"] == (1, "the agent of gpu03 is not there")
    assert away["gpu02"][0] == 1 and "state folder" in away["gpu02"][1]


async def test_a_node_that_stops_answering_leaves_the_rest_uncompared(story: Story, disks: Disks) -> None:
    for number in range(700):
        ended(story, f"r{number}")
        disks.has(f"r{number}", output=OutputNow(stdout=9 if number == 0 else 5, stderr=0))

    def leave(call: int) -> None:
        if call == 4:
            disks.incarnations.clear()

    disks.before_call = leave
    found, counts = await compared(story, disks)
    assert len(found) == 1
    (away,) = counts.pop("away")
    assert (away["attempts"], counts) == (200, {"attempts": 700, "compared": 500})


async def test_an_agent_that_gets_nowhere_is_not_asked_for_ever(story: Story, disks: Disks) -> None:
    ended(story, "r1")

    async def nothing(node: str, attempts: list[dict[str, Any]], within_s: float) -> NodeFiles:
        return NodeFiles(node=node, incarnation="a", handled=0)

    disks.files = nothing  # type: ignore[method-assign]
    _, counts = await compared(story, disks)
    assert counts["away"][0]["attempts"] == 1


async def test_storage_that_does_not_answer_is_no_difference(story: Story, disks: Disks) -> None:
    ended(story, "r1")
    disks.has("r1", output=OutputNow(), error="the storage does not answer")
    assert await compared(story, disks) == ([], {"attempts": 1, "unreadable": 1})


async def test_storage_that_hangs_is_not_waited_for_with_each_of_many_attempts(
    story: Story, disks: Disks
) -> None:
    for number in range(100):
        ended(story, f"r{number}")
        disks.has(f"r{number}", output=OutputNow(), error="its storage does not answer")
    disks.turn = 1
    found, counts = await compared(story, disks)
    (away,) = counts.pop("away")
    assert (found, away["reason"]) == ([], "its storage does not answer")
    assert away["attempts"] + counts["unreadable"] == 100 and counts["unreadable"] < 10


async def test_through_the_list_the_artifacts_that_no_event_names_are_compared(
    story: Story, disks: Disks
) -> None:
    paths = [f"{number:04}" for number in range(1_300)]
    every = ArtifactsList([Artifact(path=path, bytes=7, sha256=SHA) for path in paths])
    body = msgspec.json.encode(every)
    digest = hashlib.sha256(body).hexdigest()
    at = ended(story, "r1", artifacts=artifacts(*paths[:200], count=1_300))
    said = msgspec.structs.replace(artifacts(*paths[:200], sha256=SHA, count=1_300), sha256=digest)
    story.put(Role.AGENT, ArtifactsHashed(run_id="r1", attempt=1, artifacts=said), "gpu01")
    disks.lists["r1"] = body
    there = [FileNow(path=path, bytes=7, sha256=SHA) for path in paths]
    there[1_250] = FileNow(path=paths[1_250], bytes=7, sha256=OTHER)
    disks.has(
        "r1",
        artifacts=tuple(there),
        list=FileNow(path="artifacts.json", bytes=len(body), sha256=digest),
    )
    found, counts = await compared(story, disks)
    assert [(seq, message.split()[6]) for seq, message in found] == [(at + 1, "artifacts/1250")]
    assert counts == {"attempts": 1, "compared": 1, "artifacts": 1_300}

    disks.lists["r1"] = body + b" "  # another meanwhile
    found, counts = await compared(story, disks)
    assert (found, counts["left_out"], counts["artifacts"]) == ([], 1_100, 200)


async def test_of_what_older_logs_do_not_say_nothing_is_claimed(disks: Disks) -> None:
    audit = FilesAudit(Nodes(disks.files, disks.listed, disks.granted_after))
    for line in RELEASE_0_1.read_text().splitlines():
        each = msgspec.json.decode(line)
        stored = decode(each["subject"], each["body"].encode(), each["seq"], each["stored_ns"])
        assert isinstance(stored, StoredEvent)
        audit.take(stored, {})
    (counts,) = audit.logged.counts().values()
    attempts = [each for node in audit.logged.counts() for each in audit.logged.of_node(node)]
    assert (counts, [each.output for each in attempts]) == (10, [[]] * 10)
    (with_artifacts,) = [each for each in attempts if each.artifacts]
    assert [(one.file, one.bytes) for one in with_artifacts.artifacts] == [("artifacts/model.bin", 8)]
    audit.close()


async def test_an_end_without_a_worker_or_by_the_dispatcher_is_of_no_files(story: Story) -> None:
    audit = FilesAudit(Nodes(Disks().files, Disks().listed, Disks().granted_after))
    story.put(Role.AGENT, Failed(run_id="r1", attempt=1, failure_reason=FailureReason.NOT_STARTED), "gpu01")
    story.put(Role.DISPATCHER, Failed(run_id="r2", attempt=1, failure_reason=FailureReason.NODE_LOST))
    for stored in story.log:
        audit.take(stored, {})
    assert audit.logged.counts() == {}
    assert await audit.violations() == []
    assert audit.compared == FilesCompared()
    audit.close()


async def test_paths_that_are_no_text_are_left_out_and_findings_are_a_hundred_at_most(
    story: Story, disks: Disks
) -> None:
    paths = ["bad\ufffd", *(f"{number}" for number in range(150))]
    ended(story, "r1", artifacts=artifacts(*paths))
    disks.has("r1")
    found, counts = await compared(story, disks)
    assert len(found) == MAX_VIOLATIONS
    assert counts == {"attempts": 1, "compared": 1, "artifacts": 150, "not_hashed": 150, "left_out": 1}
