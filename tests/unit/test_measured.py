"""Lines of stdout as what they measure: which numbers count, and that every whole line is looked at once, however it is read."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.agent.output import measured as measured_lines
from services.agent.output.measured import LineReader, MeasuredLine, measured
from trainshed_client.telemetry import MAX_LINE


@pytest.mark.parametrize(
    ("line", "step", "metrics"),
    [
        (b'{"type": "step", "reward": 1}', None, {"reward": 1.0}),
        (b'  {"event": null, "step": 5.0, "loss": -2e-3}\r', 5, {"loss": -0.002}),
        (b'{"type": "step", "step": 1, "time": 2, "timestamp": 3, "episode": 4, "seed": 5}', 1, {}),
        (
            b'{"type": "s", "a": NaN, "b": -Infinity, "c": "Infinity", "d": "Inf"}',
            None,
            {"a": math.nan, "b": -math.inf, "c": math.inf},
        ),
        (
            b'{"type": 7, "ok": true, "none": null, "in": {"a": 1}, "list": [1], "text": "1"}',
            None,
            {"type": 7.0},
        ),
        (b'{"type": "s", "step": 1.5, "loss": 1}', None, {"loss": 1.0}),
        (b'{"type": "s", "step": 1e300, "huge": 1' + b"0" * 400 + b', "loss": 1}', None, {"loss": 1.0}),
        (b'{"type": "s", "progress": 0.5}', None, {"progress": 0.5}),
        (b'{"type": "s", "\\ud800": NaN, "\\ud83d\\ude00": 1}', None, {"\U0001f600": 1.0}),
    ],
)
def test_the_numbers_at_the_top_level_are_metrics(
    line: bytes, step: int | None, metrics: dict[str, float]
) -> None:
    found = measured(line, 7)
    assert found is not None and (found.offset, found.step) == (7, step)
    assert found.metrics == pytest.approx(metrics, nan_ok=True)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"step 1 loss 2",
        b'{"reward": 1}',
        b'["type", "event"]',
        b'{"type": "heartbeat"}',
        b'{"type": "step", "reward": 1',
        b'"type"',
        b'{"type": ' + b"[" * 5000,
        b'{"type": NaN' + b"[" * 60_000,
        b'{"type": "' + b"x" * MAX_LINE + b'", "a": 1}',
        b'{"a": {"type": 1}, "b": 1}',
        b"\xff\xfe",
    ],
)
def test_no_other_line_measures_anything(line: bytes) -> None:
    assert measured(line, 0) is None


LINES = st.one_of(
    st.builds(lambda step: b'{"type":"s","step":%d}' % step, st.integers(0, 10**6)),
    st.sampled_from([b"", b"plain", b'{"type":"x"}', b"{" * 50, b'{"type":"' + b"y" * 300 + b'","a":1}']),
)


@given(
    st.lists(LINES, max_size=30),
    st.binary(max_size=20),
    st.lists(st.integers(0, 40), max_size=10),
)
def test_however_stdout_grows_each_of_its_whole_lines_is_found_once(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], torn: bytes, grows_by: list[int]
) -> None:
    torn = torn.replace(b"\n", b"")
    data = b"".join(line + b"\n" for line in lines) + torn
    path = tmp_path_factory.mktemp("stdout") / "stdout.log"
    reader = LineReader(path)
    found: list[MeasuredLine] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measured_lines, "READ_BYTES", 100)
        patch.setattr(measured_lines, "MAX_LINE", 80)
        assert reader.read() == []
        with path.open("ab", buffering=0) as file:
            at = 0
            for more in [*grows_by, len(data)]:
                file.write(data[at : at + more])
                at += more
                found += reader.read()
                while not reader.at_end:
                    found += reader.read()
    expected = []
    offset = 0
    for line in lines:
        one = measured(line, offset) if len(line) <= 80 else None
        expected += [one] if one is not None else []
        offset += len(line) + 1
    assert found == expected


def test_a_reader_goes_on_from_a_line_that_is_known(tmp_path: Path) -> None:
    path = tmp_path / "stdout.log"
    path.write_bytes(b'{"type":"s","step":1}\n{"type":"s","step":2}\n')
    reader = LineReader(path)
    first, second = reader.read()
    reader.seek(second.offset)
    assert reader.read() == [second] and first.offset == 0
