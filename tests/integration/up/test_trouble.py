"""Plain trouble at the start and at the end of each service: a line with what to do, and never a traceback."""

from __future__ import annotations

import resource
import shlex
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import NatsServer, eventually
from tests.support.stack import TRAINSHED, Stack, clean_environment, run_trainshed, until


@pytest.mark.parametrize("gpus", [0, 2])
def test_the_line_that_up_advises_works_as_it_stands(gpus: int, new_stack: Callable[..., Stack]) -> None:
    stack = new_stack(gpus=gpus)
    _, _, advised = stack.said().partition("Next:  trainshed ")
    words = shlex.split(advised.partition("      ")[0])
    done = stack.trainshed(*words)
    assert done.stdout == b"hello\n"
    assert ("--gpus" in words) == bool(gpus)


def test_a_folder_that_cannot_be_made_is_a_setting_to_mend(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for variable in ("TRAINSHED_RUNS_DIR", "TRAINSHED_STATE_DIR"):
        below = tmp_path / "file" / "below"
        environment = clean_environment(tmp_path / "state", {variable: str(below)})
        done = run_trainshed("up", "--gpus", "1", environment=environment, code=2)
        assert f"{variable}=DIR" in done.stderr and str(below) in done.stderr


def started(service: str, environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """The service, which writes to ``log``."""
    with log.open("wb") as out:
        return subprocess.Popen([TRAINSHED, service], env=environment, stderr=out)


@pytest.mark.parametrize("service", ["gateway", "dispatcher", "projector", "agent"])
async def test_a_service_whose_server_went_away_ends_quietly(
    service: str, nats_server: NatsServer, tmp_path: Path
) -> None:
    endpoint = nats_server.endpoint
    environment = clean_environment(
        tmp_path / "other",
        {
            "NATS_URL": endpoint.url,
            "TRAINSHED_NATS_USER": endpoint.user or "",
            "TRAINSHED_NATS_PASSWORD": endpoint.password or "",
            "TRAINSHED_LOG_FORMAT": "json",
        },
    )
    others = [each for each in ("gateway", "dispatcher") if each != service] if service == "agent" else []
    processes, logs = [], []
    try:
        for each in (*others, service):
            logs.append(tmp_path / f"{each}.log")
            processes.append(
                started(each, {**environment, "TRAINSHED_STATE_DIR": str(tmp_path / each)}, logs[-1])
            )
        await eventually(lambda: b'"event":"ready"' in logs[-1].read_bytes(), within=20)
        nats_server.embedded._process.send_signal(signal.SIGKILL)  # type: ignore[union-attr]
        until(lambda: b"nats connection" in logs[-1].read_bytes())
        processes[-1].terminate()
        assert processes[-1].wait(10) == 0, logs[-1].read_text()
        assert "Traceback" not in logs[-1].read_text()
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_services_may_open_all_files_that_they_may_and_workers_as_many_as_the_caller(
    new_stack: Callable[..., Stack],
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    stack = new_stack(start=False)
    resource.setrlimit(resource.RLIMIT_NOFILE, (700, hard))
    try:
        stack.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for pid in (stack.process.pid, stack.child("services.cli", "projector")):
        assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (hard, hard)
    run = stack.submit(shell="ulimit -Sn; ulimit -Hn")
    stack.wait(run)
    assert stack.stdout(run).split() == ["700", str(hard)]
