"""What a node is asked of one attempt's files, and where its answer is not what the log says of them. Pure.

Owns that comparison and how much one call asks for; knows neither NATS nor what is counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from msgspec.structs import replace

from projections.audit.logged_files import ARTIFACTS, LIST, LoggedAttempt, LoggedFile
from trainshed_client.answers import AttemptFiles, FileNow

MAX_ATTEMPTS = 500
MAX_ARTIFACTS = 1_000
MAX_PATHS_BYTES = 200_000
"""What one call names at most (the agent takes more)."""


class FilesQuestion:
    """What is asked of one attempt, in as many calls as it takes, and what was answered.

    ``rest``: of an attempt that was compared, those of its artifacts that its list alone names.
    """

    def __init__(self, attempt: LoggedAttempt, rest: list[LoggedFile] | None = None) -> None:
        self.attempt = attempt
        self.rest = rest
        self._list = attempt.list if rest is None else None
        self.artifacts = attempt.artifacts if rest is None else rest
        self._paths = list(dict.fromkeys(one.file.removeprefix(ARTIFACTS) for one in self.artifacts))
        self._answer: AttemptFiles | None = None

    @property
    def files(self) -> list[LoggedFile]:
        """All that it is about."""
        output = self.attempt.output if self.rest is None else []
        return [*output, *([] if self._list is None else [self._list]), *self.artifacts]

    def anew(self) -> FilesQuestion:
        """The same question, unanswered."""
        return FilesQuestion(self.attempt, self.rest)

    @property
    def request(self) -> dict[str, Any]:
        """What of it is still to be asked."""
        have = self._answer
        request: dict[str, Any] = {"run_id": self.attempt.run_id, "attempt": self.attempt.attempt}
        if paths := self._paths[0 if have is None else len(have.artifacts) :]:
            request["artifacts"] = paths
        if self._list is not None and (have is None or have.list is None):
            request["list"] = True
        return request

    def take(self, answer: AttemptFiles) -> None:
        """Keep what a call answered."""
        have = self._answer
        if have is not None and answer.pruned_at is None and answer.error is None:
            artifacts = (*have.artifacts, *answer.artifacts)
            answer = replace(answer, artifacts=artifacts, list=have.list or answer.list)
        self._answer = answer

    @property
    def answer(self) -> AttemptFiles:
        """All that was answered."""
        assert self._answer is not None  # it was asked
        return self._answer

    def differences(self) -> list[tuple[LoggedFile, str]]:
        """Each file that is not what the log says, with the first event that says otherwise, and how it differs."""
        answer = self.answer
        there = {ARTIFACTS + one.path: one for one in answer.artifacts}
        there["stdout"] = FileNow(path="stdout", bytes=answer.output.stdout)
        there["stderr"] = FileNow(path="stderr", bytes=answer.output.stderr)
        if answer.list is not None:
            there[LIST] = answer.list
        found: dict[str, tuple[LoggedFile, str]] = {}
        for logged in self.files:
            difference = _difference(logged, there.get(logged.file))
            if difference is not None:
                found.setdefault(logged.file, (logged, difference))
        return list(found.values())


def _difference(logged: LoggedFile, there: FileNow | None) -> str | None:
    """What is otherwise; None: nothing."""
    if there is None or there.bytes is None:
        size = "has it" if logged.bytes is None else f"says {logged.bytes:,} bytes"
        return f"is not there, the log {size}"
    if logged.bytes is not None and there.bytes != logged.bytes:
        return f"has {there.bytes:,} bytes, the log says {logged.bytes:,}"
    if logged.sha256 is not None and there.sha256 != logged.sha256:
        return f"has the SHA-256 {there.sha256}, the log says {logged.sha256}"
    return None


def batches(questions: Iterable[FilesQuestion]) -> Iterator[list[FilesQuestion]]:
    """As many of them together as one call takes."""
    batch: list[FilesQuestion] = []
    paths = size = 0
    for question in questions:
        count = len(question.artifacts)
        length = sum(len(one.file.encode()) for one in question.artifacts)
        if batch and (
            len(batch) == MAX_ATTEMPTS or paths + count > MAX_ARTIFACTS or size + length > MAX_PATHS_BYTES
        ):
            yield batch
            batch, paths, size = [], 0, 0
        batch.append(question)
        paths, size = paths + count, size + length
    if batch:
        yield batch
