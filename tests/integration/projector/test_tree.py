"""The log's tree in a projector: the same whatever happens to database and tiles, proved to whoever asks, signed by one."""

from __future__ import annotations

import asyncio
import base64
import errno
import logging
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from bench.log_maker import LogMaker
from events.feed import api_call
from events.log import EventLog, publish
from events.streams import ensure_buckets, ensure_streams, events_stream, heartbeats_stream
from events.types import CancelRequested, LogAccepted, NodeCosignature, NodeHeartbeat, NodeLeft
from projections.queries.proofs import StoredTree
from projections.transparency.checkpoint import SignedHead, TreeHead, origin_of
from projections.transparency.fold import TreeFold, leaf_of
from projections.transparency.note import KeyKind, SignerKey, VerifierKey, verified
from projections.transparency.tiles import full_tiles, tile_path
from projections.transparency.tree import EMPTY_ROOT, is_extended, is_included, leaf_hash
from services.projector.publishing import Publisher
from services.projector.signer import Signer
from tests.support import NatsServer, eventually
from tests.support.control import joined, say, writer
from tests.support.stored_log import ask, projecting, store
from tests.support.tree import folded, tile_files
from trainshed_client import subjects
from trainshed_client.direct_get import Message
from trainshed_client.nats_client import SafeClient
from trainshed_client.subjects import Role


def made_log(events: int) -> list[Message]:
    made = LogMaker()
    made.elect()
    while made.seq < events:
        made.submit({"entry_point": "/bin/true", "submission_key": str(made.seq)})
    return made.messages


