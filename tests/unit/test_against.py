"""The log against checkpoints kept from before: an altered event lies in the range that is named, or is named itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from projections.audit.against import Against, KeptHead, Misfit, of_this_log, read_checkpoints
from projections.transparency.checkpoint import TreeHead
from projections.transparency.fold import TreeFold
from projections.transparency.note import KeyKind, SignerKey, signed
from projections.transparency.tiles import Tiles
from services.cli.audit_witnesses import brought
from services.cli.main import run as trainshed
from trainshed_client.direct_get import Message
from trainshed_client.errors import ExitCode, TrainshedError

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
    against = Against([KeptHead(head(size)) for size in sizes], tiles)
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
    assert gone == Misfit(
        41, "the log has 40 events, the checkpoint has 50: what was stored from 41 on is gone"
    )
    log = log_of(60)
    del log[19]
    found = misfits(log, [10, 50], 60)
    assert [misfit.seq for misfit in found] == [20, 20]
    assert found[0].message == "the log has no event 20"
    # 21 to 60 are there
    assert found[1].message.endswith("leaves no longer fits: the tree ends before event 20, which is gone")


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
    assert [one.head for one in read_checkpoints(texts[0].encode(), "f")] == [head(7)]
    for between in ("", "\n", "\n\n"):
        several = read_checkpoints(between.join(texts).encode(), "f")
        assert [one.head for one in several] == [head(3), head(7)]
    for wrong in ("", "\n", texts[0][:-3], "noise\n", texts[0] + "noise\n"):
        with pytest.raises(TrainshedError) as refused:
            read_checkpoints(wrong.encode(), "f")
        assert refused.value.path == "--against"
        assert (
            refused.value.message.startswith("f has ")
            and "trainshed audit checkpoint" in refused.value.message
        )
    with pytest.raises(TrainshedError, match="this log"):
        of_this_log(several, "another")
    of_this_log(several, "of-this-test")


def test_each_whose_word_is_kept_is_named_by_the_first_of_theirs_that_does_not_fit() -> None:
    """The log's event 35 was altered; gpu03 was shown another log before."""
    forked = TreeHead(ORIGIN, 30, bytes(32))
    kept = [
        *(KeptHead(head(size)) for size in (20, 40, 50)),
        KeptHead(head(30), " that gpu01 cosigned"),
        KeptHead(head(45), " that gpu02 cosigned"),
        KeptHead(forked, " that gpu03 cosigned"),
        KeptHead(head(70), " that gpu04 cosigned"),
    ]
    against = Against(kept)
    against.take(log_of(60, altered=35))
    forked_found, *found = against.misfits()
    assert forked_found == Misfit(
        30,
        "the checkpoint of 30 leaves that gpu03 cosigned no longer fits; the last that does has 30: who has it was "
        "shown another log",
    )
    assert [misfit.message.partition(": one of")[0] for misfit in found] == [
        "the checkpoint of 40 leaves no longer fits; the last that does has 30",
        "the checkpoint of 45 leaves that gpu02 cosigned no longer fits; the last that does has 30",
        "the log has 60 events, the checkpoint that gpu04 cosigned has 70: what was stored from 61 on is gone",
    ]
    assert [against.fits(one.head) for one in kept] == [True, False, False, True, False, False, False]


def test_a_folder_without_the_checkpoints_tiles_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept.txt"
    kept.write_text(signed(head(300).text, [KEY.sign(head(300).text)]))
    command = ["audit", "verify", "--against", str(kept), "--tiles", str(tmp_path)]
    assert trainshed(command) == ExitCode.BAD_INPUT
    assert "--tiles: " in capsys.readouterr().err
    fold = TreeFold()
    fold.extend(log_of(300))
    for tile in fold.take_changes()[0]:
        Tiles(tmp_path).write(tile)
    assert len(brought(kept, tmp_path, None).checkpoints) == 1
    kept.write_text(signed(head(7).text, [KEY.sign(head(7).text)]))
    assert len(brought(kept, tmp_path / "none", None).checkpoints) == 1  # it has no full tile yet
