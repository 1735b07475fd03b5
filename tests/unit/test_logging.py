"""Log lines: their two forms, what is bound to them, and what their set-up costs and leaves out."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest

from services.logging import bound, configure, get_logger
from services.settings import LogFormat, LogLevel


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(False)


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_pipe_gets_one_json_object_a_line_with_what_is_bound_in_front() -> None:
    stream = io.StringIO()
    configure(stream=stream)
    with bound(run_id="mfrgg", attempt=2, seq=41):
        get_logger("agent", node="gpu01").warning("worker ended", exit_code=3, why="é")
    (line,) = lines(stream)
    assert list(line) == [
        "time",
        "level",
        "logger",
        "event",
        "run_id",
        "attempt",
        "node",
        "seq",
        "exit_code",
        "why",
    ]
    assert line["time"].endswith("Z")  # type: ignore[attr-defined]
    assert line | {"time": ""} == {
        "time": "",
        "level": "warning",
        "logger": "trainshed.agent",
        "event": "worker ended",
        "run_id": "mfrgg",
        "attempt": 2,
        "node": "gpu01",
        "seq": 41,
        "exit_code": 3,
        "why": "é",
    }


def test_a_terminal_gets_a_line_for_people() -> None:
    stream = Terminal()
    configure(stream=stream)
    get_logger("agent").info("joined", node="gpu01")
    text = stream.getvalue()
    assert "joined" in text
    assert "gpu01" in text
    assert "\x1b[" in text
    assert not text.startswith("{")


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    configure(stream=stream)
    get_logger("agent").info("joined")
    assert "\x1b[" not in stream.getvalue()


def test_the_format_can_be_forced_either_way() -> None:
    terminal, pipe = Terminal(), io.StringIO()
    configure(LogFormat.JSON, stream=terminal)
    get_logger("a").info("x")
    configure(LogFormat.CONSOLE, stream=pipe)
    get_logger("a").info("y")
    assert lines(terminal)[0]["event"] == "x"
    assert "y" in pipe.getvalue()
    assert "\x1b[" not in pipe.getvalue()


def test_the_standard_librarys_loggers_come_out_the_same_way() -> None:
    stream = io.StringIO()
    configure(stream=stream)
    with bound(run_id="mfrgg"):
        logging.getLogger("trainshed.nats").warning("lost %s", "it", extra={"seq": 7, "password": "hush"})
    (line,) = lines(stream)
    assert (line["event"], line["run_id"], line["seq"], line["logger"]) == (
        "lost it",
        "mfrgg",
        7,
        "trainshed.nats",
    )
    assert "hush" not in stream.getvalue()


def test_libraries_are_heard_from_warning_on_and_at_debug_in_full() -> None:
    stream = io.StringIO()
    configure(level=LogLevel.INFO, stream=stream)
    logging.getLogger("sqlalchemy.engine").info("SELECT 1")
    logging.getLogger("nats.aio").info("chatter")
    assert stream.getvalue() == ""
    logging.getLogger("nats.aio").warning("trouble")
    configure(level=LogLevel.DEBUG, stream=stream)
    logging.getLogger("sqlalchemy.engine").info("SELECT 2")
    assert [line["event"] for line in lines(stream)] == ["trouble", "SELECT 2"]


def test_what_is_below_the_level_is_not_written() -> None:
    stream = io.StringIO()
    configure(level=LogLevel.WARNING, stream=stream)
    get_logger("a").info("no")
    get_logger("a").warning("yes")
    assert [line["event"] for line in lines(stream)] == ["yes"]


def test_setting_up_twice_does_not_say_everything_twice() -> None:
    stream = io.StringIO()
    configure(stream=stream)
    configure(stream=stream)
    get_logger("a").info("once")
    assert len(lines(stream)) == 1


def test_an_exception_is_in_the_line_but_no_local_variable_is() -> None:
    stream = io.StringIO()
    configure(stream=stream)
    try:
        password = "hush"
        raise ValueError(len(password))
    except ValueError:
        get_logger("a").exception("failed")
    (line,) = lines(stream)
    assert "ValueError: 4" in str(line["exception"])
    assert "hush" not in str(line)
    stream = Terminal()
    configure(stream=stream)
    try:
        password = "hush"
        raise ValueError(len(password))
    except ValueError:
        get_logger("a").exception("failed")
    assert "ValueError: 4" in stream.getvalue()
    assert "hush" not in stream.getvalue()


@pytest.mark.parametrize("value", [b"\xff", "\ud800", float("nan"), object(), {1: 2}, {"a", "b"}])
def test_no_value_can_stop_a_line(value: object) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace")  # as sys.stderr is
    configure(stream=stream)
    get_logger("a").info("x", value=value)
    stream.flush()
    assert json.loads(raw.getvalue())["event"] == "x"


async def test_what_is_bound_goes_with_the_task_and_not_with_others() -> None:
    stream = io.StringIO()
    configure(stream=stream)

    async def work(run_id: str) -> None:
        with bound(run_id=run_id):
            await asyncio.sleep(0)
            get_logger("a").info("in")
        get_logger("a").info("out")

    async with asyncio.TaskGroup() as group:
        group.create_task(work("one"))
        group.create_task(work("two"))
    said = [(line["event"], line.get("run_id")) for line in lines(stream)]
    assert sorted(said, key=str) == sorted(
        [("in", "one"), ("in", "two"), ("out", None), ("out", None)], key=str
    )


def test_importing_it_loads_no_structlog() -> None:
    program = (
        "import sys, services.logging as l\n"
        "assert 'structlog' not in sys.modules\n"
        "l.configure(); l.get_logger('a').info('x')\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stderr)["event"] == "x"
