"""Go's sumdb packages read what Trainshed writes: checkpoint, consistency, inclusions and a cosignature; no altered byte passes."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from projections.transparency.checkpoint import TreeHead
from projections.transparency.fold import TreeFold
from projections.transparency.note import KeyKind, SignerKey, signed
from projections.transparency.tiles import StoredHashes
from projections.transparency.tree import consistency_proof, inclusion_proof
from tests.support.golang import SOURCE, built, flipped, flipped_line, ran
from trainshed_client.direct_get import Message

OLD, NEW = 300, 701


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("go"))


def made() -> dict[str, Any]:
    """What the program reads, of a log of 701 events."""
    messages = [
        Message(seq, 10**18 + seq, f"trainshed.events.n.{seq}", b"{%d}" % seq) for seq in range(1, NEW + 1)
    ]
    fold = TreeFold()
    fold.extend(messages[:OLD])
    old_root = fold.root
    fold.extend(messages[OLD:])
    tiles = {(tile.level, tile.index): tile.hashes for tile in fold.take_changes()[0]}
    at = StoredHashes(fold.edge, lambda level, index: tiles[level, index]).at
    log = SignerKey("trainshed/0197", KeyKind.ED25519, b"l" * 32)
    witness = SignerKey("gpu01", KeyKind.COSIGNATURE, b"w" * 32)
    new = TreeHead(log.name, NEW, fold.root).text
    old = TreeHead(log.name, OLD, old_root).text

    def texts(hashes: list[bytes]) -> list[str]:
        return [base64.b64encode(each).decode() for each in hashes]

    return {
        "vkey": str(log.verifier),
        "cosigner": str(witness.verifier),
        "old": signed(old, [log.sign(old)]),
        "checkpoint": signed(new, [log.sign(new), witness.sign(new, 1764412800)]),
        "consistency": texts(consistency_proof(OLD, NEW, at)),
        "events": [
            {
                "seq": messages[index].seq,
                "stored_ns": messages[index].stored_ns,
                "subject": messages[index].subject,
                "body": base64.b64encode(messages[index].body).decode(),
                "index": index,
                "proof": texts(inclusion_proof(index, NEW, at)),
            }
            for index in (0, 255, 256, 511, 512, 699, 700)
        ],
    }


def _put(place: dict[str, Any] | list[Any], key: Any, change: Callable[[Any], Any]) -> None:
    place[key] = change(place[key])


ALTERED: dict[str, Callable[[dict[str, Any]], None]] = {
    "root": lambda told: _put(told, "checkpoint", lambda text: flipped_line(text, 2)),
    "size": lambda told: _put(told, "checkpoint", lambda text: text.replace("\n701\n", "\n702\n")),
    "signature": lambda told: _put(told, "checkpoint", lambda text: flipped_line(text, 4)),
    "cosignature": lambda told: _put(told, "checkpoint", lambda text: flipped_line(text, 5)),
    "old root": lambda told: _put(told, "old", lambda text: flipped_line(text, 2)),
    "old signature": lambda told: _put(told, "old", lambda text: flipped_line(text, 4)),
    "key": lambda told: _put(
        told, "vkey", lambda text: text[:-20] + ("A" if text[-20] != "A" else "B") + text[-19:]
    ),
    "consistency": lambda told: _put(told["consistency"], 2, flipped),
    "inclusion": lambda told: _put(told["events"][3]["proof"], 1, flipped),
    "body": lambda told: _put(told["events"][3], "body", flipped),
    "subject": lambda told: _put(told["events"][3], "subject", lambda text: text + "x"),
    "time": lambda told: _put(told["events"][3], "stored_ns", lambda number: number + 1),
    "sequence": lambda told: _put(told["events"][3], "seq", lambda number: number + 1),
}


def test_go_verifies_what_trainshed_signs_and_proves(program: Path) -> None:
    done = ran(program, made())
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("what", ALTERED)
def test_go_refuses_one_altered_byte_of(program: Path, what: str) -> None:
    told = made()
    ALTERED[what](told)
    assert told != made()
    done = ran(program, told)
    assert done.returncode == 2
    assert done.stderr.startswith("panic: ")


def test_the_program_is_short() -> None:
    assert len(SOURCE.read_text().splitlines()) <= 80
