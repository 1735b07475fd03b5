"""What a submission finds of program and folder where the caller's machine is a node."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from services.cli.local_check import look_at_programs, missing_here
from services.cli.request import Request
from trainshed_client.client import Trainshed
from trainshed_client.errors import ErrorCode, TrainshedError

MISSING = {"entry_point": "/no/such/train.py"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train.sh").write_text("#!/bin/sh\n")
    (tmp_path / "run.sh").write_text("#!/bin/sh\n")
    (tmp_path / "run.sh").chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(
    ("program", "working_dir", "field", "what"),
    [
        ("{here}/run.sh", None, None, ""),
        ("./run.sh", "{here}", None, ""),
        ("{here}/gone.sh", None, "entry_point", "there is no program"),
        ("./gone.sh", "{here}", "entry_point", "there is no program"),
        ("{here}/run.sh/x", None, "entry_point", "there is no program"),
        ("{here}/train.sh", None, "entry_point", "is not executable"),
        ("{here}", None, "entry_point", "is a folder"),
        ("{here}/run.sh", "{here}/gone", "working_dir", "there is no folder"),
        ("{here}/run.sh", "{here}/run.sh", "working_dir", "is no folder"),
        ("./run.sh", None, None, "in the run's folder, which only the node has"),
        ("python3", "{here}", None, "looked up in the node's PATH"),
        ("{here}/{{run_id}}", None, None, "left as it is by the shim, and no business of ours"),
    ],
)
def test_what_is_missing_is_named_by_its_field(
    folder: Path, program: str, working_dir: str | None, field: str | None, what: str
) -> None:
    def named(text: str) -> str:
        return text.replace("{here}", str(folder))

    config: dict[str, Any] = {"entry_point": named(program)}
    if working_dir is not None:
        config["working_dir"] = named(working_dir)
    found = missing_here(config)
    assert (found[0] if found else None) == field
    assert found is None or what in found[1]


@pytest.mark.parametrize("odd", [None, 5, "", "a\0/b", ["x"]])
def test_what_is_no_path_is_the_gateways_to_refuse(odd: object) -> None:
    assert missing_here({"entry_point": odd, "working_dir": odd}) is None


def test_an_older_worker_says_what_runs(folder: Path) -> None:
    older = {**MISSING, "metadata": {"worker": {"module": "m"}}}
    assert missing_here(older) is None


def stack(*hosts: str, new: bool = True) -> Trainshed:
    """A client of a stack with one node that is up on each host."""

    async def nodes() -> object:
        return SimpleNamespace(nodes=[SimpleNamespace(host=host, status="up") for host in hosts])

    async def check(config: object) -> object:
        return SimpleNamespace(new=new)

    return cast("Trainshed", SimpleNamespace(nodes=nodes, check=check))


HERE = socket.gethostname()


async def test_on_the_only_machine_it_is_refused_with_what_to_do() -> None:
    with pytest.raises(TrainshedError, match="--no-check") as caught:
        await look_at_programs(stack(HERE, HERE), Request([MISSING], False, []))
    assert caught.value.path == "entry_point"
    with pytest.raises(TrainshedError) as caught:
        await look_at_programs(
            stack(HERE),
            Request([{"entry_point": "/bin/true"}, MISSING], True, [], ["s, line 1", "s, line 2"]),
        )
    assert caught.value.path == "s, line 2: entry_point"


@pytest.mark.parametrize(
    ("hosts", "config", "options", "warned"),
    [
        ((HERE, "other"), MISSING, {}, True),
        ((HERE,), {**MISSING, "after": ["r1"]}, {}, True),
        ((HERE,), MISSING, {"refuse": False}, True),
        (("other",), MISSING, {}, False),
        ((), MISSING, {}, False),
        ((HERE,), {"entry_point": "/bin/true"}, {}, False),
    ],
)
async def test_elsewhere_it_is_a_warning_or_nobodys_business(
    hosts: tuple[str, ...],
    config: dict[str, Any],
    options: dict[str, bool],
    warned: bool,
) -> None:
    request = Request([config, dict(config)], True, [], ["a", "b"])
    found = await look_at_programs(stack(*hosts), request, **options)
    assert [one.startswith("a: entry_point: there is no program /no/such/train.py") for one in found] == [
        True
    ] * warned


async def test_who_may_not_ask_is_not_refused() -> None:
    async def denied(*_: object) -> object:
        raise TrainshedError(ErrorCode.DENIED, "not from here")

    for asks in ("nodes", "check"):
        client = stack(HERE)
        setattr(client, asks, denied)
        assert await look_at_programs(client, Request([MISSING], False, [])) == []


async def test_what_is_a_run_already_and_what_is_not_to_be_checked_passes() -> None:
    assert await look_at_programs(stack(HERE, new=False), Request([MISSING], False, [])) == []
    assert await look_at_programs(stack(HERE), Request([MISSING], False, [], check=False)) == []
