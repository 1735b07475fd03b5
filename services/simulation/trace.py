"""Jobs from a CSV file: its columns, how they may be named otherwise, and the public trace's own.

Owns what a trace's columns mean; knows no scheduler and no node.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from events.types import Completed, Submitted
from services.simulation.csv_table import MOST_AMOUNT, CsvTable, Source, invalid
from services.simulation.world import Given, Outcome
from trainshed_client.subjects import Role

MOST_SECONDS = 100_000_000_000
COLUMNS = ("submit_s", "duration_s", "gpus")
MORE_COLUMNS = ("name", "cpus", "memory_mb", "priority")


class Task(NamedTuple):
    """One job of a trace. ``censored``: others ended it, so that nobody knows how long it would have lasted.

    ``began_s``: when it really began, where the trace has that.
    """

    name: str
    submit_s: float
    duration_s: float
    gpus: int
    cpus: int = 0
    memory_mb: int = 0
    priority: int = 0
    censored: bool = False
    began_s: float | None = None


def tasks_of(table: CsvTable, mapping: Mapping[str, str]) -> list[Task]:
    """The jobs of a trace with the columns ``submit_s,duration_s,gpus`` and, optionally, ``MORE_COLUMNS``.

    ``mapping``: of a column the one that it is here, or the difference of two (``end-begin``). Raises TrainshedError.
    """
    sources = {name: _source(table, name, mapping.get(name)) for name in (*COLUMNS, *MORE_COLUMNS)}
    missing = next((name for name in COLUMNS if sources[name] is None), None)
    if missing is not None:
        raise invalid(
            f"{table.label}: {missing}",
            f"the column is missing. Expected {','.join(COLUMNS)} and optionally {','.join(MORE_COLUMNS)}, or "
            f"--map {missing}=NAME; the header is {','.join(table.columns)}",
        )
    submit, duration, gpus, name, cpus, memory_mb, priority = (sources[key] or () for key in sources)
    return [
        Task(
            name=row.values[name[0]] if name else f"line {row.line}",
            submit_s=row.number("submit_s", submit, most=MOST_SECONDS),
            duration_s=row.number("duration_s", duration, most=MOST_SECONDS),
            gpus=row.whole("gpus", gpus),
            cpus=math.ceil(row.number("cpus", cpus)) if cpus else 0,
            memory_mb=math.ceil(row.number("memory_mb", memory_mb)) if memory_mb else 0,
            priority=row.whole("priority", priority, least=-MOST_AMOUNT) if priority else 0,
        )
        for row in table.rows
    ]


_OPENB = (
    *("name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli", "pod_phase"),
    *("creation_time", "deletion_time", "scheduled_time"),
)


def openb_tasks(table: CsvTable) -> list[Task]:
    """The jobs of the public trace: whole GPUs, shares of one rounded up, and CPUs rounded up to whole ones.

    They last from their start to their deletion, those that never started from their creation on. The latter, and those
    that still ran when they were deleted, are censored. Which models of GPU would do is passed over.
    """
    lacking = table.lacks(_OPENB)
    if lacking is not None:
        raise invalid(
            f"{table.label}: {lacking}", f"the column is missing. --format openb expects {','.join(_OPENB)}"
        )
    tasks = []
    for row in table.rows:
        began = row.values["scheduled_time"] != ""
        source = ("deletion_time", "scheduled_time" if began else "creation_time")
        tasks.append(
            Task(
                name=row.values["name"],
                submit_s=row.number("creation_time", ("creation_time",), most=MOST_SECONDS),
                duration_s=row.number("deletion_time", source, most=MOST_SECONDS),
                gpus=row.whole("num_gpu", ("num_gpu",)),
                cpus=math.ceil(row.number("cpu_milli", ("cpu_milli",)) / 1000),
                memory_mb=math.ceil(row.number("memory_mib", ("memory_mib",))),
                censored=row.values["pod_phase"] in ("Running", "Pending"),
                began_s=row.number("scheduled_time", ("scheduled_time",), most=MOST_SECONDS)
                if began
                else None,
            )
        )
    return tasks


def given_by(tasks: Sequence[Task], *, with_priority: bool) -> tuple[list[Given], dict[str, list[Outcome]]]:
    """The submissions of these jobs, and how long each lasts, by the ids that they have in a simulation."""
    given: list[Given] = []
    outcomes: dict[str, list[Outcome]] = {}
    configs: dict[tuple[int, int, int, int], msgspec.Raw] = {}
    for place, task in enumerate(tasks):
        run_id = run_id_of(place)
        shape = (task.gpus, task.cpus, task.memory_mb, task.priority if with_priority else 0)
        if shape not in configs:
            configs[shape] = _config(*shape)
        submitted = Submitted(run_id=run_id, config=configs[shape], digest="")
        given.append(Given(nanoseconds_of(task.submit_s), Role.GATEWAY, submitted))
        outcomes[run_id] = [Outcome(nanoseconds_of(task.duration_s), Completed(run_id=run_id, attempt=1))]
    return given, outcomes


def run_id_of(place: int) -> str:
    """What the task at this place of its trace, from 0 on, is called in a simulation."""
    return f"{place:09}"


def nanoseconds_of(seconds: float) -> int:
    """To the microsecond, as every moment of a simulation is."""
    return round(seconds * 1_000_000) * 1_000


def parse_mapping(texts: Iterable[str]) -> dict[str, str]:
    """``--map COLUMN=NAME`` or ``--map COLUMN=NAME-NAME``. Raises TrainshedError (invalid)."""
    mapping = {}
    for text in texts:
        name, _, source = text.partition("=")
        if not source or name not in (*COLUMNS, *MORE_COLUMNS):
            known = ", ".join((*COLUMNS, *MORE_COLUMNS))
            raise invalid(
                "--map",
                f"{text!r:.80} is refused; expected COLUMN=NAME, or COLUMN=NAME-NAME for a difference, and COLUMN one of {known}",
            )
        mapping[name] = source
    return mapping


def _source(table: CsvTable, name: str, given: str | None) -> Source | None:
    """The column that a value stands in, or the two whose difference it is; None where it is not there."""
    if given is None:
        return (name,) if name in table.columns else None
    if given in table.columns:
        return (given,)
    for place in (place for place, letter in enumerate(given) if letter == "-" and name != "name"):
        first, second = given[:place].strip(), given[place + 1 :].strip()
        if first in table.columns and second in table.columns:
            return (first, second)
    raise invalid(
        f"--map {name}",
        f"{given!r:.80} is no column of {table.label} and no difference of two; expected one of {', '.join(table.columns)}",
    )


def _config(gpus: int, cpus: int, memory_mb: int, priority: int) -> msgspec.Raw:
    resources = {"cpus": cpus, "memory_mb": memory_mb, "gpus": {"requested": gpus}}
    return msgspec.Raw(
        msgspec.json.encode({"entry_point": "-", "resources": resources, "priority": priority})
    )
