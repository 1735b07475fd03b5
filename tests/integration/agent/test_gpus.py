"""Claims about the GPUs that the agent finds: the real pynvml on a stub NVML library that is compiled here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.nvml_stub.build import StubNvml, build, compiler

pytestmark = pytest.mark.skipif(
    compiler() is None, reason="the stub NVML needs a C compiler (gcc): none found"
)

A, B = "GPU-aaaa0000-1111-2222-3333-444444444444", "GPU-bbbb0000-1111-2222-3333-444444444444"
PRELUDE = """
import json, sys
from services.agent.machine.gpus import Gpus
from services.agent.machine.inventory import take_inventory
from trainshed_client.errors import TrainshedError
import msgspec
def show(value): print(msgspec.json.encode(value).decode())
def refused(call):
    try: call()
    except TrainshedError as error: show({"code": error.code, "message": error.message, "path": error.path})
    else: show(None)
nobody = lambda pid: False
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def stub(library: Path, tmp_path: Path) -> StubNvml:
    return StubNvml(library, tmp_path)


def run(stub: StubNvml, program: str) -> list[Any]:
    return [json.loads(line) for line in stub.python(PRELUDE + program).splitlines()]


def devices(stub: StubNvml, visible: str | None) -> list[tuple[int, str | None]]:
    (found,) = run(stub, f"show(Gpus.open({visible!r}).devices)")
    return [(device["index"], device["uuid"]) for device in found]


def test_two_devices_are_found_in_pci_order_with_uuid_name_and_memory(stub: StubNvml) -> None:
    (found,) = run(stub, "show(Gpus.open(None).devices)")
    assert found == [
        {"index": 0, "uuid": A, "name": "Stub-A", "memory_mb": 81920, "gpu": None},
        {"index": 1, "uuid": B, "name": "Stub-B", "memory_mb": 24576, "gpu": None},
    ]


@pytest.mark.parametrize(
    ("visible", "expected"),
    [("1", [(0, B)]), ("1,0", [(0, B), (1, A)]), ("GPU-aaaa", [(0, A)]), ("0,5,1", [(0, A)]), ("0,0", [])],
)
def test_the_variable_limits_the_slots_to_its_devices(
    stub: StubNvml, visible: str, expected: list[tuple[int, str]]
) -> None:
    assert devices(stub, visible) == expected


def test_an_empty_variable_touches_no_nvml_even_a_broken_one(stub: StubNvml) -> None:
    stub.set("init", "18")
    (inventory,) = run(stub, "show(take_inventory(Gpus.open(''), declared_gpus=2)[0])")
    assert [gpu["uuid"] for gpu in inventory["gpus"]] == [None, None]
    assert stub.starts() == 0


@pytest.mark.parametrize(
    ("code", "words", "todo"),
    [
        (18, "Driver/library version mismatch", "reboot or reload it"),
        (9, "Driver Not Loaded", "modprobe nvidia"),
        (999, "Unknown Error", "nvidia-smi"),
    ],
)
def test_an_error_of_nvml_stops_with_its_own_words_and_what_to_do(
    stub: StubNvml, code: int, words: str, todo: str
) -> None:
    stub.set("init", str(code))
    (error,) = run(stub, "refused(lambda: Gpus.open(None))")
    assert error["code"] == "unavailable"
    assert words in error["message"]
    assert todo in error["message"]


def test_without_the_library_there_are_no_gpus(stub: StubNvml, tmp_path: Path) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has a real NVML")
    alone = StubNvml(tmp_path / "nowhere" / "libnvidia-ml.so.1", tmp_path)
    found, inventory = run(
        alone, "g = Gpus.open(None); show(g.devices); show(take_inventory(g, declared_gpus=1)[0])"
    )
    assert found == []
    assert len(inventory["gpus"]) == 1
    assert "libnvidia-ml.so.1 was not found" in inventory["notes"][0]


def test_the_gpus_option_takes_the_first_visible_and_refuses_more(stub: StubNvml) -> None:
    taken, more, none = run(
        stub,
        "g = Gpus.open('1,0'); i, part = take_inventory(g, declared_gpus=1)\n"
        "show({'gpus': i.gpus, 'sampled': len(part.sample(nobody))})\n"
        "refused(lambda: take_inventory(g, declared_gpus=3))\n"
        "refused(lambda: take_inventory(Gpus.open('0,0'), declared_gpus=1))",
    )
    assert [gpu["uuid"] for gpu in taken["gpus"]] == [B]
    assert taken["sampled"] == 1
    assert (more["code"], more["path"]) == ("invalid", "--gpus")
    assert "2 GPUs are visible here" in more["message"]
    # Named twice is a mistake, not "no GPU": making up slots would hide it.
    assert "twice" in none["message"]


