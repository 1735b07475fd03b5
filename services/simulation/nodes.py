"""The nodes of a simulation: `4x8`, or a CSV file.

Owns what is accepted as such, and which job none of them could ever hold; knows no scheduler.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from events.config import Needs
from events.resources import Amount, least_of
from events.types import Device, NodeJoined
from services.simulation.csv_table import MOST_AMOUNT, CsvTable, invalid
from services.simulation.world import Given
from trainshed_client.subjects import Role

MOST_NODES, MOST_SLOTS = 100_000, 1_024
PLENTY = MOST_AMOUNT
"""CPUs and MiB of a node of which nothing else is known: they decide nothing."""
_SHAPE = re.compile(r"([1-9]\d{0,5})x(\d{1,4})", re.ASCII)
_HEADER = ("name", "gpus")
_OPENB = ("sn", "cpu_milli", "memory_mib", "gpu")
EXPECTED = (
    "expected NODESxGPUS, as in 4x8 (4 nodes with 8 GPUs each), or a CSV file with the columns name,gpus and optionally "
    "cpus,memory_mb, or with the public trace's"
)


def nodes_of_shape(text: str) -> list[NodeJoined] | None:
    """The nodes of ``4x8``; None where it is not of that form. Raises TrainshedError (invalid)."""
    found = _SHAPE.fullmatch(text)
    if found is None:
        return None
    count, gpus = int(found[1]), int(found[2])
    if count > MOST_NODES or gpus > MOST_SLOTS:
        raise invalid(
            "--nodes", f"{text} is refused; expected {MOST_NODES:,} nodes with {MOST_SLOTS:,} GPUs at most"
        )
    digits = len(str(count))
    return [_node(f"node-{place:0{digits}}", gpus) for place in range(1, count + 1)]


def nodes_of_table(table: CsvTable) -> list[NodeJoined]:
    """The nodes of a file, by its own columns or the public trace's. Raises TrainshedError (invalid)."""
    if table.lacks(_OPENB) is None:
        nodes = [
            _node(
                row.values["sn"],
                row.whole("gpu", ("gpu",), most=MOST_SLOTS),
                int(row.number("cpu_milli", ("cpu_milli",)) // 1000),
                int(row.number("memory_mib", ("memory_mib",))),
            )
            for row in table.rows
        ]
    else:
        lacking = table.lacks(_HEADER)
        if lacking is not None:
            raise invalid(
                f"{table.label}: {lacking}", f"the column is missing; {EXPECTED} ({','.join(_OPENB)})"
            )
        nodes = [
            _node(
                row.values["name"],
                row.whole("gpus", ("gpus",), most=MOST_SLOTS),
                row.whole("cpus", ("cpus",)) if "cpus" in table.columns else PLENTY,
                row.whole("memory_mb", ("memory_mb",)) if "memory_mb" in table.columns else PLENTY,
            )
            for row in table.rows
        ]
    if not nodes:
        raise invalid(table.label, "no nodes; expected a line for each")
    seen: set[str] = set()
    for row, node in zip(table.rows, nodes, strict=True):
        if node.node in seen or not node.node:
            column = "sn" if "sn" in table.columns else "name"
            raise invalid(
                row.where(column), f"{node.node!r:.60} is refused; expected a name that no other node has"
            )
        seen.add(node.node)
    return nodes


def joins(nodes: Iterable[NodeJoined], at_ns: int) -> list[Given]:
    """These nodes, from this moment on."""
    return [Given(at_ns, Role.AGENT, node, node.node) for node in nodes]


class EmptyNodes:
    """All that the nodes could give: whether a job could ever be placed."""

    def __init__(self, nodes: Sequence[NodeJoined]) -> None:
        self._sizes = {
            Amount(len({device.place for device in node.gpus}), node.cpus, node.memory_mb) for node in nodes
        }
        self._known: dict[Needs, bool] = {}

    def could_hold(self, needs: Needs) -> bool:
        """Whether one of the nodes could, when it is empty."""
        known = self._known.get(needs)
        if known is None:
            known = any(size.holds(least_of(needs)) for size in self._sizes)
            self._known[needs] = known
        return known


def _node(name: str, gpus: int, cpus: int = PLENTY, memory_mb: int = PLENTY) -> NodeJoined:
    devices = tuple(Device(index=index) for index in range(gpus))
    return NodeJoined(node=name, incarnation=name, host=name, cpus=cpus, memory_mb=memory_mb, gpus=devices)
