"""The contract's samples: as the services' code makes them now, valid by the schema, read by the client, none left out."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import msgspec
import pytest

from events.codec import decode, decode_heartbeat
from events.config_input import accepted_config
from events.types import EVENT_KINDS
from services.schema import bundle, catalogue
from tests.support import samples
from trainshed_client import answers
from trainshed_client.errors import TrainshedError
from trainshed_client.statuses import FailureReason, RunStatus

BUNDLE = bundle.bundle()
SAMPLES = samples.samples()
EACH = [(definition, name) for definition, values in SAMPLES.items() for name in values]


def validator(definition: str) -> jsonschema_rs.Draft202012Validator:
    schema = {"$ref": f"#/$defs/{definition}", "$defs": BUNDLE["$defs"]}
    return jsonschema_rs.Draft202012Validator(schema, validate_formats=True)


def test_the_committed_samples_are_these() -> None:
    same = samples.FILE.read_text() == samples.text(SAMPLES)
    assert same, "docs/schema/samples.json is behind the code. Run: make schema"


def test_they_are_the_same_each_time() -> None:
    assert samples.samples() == SAMPLES


@pytest.mark.parametrize("definition", SAMPLES)
def test_each_is_valid(definition: str) -> None:
    check = validator(definition)
    for name, value in SAMPLES[definition].items():
        assert [(name, str(error)) for error in check.iter_errors(value)] == []


def test_every_message_has_one() -> None:
    messages = {
        *(
            kind.__name__
            for kind in (*catalogue.RECORDS, *catalogue.ANSWERS, *catalogue.REQUESTS, *catalogue.PUBLISHED)
        ),
        *(bundle.envelope_name(kind) for kind in (*catalogue.EVENTS, *catalogue.HEARTBEATS)),
    }
    assert messages <= set(SAMPLES)


def test_a_run_is_there_in_every_status() -> None:
    runs = SAMPLES["RunRecord"].values()
    assert {run["status"] for run in runs} == set(RunStatus) - {RunStatus.UNSPECIFIED}
    assert {run["failure_reason"] for run in runs} >= {
        None,
        FailureReason.UNSPECIFIED,
        FailureReason.TIME_LIMIT,
    }
    assert SAMPLES["RunRecord"]["retried"]["attempt"] == 2
    assert SAMPLES["AttemptRecord"]["late_1"]["late_result"] is not None
    assert "NaN" in SAMPLES["RunRecord"]["running"]["metrics"].values()


KINDS = {kind.__name__: kind for kind in (*catalogue.RECORDS, *catalogue.ANSWERS, *catalogue.REQUESTS)}


@pytest.mark.parametrize(("definition", "name"), [one for one in EACH if one[0] in KINDS])
def test_the_types_read_it(definition: str, name: str) -> None:
    if definition == "BatchRequest":  # it takes either form of a config, which no one type does
        return
    msgspec.json.decode(json.dumps(SAMPLES[definition][name]), type=KINDS[definition])


def test_a_page_reads_its_runs() -> None:
    page = msgspec.json.decode(json.dumps(SAMPLES["RunPage"]["first"]), type=answers.RunPage)
    assert [run.run_id for run in page.records] == [
        run["run_id"] for run in SAMPLES["RunPage"]["first"]["runs"]
    ]


@pytest.mark.parametrize("name", EVENT_KINDS)
def test_an_event_is_one_that_the_log_would_read(name: str) -> None:
    body = SAMPLES["LogEvent"][name]
    kind = EVENT_KINDS[name]
    data = body["data"]
    role = next(role for role in kind.roles if role in body["source"])
    node = body["source"].partition("/")[2] or (data.get("node", "_"))
    subject = f"trainshed.events.{kind.scope}.{body['subject']}.{role}.{name}.{node}"
    assert getattr(decode(subject, json.dumps(body).encode(), 1, 1), "reason", None) is None


@pytest.mark.parametrize("definition", ["RunHeartbeatMessage", "NodeHeartbeatMessage"])
def test_a_heartbeat_is_one_that_is_read(definition: str) -> None:
    body = SAMPLES[definition]["one"]
    scope = "run" if "Run" in definition else "node"
    found = decode_heartbeat(
        f"trainshed.heartbeats.{scope}.{body['subject']}.gpu01", json.dumps(body).encode()
    )
    assert found is not None


@pytest.mark.parametrize("name", SAMPLES["RunConfig"])
def test_a_config_is_accepted(name: str) -> None:
    config = {field: value for field, value in SAMPLES["RunConfig"][name].items() if field != "after"}
    assert accepted_config(config).digest


WRONG: dict[str, dict[str, Any]] = {
    "a name that is too long": {"run_name": "x" * 121},
    "an empty name": {"run_name": ""},
    "no name": {"run_name": None},
    "an empty program": {"entry_point": ""},
    "a number as an argument": {"arguments": [1]},
    "an equals sign": {"environment": {"A=B": "1"}},
    "an empty variable's name": {"environment": {"": "1"}},
    "a relative folder": {"working_dir": "here"},
    "no cpu": {"resources": {"cpus": 0}},
    "less than no memory": {"resources": {"memory_mb": -1}},
    "half a GPU": {"resources": {"gpus": {"requested": 0.5}}},
    "no time": {"schedule": {"max_duration_seconds": 0}},
    "less than no steps": {"schedule": {"max_steps": -1}},
    "no attempt": {"retry": {"max_attempts": 0}},
    "a pause in the past": {"retry": {"backoff_s": -1}},
    "an unknown end": {"retry": {"on": ["tired"]}},
    "an unknown signal": {"stop": {"signal": "TERM"}},
    "an unknown sign of life": {"heartbeat": {"source": "pulse"}},
    "a silence of no time": {"heartbeat": {"timeout_s": 0}},
    "no run's id": {"after": ["ABC"]},
    "no digest": {"code": {"partial": True}},
    "no hex": {"code": {"sha256": "AB" * 32}},
    "an unknown field": {"entrypoint": "x"},
    "an unknown field below": {"resources": {"cpu": 1}},
    "a script that is no text": {"metadata": {"worker": {"script": 1}}},
    "an empty module": {"metadata": {"worker": {"module": ""}}},
    "a secret itself": {"secrets": {"A": "s3cr3t"}},
}
RIGHT: dict[str, dict[str, Any]] = {
    "the longest name": {"run_name": "x" * 120},
    "nulls": {
        "working_dir": None,
        "submission_key": None,
        "code": None,
        "schedule": {"max_duration_seconds": None, "max_steps": None},
        "heartbeat": {"timeout_s": None},
        "metadata": {
            "worker": {"module": "a", "script": None, "arguments": None, "config": None, "worker_id": None}
        },
    },
    "the least": {
        "resources": {"cpus": 1, "memory_mb": 0, "gpus": {"requested": 0}},
        "schedule": {"max_duration_seconds": 0.001, "max_steps": 0},
        "retry": {"max_attempts": 1, "backoff_s": 0, "on": []},
        "stop": {"signal": "SIGINT", "grace_s": 0},
        "heartbeat": {"source": "notify", "timeout_s": 0.5},
        "priority": -3,
    },
}


@pytest.mark.parametrize("what", WRONG)
def test_the_schema_of_a_config_refuses_what_the_gateway_refuses(what: str) -> None:
    config = {"entry_point": "/bin/true", **WRONG[what]}
    assert not validator("RunConfig").is_valid(config)
    with pytest.raises(TrainshedError):
        accepted_config(config)


@pytest.mark.parametrize("what", RIGHT)
def test_the_schema_of_a_config_takes_what_the_gateway_takes(what: str) -> None:
    config = {"entry_point": "/bin/true", **RIGHT[what]}
    assert validator("RunConfig").is_valid(config)
    assert accepted_config(config).digest
