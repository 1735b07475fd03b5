"""Services of their own over TLS, each by its credentials file; and none of them to another machine without TLS."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.authority import TestAuthority, TlsServer
from tests.support.stack import TRAINSHED, clean_environment, run_trainshed, until
from trainshed_client.endpoint import write_credentials

AGENT = ("agent", "--node", "far", "--gpus", "1", "--cpus", "1", "--memory", "100")
SERVICES = (("gateway",), ("dispatcher",), ("projector", "--records"), AGENT)


@contextlib.contextmanager
def running(environment: dict[str, str], *services: tuple[str, ...]) -> Iterator[None]:
    """The services, each with a state folder of its own."""
    processes = []
    try:
        for words in services:
            state = Path(environment["TRAINSHED_STATE_DIR"]) / words[0]
            own = {**environment, "TRAINSHED_STATE_DIR": str(state)}
            processes.append(subprocess.Popen([TRAINSHED, *words], env=own, stderr=subprocess.DEVNULL))
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(20)


async def test_a_run_ends_on_services_that_know_their_credentials_file_alone(tmp_path: Path) -> None:
    authority = TestAuthority(tmp_path / "tls")
    async with TlsServer(authority, store=tmp_path / "store") as server:
        file = tmp_path / "credentials.json"
        write_credentials(file, server.endpoint())
        environment = clean_environment(tmp_path / "state", {"TRAINSHED_CREDENTIALS": str(file)})
        with running(environment, *SERVICES):

            def submitted() -> str | None:
                done = run_trainshed("submit", "--", "/bin/true", environment=environment, code=None)
                return done.text.split()[0] if done.code == 0 else None

            run = until(submitted, 30.0, what="the gateway takes a run")
            assert run is not None
            run_trainshed("wait", run, "--timeout", "30s", environment=environment)
            listed = run_trainshed("nodes", environment=environment)
            assert "far" in listed.text
            assert "ssl" not in listed.stderr, "asyncio warns of nothing when a command ends"


@pytest.mark.parametrize("words", [*SERVICES, ("ls",), ("submit", "--", "/bin/true")])
@pytest.mark.parametrize("given", ["option", "variable", "file"])
def test_another_machine_without_tls_is_refused_by_each_with_the_command_to_run(
    tmp_path: Path, words: tuple[str, ...], given: str
) -> None:
    url, more = "nats://192.0.2.7:4222", {}
    file = tmp_path / "credentials.json"
    file.write_text(f'{{"url": "{url}", "user": "sam", "password": "hush"}}')
    if given == "option":
        words = (words[0], "--nats", url, *words[1:])
    else:
        more = {"NATS_URL": url} if given == "variable" else {"TRAINSHED_CREDENTIALS": str(file)}
    began = time.monotonic()
    done = run_trainshed(*words, environment=clean_environment(tmp_path / "state", more), code=2)
    assert time.monotonic() - began < 20, "nobody was waited for"
    assert "192.0.2.7 is not this machine, and nats:// is without TLS" in done.stderr
    assert "Write tls://192.0.2.7:4222" in done.stderr
    assert "trainshed login TOKEN@192.0.2.7:PORT" in done.stderr
