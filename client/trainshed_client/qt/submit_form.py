"""A form for a run config, built from its schema: it submits, and shows each error at its field.

Owns which fields stand first, and where an error goes; what is accepted the gateway alone decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QFormLayout, QLabel, QPushButton, QScrollArea, QToolButton, QVBoxLayout, QWidget

from trainshed_client.answers import Submission
from trainshed_client.errors import TrainshedError
from trainshed_client.qt.field_input import WRONG, FieldInput
from trainshed_client.qt.schema_fields import fields_of, put, run_config_schema, taken

if TYPE_CHECKING:
    from trainshed_client.qt.runner import TrainerClientRunner

FIRST = (
    "run_name",
    "entry_point",
    "arguments",
    "working_dir",
    "resources.cpus",
    "resources.gpus.requested",
    "resources.memory_mb",
    "environment",
    "labels",
    "priority",
)
"""What stands there at once; the rest is behind a button."""
_HIDDEN = ("artifacts.", "code")
"""Nobody acts on the first, and no person types the second."""


class SubmitForm(QWidget):
    """``first``: paths of the fields that stand there at once. Only what differs from its default is in the config."""

    submitted = Signal(object)
    """The `Submission`."""
    refused = Signal(object)
    """The `TrainshedError`, which is shown already."""

    def __init__(
        self,
        runner: TrainerClientRunner | None = None,
        parent: QWidget | None = None,
        *,
        first: Sequence[str] = FIRST,
        schema: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(parent)
        self._runner = runner
        self._kept: dict[str, Any] = {}
        """What of a config that was set no field shows."""
        fields = {
            field.path: FieldInput(field)
            for field in fields_of(run_config_schema() if schema is None else schema)
            if not field.path.startswith(_HIDDEN)
        }
        self.fields = {
            path: fields[path] for path in (*first, *(path for path in fields if path not in first))
        }
        """By their paths, in their order."""
        self._rest = QWidget()
        self._more = QToolButton()
        self._error = QLabel()
        self._button = QPushButton("Submit")
        self._more.setCheckable(True)
        self._error.setWordWrap(True)
        self._error.setStyleSheet(WRONG)
        self._lay_out(len(first))
        self._show_more(False)
        self._more.toggled.connect(self._show_more)
        self._button.clicked.connect(self.submit)
        self.clear_errors()

    # --- the config -----------------------------------------------------------------------------------------

    def config(self) -> dict[str, Any] | None:
        """The run config that stands there; None where a field's text means no value, which is then shown."""
        self.clear_errors()
        config: dict[str, Any] = {**self._kept}
        is_whole = True
        for path, field in self.fields.items():
            try:
                value = field.value()
            except ValueError as error:
                self._show_at(path, str(error))
                is_whole = False
                continue
            if value != (field.field.default or None) and value != field.field.default:
                put(config, path, value)
        return config if is_whole else None

    def set_config(self, config: Mapping[str, Any]) -> None:
        """Show a config, such as another run's; what is not in it is as by default."""
        self.clear_errors()
        self._kept = {name: value for name, value in config.items() if f"{name}.".startswith(_HIDDEN)}
        for path, field in self.fields.items():
            value = taken(config, path)
            field.set_value(field.field.default if value is None else value)

    def submit(self) -> None:
        """Submit what stands there."""
        config = self.config()
        if config is None or self._runner is None:
            return
        self._button.setEnabled(False)
        self._runner.submit(config, done=self._take, error=self._refuse)

    # --- errors ---------------------------------------------------------------------------------------------

    def show_error(self, error: TrainshedError) -> None:
        """Show each thing that is wrong at its field, and above the button what belongs to none."""
        self.clear_errors()
        others = []
        for wrong in error.errors:
            if not (wrong.path and self._show_at(wrong.path, wrong.message)):
                others.append(str(wrong))
        if error.more:
            others.append(f"and {error.more:,} more")
        self._error.setText("\n".join(others))
        self._error.setVisible(bool(others))

    def clear_errors(self) -> None:
        """Show none."""
        self._error.hide()
        self._error.clear()
        for field in self.fields.values():
            field.set_error("")

    @property
    def error(self) -> str:
        """What is wrong beside the fields, as it is shown."""
        return self._error.text()

    def _show_at(self, path: str, message: str) -> bool:
        """Show it at the field of the path, or of what it is part of: ``environment.LR`` at ``environment``."""
        found = max((each for each in self.fields if _is_within(path, each)), key=len, default=None)
        if found is None:
            return False
        field = self.fields[found]
        within = path[len(found) :].lstrip(".")
        text = f"{within}: {message}" if within else message
        field.set_error(f"{field.error}\n{text}" if field.error else text)
        if self._rest.isAncestorOf(field):
            self._more.setChecked(True)
        return True

    # --- widgets --------------------------------------------------------------------------------------------

    def _take(self, submission: Submission) -> None:
        self._button.setEnabled(True)
        self.clear_errors()
        self.submitted.emit(submission)

    def _refuse(self, error: Exception) -> None:
        self._button.setEnabled(True)
        if isinstance(error, TrainshedError):
            self.show_error(error)
        else:
            self._error.setText(str(error))
            self._error.show()
        self.refused.emit(error)

    def _show_more(self, is_shown: bool) -> None:
        self._rest.setVisible(is_shown)
        self._more.setText("Less" if is_shown else "More")

    def _lay_out(self, first: int) -> None:
        inside = QWidget()
        column = QVBoxLayout(inside)
        here, rest = QFormLayout(), QFormLayout(self._rest)
        rest.setContentsMargins(0, 0, 0, 0)
        for number, field in enumerate(self.fields.values()):
            form = here if number < first else rest
            form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
            form.addRow(field.title, field)
        column.addLayout(here)
        column.addWidget(self._more)
        column.addWidget(self._rest)
        column.addStretch(1)
        area = QScrollArea()
        area.setFrameShape(QScrollArea.Shape.NoFrame)
        area.setWidgetResizable(True)
        area.setWidget(inside)
        whole = QVBoxLayout(self)
        whole.setContentsMargins(0, 0, 0, 0)
        whole.addWidget(area, 1)
        whole.addWidget(self._error)
        whole.addWidget(self._button)


def _is_within(path: str, field: str) -> bool:
    return path == field or path.startswith((f"{field}.", f"{field}["))
