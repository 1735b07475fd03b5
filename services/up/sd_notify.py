"""Telling systemd how a service does: READY=1, STOPPING=1 and a line of status (sd_notify(3)).

Owns the datagram; must not know who runs. Where nobody listens, nothing happens.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

VARIABLE = "NOTIFY_SOCKET"


class Notifier:
    """Where the word goes; None: nowhere."""

    def __init__(self, address: str | None) -> None:
        self._address = "\0" + address[1:] if address and address.startswith("@") else address

    @classmethod
    def take(cls, environ: MutableMapping[str, str] | None = None) -> Notifier:
        """The one that this process was started with. The variable is taken out: it is not for what we start."""
        env = os.environ if environ is None else environ
        return cls(env.pop(VARIABLE, None) or None)

    def notify(self, *lines: str) -> None:
        """Send one datagram of ``NAME=VALUE`` lines. What cannot be sent is lost: a service manager gone is no fault."""
        if self._address is None:
            return
        text = "\n".join(line.replace("\n", " ") for line in lines)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            try:
                sock.sendto(text.encode(), socket.MSG_DONTWAIT, self._address)
            except OSError:
                return
