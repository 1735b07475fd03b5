"""The tree: against RFC 6962's own definitions, the vectors that Certificate Transparency's code is tested with, and forgery."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from projections.transparency.fold import RightEdge, Tile, TreeFold, leaf_of
from projections.transparency.tiles import StoredHashes, TileMissing, Tiles, full_tiles, tile_path
from projections.transparency.tree import (
    HashAt,
    consistency_proof,
    inclusion_proof,
    is_extended,
    is_included,
    leaf_hash,
    node_hash,
    root_hash,
    subtree_hash,
)
from tests.unit import tree_reference as rfc
from trainshed_client.direct_get import Message

KNOWN_LEAVES = [
    "",
    "00",
    "10",
    "2021",
    "3031",
    "40414243",
    "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
]
KNOWN_ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
"""The leaves and roots that Certificate Transparency's implementations have in common."""
VECTORS = Path(__file__).with_name("leaf_vectors.json")


def hash_at(leaves: list[bytes]) -> HashAt:
    return lambda level, index: subtree_hash(
        b"".join(map(leaf_hash, leaves[index << level : (index + 1) << level]))
    )


def messages(count: int, first: int = 1) -> list[Message]:
    return [
        Message(seq, 10**18 + seq, f"trainshed.events.n.{seq}", b"{%d}" % seq)
        for seq in range(first, first + count)
    ]


def leaves_of(log: list[Message]) -> list[bytes]:
    return [leaf_of(*message) for message in log]


def test_the_known_roots_and_proofs() -> None:
    leaves = [bytes.fromhex(text) for text in KNOWN_LEAVES]
    for size, root in enumerate(KNOWN_ROOTS):
        assert root_hash(size, hash_at(leaves[:size])).hex() == root
    # RFC 6962, section 2.1.3: the tree of seven leaves, by the names of its figure
    leaves = [bytes([n]) for n in range(7)]
    a, b, c, d, e, f, j = map(leaf_hash, leaves)
    g, h, i = node_hash(a, b), node_hash(c, d), node_hash(e, f)
    k, at = node_hash(g, h), hash_at(leaves)
    assert inclusion_proof(0, 7, at) == [b, h, node_hash(i, j)]
    assert inclusion_proof(3, 7, at) == [c, g, node_hash(i, j)]
    assert inclusion_proof(4, 7, at) == [f, j, k]
    assert inclusion_proof(6, 7, at) == [i, k]
    assert consistency_proof(3, 7, at) == [c, d, g, node_hash(i, j)]
    assert consistency_proof(4, 7, at) == [node_hash(i, j)]
    assert consistency_proof(6, 7, at) == [i, j, k]


@given(st.integers(1, 70), st.data())
def test_every_proof_is_the_rfc_s_and_holds(size: int, data: st.DataObject) -> None:
    leaves = [bytes([n]) for n in range(size)]
    at, root = hash_at(leaves), rfc.mth(leaves)
    assert root_hash(size, at) == root
    index, first = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
    included, extended = inclusion_proof(index, size, at), consistency_proof(first, size, at)
    assert included == rfc.path(index, leaves)
    assert extended == rfc.proof(first, leaves)
    assert is_included(leaf_hash(leaves[index]), index, size, root, included)
    assert is_extended(first, rfc.mth(leaves[:first]), size, root, extended)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 40), st.data())
def test_no_altered_proof_holds(first: int, second: int, index: int, data: st.DataObject) -> None:
    first, second = sorted((first, second))
    leaves = [bytes([n]) for n in range(second)]
    at, root, index = hash_at(leaves), rfc.mth(leaves), index % second
    included, extended = inclusion_proof(index, second, at), consistency_proof(first, second, at)
    leaf, first_root = leaf_hash(leaves[index]), rfc.mth(leaves[:first])

    def altered(hashes: list[bytes]) -> list[bytes]:
        way = data.draw(st.sampled_from(["byte", "less", "more", "swap"]))
        if not hashes or way == "more":
            return [*hashes, bytes(32)]
        place = data.draw(st.integers(0, len(hashes) - 1))
        if way == "less":
            return hashes[:place] + hashes[place + 1 :]
        if way == "swap" and len(hashes) > 1:
            return [hashes[1], hashes[0], *hashes[2:]]
        other = bytearray(hashes[place])
        other[data.draw(st.integers(0, 31))] ^= data.draw(st.integers(1, 255))
        return [*hashes[:place], bytes(other), *hashes[place + 1 :]]

    assert not is_included(leaf, index, second, root, altered(included))
    assert not is_extended(first, first_root, second, root, altered(extended))
    for other in range(second):
        if other != index:
            assert not is_included(leaf, other, second, root, included)
    assert not is_included(node_hash(leaf, leaf), index, second, root, included)
    assert not is_included(leaf, second, second, root, [])
    for larger in range(4 * second, 4 * second + 3):  # a size that needs a longer proof
        assert first == second or not is_extended(first, first_root, larger, root, extended)
    if first < second:
        assert not is_extended(first, bytes(32), second, root, extended)
        assert not is_extended(second, root, first, first_root, extended)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 900), st.integers(1, 500), st.sampled_from([1, 7]), st.data())
