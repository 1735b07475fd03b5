"""The agent's smaller parts: ends, output tails, telemetry lines, the index, artifacts, identity, blanks."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.types import (
    AttemptRef,
    Cancelled,
    Completed,
    Device,
    Dispatched,
    Failed,
    GpuReading,
    NodeEvent,
    OutputBytes,
    TimedOut,
    WorkerReport,
)
from services.agent.attempts.intents import threads_of
from services.agent.folders.files import ExitFile, ExitReason, HeartbeatFields, IntentFile, StopReason
from services.agent.folders.paths import Folders, is_ref
from services.agent.folders.prepared import PreparedFolders
from services.agent.identity import identify, only_agent
from services.agent.machine import devices
from services.agent.machine.devices import Devices
from services.agent.machine.gpus import Gpus, GpuSample
from services.agent.machine.inventory import Inventory, slots_of
from services.agent.machine.owners import Owner, Owners
from services.agent.output import artifacts, output_index
from services.agent.output.output_index import OutputIndex, Seen
from services.agent.reports import ends
from tests.support import eventually
from tests.support.builders import EXAMPLES
from trainshed_client.errors import TrainshedError
from trainshed_client.records import NO_USAGE, AttemptUsage
from trainshed_client.statuses import AtFault, FailureReason
from trainshed_client.telemetry import LineCutter, is_telemetry

REF = AttemptRef("a" * 26, 2)


def exited(reason: ExitReason, **fields: object) -> ExitFile:
    return ExitFile(**{"reason": reason, "ended_at": 1.0, "duration_s": 2.5, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("record", "kind", "reason"),
    [
        (exited(ExitReason.EXITED, exit_code=0), Completed, None),
        (exited(ExitReason.EXITED, exit_code=3), Failed, FailureReason.EXIT_CODE),
        (exited(ExitReason.SIGNALLED, signal=9), Failed, FailureReason.SIGNAL),
        (exited(ExitReason.SPAWN_ERROR), Failed, FailureReason.SPAWN_ERROR),
        (exited(ExitReason.SHIM_LOST), Failed, FailureReason.SHIM_LOST),
        (exited(ExitReason.NOT_STARTED), Failed, FailureReason.NOT_STARTED),
        (exited(ExitReason.WORKER_TIMEOUT, timeout_s=5.0), TimedOut, FailureReason.WORKER_TIMEOUT),
        (exited(ExitReason.TIME_LIMIT, timeout_s=5.0), TimedOut, FailureReason.TIME_LIMIT),
        (exited(ExitReason.STOPPED, exit_code=0, stop_reason=StopReason.CANCEL), Cancelled, None),
        (exited(ExitReason.NOT_STARTED, stop_reason=StopReason.CANCEL), Cancelled, None),
        (exited(ExitReason.SHIM_LOST, stop_reason=StopReason.CANCEL), Cancelled, None),
        (exited(ExitReason.STOPPED, signal=15, stop_reason=StopReason.ENDED), Cancelled, None),
        (
            exited(ExitReason.STOPPED, exit_code=0, stop_reason=StopReason.RECLAIMED),
            Failed,
            FailureReason.NODE_RECLAIMED,
        ),
        (
            exited(ExitReason.NOT_STARTED, stop_reason=StopReason.RECLAIMED),
            Failed,
            FailureReason.NOT_STARTED,
        ),
    ],
)
def test_every_exit_has_its_end(record: ExitFile, kind: type, reason: FailureReason | None) -> None:
    end = ends.end_of(REF, record, None)
    assert type(end) is kind
    assert getattr(end, "failure_reason", None) is reason


@pytest.mark.parametrize("reason", ExitReason)
@pytest.mark.parametrize("of_shim", [None, *AtFault])
def test_who_is_at_fault_is_told_of_what_never_started_alone(
    reason: ExitReason, of_shim: AtFault | None
) -> None:
    end = ends.end_of(REF, exited(reason, at_fault=of_shim), None, at_fault=AtFault.NODE)
    if isinstance(end, Failed):
        by_agent = AtFault.NODE if reason is ExitReason.NOT_STARTED else None
        assert end.at_fault is (of_shim or by_agent)


def test_what_was_told_to_stop_before_it_started_is_nobodys_fault() -> None:
    record = exited(ExitReason.NOT_STARTED, stop_reason=StopReason.RECLAIMED)
    end = ends.end_of(REF, record, None, at_fault=AtFault.NODE)
    assert isinstance(end, Failed) and end.at_fault is None


def test_every_exit_and_stop_reason_has_an_end() -> None:
    for reason, stop in itertools.product(ExitReason, [None, *StopReason]):
        end = ends.end_of(REF, exited(reason, stop_reason=stop), None)
        assert (end.run_id, end.attempt) == (REF.run_id, REF.attempt)


def test_what_never_ran_has_no_duration() -> None:
    assert ends.end_of(REF, exited(ExitReason.NOT_STARTED), None).duration_s is None
    assert ends.end_of(REF, exited(ExitReason.EXITED, exit_code=0), None).duration_s == 2.5


def test_output_is_told_of_every_attempt_that_had_a_worker() -> None:
    without = {reason for reason in ExitReason if not ends.had_worker(exited(reason))}
    assert without == {ExitReason.NOT_STARTED, ExitReason.SPAWN_ERROR}
    sizes = OutputBytes(stdout=7, stderr=None)
    for reason, stop in itertools.product(ExitReason, (None, *StopReason)):
        assert ends.end_of(REF, exited(reason, stop_reason=stop), None, output=sizes).output == sizes


def test_an_end_bears_what_the_shim_measured_if_a_worker_ran() -> None:
    used = AttemptUsage(cpu_s=1.5, memory_peak_mb=64)
    for reason, stop in itertools.product(ExitReason, [None, *StopReason]):
        end = ends.end_of(REF, exited(reason, stop_reason=stop, usage=used), None)
        assert end.usage == (used if end.duration_s is not None else None)


def test_what_the_agent_saw_of_the_devices_is_laid_over_what_the_shim_wrote() -> None:
    shims, seen = AttemptUsage(cpu_s=1.5), AttemptUsage(gpu_busy_s=2.0)
    written = exited(ExitReason.EXITED, exit_code=0, usage=shims)
    assert ends.with_gpu_usage(written, NO_USAGE) is written
    both = ends.with_gpu_usage(written, seen).usage
    assert both == AttemptUsage(cpu_s=1.5, gpu_busy_s=2.0)
    older = exited(ExitReason.EXITED, exit_code=0)
    assert ends.with_gpu_usage(older, seen).usage == seen


def test_an_end_keeps_the_shims_last_word_and_the_latest_sign_of_life() -> None:
    record = exited(
        ExitReason.EXITED, exit_code=0, last_heartbeat=HeartbeatFields(step=7, last_heartbeat_at=1.5)
    )
    told = WorkerReport(step=3, last_heartbeat_at="2026-01-01T00:00:00.000000Z")
    last = ends.last_heartbeat(record, told, 12)
    assert last is not None
    assert (last.step, last.seq, last.last_heartbeat_at) == (7, 12, "2026-01-01T00:00:00.000000Z")
    assert ends.last_heartbeat(exited(ExitReason.EXITED), None, 0) is None


@given(st.binary(max_size=20_000))
def test_a_tail_is_valid_text_within_its_limit(data: bytes) -> None:
    tail = ends.clean_tail(data)
    assert len(tail.encode()) <= ends.TAIL_BYTES
    assert "\x00" not in tail


def test_a_tail_keeps_the_last_of_what_is_valid() -> None:
    assert ends.clean_tail("grün\n".encode()) == "grün"
    assert ends.clean_tail(b"a" * 9000 + b"end", 10) == "aaaaaaaend"


# --- telemetry ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "is_one"),
    [
        (b'{"type": "step"}', True),
        (b'  {"event": null, "x": 1}', True),
        (b'{"kind": "type"}', False),
        (b'{"x": {"type": 1}}', False),
        (b'["type"]', False),
        (b'{"type": 1', False),
        (b"type", False),
        (b"", False),
        (b'{"type": ' + b"[" * 60_000 + b"}", False),
    ],
)
def test_only_json_objects_with_a_type_or_an_event_are_telemetry(line: bytes, is_one: bool) -> None:
    assert is_telemetry(line) is is_one


LINES = st.lists(
    st.one_of(
        st.just(b'{"type": "step"}'),
        st.just(b'{"event": 1}'),
        st.binary(max_size=20).map(lambda b: b.replace(b"\n", b"")),
    ),
    max_size=20,
)


@given(LINES, st.data())
def test_lines_are_found_however_the_bytes_are_cut(lines: list[bytes], data: st.DataObject) -> None:
    text = b"".join(line + b"\n" for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    cutter = LineCutter()
    found = []
    for start, end in itertools.pairwise([0, *cuts, len(text)]):
        found += cutter.feed(start, text[start:end])
    assert [line.text for line in found] == [line for line in lines if is_telemetry(line)]
    assert all(text[line.offset :].startswith(line.text + b"\n") for line in found)


def test_after_a_gap_the_torn_line_does_not_count() -> None:
    cutter = LineCutter()
    cutter.feed(0, b'{"type": "a')
    cutter.skip()
    assert cutter.feed(100, b'{"type": 1}') == []
    assert [line.text for line in cutter.feed(111, b'\n{"type": 2}\n')] == [b'{"type": 2}']


def test_a_line_without_an_end_holds_no_memory() -> None:
    cutter = LineCutter()
    for offset in range(0, 1 << 20, 1 << 16):
        assert cutter.feed(offset, b"x" * (1 << 16)) == []
    assert [line.text for line in cutter.feed(1 << 20, b'\n{"type": 1}\n')] == [b'{"type": 1}']


# --- index ----------------------------------------------------------------------------------------------


def test_the_index_is_read_back_from_its_end(tmp_path: Path) -> None:
    assert output_index.ends(tmp_path, ("stdout", "stderr")) == {"stdout": 0, "stderr": 0}
    index = OutputIndex(tmp_path)
    index.append(Seen("t", "stderr", 5))
    for offset in range(5_000):  # several blocks
        index.append(Seen("2026-01-01T00:00:00.000000Z", "stdout", offset))
    index.close()
    assert output_index.ends(tmp_path, ("stdout", "stderr")) == {"stdout": 4_999, "stderr": 5}


def test_a_torn_last_line_is_passed_over_and_ended(tmp_path: Path) -> None:
    path = tmp_path / output_index.INDEX
    path.write_bytes(msgspec.json.encode(Seen("t", "stdout", 3)) + b'\n{"time": "t", "str')
    assert output_index.ends(tmp_path, ("stdout",)) == {"stdout": 3}
    index = OutputIndex(tmp_path)
    index.append(Seen("t", "stdout", 9))
    index.close()
    assert output_index.ends(tmp_path, ("stdout",)) == {"stdout": 9}


# --- artifacts --------------------------------------------------------------------------------------------


def test_many_artifacts_are_all_listed_and_the_first_are_told(tmp_path: Path) -> None:
    top = tmp_path / "artifacts"
    top.mkdir()
    for number in range(250):
        (top / f"{number:03}").write_text(str(number))
    os.mkfifo(top / "pipe")
    listed = artifacts.listed(tmp_path, math.inf)
    taken = artifacts.hashed(tmp_path, artifacts.Progress())
    assert taken is not None
    assert [entry.path for entry in listed.entries] == [entry.path for entry in taken.entries]
    assert (listed.count, listed.bytes, listed.sha256, listed.partial) == (250, taken.bytes, None, False)
    assert (taken.count, len(taken.entries)) == (250, artifacts.FIRST)
    content = (tmp_path / "artifacts.json").read_bytes()
    assert taken.sha256 == hashlib.sha256(content).hexdigest()
    assert len(msgspec.json.decode(content)["artifacts"]) == 250


def test_long_paths_do_not_make_the_event_too_large(tmp_path: Path) -> None:
    deep = tmp_path / "artifacts" / "/".join("d" * 200 for _ in range(10))
    deep.mkdir(parents=True)
    for number in range(100):
        (deep / f"{number:0200}").touch()
    taken = artifacts.hashed(tmp_path, artifacts.Progress())
    assert taken is not None and taken.count == 100
    assert len(msgspec.json.encode(taken)) < 200_000


def test_a_large_file_is_weighed_and_not_hashed(tmp_path: Path) -> None:
    (tmp_path / "artifacts").mkdir()
    with open(tmp_path / "artifacts" / "large", "wb") as file:
        file.truncate(artifacts.HASHED_BYTES + 1)
    taken = artifacts.hashed(tmp_path, artifacts.Progress())
    assert taken is not None
    entry = taken.entries[0]
    assert (entry.bytes, entry.sha256) == (artifacts.HASHED_BYTES + 1, None)


def test_a_listing_that_takes_too_long_says_that_there_is_more(tmp_path: Path) -> None:
    (tmp_path / "artifacts").mkdir()
    for name in ("a", "b"):
        (tmp_path / "artifacts" / name).touch()
    listed = artifacts.listed(tmp_path, -math.inf)
    assert (listed.count, listed.partial) == (1, True)


def test_of_a_folder_that_is_gone_nothing_is_hashed(tmp_path: Path) -> None:
    assert artifacts.hashed(tmp_path, artifacts.Progress()) == artifacts.NONE
    assert artifacts.hashed(tmp_path / "gone", artifacts.Progress()) is None


# --- identity and folders -----------------------------------------------------------------------------------


def test_an_identity_is_made_once_and_kept(tmp_path: Path) -> None:
    ids = iter(["one", "two"]).__next__
    first = identify(tmp_path, log_id="log", node="gpu01", ids=ids)
    assert identify(tmp_path, log_id="log", node=None, ids=ids) == first
    assert (first.node, first.incarnation) == ("gpu01", "one")
    assert msgspec.json.decode((tmp_path / "node.json").read_bytes())["v"] == 1


def test_a_folder_of_another_log_or_name_is_refused(tmp_path: Path) -> None:
    identify(tmp_path, log_id="log-a", node="gpu01", ids=lambda: "x")
    with pytest.raises(TrainshedError, match=r"log-a.*log-b"):
        identify(tmp_path, log_id="log-b", node=None, ids=lambda: "x")
    with pytest.raises(TrainshedError, match="state folder of node gpu01, not of gpu02"):
        identify(tmp_path, log_id="log-a", node="gpu02", ids=lambda: "x")
    with pytest.raises(TrainshedError, match="1 to 63"):
        identify(tmp_path / "new", log_id="log-a", node="No_Name", ids=lambda: "x")


def test_a_torn_identity_is_said_and_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "node.json").write_text("{")
    with pytest.raises(TrainshedError, match="cannot be read"):
        identify(tmp_path, log_id="log", node=None, ids=lambda: "x")
    assert (tmp_path / "node.json").read_text() == "{"


def test_one_agent_a_folder(tmp_path: Path) -> None:
    with only_agent(tmp_path), pytest.raises(TrainshedError, match="already runs"), only_agent(tmp_path):
        pass
    with only_agent(tmp_path):
        pass


@pytest.mark.parametrize(
    "run_id", ["", "..", "a/../../x" + "a" * 17, "A" * 26, "a" * 25, "a" * 27, None, "a" * 26 + "\n"]
)
def test_nothing_else_than_a_run_id_becomes_a_path(run_id: object) -> None:
    assert not is_ref(run_id, 1)
    assert is_ref("a" * 26, 1) and not is_ref("a" * 26, True) and not is_ref("a" * 26, 0)


def test_markers_are_what_is_open(tmp_path: Path) -> None:
    folders = Folders(tmp_path / "state", tmp_path / "runs")
    folders.make_roots()
    folders.mark(REF)
    folders.mark(REF)
    (folders.opened / "stray").touch()
    (folders.opened / f"{'a' * 26}.x").touch()
    assert folders.open_attempts() == [REF]
    folders.unmark(REF)
    folders.unmark(REF)
    assert folders.open_attempts() == []


def intent(tmp_path: Path) -> IntentFile:
    return IntentFile(
        seq=1,
        boot_id="b",
        run_id=REF.run_id,
        attempt=1,
        node="n",
        host="h",
        log_id="l",
        launch={},
        run_dir=str(tmp_path / "runs" / REF.run_id),
        output_dir="",
        sockets="",
    )


def test_a_blank_becomes_a_whole_folder_and_never_replaces_one(tmp_path: Path) -> None:
    folders = Folders(tmp_path / "state", tmp_path / "runs")
    folders.make_roots()
    blanks = PreparedFolders(folders.state_dir, folders.runs_dir, "n")
    blanks.clear()
    assert blanks.take() is None
    blanks.refill()
    first = AttemptRef(REF.run_id, 1)
    folder, run = folders.attempt(first), folders.run(REF.run_id)
    name = blanks.take()
    assert (
        name is not None and blanks.put_attempt(name, intent(tmp_path), folder) and blanks.put_run(name, run)
    )
    assert {each.name for each in folder.iterdir()} == {"lock", "intent.json", ".started.json.tmp"}
    assert (run / "artifacts").is_dir()
    assert {each.name for each in folders.output(first).iterdir()} == {"stdout.log", "stderr.log"}
    (folder / "exit.json").touch()
    (run / "checkpoint").touch()
    name = blanks.take()
    assert name is not None and not blanks.put_attempt(name, intent(tmp_path), folder)
    assert not blanks.put_run(name, run)
    assert (folder / "exit.json").exists() and (run / "checkpoint").exists()


class SampledGpus:
    """Two devices that do as they are told: NVML is not on every box that runs the tests."""

    def __init__(self) -> None:
        self.devices = (Device(index=0), Device(index=1))
        self.lost: set[int] = set()
        self.foreign: tuple[int, ...] = ()
        self.asked = 0

    def sample(self, owner_of: Callable[[int], Owner]) -> list[GpuSample]:
        self.asked += 1
        return [
            GpuSample(
                reading=GpuReading(index=index),
                foreign=self.foreign if index == 1 else (),
                healthy=index not in self.lost,
                reason="GPU is lost",
            )
            for index in (0, 1)
        ]


async def test_a_slots_health_is_told_when_it_changes_and_again_after_a_join(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devices, "SAMPLE_EVERY_S", 0.001)
    gpus, told = SampledGpus(), list[tuple[str, int]]()

    async def tell(event: NodeEvent) -> None:
        told.append((type(event).__name__, getattr(event, "index", -1)))

    watched = Devices(cast(Gpus, gpus), gpus.devices, "n", "i", Owners("log"))
    sampling = asyncio.create_task(watched.run(tell))
    try:
        await eventually(lambda: gpus.asked > 2)
        assert told == [] and [each.index for each in watched.readings()] == [0, 1]
        gpus.lost = {1}
        await eventually(lambda: told == [("SlotUnhealthy", 1)])
        watched.joined()
        await eventually(lambda: told == [("SlotUnhealthy", 1)] * 2)
        gpus.lost = set()
        await eventually(lambda: told[2:] == [("SlotHealthy", 1)])
    finally:
        sampling.cancel()
        await asyncio.wait({sampling})


class ToldOwners(Owners):
    """Pids that can be told apart, or not."""

    known = True

    def knows_pids(self) -> bool:
        return self.known

    def is_there(self, pid: int) -> bool:
        return pid != 404


async def test_all_slots_of_a_device_on_which_others_compute_are_unhealthy_until_it_is_free_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devices, "SAMPLE_EVERY_S", 0.001)
    gpus, told = SampledGpus(), list[tuple[str, int, str | None]]()
    now_s, owners = [0.0], ToldOwners("log")

    async def tell(event: NodeEvent) -> None:
        told.append((type(event).__name__, getattr(event, "index", -1), getattr(event, "reason", None)))

    async def looks() -> None:
        asked = gpus.asked
        await eventually(lambda: gpus.asked > asked + 2)

    slots = slots_of(gpus.devices, 2)
    watched = Devices(cast(Gpus, gpus), slots, "n", "i", owners, avoid_busy=True, clock=lambda: now_s[0])
    sampling = asyncio.create_task(watched.run(tell))
    try:
        for owners.known, gpus.foreign in ((False, (7,)), (True, (404,))):
            await looks()
            now_s[0] += 100
            await looks()
            assert told == [], "whose they are cannot be told"
        assert [each.index for each in watched.readings()] == [0, 2], "by its first slot"
        gpus.foreign = (7,)
        await looks()
        watched.ended([3])
        now_s[0] += 9
        await looks()
        now_s[0] += 29
        await looks()
        assert told == [], "the end of an own attempt begins it anew"
        now_s[0] += 31
        await eventually(lambda: told == [("SlotUnhealthy", 2, "external"), ("SlotUnhealthy", 3, "external")])
        gpus.foreign = ()
        await looks()
        now_s[0] += 31
        await eventually(lambda: told[2:] == [("SlotHealthy", 2, None), ("SlotHealthy", 3, None)])
    finally:
        sampling.cancel()
        await asyncio.wait({sampling})


@pytest.mark.parametrize(
    ("cpus", "slots", "threads"),
    [(1, 0, 1), (6, 0, 6), (1, 1, 4), (6, 1, 6), (1, 2, 9), (1, 4, 19)],
)
def test_a_run_with_gpus_starts_no_fewer_threads_than_its_share_of_the_node(
    cpus: int, slots: int, threads: int
) -> None:
    """19 CPUs and 4 slots; a run without GPUs starts what it asked for."""
    node = Inventory(cpus=19, memory_mb=1000, gpus=tuple(Device(index=index) for index in range(4)))
    grant = EXAMPLES["dispatched"][1]
    assert isinstance(grant, Dispatched)
    grant = msgspec.structs.replace(grant, cpus=cpus, slots=tuple(range(slots)))
    assert threads_of(node, grant) == threads


def test_a_grant_of_slots_that_are_not_there_has_threads_all_the_same() -> None:
    grant = EXAMPLES["dispatched"][1]
    assert isinstance(grant, Dispatched) and grant.slots
    assert threads_of(Inventory(cpus=2, memory_mb=1), grant) >= grant.cpus
