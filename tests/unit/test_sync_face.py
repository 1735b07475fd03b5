"""The blocking face of the client is what the asynchronous one gives it, and importing either starts nothing."""

from __future__ import annotations

import subprocess
import sys

from tests.support import sync_face
from trainshed_client.client import Trainshed
from trainshed_client.sync import SyncTrainshed


def test_the_committed_file_is_what_the_asynchronous_face_makes_of_it() -> None:
    assert sync_face.FILE.read_text() == sync_face.text(), "make sync-face writes it anew"


def test_every_public_call_is_there() -> None:
    calls = {name for name in dir(Trainshed) if not name.startswith("_")}
    left_out = sync_face.LEFT_OUT | {"connect", "sync", "connection", "nc"}
    assert calls - left_out == {name for name in dir(SyncTrainshed) if not name.startswith("_")} - left_out


def test_importing_starts_no_thread_and_loads_neither_nats_nor_asyncio() -> None:
    program = (
        "import sys, threading, trainshed_client\n"
        "before = set(sys.modules)\n"
        "assert not {'nats', 'asyncio', 'msgspec', 'concurrent.futures'} & before, before\n"
        "trainshed_client.Trainshed\n"
        "assert 'nats' not in sys.modules and threading.active_count() == 1\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