def test_folded_in_any_batches_it_is_the_same_tree(
    count: int, batch: int, first: int, data: st.DataObject
) -> None:
    log = messages(count, first)
    leaves = leaves_of(log)
    fold, tiles, levels = TreeFold(), dict[tuple[int, int], bytes](), dict[int, bytes]()
    for at in range(0, count, batch):
        fold.extend(log[at : at + batch])
        full, changed = fold.take_changes()
        tiles.update({(tile.level, tile.index): tile.hashes for tile in full})
        levels.update(changed)
        # what is stored is all that is needed to go on, as after a crash
        edge = RightEdge(fold.first, tuple(levels[level] for level in range(len(levels))))
        assert edge == fold.edge
        fold = TreeFold(edge, log[min(at + batch, count) - 1].seq)
        assert fold.stopped is None
    assert (fold.size, fold.root) == (count, rfc.mth(leaves))
    assert sorted(tiles) == sorted(full_tiles(count))
    stored = StoredHashes(fold.edge, lambda level, index: tiles[level, index])
    if count:
        size = data.draw(st.integers(1, count))
        index, less = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
        assert root_hash(size, stored.at) == rfc.mth(leaves[:size])
        assert inclusion_proof(index, size, stored.at) == rfc.path(index, leaves[:size])
        assert consistency_proof(less, size, stored.at) == rfc.proof(less, leaves[:size])


def test_a_tree_of_three_tile_levels_is_the_same() -> None:
    log = messages(65_536 + 300)
    fold = TreeFold()
    fold.extend(log)
    tiles = {(tile.level, tile.index): tile.hashes for tile in fold.take_changes()[0]}
    assert sorted(tiles) == sorted(full_tiles(fold.size))
    assert list(map(len, fold.edge.levels)) == [44 * 32, 32, 32]
    leaves = leaves_of(log)
    assert fold.root == rfc.mth(leaves)
    stored = StoredHashes(fold.edge, lambda level, index: tiles[level, index])
    assert inclusion_proof(40_000, fold.size, stored.at) == rfc.path(40_000, leaves)
    assert consistency_proof(50_001, 65_700, stored.at) == rfc.proof(50_001, leaves[:65_700])


def test_what_was_folded_before_is_passed_over_and_a_gap_stops_the_tree() -> None:
    log = messages(10)
    fold = TreeFold()
    fold.extend(log[:4])
    fold.extend(log[2:6], after=4)
    assert (fold.size, fold.stopped) == (6, None)
    fold.extend(log[7:])
    assert (fold.size, fold.stopped) == (6, 7)
    fold.extend(log[6:])  # for good: it says so until the read model is made anew
    assert (fold.size, fold.root) == (6, rfc.mth(leaves_of(log[:6])))
    again = TreeFold(fold.edge, 10)
    assert (again.size, again.stopped) == (6, 7)


def test_leaves_are_what_they_have_always_been() -> None:
    vectors = json.loads(VECTORS.read_text())
    fold = TreeFold()
    for place, each in enumerate(vectors):
        message = Message(each["seq"], each["stored_ns"], each["subject"], each["body"].encode())
        assert leaf_of(*message).decode() == each["leaf"]
        assert leaf_hash(leaf_of(*message)).hex() == each["leaf_hash"]
        fold.extend([message])
        assert fold.root.hex() == each["root"], place
    assert len(vectors) == 4


def test_tiles_lie_where_tlog_tiles_has_them(tmp_path: Path) -> None:
    assert tile_path(0, 0) == "tile/0/000"
    assert tile_path(2, 1234067) == "tile/2/x001/x234/067"
    # the specification's example: 70,000 leaves
    assert sum(1 for level, _ in full_tiles(70_000) if level == 0) == 273
    assert [tile for tile in full_tiles(70_000) if tile[0]] == [(1, 0)]
    tiles = Tiles(tmp_path)
    one, other = Tile(0, 1234067, bytes(8192)), Tile(0, 1234067, b"\x01" * 8192)
    assert tiles.write(one) is None
    assert tiles.write(one) is None
    kept = tiles.write(other)
    assert kept is not None
    assert (kept.read_bytes(), tiles.read(0, 1234067)) == (one.hashes, other.hashes)
    tiles.write(Tile(0, 0, bytes(8192)))
    assert (tmp_path / "tile/0/000").read_bytes() == bytes(8192)
    assert tiles.missing(600) == [(0, 1)]
    (tmp_path / "tile/0/000").write_bytes(b"cut short")
    assert tiles.missing(600) == [(0, 0), (0, 1)]
    with pytest.raises(TileMissing):
        tiles.read(0, 0)
    assert tiles.write(Tile(0, 0, bytes(8192))) is None
