"""What a running stack shows over HTTP; and that page, dashboard and alert rules name only metrics that it shows."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.containers.stack import free_port
from tests.support.stack import Stack, run_trainshed, until

ROOT = Path(__file__).resolve().parents[3]
MONITORING = ROOT / "docs/monitoring"


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Stack]]:
    """A stack that shows itself, after one run that completed, one that failed and with one that waits."""
    port = free_port()  # and the next one, for the projector
    one = Stack(
        tmp_path_factory.mktemp("metrics") / "state",
        gpus=1,
        environment={"TRAINSHED_HTTP_LISTEN": str(port)},
    )
    try:
        one.trainshed("cluster", "init", "--host", "127.0.0.1")  # certificates are shown where there are some
        one.start()
        runs = [one.submit("--gpus", "1", shell="true"), one.submit("--gpus", "1", shell="exit 3")]
        one.trainshed("wait", *runs, code=3)
        holder = one.submit("--gpus", "1", shell="sleep 600")
        one.running(holder)
        one.submit("--gpus", "1", shell="true")
        one.trainshed("ls")  # a query is answered once the read model has what was acknowledged
        yield port, one
    finally:
        one.close()


def get(port: int, path: str) -> str:
    answer: bytes = urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5).read()
    return answer.decode()


def samples(port: int) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample of a page by its name and labels, read by Prometheus' own parser."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(get(port, "/metrics"))
        for sample in family.samples
    }


def test_a_stack_shows_what_its_runs_have_done(ports: tuple[int, Stack]) -> None:
    port, _ = ports
    assert (get(port, "/healthz"), get(port, "/readyz")) == ("ok\n", "ready\n")
    writing, reading = samples(port), samples(port + 1)

    def count(of: dict[Any, float], name: str, **labels: str) -> float:
        return of[name, tuple(sorted(labels.items()))]

    assert count(writing, "trainshed_events_appended_total", type="Submitted") == 4
    assert count(writing, "trainshed_events_appended_total", type="Completed") == 1
    assert count(writing, "trainshed_events_appended_total", type="Dispatched") == 3
    assert count(writing, "trainshed_dispatch_latency_seconds_count") == 3
    assert count(writing, "trainshed_dispatcher_active") == 1
    assert (count(writing, "trainshed_agent_slots"), count(writing, "trainshed_agent_slots_used")) == (1, 1)
    appended = sum(value for (name, _), value in writing.items() if name == "trainshed_events_appended_total")
    assert appended == count(reading, "trainshed_log_end")

    runs = {
        status: count(reading, "trainshed_runs", status=status)
        for status in ("COMPLETED", "FAILED", "RUNNING")
    }
    assert runs == {"COMPLETED": 1, "FAILED": 1, "RUNNING": 1}
    assert count(reading, "trainshed_queue_depth") == count(reading, "trainshed_runs", status="PENDING") == 1
    assert 0 < count(reading, "trainshed_queue_oldest_wait_seconds") < 3600
    assert (count(reading, "trainshed_slots"), count(reading, "trainshed_slots_used")) == (1, 1)
    assert count(reading, "trainshed_nodes", status="up") == 1
    assert count(reading, "trainshed_projector_lag_events") == 0
    until(lambda: count(samples(port + 1), "trainshed_heartbeats_seen_total", scope="node") > 0)


def test_the_log_that_takes_nothing_is_seen(ports: tuple[int, Stack]) -> None:
    port, _ = ports
    for reason in ("conflict", "refused", "unknown"):
        assert ("trainshed_events_rejected_total", (("reason", reason),)) in samples(port)


def test_what_is_no_page_is_refused(ports: tuple[int, Stack]) -> None:
    for path, data, status in (("/", None, 404), ("/metrics", b"x", 405)):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://127.0.0.1:{ports[0]}{path}", data=data, timeout=5)
        assert refused.value.code == status


def test_a_taken_port_is_told(ports: tuple[int, Stack], tmp_path: Path) -> None:
    other = Stack(tmp_path / "other", environment={"TRAINSHED_HTTP_LISTEN": str(ports[0])})
    try:
        other.start(wait=False)
        assert other.process.wait(20) != 0
        assert "TRAINSHED_HTTP_LISTEN" in other.said()
    finally:
        other.close()


def shown(ports: tuple[int, Stack]) -> dict[str, set[str]]:
    """Every sample's name with the labels that it bears."""
    found: dict[str, set[str]] = {}
    for name, labels in [*samples(ports[0]), *samples(ports[0] + 1)]:
        found.setdefault(name, set()).update(label for label, _ in labels)
    return found


