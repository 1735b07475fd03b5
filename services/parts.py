"""The one composition root: how each service is built from settings, a connection and the machine.

Owns the wiring; holds no behaviour. Tests build the same services from other parts.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from services.settings import Settings

# Imported where they are built: a process holds in memory what it runs and no more.
if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from events.log import EventLog
    from services.agent.agent import AgentService
    from services.agent.machine.gpus import Gpus
    from services.agent.machine.inventory import Inventory
    from services.agent.processes.users import WorkerUsers
    from services.dispatcher.dispatcher import Dispatcher
    from services.enrol.enrolment import Apply
    from services.enrol.roster_watch import RosterWatch
    from services.enrol.service import EnrolService
    from services.fold import SharedFold
    from services.gateway.gateway import Gateway
    from services.people import People
    from services.projector.service import ProjectorService
    from services.projector.start import Start
    from services.setting_values import Listen
    from trainshed_client.nats_client import SafeClient

FOLD_FILE = "fold.snapshot"
DATABASE_FILE = "trainshed.db"
AUDIT_DIR = "audit"


class AgentOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says of the node; ``gpus`` is a number or "all"."""

    gpus: int | str | None = None
    slots_per_gpu: int | None = None
    cpus: int | None = None
    memory_mb: int | None = None
    stop_workers: bool = False
    borrowed: bool = False


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What this process was given: the inventory, the devices to sample, and as whom workers run."""

    inventory: Inventory
    gpus: Gpus
    users: WorkerUsers


def machine(options: AgentOptions, settings: Settings) -> Machine:
    """Look at the machine, by these options and those of GPUs that the state folder keeps; it keeps them from then on.

    Raises TrainshedError where NVML is there and does not answer, an option cannot be had here, or workers cannot run as
    the settings say.
    """
    from services.agent.machine.gpus import Gpus
    from services.agent.machine.inventory import take_inventory
    from services.agent.machine.kept import read_kept, write_kept
    from services.agent.machine.visible import VARIABLE
    from services.agent.processes.users import worker_users
    from trainshed_client.errors import TrainshedError

    state_dir = settings.state_dir
    users = worker_users(settings)
    before = read_kept(state_dir)
    kept = before.after(options.gpus, options.slots_per_gpu)
    note = kept.note(options.gpus, options.slots_per_gpu)
    try:
        inventory, gpus = take_inventory(
            Gpus.open(os.environ.get(VARIABLE)),
            declared_gpus=kept.gpus,
            slots_per_gpu=kept.slots_per_gpu,
            declared_cpus=options.cpus,
            declared_memory_mb=options.memory_mb,
        )
    except TrainshedError as error:
        if error.path != "--gpus" or note is None:
            raise
        raise TrainshedError(error.code, f"{error.message}. {note}", error.path) from None
    if kept != before:
        write_kept(state_dir, kept)
    if note is not None:
        inventory = msgspec.structs.replace(inventory, notes=(*inventory.notes, note))
    return Machine(inventory=inventory, gpus=gpus, users=users)


def enrol(
    nc: SafeClient, settings: Settings, address: str, *, pages: bool, volumes: Path | None = None
) -> EnrolService:
    """The enrolment, beside the embedded server of this state folder, on the same address. Raises TrainshedError where nothing
    was initialised. ``pages``: the server has a listener for pages too. ``volumes``: server and services are containers, whose
    volumes lie below that folder."""
    from datetime import UTC, datetime

    from services.access.accounts import inbox_prefix
    from services.enrol.cluster import needed_cluster
    from services.enrol.enrolment import Enrolment
    from services.enrol.listener import EnrolListener
    from services.enrol.roster import Member
    from services.enrol.roster_file import CLUSTER_DIR
    from services.enrol.service import EnrolService
    from services.setting_values import Listen, own_address
    from trainshed_client.endpoint import Endpoint

    state_dir = settings.state_dir
    cluster = needed_cluster(state_dir)
    own = own_address(address)

    def where(member: Member) -> Endpoint:
        return Endpoint(cluster.url, inbox_prefix=inbox_prefix(member))

    apply: Apply
    members: Callable[[datetime], None]
    if volumes is not None:
        from services.access.containers import Volumes

        of_containers = Volumes(volumes, state_dir)
        apply, members = of_containers.apply, of_containers.provide
    else:
        apply, members = _beside(settings, Listen(own, cluster.port), pages=pages)
    enrolment = Enrolment(state_dir / CLUSTER_DIR, where=where, apply=apply, clock=lambda: datetime.now(UTC))
    listener = EnrolListener(
        Listen(address, cluster.enrol_port), enrolment, cluster.hosts_at(own), members=members
    )
    return EnrolService(nc, listener, enrolment)


def _beside(settings: Settings, at: Listen, *, pages: bool) -> tuple[Apply, Callable[[datetime], None]]:
    """How the embedded server of this state folder is made to know the roster, and its machine's members get certificates."""
    from services.access.cluster_realm import ClusterRealm
    from services.agent.identity import node_name
    from services.enrol.cluster import local_members, provide
    from services.enrol.roster import Roster
    from services.nats_server.reload import RunningServer

    state_dir = settings.state_dir
    server = RunningServer(state_dir, ClusterRealm(state_dir), at, pages=pages)
    members = local_members(node_name(state_dir, settings.node))

    async def apply(_roster: Roster) -> None:
        await server.apply()

    def due(now: datetime) -> None:
        provide(state_dir, members, now=now)

    return apply, due


