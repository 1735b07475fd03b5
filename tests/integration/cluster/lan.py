"""Machines of a network of their own: a bridge on this one, and for each machine a network namespace with an address.

Owns these interfaces and their end; knows nothing of what runs there. Needs root, `ip` (iproute2) and `nsenter`.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from typing import Self


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
    return done.stdout


class Lan:
    """A context manager. ``address`` is this machine's on it."""

    def __init__(self) -> None:
        self._mark = f"{os.getpid() % 100_000:05d}"
        self._bridge = f"tsb{self._mark}"
        self._subnet = f"10.231.{os.getpid() % 250}"
        self._made: list[Machine] = []
        self.address = f"{self._subnet}.1"

    def __enter__(self) -> Self:
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("addr", "add", f"{self.address}/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")
        return self

    def __exit__(self, *_: object) -> None:
        for machine in self._made:
            machine.remove()
        _ip("link", "del", self._bridge)

    def machine(self) -> Machine:
        """One more, with the next address."""
        number = len(self._made) + 2
        machine = Machine(f"ts{self._mark}n{number}", f"{self._subnet}.{number}", self._bridge)
        self._made.append(machine)
        return machine


class Machine:
    """A network namespace on the bridge: what runs ``inside`` has its address and reaches nothing else."""

    def __init__(self, name: str, address: str, bridge: str) -> None:
        self.name = name
        self.address = address
        self._cable = f"{name}c"
        _ip("netns", "add", name)
        _ip("link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", self._cable, "master", bridge, "up")
        _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", name, "link", "set", device, "up")

    def inside(self, *command: str) -> list[str]:
        """The command line that runs ``command`` there. (`ip netns exec` would hide the cgroups of this machine.)"""
        return ["nsenter", f"--net=/run/netns/{self.name}", *command]

    def cut(self) -> None:
        """Pull its cable: nothing arrives any more, and nobody is told."""
        _ip("link", "set", self._cable, "down")

    def mend(self) -> None:
        """Plug it in again."""
        _ip("link", "set", self._cable, "up")

    def remove(self) -> None:
        """Take it away; what still runs there keeps its namespace until it ends."""
        with contextlib.suppress(AssertionError):  # the cable goes with the other end, where that went first
            _ip("link", "del", self._cable)
        _ip("netns", "del", self.name)
