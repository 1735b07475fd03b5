"""What the compose stack is made of, as far as it shows without an engine; tests/containers runs it."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.nats_server.server_config import CONFIG as EMBEDDED
from services.setting_values import http_url

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())


def init(folder: Path) -> str:
    """Run the init service's script on folders of ours; what it says."""
    for name in ("secret", "store"):
        (folder / name).mkdir(exist_ok=True)
    environment = {
        "PATH": os.environ["PATH"],
        "SECRET_DIR": str(folder / "secret"),
        "STORE_DIR": str(folder / "store"),
        "OWNER": f"{os.getuid()}:{os.getgid()}",
    }
    ended = subprocess.run(
        ["sh", ROOT / "deploy/init.sh"], env=environment, capture_output=True, check=True, timeout=20
    )
    assert ended.stderr == b""
    return ended.stdout.decode()


def test_the_password_is_made_once_and_is_for_nobody_else(tmp_path: Path) -> None:
    assert "made a new password" in init(tmp_path)
    password = (tmp_path / "secret/password").read_text()
    assert re.fullmatch(r"[0-9a-f]{48}", password)
    assert init(tmp_path) == ""
    assert (tmp_path / "secret/password").read_text() == password
    assert f'password: "{password}"' in (tmp_path / "secret/auth.conf").read_text()
    assert {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "secret").iterdir()} == {
        "password": 0o600,
        "auth.conf": 0o600,
    }
    other = tmp_path / "other"
    other.mkdir()
    init(other)
    assert (other / "secret/password").read_text() != password


def test_a_password_that_was_not_written_whole_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/password").write_text("")
    assert "made a new password" in init(tmp_path)


def test_the_server_of_the_stack_is_set_up_as_the_embedded_one() -> None:
    def words(text: str) -> set[str]:
        lines = (line.split("#")[0].strip() for line in text.splitlines())
        own = ("listen", "http", "server_name", "store_dir", "authorization", "include", "pid_file", "log")
        return {line for line in lines if line and not line.startswith(own)}

    assert words((ROOT / "deploy/nats.conf").read_text()) == words(
        EMBEDDED.replace("{{", "{").replace("}}", "}")
    )


def test_every_base_is_pinned_and_named_once() -> None:
    bases = set(re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    images = {one["image"] for one in COMPOSE["services"].values() if "build" not in one}
    for image in bases | images:
        assert re.fullmatch(r"\w+:\d+\.\d+[\w.-]*", image), image
    assert len(bases) == len(images) == 1


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_every_service_is_confined(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {"mem_limit", "pids_limit", "init"} <= service.keys()
    assert service["restart"] == ("no" if name in ("init", "dashboard") else "unless-stopped")
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


def test_gateway_and_projector_ask_the_monitoring_that_no_host_sees() -> None:
    (host, port) = re.findall(
        r'^http: "([\d.]+):(\d+)"$', (ROOT / "deploy/nats.conf").read_text(), re.MULTILINE
    )[0]
    assert host == "0.0.0.0"
    asking = {
        name: service["environment"]["TRAINSHED_NATS_MONITOR_URL"]
        for name, service in COMPOSE["services"].items()
        if "TRAINSHED_NATS_MONITOR_URL" in service.get("environment", {})
    }
    assert asking == dict.fromkeys(("gateway", "projector"), f"http://nats:{port}")
    for name, url in asking.items():
        assert http_url(url) == url
        assert (
            COMPOSE["services"]["agent"]["environment"].items()
            <= COMPOSE["services"][name]["environment"].items()
        )
    published = [one for service in COMPOSE["services"].values() for one in service.get("ports", ())]
    assert [one.rpartition(":")[2] for one in published] == ["4222"]


def test_a_plain_up_starts_no_dashboard_while_there_is_none() -> None:
    assert [name for name, one in COMPOSE["services"].items() if "profiles" in one] == ["dashboard"]


def test_the_gpu_overlay_changes_a_service_that_exists() -> None:
    overlay = yaml.safe_load((ROOT / "compose.gpu.yaml").read_text())["services"]
    assert overlay.keys() <= COMPOSE["services"].keys()
    (device,) = overlay["agent"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
