"""Are output and artifacts on the nodes what the log says of them (I10)? Each node is asked for its own.

Owns what is compared, and what of it is counted as not compared; knows neither NATS nor a disk.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any

import msgspec

from events.codec import StoredEvent
from events.state import Run
from projections.audit.file_question import FilesQuestion, batches
from projections.audit.logged_files import (
    ARTIFACTS,
    LIST,
    OUTPUT,
    UNNAMED,
    ArtifactsList,
    LoggedAttempt,
    LoggedFile,
    LoggedFiles,
)
from projections.audit.violation import MAX_VIOLATIONS, Violation
from trainshed_client.answers import NodeFiles
from trainshed_client.errors import ErrorCode, TrainshedError

NODES_AT_ONCE = 8
FIRST_WITHIN_S = 5.0
ANSWERS_WITHIN_S = 120.0
"""A call ends after some 2 s, but its turn may come late, and its storage may be slow."""
HANGS_AT_MOST = 10
"""Storage that hangs holds up a call for some seconds each time it is asked for."""
LIST_BYTES = 16 << 20
"""A longer list of artifacts is not read: it would not fit into the memory that an audit may take."""


class NodeAway(msgspec.Struct, frozen=True):
    """A node of which so many attempts were not compared, and why: it does not answer, or is another machine now."""

    node: str
    attempts: int
    reason: str


class FilesCompared(msgspec.Struct, kw_only=True):
    """What was compared and what was not: ``attempts`` are those compared, pruned, unreadable, unknown and away.

    ``unknown``: the log says nothing of their files; ``output_unknown``: so many of the compared, of whose output it does not say
    how large it was. ``artifacts`` were compared, ``not_hashed`` of them by their size alone; ``left_out`` were not: another
    attempt of their run came after it, or no event and no list that can be read names them.
    """

    attempts: int = 0
    compared: int = 0
    pruned: int = 0
    unreadable: int = 0
    unknown: int = 0
    output_unknown: int = 0
    artifacts: int = 0
    not_hashed: int = 0
    left_out: int = 0
    away: list[NodeAway] = msgspec.field(default_factory=list)

    @property
    def done(self) -> int:
        """Attempts of which there is nothing more to learn."""
        away = sum(node.attempts for node in self.away)
        return self.compared + self.pruned + self.unreadable + self.unknown + away


class Nodes(msgspec.Struct, frozen=True):
    """How nodes and log are asked; each raises TrainshedError where nobody answers."""

    files: Callable[[str, list[dict[str, Any]], float], Awaitable[NodeFiles]]
    """The call ``.node.<node>.files``, which is waited for so many seconds."""
    artifacts_list: Callable[[LoggedAttempt], Awaitable[bytes]]
    """The attempt's artifacts.json on its node."""
    granted_after: Callable[[str, int], Awaitable[bool]]
    """Whether the log has a grant of that run after that sequence."""


class FilesAudit:
    """An AuditCheck. ``progress`` hears how many attempts are done, and of how many."""

    def __init__(self, nodes: Nodes, progress: Callable[[int, int], None] = lambda done, of: None) -> None:
        self.logged = LoggedFiles()
        self.compared = FilesCompared()
        self.nodes = nodes
        self.progress = progress
        self._violations: list[Violation] = []

    def close(self) -> None:
        """Let go of what was kept."""
        self.logged.close()

    def take(self, stored: StoredEvent, history: Mapping[str, Run]) -> None:
        """See AuditCheck."""
        self.logged.observe(stored)

    async def violations(self) -> list[Violation]:
        """Ask every node on which attempts have ended; returns what differs, the first hundred."""
        counts = self.logged.counts()
        self.compared.attempts = sum(counts.values())
        at_once = asyncio.Semaphore(NODES_AT_ONCE)

        async def ask(node: str, count: int) -> None:
            async with at_once:
                await _OfNode(self, node, count).compare()

        async with asyncio.TaskGroup() as tasks:
            for node, count in counts.items():
                tasks.create_task(ask(node, count))
        return sorted(self._violations, key=lambda one: one.seq)

    def differs(self, attempt: LoggedAttempt, logged: LoggedFile, how: str) -> None:
        """Name a file that is not what the event says."""
        if len(self._violations) < MAX_VIOLATIONS:
            of = f"run {attempt.run_id} attempt {attempt.attempt} on {attempt.node}"
            self._violations.append(Violation("I10", logged.seq, f"{of}: {logged.file} {how}"))


