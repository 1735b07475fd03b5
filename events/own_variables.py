"""The variables that Trainshed itself sets for a worker, and their refusal in a run config, with what to write instead.

Owns that list (the shim's `launch` sets them); knows nothing of the other fields of a run config.
"""

from __future__ import annotations

from collections.abc import Mapping

from trainshed_client.errors import Refusals
from trainshed_client.json_limits import below, invalid

_GPUS = (
    'a run gets the devices that it is granted: ask with --gpus 1, "resources": {"gpus": {"requested": 1}}'
)
_FILLED_IN = "leave it out; where another value must hold it, write {{%s}} there"

INSTEAD: Mapping[str, str] = {
    "CUDA_VISIBLE_DEVICES": _GPUS + " (empty is accepted where none is asked for)",
    "CUDA_DEVICE_ORDER": "devices are numbered in the order of the PCI bus (PCI_BUS_ID is accepted)",
    "NOTIFY_SOCKET": 'leave it out; heartbeats are asked for with "heartbeat": {"source": "notify"}',
    "WATCHDOG_USEC": 'write "heartbeat": {"source": "notify", "timeout_s": 60}',
    "TRAINSHED_RUN_ID": _FILLED_IN % "run_id",
    "TRAINSHED_ATTEMPT": _FILLED_IN % "attempt",
    "TRAINSHED_NODE": _FILLED_IN % "node",
    "TRAINSHED_RUN_DIR": _FILLED_IN % "run_dir",
    "TRAINSHED_LOG_ID": "leave it out",
    "TRAINSHED_SOCKET": "leave it out",
    "TRAINSHED_CPUS": 'ask with --cpus 4, "resources": {"cpus": 4}',
    "TRAINSHED_MEMORY_MB": 'ask with --memory 8000, "resources": {"memory_mb": 8000}',
    "TRAINSHED_SLOTS": _GPUS,
    "TRAINSHED_MAX_STEPS": 'write "schedule": {"max_steps": 100000}',
}
"""Each of these variables → what to do instead of setting it."""


def refuse_own_variables(config: Mapping[str, object]) -> None:
    """Raise TrainshedError (invalid), by path, for variables that would be overwritten with another value.

    ``config`` is a run config as it was written: what is no object where one must be is refused by others.
    """
    refused = Refusals()
    gpus = _object(_object(config.get("resources")).get("gpus")).get("requested")
    for field in ("environment", "secrets"):
        for name, value in _object(config.get(field)).items():
            instead = INSTEAD.get(name)
            if (
                instead is None
                or value == _SET_ANYWAY.get(name)
                or (name == _DEVICES and not gpus and value == "")
            ):
                continue
            refused.add(invalid(below(field, name), f"Trainshed sets this itself: {instead}"))
    refused.raise_any()


def _object(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


_DEVICES = "CUDA_VISIBLE_DEVICES"
_SET_ANYWAY = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
