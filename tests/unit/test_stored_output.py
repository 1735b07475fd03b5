"""The stored output of an attempt: both streams in order, and the last lines of it by reading only the files' ends."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.times import at
from trainshed_client import output_range, subjects
from trainshed_client.connection import Reply
from trainshed_client.output_range import (
    OutputChunk,
    last_lines,
    stored_output,
    timed_lines,
    written_by,
)

RUN = "a" * 26


def _time(number: int) -> str:
    return f"2026-11-24T09:00:00.{number:06}Z"


class Files:
    """An attempt's files behind the call that reads ranges of them; ``most`` bytes an answer."""

    def __init__(self, writes: list[tuple[str, bytes]], most: int = 1 << 30) -> None:
        self.files = {"stdout": b"", "stderr": b"", "index": b""}
        self.read = 0
        self._most = most
        for number, (stream, data) in enumerate(writes):
            self.files[stream] += data
            seen = {"time": _time(number), "stream": stream, "offset": len(self.files[stream])}
            self.files["index"] += msgspec.json.encode(seen) + b"\n"

    async def request(self, subject: str, payload: bytes) -> Reply:
        asked = msgspec.json.decode(payload)
        assert subject == subjects.node_output("gpu01")
        assert (asked["run_id"], asked["attempt"]) == (RUN, 1)
        assert asked["limit"] >= 1
        file, offset = self.files[asked["stream"]], asked["offset"]
        data = file[offset : offset + min(asked["limit"], self._most)]
        self.read += len(data)
        headers = {subjects.OFFSET_HEADER: str(offset), subjects.SIZE_HEADER: str(len(file))}
        return Reply(bytes(data), headers)


def whole(files: Files, **options: Any) -> list[OutputChunk]:
    async def read() -> list[OutputChunk]:
        return [chunk async for chunk in stored_output(files, RUN, 1, "gpu01", **options)]

    return asyncio.run(read())


def tail(files: Files, lines: int, **options: Any) -> output_range.Tail:
    return asyncio.run(last_lines(files, RUN, 1, "gpu01", lines, **options))


def joined(chunks: list[OutputChunk]) -> bytes:
    return b"".join(chunk.data for chunk in chunks)


WRITES = st.lists(
    st.tuples(
        st.sampled_from(["stdout", "stderr"]), st.sampled_from([b"a\n", b"b", b"\n", b"cc\ndd\n", b"e\nf"])
    ),
    max_size=30,
)


@settings(max_examples=60)
@given(writes=WRITES, lines=st.integers(min_value=0, max_value=12))
def test_the_last_lines_are_those_of_the_whole_however_small_the_ranges(
    writes: list[tuple[str, bytes]], lines: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output_range, "RANGE_BYTES", 64)
        files = Files(writes, most=64)
        found = tail(files, lines)
    everything = joined(whole(files))
    assert joined(found.chunks) == b"".join(everything.splitlines(keepends=True)[-lines:] if lines else [])
    assert found.sizes == {"stdout": len(files.files["stdout"]), "stderr": len(files.files["stderr"])}
    for chunk in found.chunks:
        assert files.files[chunk.stream][chunk.offset :].startswith(chunk.data)


@pytest.mark.parametrize("where", [0, 29_990])
def test_of_a_long_output_only_the_end_is_read(where: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_range, "RANGE_BYTES", 4096)
    writes = [("stdout", f"line {n} of the many that there are\n".encode()) for n in range(30_000)]
    files = Files([*writes[:where], ("stderr", b"a warning\n"), *writes[where:]])
    found = tail(files, 12)
    said = [line.strip() for _, line in writes[-12:]]
    if where:
        said = [*said[1:2], b"a warning", *said[2:]]
    assert joined(found.chunks).splitlines() == said
    assert files.read < sum(map(len, files.files.values())) / 4


def test_one_stream_alone_has_its_own_last_lines() -> None:
    files = Files([("stderr", b"first\nsecond\n"), ("stdout", b"x\n" * 500)])
    assert joined(tail(files, 1, streams=("stderr",)).chunks) == b"second\n"


def test_reading_may_begin_anywhere() -> None:
    files = Files([("stdout", b"one\n"), ("stderr", b"two\n"), ("stdout", b"three\n")])
    assert joined(whole(files)) == b"one\ntwo\nthree\n"
    assert joined(whole(files, begin={"stdout": 4, "stderr": 4})) == b"three\n"


@settings(max_examples=60)
@given(writes=WRITES, by=st.integers(-1, 30), lines=st.integers(0, 6))
def test_by_a_time_there_was_what_had_been_written_then(
    writes: list[tuple[str, bytes]], by: int, lines: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output_range, "RANGE_BYTES", 64)
        files = Files(writes, most=64)
        ends = asyncio.run(
            written_by(files, RUN, 1, "gpu01", at(_time(by) if by >= 0 else "2026-11-24T08:00:00Z"))
        )
        found, last = whole(files, ends=ends), tail(files, lines, ends=ends)
    then = b"".join(data for _, data in writes[: by + 1])
    assert joined(found) == then
    assert joined(last.chunks) == b"".join(then.splitlines(keepends=True)[-lines:] if lines else [])


def test_what_one_stream_wrote_long_ago_is_among_the_last_lines_of_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(output_range, "RANGE_BYTES", 256)
    files = Files([("stdout", b"one\n" * 200), ("stderr", b"two\n"), *[("stdout", b"later\n")] * 300])
    ends = asyncio.run(written_by(files, RUN, 1, "gpu01", at(_time(1))))
    assert joined(tail(files, 2, ends=ends).chunks) == b"one\ntwo\n"


def test_every_line_bears_its_time_and_its_stream() -> None:
    files = Files([("stdout", b"one\ntw"), ("stderr", b"err\n"), ("stdout", b"o\n")])

    async def read() -> bytes:
        return joined([one async for one in timed_lines(stored_output(files, RUN, 1, "gpu01"))])

    assert (
        asyncio.run(read())
        == f"{_time(0)} stdout one\n{_time(0)} stdout tw{_time(1)} stderr err\no\n".encode()
    )
