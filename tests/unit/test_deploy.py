"""What the compose stack is made of, as far as it shows without an engine; tests/containers runs it."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.access.containers import MEMBERS
from services.access.identities import CONTROL_ACCOUNT
from services.agent.processes.users import _NEEDED
from services.nats_server.server_config import CONFIG as EMBEDDED
from services.nats_server.store_account import GLOBAL_ACCOUNT
from services.setting_values import http_url

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())


def start_server(folder: Path) -> subprocess.CompletedProcess[bytes]:
    """Run the script that starts the stack's server, on a store of ours and without a server."""
    (folder / "bin").mkdir()
    (folder / "bin/nats-server").write_text('#!/bin/sh\necho started "$@"\n')
    (folder / "bin/nats-server").chmod(0o755)
    environment = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "STORE_DIR": str(folder)}
    return subprocess.run(
        ["sh", ROOT / "deploy/nats.sh"], env=environment, capture_output=True, check=False, timeout=20
    )


def test_the_log_of_a_stack_with_a_password_is_given_to_the_account_that_has_it_now(tmp_path: Path) -> None:
    before = tmp_path / "jetstream" / GLOBAL_ACCOUNT / "streams"
    before.mkdir(parents=True)
    (before / "log").write_text("kept")
    (tmp_path / "jetstream" / CONTROL_ACCOUNT / "streams").mkdir(
        parents=True
    )  # a server left it, without a stream
    assert start_server(tmp_path).stdout == b"started -c /etc/trainshed/nats.conf\n"
    assert (tmp_path / "jetstream" / CONTROL_ACCOUNT / "streams/log").read_text() == "kept"
    assert not (tmp_path / "jetstream" / GLOBAL_ACCOUNT).exists()


def test_a_first_start_and_one_after_that_move_nothing(tmp_path: Path) -> None:
    (tmp_path / "jetstream" / CONTROL_ACCOUNT).mkdir(parents=True)
    assert start_server(tmp_path).returncode == 0
    assert [one.name for one in (tmp_path / "jetstream").iterdir()] == [CONTROL_ACCOUNT]


def test_of_two_stores_none_is_taken(tmp_path: Path) -> None:
    for account in (GLOBAL_ACCOUNT, CONTROL_ACCOUNT):
        (tmp_path / "jetstream" / account / "streams/LOG").mkdir(parents=True)
    refused = start_server(tmp_path)
    assert (refused.returncode, refused.stdout) == (1, b"")
    assert b"there are two stores" in refused.stderr


def mounted(name: str) -> dict[str, str]:
    """The volumes of a service, each with its mode."""
    parts = [one.split(":") for one in COMPOSE["services"][name].get("volumes", ()) if ":" in one]
    return {source: (rest[1] if len(rest) > 1 else "rw") for source, *rest in parts}


def test_every_key_is_in_a_volume_that_its_own_service_alone_reads() -> None:
    keys = {f"key-{name}" for name in MEMBERS}
    assert keys == {name for name in COMPOSE["volumes"] if name.startswith("key-")}
    readers = {
        key: {name for name in COMPOSE["services"] if key in mounted(name)} - {"init", "enrol"}
        for key in keys
    }
    assert readers == {
        "key-operator": {"streams"},
        "key-gateway": {"gateway"},
        "key-dispatcher": {"dispatcher"},
        "key-projector": {"projector"},
        "key-enrol": set(),
        "key-reloader": set(),
        "key-user": {"gateway"},
    }
    for name in COMPOSE["services"].keys() - {"init", "enrol"}:
        shared = {
            source: mode
            for source, mode in mounted(name).items()
            if source in (*keys, "join", "server", "people")
        }
        assert set(shared.values()) <= {"ro"}, name


def test_the_authority_is_read_by_those_alone_who_sign() -> None:
    assert {name for name in COMPOSE["services"] if "authority" in mounted(name)} == {"init", "enrol"}
    assert {name for name in COMPOSE["services"] if "join" in mounted(name)} == {"init", "agent"}
    assert {name for name in COMPOSE["services"] if "people" in mounted(name)} == {
        "init",
        "enrol",
        "gateway",
        "projector",
    }


def test_what_init_gives_away_is_what_enrol_keeps_current() -> None:
    ours = {source for source in mounted("init") if source in COMPOSE["volumes"]}
    assert ours - {"log", "join"} == {source for source in mounted("enrol") if source in COMPOSE["volumes"]}


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
    assert service["restart"] == ("no" if name in ("init", "streams", "dashboard") else "unless-stopped")
    assert all(port.startswith("${TRAINSHED_ADDRESS:-127.0.0.1}:") for port in service.get("ports", ()))
    rights = {"init": {"CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"}, "agent": set(_NEEDED)}
    assert set(service.get("cap_add", ())) == rights.get(name, set())


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
    for url in asking.values():
        assert http_url(url) == url
    published = [one for service in COMPOSE["services"].values() for one in service.get("ports", ())]
    assert [one.rpartition(":")[2] for one in published] == ["4222", "-4224}"]


def test_a_plain_up_starts_no_dashboard_while_there_is_none() -> None:
    assert [name for name, one in COMPOSE["services"].items() if "profiles" in one] == ["dashboard"]


def test_the_gpu_overlay_changes_a_service_that_exists() -> None:
    overlay = yaml.safe_load((ROOT / "compose.gpu.yaml").read_text())["services"]
    assert overlay.keys() <= COMPOSE["services"].keys()
    (device,) = overlay["agent"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