def queries() -> dict[str, str]:
    """Every query of the dashboard and of the alert rules, by its title."""
    board = json.loads((MONITORING / "grafana-dashboard.json").read_text())
    rules = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"][0]["rules"]
    panels = {f"{p['title']} {t['refId']}": t["expr"] for p in board["panels"] for t in p["targets"]}
    return panels | {rule["alert"]: rule["expr"] for rule in rules}


def unknown_words(query: str, metrics: dict[str, set[str]]) -> set[str]:
    """Metrics and labels of a query that nothing bears. (`up`, `job` and `instance` are Prometheus' own.)"""
    bare = re.sub(r'"[^"]*"', '""', query)
    names = set(re.findall(r"\b(?:trainshed|process)_\w+", bare))
    labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=(?!=))", bare))
    for group in re.findall(r"by \(([^)]*)\)", bare):
        labels |= {word.strip() for word in group.split(",")}
    known = {"job", "instance"}.union(*(metrics.get(name, set()) for name in names))
    return (names - metrics.keys()) | (labels - known)


def test_dashboard_and_alerts_ask_for_what_is_there(ports: tuple[int, Stack]) -> None:
    metrics = shown(ports)
    wrong = {title: words for title, query in queries().items() if (words := unknown_words(query, metrics))}
    assert wrong == {}
    for title, query in queries().items():
        assert query.count("(") == query.count(")") and query.count("{") == query.count("}"), title


def test_the_check_of_queries_can_fail() -> None:
    metrics = {"trainshed_runs": {"status"}}
    assert unknown_words('sum by (status) (trainshed_runs{status="x"})', metrics) == set()
    assert unknown_words("trainshed_run", metrics) == {"trainshed_run"}
    assert unknown_words('trainshed_runs{state="x"}', metrics) == {"state"}
    assert unknown_words("sum by (node) (trainshed_runs)", metrics) == {"node"}


def test_the_page_lists_every_metric_and_no_other(ports: tuple[int, Stack]) -> None:
    families = {
        re.sub(r"_(bucket|count|sum)$", "", name) for name in shown(ports) if name.startswith("trainshed_")
    }
    page = (MONITORING / "README.md").read_text()
    assert set(re.findall(r"`(trainshed_\w+)`", page)) == families


def test_config_prints_what_is_in_force_and_where_from(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("hush-hush\n")
    environment = {
        "TRAINSHED_STATE_DIR": "/s",
        "TRAINSHED_NATS_PASSWORD_FILE": str(secret),
        "NATS_URL": "nats://sam:hush-hush@host",
        "TRAINSHED_LOG_LVEL": "debug",
    }
    done = run_trainshed("config", "--json", environment=environment)
    told = {row["name"]: (row["value"], row["from"]) for row in done.json["settings"]}
    assert told["TRAINSHED_STATE_DIR"] == ("/s", "TRAINSHED_STATE_DIR")
    assert told["TRAINSHED_RUNS_DIR"] == ("/s/runs", "default")
    assert told["TRAINSHED_NATS_URL"] == ("nats://***@host", "NATS_URL")
    assert told["TRAINSHED_NATS_PASSWORD"] == ("***", f"TRAINSHED_NATS_PASSWORD_FILE ({secret})")
    assert told["TRAINSHED_NODE"][0] is None
    assert "did you mean TRAINSHED_LOG_LEVEL" in done.stderr
    assert "hush" not in done.text + run_trainshed("config", environment=environment).text
