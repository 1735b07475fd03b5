"""The form of a run config: every field of the schema, only what differs in the config, each error at its field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtWidgets import QCheckBox, QComboBox, QLineEdit, QPlainTextEdit, QSpinBox
from pytestqt.qtbot import QtBot

from events.config_input import accepted_config
from services.schema.bundle import definitions
from trainshed_client.errors import ErrorCode, TrainshedError, WrongField
from trainshed_client.qt import SubmitForm
from trainshed_client.qt.schema_fields import SCHEMA_FILE, fields_of, run_config_schema


def shipped() -> str:
    """The run config's schema by itself, as the client bears it."""
    known = definitions()
    schema = dict(known["RunConfig"])
    text = json.dumps(schema)
    needed: dict[str, Any] = {}
    while more := {name for name in known if f'"#/$defs/{name}"' in text and name not in needed}:
        needed.update({name: known[name] for name in more})
        text = json.dumps([schema, needed])
    schema["$defs"] = dict(sorted(needed.items()))
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def test_the_schema_that_the_client_bears_is_the_contracts(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--rewrite-golden"):
        Path(SCHEMA_FILE).write_text(shipped(), encoding="utf-8")
    assert SCHEMA_FILE.read_text(encoding="utf-8") == shipped(), "write it anew: pytest --rewrite-golden"


def test_every_field_of_the_schema_has_an_input(qtbot: QtBot) -> None:
    form = SubmitForm()
    qtbot.addWidget(form)
    paths = {field.path for field in fields_of(run_config_schema())}
    hidden = {path for path in paths if path.startswith("artifacts.")} | {"code"}
    assert set(form.fields) == paths - hidden
    assert {path: type(form.fields[path].input) for path in list(form.fields)[:7]} == {
        "run_name": QLineEdit,
        "entry_point": QLineEdit,
        "arguments": QPlainTextEdit,
        "working_dir": QLineEdit,
        "resources.cpus": QSpinBox,
        "resources.gpus.requested": QSpinBox,
        "resources.memory_mb": QSpinBox,
    }
    assert isinstance(form.fields["resources.gpus.whole"].input, QCheckBox)
    assert isinstance(form.fields["heartbeat.source"].input, QComboBox)


def test_an_untouched_form_is_an_empty_config(qtbot: QtBot) -> None:
    form = SubmitForm()
    qtbot.addWidget(form)
    assert form.config() == {}


def test_what_is_filled_in_is_a_config_that_the_gateway_takes(qtbot: QtBot) -> None:
    form = SubmitForm()
    qtbot.addWidget(form)
    filled: dict[str, Any] = {
        "entry_point": "/usr/bin/python3",
        "arguments": ["train.py", "--lr", "3e-4"],
        "working_dir": "/data/project",
        "resources": {"cpus": 4, "gpus": {"requested": 2, "whole": True}},
        "environment": {"SEED": "1", "NAME": "a=b"},
        "schedule": {"max_duration_seconds": 60.5},
        "retry": {"max_attempts": 3, "on": ["exit_code", "node_lost"]},
        "heartbeat": {"source": "notify"},
        "metadata": {"sweep": {"lr": 0.1}},
        "code": {"sha256": "0" * 64},
    }
    form.set_config(filled)
    assert form.config() == filled
    accepted_config(form.config())
    form.set_config({})
    assert form.config() == {}


def test_a_text_that_means_no_value_is_named_at_its_field(qtbot: QtBot) -> None:
    form = SubmitForm()
    qtbot.addWidget(form)
    for path, text in (("schedule.max_steps", "many"), ("environment", "LR"), ("metadata", "{")):
        widget = form.fields[path].input
        if isinstance(widget, QLineEdit):
            widget.setText(text)
        elif isinstance(widget, QPlainTextEdit):
            widget.setPlainText(text)
    assert form.config() is None
    assert form.fields["schedule.max_steps"].error == "'many' is not a whole number"
    assert "NAME=VALUE" in form.fields["environment"].error
    assert "no JSON" in form.fields["metadata"].error


def test_errors_stand_at_their_fields(qtbot: QtBot) -> None:
    form = SubmitForm()
    qtbot.addWidget(form)
    form.show()
    wrong = [
        WrongField("resources.gpus.requested", "must not be below 0"),
        WrongField("environment.API_KEY", "a credential"),
        WrongField("arguments[2]", "no text"),
        WrongField("stop.signal", "no such signal"),
        WrongField("code.sha256", "not here"),
        WrongField(None, "too large"),
    ]
    form.show_error(TrainshedError(ErrorCode.INVALID, "", None, wrong, more=3))
    assert form.fields["resources.gpus.requested"].error == "must not be below 0"
    assert form.fields["environment"].error == "API_KEY: a credential"
    assert form.fields["arguments"].error == "[2]: no text"
    assert form.fields["stop.signal"].error == "no such signal"
    assert form.fields["stop.signal"].isVisible()  # it was behind the button
    assert form.error.split("\n") == ["code.sha256: not here", "too large", "and 3 more"]
    form.clear_errors()
    assert form.error == form.fields["arguments"].error == ""
