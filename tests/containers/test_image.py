"""What is in the image, and what is not."""

from __future__ import annotations

import docker
import pytest

from tests.containers.stack import ROOT

pytestmark = pytest.mark.timeout(300)


def ask(image: str, script: str) -> str:
    """What a shell script prints in a container of the image, as the image's own user."""
    output: bytes = docker.from_env().containers.run(
        f"trainshed:{image}",
        ["-c", script],
        entrypoint=["sh"],
        network_mode="none",
        read_only=True,
        remove=True,
    )
    return output.decode()


def test_it_runs_as_a_user_without_rights(image: str) -> None:
    assert ask(image, "id -u; id -g").split() == ["10001", "10001"]
    assert ask(image, "find /opt/trainshed /usr/local/bin -writable ! -type l 2>/dev/null") == ""


def test_it_has_no_compiler_no_pip_and_no_tests(image: str) -> None:
    assert ask(image, "for one in cc gcc g++ make; do command -v $one; done; true") == ""
    assert ask(image, "ls /opt/trainshed/bin | grep -i pip; true") == ""
    found = ask(
        image, "find /opt/trainshed -name 'test_*.py' -o -type d -name tests; ls -d /build 2>/dev/null; true"
    )
    assert found == ""


def test_a_workers_python_is_the_base_images_own(image: str) -> None:
    assert not ask(image, "command -v python3").startswith("/opt/trainshed")
    assert (
        ask(image, "/opt/trainshed/bin/python -c 'import sys; print(sys.prefix)'").strip() == "/opt/trainshed"
    )


def test_it_is_labelled_and_has_a_health_check(image: str) -> None:
    attrs = docker.from_env().images.get(f"trainshed:{image}").attrs
    labels = {name.rpartition(".")[2]: value for name, value in attrs["Config"]["Labels"].items()}
    assert (labels["title"], labels["version"], labels["licenses"]) == ("Trainshed", "0.1.0", "Apache-2.0")
    assert attrs["Config"]["Healthcheck"]["Test"][0] == "CMD"
    assert attrs["Config"]["User"] == "10001:10001"


def test_it_adds_less_than_100_mb_to_its_base(image: str) -> None:
    base = next(
        line.split()[1] for line in (ROOT / "Dockerfile").read_text().splitlines() if line.startswith("FROM")
    )
    images = docker.from_env().images
    assert images.get(f"trainshed:{image}").attrs["Size"] - images.get(base).attrs["Size"] < 100e6


def test_a_service_tells_that_it_lives_and_is_not_ready_before_it_has_found_its_server(image: str) -> None:
    container = docker.from_env().containers.create(
        f"trainshed:{image}", ["gateway"], environment={"NATS_URL": "tls://nowhere.invalid:4222"}
    )
    probe = (
        "import time, urllib.error, urllib.request as u\n"
        "def get(path):\n"
        "    try: return u.urlopen('http://127.0.0.1:8080' + path, timeout=1).status\n"
        "    except urllib.error.HTTPError as error: return error.code\n"
        "    except OSError: return None\n"
        "end = time.monotonic() + 10\n"
        "while get('/healthz') is None and time.monotonic() < end: time.sleep(0.02)\n"
        "print(get('/healthz'), get('/readyz'))\n"
    )
    try:
        container.start()
        code, output = container.exec_run(["python3", "-c", probe])
        assert (code, output.split()) == (0, [b"200", b"503"]), container.logs()
    finally:
        container.remove(force=True)
