"""A moment in which nobody reads: those who read are waited for, those who come wait."""

from __future__ import annotations

import threading

from projections.read_model.readers_gate import ReadersGate


def test_who_comes_while_they_are_kept_out_waits_and_is_let_in_again() -> None:
    gate, entered = ReadersGate(), threading.Event()

    def read() -> None:
        with gate.one():
            entered.set()

    with gate.kept_out(0.0) as gone:
        assert gone
        reader = threading.Thread(target=read)
        reader.start()
        assert not entered.wait(0.05)
    assert entered.wait(10)
    reader.join(10)


def test_who_reads_is_waited_for_so_long_and_no_longer() -> None:
    gate, reading, may_end = ReadersGate(), threading.Event(), threading.Event()

    def read() -> None:
        with gate.one():
            reading.set()
            may_end.wait(10)

    reader = threading.Thread(target=read)
    reader.start()
    assert reading.wait(10)
    with gate.kept_out(0.01) as gone:
        assert not gone
    threading.Timer(0.02, may_end.set).start()
    with gate.kept_out(10) as gone:
        assert gone
    reader.join(10)


def test_an_error_of_a_reader_counts_as_its_end() -> None:
    gate = ReadersGate()
    try:
        with gate.one():
            raise ValueError
    except ValueError:
        pass
    with gate.kept_out(0.0) as gone:
        assert gone
