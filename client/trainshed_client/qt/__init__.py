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
    from trainshed_client.qt.client_thread import ConnectionState
    from trainshed_client.qt.models.record_table import RecordTable
    from trainshed_client.qt.models.roles import TableRole
    from trainshed_client.qt.models.sorted_table import SortedTable
    from trainshed_client.qt.models.tables import NodesModel, RunsModel, SlotsModel
    from trainshed_client.qt.runner import TrainerClientRunner

__all__ = [
    "ConnectionState",
    "NodesModel",
    "RecordTable",
    "RunsModel",
    "SlotsModel",
    "SortedTable",
    "TableRole",
    "TrainerClientRunner",
]

_MODULE_OF = {
    "ConnectionState": "client_thread",
    "NodesModel": "models.tables",
    "RecordTable": "models.record_table",
    "RunsModel": "models.tables",
    "SlotsModel": "models.tables",
    "SortedTable": "models.sorted_table",
    "TableRole": "models.roles",
    "TrainerClientRunner": "runner",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used (PEP 562)."""
    import importlib

    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
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
