"""A Docker engine, the project's image built on it, and one compose stack for a module's tests."""

from __future__ import annotations

import fcntl
import os
import secrets
import subprocess
from collections.abc import Iterator

import pytest

from tests.containers.stack import ComposeStack, build_environment, compose_command

REQUIRED = "ENGINE_REQUIRED"
"""Set (by `.ci/run`) where a missing engine is a failure and no reason to skip."""


def _why_not() -> str | None:
    """Why no container test can run here; None where they can."""
    import docker
    from docker.errors import DockerException

    try:
        client = docker.from_env(timeout=10)
        client.ping()
        client.close()
    except DockerException as error:
        return f"no Docker engine answers here ({str(error)[:120]}); on Debian: tests/containers/engine up"
    if compose_command() is None:
        return "neither `docker compose` nor `docker-compose` is here"
    return None


@pytest.fixture(scope="session")
def engine() -> None:
    """An engine with compose; skips the test where there is none."""
    why_not = _why_not()
    if why_not is None:
        return
    if os.environ.get(REQUIRED):
        pytest.fail(why_not)
    pytest.skip(why_not)


@pytest.fixture(scope="session")
def image(engine: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tag of the image, built by compose from the Dockerfile."""
    tag = "test"
    with (tmp_path_factory.getbasetemp().parent / "image.lock").open(
        "w"
    ) as lock:  # one of several workers builds it
        fcntl.flock(lock, fcntl.LOCK_EX)
        ComposeStack("trainshed-test-build", tag, tmp_path_factory.mktemp("build")).compose(
            "build", "gateway", within=280
        )
    return tag


@pytest.fixture(scope="session")
def next_image(image: str) -> str:
    """The tag of another image: what a later release is to compose."""
    tag = f"{image}-next"
    subprocess.run(
        ["docker", "build", "-q", "-t", f"trainshed:{tag}", "-"],
        env=build_environment(),
        input=f"FROM trainshed:{image}\nLABEL org.opencontainers.image.version=0.1.1\n".encode(),
        capture_output=True,
        check=True,
        timeout=120,
    )
    return tag


@pytest.fixture(scope="module")
def stack(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposeStack]:
    """The stack, up and healthy, with one agent."""
    one = ComposeStack(f"trainshed-test-{secrets.token_hex(3)}", image, tmp_path_factory.mktemp("compose"))
    try:
        one.up()
        yield one
    finally:
        one.down()
