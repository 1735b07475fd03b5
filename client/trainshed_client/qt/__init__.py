"""The Qt bridge (needs the extra `qt`: PySide6-Essentials): runs, nodes and the queue as signals and models of a GUI.

Owns what is public of it; a name is imported when it is first used, so that a program without widgets loads none.

    from trainshed_client.qt import TrainerClientRunner

    runner = TrainerClientRunner(parent=window)
    runner.run_changed.connect(window.show_run)
    runner.watch_runs()
    runner.start()
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from trainshed_client.older_statuses import older_outcome, older_status
    from trainshed_client.qt.client_thread import ConnectionState
    from trainshed_client.qt.models.metrics_model import MetricsModel
    from trainshed_client.qt.models.queue_model import QueueModel, WaitingRun
    from trainshed_client.qt.models.record_table import RecordTable
    from trainshed_client.qt.models.roles import TableRole
    from trainshed_client.qt.models.sorted_table import SortedTable
    from trainshed_client.qt.models.table_delegate import TableDelegate
    from trainshed_client.qt.models.tables import NodesModel, RunsModel, SlotsModel
    from trainshed_client.qt.runner import TrainerClientRunner
    from trainshed_client.qt.submit_form import SubmitForm

__all__ = [
    "ConnectionState",
    "MetricsModel",
    "NodesModel",
    "QueueModel",
    "RecordTable",
    "RunsModel",
    "SlotsModel",
    "SortedTable",
    "SubmitForm",
    "TableDelegate",
    "TableRole",
    "TrainerClientRunner",
    "WaitingRun",
    "older_outcome",
    "older_status",
]

_MODULE_OF = {
    "ConnectionState": "qt.client_thread",
    "MetricsModel": "qt.models.metrics_model",
    "QueueModel": "qt.models.queue_model",
    "WaitingRun": "qt.models.queue_model",
    "older_outcome": "older_statuses",
    "older_status": "older_statuses",
    "NodesModel": "qt.models.tables",
    "RecordTable": "qt.models.record_table",
    "RunsModel": "qt.models.tables",
    "SlotsModel": "qt.models.tables",
    "SortedTable": "qt.models.sorted_table",
    "SubmitForm": "qt.submit_form",
    "TableDelegate": "qt.models.table_delegate",
    "TableRole": "qt.models.roles",
    "TrainerClientRunner": "qt.runner",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used (PEP 562)."""
    import importlib

    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(f"trainshed_client.{module}"), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("PySide6", "shiboken6"):
            raise
        raise ImportError(
            "the Qt bridge needs PySide6: pip install 'trainshed-client[qt]'", name=error.name
        ) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
