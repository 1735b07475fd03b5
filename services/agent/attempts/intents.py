"""From a Dispatched to the intent.json that a shim starts from.

Owns what of the node goes into it: devices, folders, sockets, the default time-out; knows no file and no NATS.
"""

from __future__ import annotations

from typing import Any

import msgspec

from events.state import LOCAL
from events.types import AttemptRef, Dispatched
from services.agent.folders.files import IntentFile
from services.agent.folders.paths import Folders
from services.agent.machine.inventory import Inventory
from services.agent.processes.sockets import worker_socket
from services.agent.processes.users import NotMapped, WorkerUsers


def threads_of(inventory: Inventory, grant: Dispatched) -> int:
    """How many threads an attempt's libraries are told to start: its CPUs, and with GPUs no less than its share of the
    node's cores, which would be idle otherwise."""
    share = inventory.cpus * len(grant.slots) // max(1, len(inventory.gpus))
    return max(grant.cpus, share) if grant.slots else grant.cpus


class Intents(msgspec.Struct, frozen=True, kw_only=True):
    """What every intent of this node and this boot shares."""

    node: str
    host: str
    log_id: str
    boot_id: str
    sockets: str
    heartbeat_timeout_s: float | None
    inventory: Inventory
    folders: Folders
    users: WorkerUsers

    def of(self, seq: int, event: Dispatched) -> tuple[IntentFile, str | None]:
        """The intent, and why it cannot be carried out here (None: it can)."""
        ref = AttemptRef(event.run_id, event.attempt)
        why_not = None
        slots = len(self.inventory.gpus)
        if not all(0 <= index < slots for index in event.slots):
            why_not = f"node {self.node} has no slot {max(event.slots)}: it has {slots}"
        launch: dict[str, Any] = {}
        try:
            launch = msgspec.json.decode(event.launch, type=dict[str, Any])
        except (msgspec.MsgspecError, RecursionError) as error:
            why_not = f"what to launch cannot be read: {error}"
        user, refusal = None, None
        try:
            user = self.users.of(str(launch.get("submitted_by", LOCAL)), self.node)
        except NotMapped as error:
            refusal = str(error)
        intent = IntentFile(
            seq=seq,
            boot_id=self.boot_id,
            run_id=ref.run_id,
            attempt=ref.attempt,
            node=self.node,
            host=self.host,
            log_id=self.log_id,
            launch=launch,
            slots=event.slots,
            devices=tuple(dict.fromkeys(self._device(index) for index in event.slots)),
            cpus=event.cpus,
            memory_mb=event.memory_mb,
            threads=threads_of(self.inventory, event),
            run_dir=str(self.folders.run(ref.run_id)),
            output_dir=str(self.folders.output(ref)),
            sockets=self.sockets,
            socket=worker_socket(self.sockets, ref),
            programs=str(self.folders.programs),
            heartbeat_timeout_s=self.heartbeat_timeout_s,
            user=user,
            no_new_privs=self.users.no_new_privs,
            refusal=refusal,
        )
        return intent, why_not

    def _device(self, index: int) -> str:
        """A slot's value for CUDA_VISIBLE_DEVICES: its device's UUID, else that one's place."""
        gpus = self.inventory.gpus
        if not 0 <= index < len(gpus):
            return str(index)
        return gpus[index].uuid or str(gpus[index].place)