def roster_watch(settings: Settings) -> RosterWatch | None:
    """Who is enrolled, a Service; None where this state folder has no roster."""
    from services.enrol.roster_file import CLUSTER_DIR
    from services.enrol.roster_watch import RosterWatch

    folder = settings.state_dir / CLUSTER_DIR
    return RosterWatch(folder) if folder.is_dir() else None


def fold(log: EventLog, log_id: str, settings: Settings) -> SharedFold:
    """The writing side's fold, with its snapshot in the state folder."""
    from services.fold import SharedFold

    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    return SharedFold(log, log_id, settings.state_dir / FOLD_FILE)


def gateway(
    log: EventLog,
    shared: SharedFold,
    settings: Settings,
    *,
    store: Path | None = None,
    people: People | None = None,
) -> Gateway:
    """The gateway. ``store``: where the server stores, if it is this machine's own; else the server is asked. ``people``: what
    each is granted (None: whoever gets in is an admin)."""
    from services.gateway.gateway import Gateway
    from services.nats_server.room import RoomWatch, on_disk, on_server

    look = on_disk(store) if store is not None else on_server(log.nc, settings.nats_monitor_url)
    room = RoomWatch(look, settings.min_free_mb)
    return Gateway(log, shared, room=room, allow_credentials=settings.allow_credentials, people=people)


def dispatcher(
    log: EventLog, shared: SharedFold, settings: Settings, *, stand_at_once: bool = False
) -> Dispatcher:
    """A dispatcher: the active one, or one that stands by."""
    from services.dispatcher.dispatcher import Dispatcher

    return Dispatcher(log, shared, node_lost_s=settings.node_lost_s, stand_at_once=stand_at_once)


def projector(
    nc: SafeClient,
    settings: Settings,
    database: str | None,
    *,
    records: bool,
    start: Start | None = None,
    people: People | None = None,
) -> ProjectorService:
    """A projector with its own database. ``start``: for whom, where it is not alone. ``people``: as for the gateway."""
    from services.projector.service import ProjectorService
    from services.projector.start import Start

    path = database or str(settings.state_dir / DATABASE_FILE)
    audit = settings.state_dir / AUDIT_DIR
    return ProjectorService(
        nc,
        path,
        audit_dir=audit,
        records=records,
        monitor_url=settings.nats_monitor_url,
        replicas=settings.replicas,
        start=start or Start.ALONE,
        people=people,
    )


def agent(
    nc: SafeClient, settings: Settings, options: AgentOptions, given: Machine, log: EventLog | None = None
) -> AgentService:
    """The agent of this machine. ``log``: how it appends, where that is watched."""
    from services.agent.agent import AgentService

    return AgentService(
        nc,
        state_dir=settings.state_dir,
        runs_dir=settings.runs_dir,
        node=settings.node,
        inventory=given.inventory,
        gpus=given.gpus,
        heartbeat_timeout_s=settings.heartbeat_timeout_s,
        var_logs_dir=settings.var_logs_dir,
        stop_workers=options.stop_workers or options.borrowed,
        borrowed=options.borrowed,
        avoid_busy_gpus=settings.avoid_busy_gpus,
        log=log,
        users=given.users,
    )
