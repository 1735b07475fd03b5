"""The Merkle tree of RFC 6962: its hashes, the proofs that are made of stored ones, and how a proof is checked.

Owns the arithmetic; knows neither what a leaf is made of nor where hashes are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256

HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()

HashAt = Callable[[int, int], bytes]
"""(level, index) → the hash of the complete subtree over the leaves [index · 2^level, (index + 1) · 2^level)."""


def leaf_hash(leaf: bytes) -> bytes:
    """The hash of a leaf."""
    return sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an interior node."""
    return sha256(b"\x01" + left + right).digest()


def subtree_hash(hashes: bytes) -> bytes:
    """The hash of a complete subtree: ``hashes`` are those of 2^k siblings, one after the other."""
    while len(hashes) > HASH_BYTES:
        hashes = b"".join(
            [sha256(b"\x01" + hashes[at : at + 64]).digest() for at in range(0, len(hashes), 64)]
        )
    return bytes(hashes)


def root_hash(size: int, hash_at: HashAt) -> bytes:
    """The root of the tree of the first ``size`` leaves."""
    return _range_hash(0, size, hash_at) if size else EMPTY_ROOT


def inclusion_proof(index: int, size: int, hash_at: HashAt) -> list[bytes]:
    """That leaf ``index`` is in the tree of ``size`` leaves. Raises ValueError where it cannot be."""
    if not 0 <= index < size:
        raise ValueError(f"a tree of {size} leaves has no leaf {index}")
    start, end, proof = 0, size, list[bytes]()
    while end - start > 1:
        middle = start + _left_width(end - start)
        if index < middle:
            proof.append(_range_hash(middle, end, hash_at))
            end = middle
        else:
            proof.append(_range_hash(start, middle, hash_at))
            start = middle
    return proof[::-1]


def consistency_proof(first: int, second: int, hash_at: HashAt) -> list[bytes]:
    """That the tree of ``second`` leaves begins with that of ``first``. Raises ValueError where it cannot.

    Empty where nothing is to be proved: for equal sizes, and for the empty tree.
    """
    if not 0 <= first <= second:
        raise ValueError(f"a tree of {second} leaves cannot begin with one of {first}")
    if first in (0, second):
        return []
    start, end, proof = 0, second, list[bytes]()
    while end != first:
        middle = start + _left_width(end - start)
        if first <= middle:
            proof.append(_range_hash(middle, end, hash_at))
            end = middle
        else:
            proof.append(_range_hash(start, middle, hash_at))
            start = middle
    if start:  # else what is left is the first tree itself, whose root the checker has
        proof.append(_range_hash(start, end, hash_at))
    return proof[::-1]


def is_included(leaf: bytes, index: int, size: int, root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether ``proof`` shows that the leaf of that hash is number ``index`` of the tree."""
    if not 0 <= index < size:
        return False
    here, last, found = index, size - 1, leaf
    for other in proof:
        if last == 0:
            return False
        if here & 1 or here == last:
            found = node_hash(other, found)
            while not here & 1 and here:
                here, last = here >> 1, last >> 1
        else:
            found = node_hash(found, other)
        here, last = here >> 1, last >> 1
    return last == 0 and found == root


def is_extended(
    first: int, first_root: bytes, second: int, second_root: bytes, proof: Sequence[bytes]
) -> bool:
    """Whether ``proof`` shows that the second tree begins with the first."""
    if first == second:
        return not proof and first_root == second_root
    if first == 0:
        return not proof and first_root == EMPTY_ROOT
    if not 0 < first < second:
        return False
    hashes = list(proof)
    if first & (first - 1) == 0:
        hashes.insert(0, first_root)
    if not hashes:
        return False
    here, last = first - 1, second - 1
    while here & 1:
        here, last = here >> 1, last >> 1
    one = both = hashes[0]
    for other in hashes[1:]:
        if last == 0:
            return False
        if here & 1 or here == last:
            one, both = node_hash(other, one), node_hash(other, both)
            while not here & 1 and here:
                here, last = here >> 1, last >> 1
        else:
            both = node_hash(both, other)
        here, last = here >> 1, last >> 1
    return last == 0 and one == first_root and both == second_root


def _left_width(width: int) -> int:
    """How many of ``width`` > 1 leaves go to the left: the largest power of two below it."""
    return 1 << (width - 1).bit_length() - 1


def _range_hash(start: int, end: int, hash_at: HashAt) -> bytes:
    """The hash over the leaves [start, end), which are a node of some tree."""
    width = end - start
    if width & (width - 1) == 0:
        level = width.bit_length() - 1
        return hash_at(level, start >> level)
    middle = start + _left_width(width)
    return node_hash(_range_hash(start, middle, hash_at), _range_hash(middle, end, hash_at))