def raw(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def proof_of(answer: dict[str, Any]) -> list[bytes]:
    return list(map(raw, answer["proof"]))


@pytest.fixture
async def nc(nats_server: NatsServer) -> SafeClient:
    client = await nats_server.client()
    await ensure_streams(client)
    return client


async def test_a_signed_checkpoint_and_the_proofs_below_it(
    nats_server: NatsServer, nc: SafeClient, tmp_path: Path
) -> None:
    log = EventLog(nc)
    end = await store(nc, made_log(700))
    messages = [message async for message in log.read_raw()]
    async with (
        projecting(await nats_server.client(), tmp_path / "one" / "t.db", records=True),
        projecting(await nats_server.client(), tmp_path / "two" / "t.db"),
    ):
        told = await ask(nc, "audit.checkpoint")
        key, signed = VerifierKey.parse(told["vkey"]), SignedHead.parse(told["checkpoint"])
        assert verified(signed.note, [key]) == (key,)
        whole = await folded(log)
        assert (signed.head.origin, signed.head.size, signed.head.root) == (
            f"trainshed/{await log.log_id()}",
            end,
            whole.root,
        )
        assert (told["size"], raw(told["root"]), told["gap"], told["seq"]) == (end, whole.root, None, end)
        for _ in range(4):  # whichever answers
            for first, second in ((0, end), (1, 2), (255, 257), (300, None), (end, end)):
                asked = {"from": first} | ({} if second is None else {"to": second})
                answer = await ask(nc, "audit.consistency", asked)
                one, both = raw(answer["from_root"]), raw(answer["to_root"])
                assert is_extended(first, one, answer["to"], both, proof_of(answer))
                assert second is not None or both == whole.root
            for event, size in ((1, 1), (256, 256), (300, 650), (700, None)):
                asked = {"event": event} | ({} if size is None else {"size": size})
                answer = await ask(nc, "audit.inclusion", asked)
                leaf = leaf_hash(leaf_of(*messages[event - 1]))
                assert raw(answer["leaf"]) == leaf
                assert is_included(leaf, event - 1, answer["size"], raw(answer["root"]), proof_of(answer))
        for call, asked, path in (
            ("audit.consistency", {}, "from"),
            ("audit.consistency", {"from": -1}, "from"),
            ("audit.consistency", {"from": 9, "to": 8}, "from"),
            ("audit.consistency", {"from": 9, "to": end + 1}, "to"),
            ("audit.inclusion", {}, "event"),
            ("audit.inclusion", {"event": 0}, "event"),
            ("audit.inclusion", {"event": 9, "size": 8}, "event"),
            ("audit.inclusion", {"event": 9, "size": end + 1}, "size"),
        ):
            refused = (await ask(nc, call, asked))["error"]
            assert (refused["code"], refused["path"]) == ("invalid", path)
    assert ((tmp_path / "one/audit/signer.key").stat().st_mode & 0o777) == 0o600
    assert not (tmp_path / "two/audit/signer.key").exists()
    assert tile_files(tmp_path / "one/audit") == tile_files(tmp_path / "two/audit")
    assert sorted(tile_files(tmp_path / "one/audit")) == sorted(tile_path(*tile) for tile in full_tiles(end))


async def test_a_deleted_database_or_deleted_tiles_give_the_same_tree(
    nats_server: NatsServer, nc: SafeClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, audit = tmp_path / "t.db", tmp_path / "audit"
    await store(nc, made_log(1_300))

    async def checkpoint() -> dict[str, Any]:
        async with projecting(await nats_server.client(), path, records=True):
            return await ask(nc, "audit.checkpoint")

    first = await checkpoint()
    tiles = tile_files(audit)
    assert len(tiles) == 5
    for file in tmp_path.glob("t.db*"):
        file.unlink()
    assert await checkpoint() == first
    assert tile_files(audit) == tiles
    shutil.rmtree(audit / "tile")
    async with projecting(await nats_server.client(), path, records=True):
        await eventually(lambda: tile_files(audit) == tiles, 10)
        # one that is damaged shows in a proof, and is made again
        (audit / "tile/0/001").write_bytes(bytes(8192))
        await eventually(lambda: _answers(nc, {"event": 300}), 10)
        assert {name: data for name, data in tile_files(audit).items() if not name.endswith(".old")} == tiles
        assert await ask(nc, "audit.checkpoint") == first
    # a lost key is a new key, of the same tree
    (audit / "signer.key").unlink()
    other = await checkpoint()
    assert other["vkey"] != first["vkey"]
    assert (other["root"], other["size"]) == (first["root"], first["size"])
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def _answers(nc: SafeClient, request: object) -> bool:
    return "proof" in await ask(nc, "audit.inclusion", request)


async def test_tiles_that_the_log_no_longer_gives_are_not_made_of_it(
    nats_server: NatsServer, nc: SafeClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await store(nc, made_log(600))
    async with projecting(await nats_server.client(), tmp_path / "t.db", records=True) as service:
        await ask(nc, "audit.checkpoint")
        with service._database.writer() as connection, connection.begin():
            # what the projector folded was another log: the hash that the level above has of the second tile
            connection.exec_driver_sql("UPDATE tree SET hashes = ? WHERE level = 1", (bytes(64),))
    shutil.rmtree(tmp_path / "audit/tile")
    async with projecting(await nats_server.client(), tmp_path / "t.db", records=True):
        await eventually(
            lambda: any("cannot be made again" in each.getMessage() for each in caplog.records), 10
        )
    assert tile_files(tmp_path / "audit") == {}


async def test_a_gap_stops_the_tree_and_is_told(
    nats_server: NatsServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nc = await nats_server.client()
    metadata = {"metadata": {"log_id": "of-this-test"}}
    config = events_stream(1) | {"deny_delete": False} | metadata
    await api_call(nc, f"STREAM.CREATE.{config['name']}", config)
    beats = heartbeats_stream(1)
    await api_call(nc, f"STREAM.CREATE.{beats['name']}", beats)
    await ensure_buckets(nc)
    end = await store(nc, made_log(40))
    await api_call(nc, f"STREAM.MSG.DELETE.{config['name']}", {"seq": 31, "no_erase": True})
    for _ in range(2):  # and after a start
        async with projecting(await nats_server.client(), tmp_path / "t.db", records=True):
            told = await ask(nc, "audit.checkpoint")
        assert (told["size"], told["gap"], told["seq"]) == (30, 31, end)
    assert any("has no sequence 31" in record.getMessage() for record in caplog.records)


async def test_the_folder_of_another_log_is_moved_aside(
    nats_server: NatsServer, nc: SafeClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "audit").mkdir()
    (tmp_path / "audit/log_id").write_text("another\n")
    (tmp_path / "audit/signer.key").write_text("its key")
    await store(nc, made_log(3))
    async with projecting(await nats_server.client(), tmp_path / "t.db", records=True):
        assert (await ask(nc, "audit.checkpoint"))["size"] == 3
    assert (tmp_path / "audit.old/signer.key").read_text() == "its key"
    assert any("another event log (another" in record.getMessage() for record in caplog.records)


async def test_checkpoints_are_published_at_the_end_of_the_log_and_none_while_idle(
    nats_server: NatsServer, nc: SafeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.projector.publishing.CHECKPOINT_EVERY_S", 0.2)
    heard: list[dict[str, Any]] = []

    async def hear(message: Any) -> None:
        heard.append(msgspec.json.decode(message.data))

    await nc.subscribe(subjects.WATCH_CHECKPOINT, cb=hear)
    log = made_log(60)
    await store(nc, log[:50])
    path = tmp_path / "t.db"
    async with projecting(await nats_server.client(), path, records=True):
        await eventually(lambda: bool(heard), 10)
        await store(nc, log[50:])
        await eventually(lambda: SignedHead.parse(heard[-1]["checkpoint"]).head.size == 60, 10)
        await asyncio.sleep(1.0)  # several times the pause: nothing is published while nothing is stored
        count = len(heard)
        told = await ask(nc, "audit.checkpoint")
        assert (heard[-1]["vkey"], heard[-1]["checkpoint"]) == (told["vkey"], told["checkpoint"])
    async with projecting(
        await nats_server.client(), path, records=True
    ):  # nor after a start, for it was published
        await ask(nc, "audit.checkpoint")
        await asyncio.sleep(0.5)
    sizes = [SignedHead.parse(each["checkpoint"]).head.size for each in heard]
    assert sizes == sorted(set(sizes))
    assert len(heard) == count
    assert heard[-1]["log_id"] == await EventLog(nc).log_id()
    assert {each["accepted"] for each in heard} == {None}


@pytest.mark.parametrize("how", ["full", "hangs"])
async def test_storage_of_the_last_checkpoint_that_takes_nothing_stops_no_read_model(
    how: str,
    nats_server: NatsServer,
    nc: SafeClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("services.projector.publishing.CHECKPOINT_EVERY_S", 0.1)
    heard, mended, keep = list[int](), threading.Event(), Signer.keep

    def kept(signer: Signer, checkpoint: str) -> None:
        if how == "hangs":
            mended.wait(30)
        elif not mended.is_set():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        keep(signer, checkpoint)

    async def hear(message: Any) -> None:
        heard.append(SignedHead.parse(msgspec.json.decode(message.data)["checkpoint"]).head.size)

    monkeypatch.setattr(Signer, "keep", kept)
    await nc.subscribe(subjects.WATCH_CHECKPOINT, cb=hear)
    log, last = made_log(30), tmp_path / "audit/checkpoint"
    async with projecting(await nats_server.client(), tmp_path / "t.db", records=True):
        for begin in (0, 10, 20):
            await store(nc, log[begin : begin + 10])
            await eventually(lambda: heard[-1:] == [begin + 10], 10)  # noqa: B023
        assert heard == sorted(set(heard))  # none twice: it is not begun anew again and again
        assert not last.exists()
        mended.set()
        await eventually(lambda: last.exists() and SignedHead.parse(last.read_bytes()).head.size == 30, 10)
    assert "cannot be used" not in caplog.text


async def test_of_two_signers_none_publishes_less_than_the_other_has(
    nats_server: NatsServer,
    nc: SafeClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("services.projector.publishing.CHECKPOINT_EVERY_S", 0.05)
    heard: list[tuple[str, int]] = []
    waiting, go_on = asyncio.Event(), asyncio.Event()

    async def hear(message: Any) -> None:
        told = msgspec.json.decode(message.data)
        heard.append((told["vkey"], SignedHead.parse(told["checkpoint"]).head.size))

    await nc.subscribe(subjects.WATCH_CHECKPOINT, cb=hear)
    log = made_log(40)
    await store(nc, log[:20])
    async with projecting(await nats_server.client(), tmp_path / "one" / "t.db", records=True):
        await eventually(lambda: heard[-1:] and heard[-1][1] == 20, 10)
        slow = Publisher._publish

        async def publish(self: Publisher, tree: StoredTree) -> TreeHead | None:
            """The second signer is about to publish, and is overtaken."""
            if str(self._signer.last_file).startswith(str(tmp_path / "two")) and not waiting.is_set():
                waiting.set()
                await go_on.wait()
            return await slow(self, tree)

        monkeypatch.setattr(Publisher, "_publish", publish)
        async with projecting(await nats_server.client(), tmp_path / "two" / "t.db", records=True):
            await asyncio.wait_for(waiting.wait(), 10)
            await store(nc, log[20:])
            await eventually(lambda: heard[-1][1] == 40, 10)
            go_on.set()
            await eventually(lambda: len({vkey for vkey, size in heard if size == 40}) == 2, 10)
    sizes = [size for _, size in heard]
    assert sizes == sorted(sizes)
    assert "another projector signs this log's checkpoints too" in caplog.text


async def test_a_published_checkpoint_bears_the_last_acceptance_of_its_tree(
    nats_server: NatsServer, nc: SafeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.projector.publishing.CHECKPOINT_EVERY_S", 0.1)
    heard: list[tuple[TreeHead, dict[str, Any] | None]] = []

    async def hear(message: Any) -> None:
        told = msgspec.json.decode(message.data)
        heard.append((SignedHead.parse(told["checkpoint"]).head, told["accepted"]))

    await nc.subscribe(subjects.WATCH_CHECKPOINT, cb=hear)
    log, made = EventLog(nc), made_log(12)
    stored = dict[int, Message]()
    async with projecting(await nats_server.client(), tmp_path / "t.db", records=True):
        for begin in (0, 6):
            await store(nc, made[begin : begin + 6])
            seq = await say(log, Role.GATEWAY, LogAccepted(reason="restored"))
            stored[seq] = await anext(log.read_raw(start_seq=seq))
            await eventually(lambda: bool(heard) and heard[-1][0].size == seq, 10)  # noqa: B023
        last = await say(log, Role.GATEWAY, CancelRequested(run_id="r1"))
        await eventually(lambda: heard[-1][0].size == last, 10)
        for head, told in heard:
            accepted = max((seq for seq in stored if seq <= head.size), default=None)
            assert (told or {}).get("seq") == accepted
            if told is not None:
                message = Message(told["seq"], told["stored_ns"], told["subject"], raw(told["body"]))
                assert message == stored[message.seq]
                proved = await ask(nc, "audit.inclusion", {"event": message.seq, "size": head.size})
                leaf = leaf_hash(leaf_of(*message))
                assert is_included(leaf, proved["index"], head.size, head.root, proof_of(proved))


FORKED = ("gpu05", "gpu06", "gpu07")


async def test_a_checkpoint_bears_the_cosignatures_of_it_that_hold(
    nats_server: NatsServer, nc: SafeClient, tmp_path: Path
) -> None:
    log = EventLog(nc)
    origin = origin_of(await log.log_id())
    keys = {
        name: SignerKey(f"{origin}/{name}", KeyKind.COSIGNATURE, name.encode().ljust(32))
        for name in ("gpu01", "gpu02", "gpu03", "gpu04", *FORKED)
    }
    for name, key in keys.items():
        await say(log, Role.AGENT, replace(joined(name), witness=str(key.verifier)), name)
    await store(nc, made_log(300))
    tree, roots = TreeFold(), dict[int, bytes]()
    async for message in log.read_raw():
        tree.extend([message])
        roots[tree.size] = tree.root

    async def cosign(name: str, size: int, root: bytes, signed_root: bytes) -> None:
        text = TreeHead(origin, size, signed_root).text
        signature = keys[name].sign(text, 1_764_412_800).signature[8:]
        seen = NodeCosignature(
            size=size,
            root=base64.b64encode(root).decode(),
            time=1_764_412_800,
            signature=base64.b64encode(signature).decode(),
        )
        heartbeat = NodeHeartbeat(node=name, incarnation="a", cosignature=seen)
        subject, id_, body = writer(Role.AGENT, name).heartbeat(heartbeat)
        await publish(nc, subject, id_, body)

    async with projecting(await nats_server.client(), tmp_path / "t.db", records=True):
        whole = await ask(nc, "audit.checkpoint", {"cosigned": True})
        assert (whole["size"], whole["cosigned_by"]) == (tree.size, [])
        await cosign("gpu02", 280, roots[280], roots[280])
        await cosign("gpu01", 280, roots[280], roots[280])
        await cosign("gpu03", 290, roots[290], roots[290])
        await cosign("gpu04", 280, roots[280], roots[279])  # is no signature of what it says
        for name in FORKED:
            await cosign(name, 280, roots[279], roots[279])  # is one, of another tree

        async def all_are_read() -> bool:
            nodes = (await ask(nc, "node.list"))["nodes"]
            return all(node["witnessed_size"] is not None for node in nodes)

        await eventually(all_are_read, 10)
        for asked, size, by in (
            ({"cosigned": True}, 280, ["gpu01", "gpu02"]),
            ({"size": 280}, 280, ["gpu01", "gpu02"]),
            ({"size": 290}, 290, ["gpu03"]),
            ({"size": 0}, 0, []),
            ({}, tree.size, []),
        ):
            told = await ask(nc, "audit.checkpoint", asked)
            signed = SignedHead.parse(told["checkpoint"])
            log_key = VerifierKey.parse(told["vkey"])
            assert (told["size"], told["cosigned_by"]) == (size, by)
            assert (signed.head.size, signed.head.root) == (size, roots.get(size, EMPTY_ROOT))
            everyone = [log_key, *(key.verifier for key in keys.values())]
            assert verified(signed.note, everyone) == (log_key, *(keys[name].verifier for name in by))
            assert len(signed.note.signatures) == 1 + len(by)
        for asked, path in (
            ({"size": tree.size + 1}, "size"),
            ({"size": -1}, "size"),
            ({"size": 1, "cosigned": True}, "cosigned"),
        ):
            error = (await ask(nc, "audit.checkpoint", asked))["error"]
            assert (error["code"], error["path"]) == ("invalid", path)
        await say(log, Role.AGENT, NodeLeft(node="gpu01", incarnation="a", upto=1), "gpu01")
        await say(log, Role.AGENT, NodeLeft(node="gpu02", incarnation="a", upto=1), "gpu02")
        told = await ask(nc, "audit.checkpoint", {"cosigned": True})
        assert (told["size"], told["cosigned_by"]) == (290, ["gpu03"])  # who is gone does not keep it old


async def test_a_log_that_was_rolled_back_is_told_at_the_next_start(
    nats_server: NatsServer, nc: SafeClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await store(nc, made_log(10))
    audit = tmp_path / "audit"
    async with projecting(await nats_server.client(), tmp_path / "t.db", records=True) as service:
        await eventually(lambda: (audit / "checkpoint").exists(), 10)
        signer = service._signer
        assert signer is not None
        # what it published once was of another log: as after a restore from a backup
        tree = TreeFold()
        tree.extend(made_log(12))
        from projections.queries.proofs import StoredTree

        forged = signer.checkpoint(signer.head(StoredTree(12, tree.edge)))
    (audit / "checkpoint").write_text(forged)
    async with projecting(await nats_server.client(), tmp_path / "t.db", records=True):
        await eventually(lambda: any("rolled back" in each.getMessage() for each in caplog.records), 10)
