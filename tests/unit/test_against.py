"""The log against checkpoints kept from before: an altered event lies in the range that is named, or is named itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from events.feed import Message
from projections.audit.against import Against, Misfit, read_checkpoints
from projections.transparency.checkpoint import TreeHead
from projections.transparency.fold import TreeFold
from projections.transparency.note import KeyKind, SignerKey, signed
from projections.transparency.tiles import Tiles
from trainshed_client.errors import TrainshedError

ORIGIN = "trainshed/of-this-test"
KEY = SignerKey(ORIGIN, KeyKind.ED25519, b"k" * 32)


def log_of(count: int, altered: int = 0) -> list[Message]:
    return [
        Message(seq, 10**18, "trainshed.events.n", b"forged" if seq == altered else b"%d" % seq)
        for seq in range(1, count + 1)
    ]


def head(size: int) -> TreeHead:
    fold = TreeFold()
    fold.extend(log_of(size))
    return TreeHead(ORIGIN, size, fold.root)


def misfits(log: list[Message], sizes: list[int], batch: int, tiles: Tiles | None = None) -> list[Misfit]:
    against = Against([head(size) for size in sorted(sizes)], tiles)
    for at in range(0, len(log), batch):
        against.take(log[at : at + batch])
    return against.misfits()


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=4), st.integers(0, 60), st.integers(1, 70))
def test_the_range_that_is_named_has_the_altered_event(sizes: list[int], altered: int, batch: int) -> None:
    found = misfits(log_of(60, altered), sizes, batch)
    below, above = [n for n in sizes if n < altered], [n for n in sizes if n >= altered > 0]
    if not above:
        assert found == []
        return
    [misfit] = found
    start, end = max(below, default=0) + 1, min(above)
    assert misfit.seq == start <= altered <= end
    assert f"the events {start} to {end} is not what it was" in misfit.message


def test_a_log_that_was_rolled_back_or_has_a_gap_is_told() -> None:
    [gone] = misfits(log_of(40), [30, 50], 7)
    assert gone == Misfit(41, "the log has 40 events, the checkpoint 50: what was stored from 41 on is gone")
    log = log_of(60)
    del log[19]
    found = misfits(log, [10, 50], 60)
    assert [misfit.seq for misfit in found] == [20, 20]
    assert found[0].message == "the log has no event 20"


@pytest.mark.parametrize("altered", [1, 256, 257, 400, 512])
def test_with_tiles_from_before_the_event_itself_is_named(altered: int, tmp_path: Path) -> None:
    fold = TreeFold()
    fold.extend(log_of(600))
    for tile in fold.take_changes()[0]:
        Tiles(tmp_path).write(tile)
    assert misfits(log_of(600), [600], 100, Tiles(tmp_path)) == []
    [misfit] = misfits(log_of(600, altered), [600], 100, Tiles(tmp_path))
    assert misfit.seq == altered
    assert f"event {altered} is not what it was" in misfit.message
    # what lies in no full tile is in the range alone
    [misfit] = misfits(log_of(600, 550), [500, 600], 100, Tiles(tmp_path))
    assert misfit.seq == 501


def test_a_file_has_one_checkpoint_or_several() -> None:
    texts = [signed(head(size).text, [KEY.sign(head(size).text)] * many) for size, many in ((7, 1), (3, 2))]
    assert read_checkpoints(texts[0].encode(), "f") == [head(7)]
    for between in ("", "\n", "\n\n"):
        assert read_checkpoints(between.join(texts).encode(), "f") == [head(3), head(7)]
    for wrong in ("", "\n", texts[0][:-3], "noise\n", texts[0] + "noise\n"):
        with pytest.raises(TrainshedError) as refused:
            read_checkpoints(wrong.encode(), "f")
        assert refused.value.path == "--against"
    with pytest.raises(TrainshedError, match="this log"):
        Against([head(3)]).of_log("another")
    Against([head(3)]).of_log("of-this-test")