class _OfNode:
    """One node's part of an audit: ``left`` of its attempts are not done."""

    def __init__(self, audit: FilesAudit, node: str, left: int) -> None:
        self._audit = audit
        self._nodes = audit.nodes
        self._node = node
        self._left = left
        self._others = 0
        """Attempts that ended in another state folder of a node of this name."""
        self._hangs = 0

    async def compare(self) -> None:
        """Ask for everything; where the node stops answering the rest of its attempts are away."""
        compared = self._audit.compared
        try:
            incarnation = (await self._nodes.files(self._node, [], FIRST_WITHIN_S)).incarnation
            for batch in batches(self._questions(incarnation)):
                await self._ask(batch)
                self._audit.progress(compared.done, compared.attempts)
        except TrainshedError as error:
            compared.away.append(NodeAway(self._node, self._left, error.message))
        if self._others:
            reason = "its state folder is another than the one that they ended in"
            compared.away.append(NodeAway(self._node, self._others, reason))
        compared.away.sort(key=lambda away: away.node)
        self._audit.progress(compared.done, compared.attempts)

    def _questions(self, incarnation: str) -> Iterator[FilesQuestion]:
        for attempt in self._audit.logged.of_node(self._node):
            if attempt.incarnation not in ("", incarnation):
                self._left -= 1
                self._others += 1
            elif (question := FilesQuestion(attempt)).files:
                yield question
            else:
                self._left -= 1
                self._audit.compared.unknown += 1
                self._audit.compared.left_out += attempt.artifacts_count

    async def _ask(self, questions: list[FilesQuestion], *, again: bool = False) -> None:
        """Ask, and judge the answers. What seems to differ is asked again: it may just have been pruned, or its run been
        granted anew."""
        suspects: list[FilesQuestion] = []
        async for question in self._answered(questions):
            there = question.answer.error is None and question.answer.pruned_at is None
            if there and not again and question.differences():
                suspects.append(question.anew())
            else:
                await self._judge(question)
        if suspects:
            await self._ask(suspects, again=True)

    async def _answered(self, questions: list[FilesQuestion]) -> AsyncIterator[FilesQuestion]:
        """Each of the questions, once all of its answer is there."""
        while questions:
            requests = [question.request for question in questions]
            answer = await self._nodes.files(self._node, requests, ANSWERS_WITHIN_S)
            for question, found in zip(questions, answer.attempts, strict=False):
                if (found.run_id, found.attempt) != (question.attempt.run_id, question.attempt.attempt):
                    raise self._unreadable()
                question.take(found)
            self._heed_hangs(questions, answer)
            got_on = answer.handled > 0 or any(found.artifacts for found in answer.attempts)
            if not got_on or answer.handled > len(answer.attempts):
                raise self._unreadable()
            for question in questions[: answer.handled]:
                yield question
            questions = questions[answer.handled :]

    def _heed_hangs(self, questions: list[FilesQuestion], answer: NodeFiles) -> None:
        """A call that stops at an attempt which cannot be read has waited for storage that hangs: not for each of many.

        Raises TrainshedError.
        """
        if answer.handled < len(questions) and answer.attempts and (why := answer.attempts[-1].error):
            self._hangs += 1
            if self._hangs == HANGS_AT_MOST:
                raise TrainshedError(ErrorCode.UNAVAILABLE, why)

    def _unreadable(self) -> TrainshedError:
        return TrainshedError(
            ErrorCode.UNAVAILABLE, f"the agent of {self._node} answers what this release does not read"
        )

    async def _judge(self, question: FilesQuestion) -> None:
        """Count it, and name what differs."""
        compared, answer, attempt = self._audit.compared, question.answer, question.attempt
        if answer.pruned_at is not None or answer.error is not None:
            if question.rest is not None:
                compared.left_out += len(question.rest)
                return
            self._left -= 1
            if answer.pruned_at is not None:
                compared.pruned += 1
            else:
                compared.unreadable += 1
            return
        differences = question.differences()
        if any(logged.file not in OUTPUT for logged, _ in differences):
            last = attempt.facts[-1].seq
            if await self._nodes.granted_after(attempt.run_id, last):  # since the log was read
                attempt = attempt._replace(again=True)
                differences = [each for each in differences if each[0].file in OUTPUT]
        for logged, how in differences:
            self._audit.differs(attempt, logged, how)
        if question.rest is not None:
            self._count_artifacts(attempt, question)
            return
        self._left -= 1
        compared.compared += 1
        compared.output_unknown += not attempt.output
        self._count_artifacts(attempt, question)
        beyond = attempt.artifacts_count - len({one.file for one in question.artifacts})
        if beyond > 0 and not attempt.again:
            whole = attempt.list is not None and all(logged.file != LIST for logged, _ in differences)
            if whole and answer.list is not None and (answer.list.bytes or 0) <= LIST_BYTES:
                await self._compare_rest(attempt, question, beyond)
            else:
                compared.left_out += beyond

    def _count_artifacts(self, attempt: LoggedAttempt, question: FilesQuestion) -> None:
        compared = self._audit.compared
        if attempt.again:
            compared.left_out += attempt.artifacts_count if question.rest is None else len(question.rest)
            return
        every = {one.file for one in question.artifacts}
        hashed = {one.file for one in question.artifacts if one.sha256 is not None}
        compared.artifacts += len(every)
        compared.not_hashed += len(every) - len(hashed)

    async def _compare_rest(self, attempt: LoggedAttempt, question: FilesQuestion, beyond: int) -> None:
        """Compare ``beyond`` more artifacts, which its list alone names: that is what the log says of it."""
        named = {one.file for one in question.artifacts}
        listed = await self._listed(attempt)
        rest = [one for one in listed if one.file not in named and UNNAMED not in one.file]
        self._audit.compared.left_out += max(0, beyond - len(rest))
        for batch in batches(FilesQuestion(attempt, [one]) for one in rest):
            await self._ask(batch)

    async def _listed(self, attempt: LoggedAttempt) -> list[LoggedFile]:
        """What its artifacts.json lists; nothing where that has become another meanwhile."""
        assert attempt.list is not None
        try:
            body = await self._nodes.artifacts_list(attempt)
        except TrainshedError as error:
            if error.code is ErrorCode.UNAVAILABLE:
                raise
            return []
        if hashlib.sha256(body).hexdigest() != attempt.list.sha256:
            return []
        seq = attempt.list.seq
        listed = msgspec.json.decode(body, type=ArtifactsList).artifacts
        return [LoggedFile(ARTIFACTS + one.path, seq, one.bytes, one.sha256) for one in listed]