def test_a_sample_reads_every_device_and_starts_nvml_no_second_time(stub: StubNvml) -> None:
    stub.set("compute.1", "77 300\n4242 5\n")
    stub.set("graphics.1", "4242 5\n99 -\n")
    stub.set("unsupported.0")
    (last,) = run(
        stub,
        "g = Gpus.open(None)\nfor _ in range(5): s = g.sample(lambda pid: pid == 77)\nshow(s)\ng.close()",
    )
    # The stub's numbers are by its own order: device 1 is slot 0.
    assert last[0]["reading"] == {
        "index": 0,
        "utilisation": 41,
        "memory_used_mb": 101,
        "temperature_c": 61,
        "other_pids": [99, 4242],
        "attempts": [],
    }
    assert last[1]["reading"] == {
        "index": 1,
        "utilisation": None,
        "memory_used_mb": 100,
        "temperature_c": None,
        "other_pids": [],
        "attempts": [],
    }
    assert [(sample["healthy"], sample["reason"]) for sample in last] == [(True, None), (True, None)]
    assert (last[0]["foreign"], last[1]["foreign"]) == ([4242], []), "who shows something computes nothing"
    assert stub.starts() == 1


def test_the_memory_of_a_device_is_told_attempt_by_attempt(stub: StubNvml) -> None:
    stub.set("compute.1", "70 300\n71 20\n72 -\n73 50\n74 1\n")
    stub.set("graphics.1", "70 300\n75 7\n")
    (samples,) = run(
        stub,
        "from events.types import AttemptRef\n"
        "a, b = AttemptRef('r', 1), AttemptRef('r', 2)\n"
        "owners = {70: a, 71: a, 72: b, 73: True, 74: False, 75: a}\n"
        "show(Gpus.open(None).sample(owners.get))",
    )
    assert samples[0]["reading"]["attempts"] == [{"run_id": "r", "attempt": 1, "memory_mb": 327}]
    assert samples[0]["foreign"] == samples[0]["reading"]["other_pids"] == [74]


def test_a_device_that_gets_lost_is_unhealthy_while_the_other_goes_on(stub: StubNvml) -> None:
    before, during, after = run(
        stub,
        "g = Gpus.open(None)\nshow(g.sample(nobody))\n(control / 'lost.0').touch()\nshow(g.sample(nobody))\n"
        "(control / 'lost.0').unlink()\nshow(g.sample(nobody))",
    )
    assert [sample["healthy"] for sample in before] == [True, True]
    assert [sample["healthy"] for sample in during] == [True, False]
    assert during[1]["reason"] == "GPU is lost"
    assert during[1]["reading"]["memory_used_mb"] is None
    assert during[0]["reading"]["utilisation"] == 41
    assert after == before


def test_a_device_that_was_lost_before_keeps_its_place(stub: StubNvml) -> None:
    stub.set("lost.0")
    found, samples = run(stub, "g = Gpus.open(None); show(g.devices); show(g.sample(nobody))")
    assert [device["uuid"] for device in found] == [None, A]
    assert [sample["healthy"] for sample in samples] == [False, True]
    assert "restart the agent" in samples[0]["reason"]


def test_another_error_of_one_value_is_null_and_told(stub: StubNvml) -> None:
    stub.set("odd.1", "999")
    (samples,) = run(stub, "show(Gpus.open(None).sample(nobody))")
    assert samples[0]["reading"]["utilisation"] is None
    assert samples[0]["reading"]["temperature_c"] == 61
    assert (samples[0]["healthy"], samples[0]["reason"]) == (True, "Unknown Error")


def test_a_gpu_that_must_be_reset_is_unhealthy(stub: StubNvml) -> None:
    stub.set("odd.1", "16")
    (samples,) = run(stub, "show(Gpus.open(None).sample(nobody))")
    assert [sample["healthy"] for sample in samples] == [False, True]


def test_a_gpu_in_mig_mode_gives_its_mig_devices(stub: StubNvml) -> None:
    stub.set("mig.1", "0 MIG-0000 1 0 20000\n3 MIG-3333 5 0 40000\n")
    whole, old, samples = run(
        stub,
        "g = Gpus.open(None); show(g.devices)\n"
        f"show(Gpus.open('MIG-{A}/5/0').devices)\nshow(g.sample(nobody))",
    )
    assert [(device["uuid"], device["memory_mb"]) for device in whole] == [
        ("MIG-0000", 20000),
        ("MIG-3333", 40000),
        (B, 24576),
    ]
    assert [device["uuid"] for device in old] == ["MIG-3333"]
    assert samples[0]["reading"]["utilisation"] is None
    assert all(sample["healthy"] for sample in samples)
