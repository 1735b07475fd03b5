"""No way in a run's folder leads out of it, whatever its worker put there, and nothing that is opened there hangs."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services import beneath
from trainshed_client.naming import RUN_ID

RUN = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(params=["openat2", "folder by folder"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(beneath, "_has_openat2", lambda: request.param == "openat2")
    return str(request.param)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / RUN
    (folder / "artifacts/below").mkdir(parents=True)
    (folder / "artifacts/below/own").write_text("own")
    (tmp_path / "secret").write_text("secret")
    return folder


def read(path: Path) -> str:
    with open(beneath.open_file(str(path), os.O_RDONLY)) as file:
        return file.read()


def test_a_runs_folder_is_known_by_its_name() -> None:
    assert beneath.RUN_FOLDER.pattern == RUN_ID
    assert beneath.split(f"/a/{RUN}/b/{RUN}/c") == ("/a", f"{RUN}/b/{RUN}/c")
    assert beneath.split(f"/{RUN}/c") == ("/", f"{RUN}/c")
    assert beneath.split("/a/b/c") == ("/a/b", "c")
    assert beneath.split("/c") == ("/", "c")


def test_this_machine_has_openat2() -> None:
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    assert beneath._has_openat2() == (release >= (5, 6)), "or a filter forbids it here"


@pytest.mark.usefixtures("way")
def test_what_lies_there_is_opened(run: Path) -> None:
    assert read(run / "artifacts/below/own") == "own"
    fd = beneath.open_file(str(run / "new"), os.O_WRONLY | os.O_CREAT, 0o640)
    assert os.get_inheritable(fd) is False
    os.close(fd)
    assert (run / "new").stat().st_mode & 0o777 == 0o640
    assert beneath.look(str(run / "artifacts/below/own")).st_size == 3


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY | os.O_CREAT | os.O_APPEND])
@pytest.mark.parametrize("place", ["artifacts/x", "artifacts/below", "artifacts", "."])
def test_no_link_is_followed_wherever_it_stands(run: Path, tmp_path: Path, place: str, flags: int) -> None:
    outside = tmp_path / "outside"
    (outside / "below").mkdir(parents=True)
    (outside / "own").write_text("secret")
    (outside / "below/own").write_text("secret")
    moved = run / place
    if moved.is_dir():
        moved.rename(tmp_path / "moved")
    target = {"artifacts/x": outside / "own", "artifacts/below": outside, "artifacts": outside, ".": outside}[
        place
    ]
    moved.symlink_to(target)
    wanted = {
        "artifacts/x": "artifacts/x",
        "artifacts/below": "artifacts/below/own",
        "artifacts": "artifacts/below/own",
    }
    with pytest.raises(OSError) as refused:
        os.close(beneath.open_file(str(run / wanted.get(place, "own")), flags))
    assert refused.value.errno in (errno.ELOOP, errno.ENOTDIR)
    assert (outside / "own").read_text() == "secret"


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("name", ["pipe", "socket", "null", "folder"])
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY])
def test_what_is_no_file_is_refused_at_once(run: Path, name: str, flags: int) -> None:
    place = run / name
    if name == "null" and os.geteuid() != 0:
        pytest.skip("a device takes root")
    match name:
        case "pipe":
            os.mkfifo(place)
        case "socket":
            os.mknod(place, 0o600 | stat.S_IFSOCK)
        case "null":
            os.mknod(place, 0o20666, os.makedev(1, 3))
        case _:
            place.mkdir()
    with pytest.raises(OSError) as refused:
        os.close(beneath.open_file(str(place), flags))
    assert refused.value.errno in (errno.EINVAL, errno.ENXIO, errno.EISDIR)


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root")
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR | os.O_APPEND])
def test_root_takes_no_file_of_another_by_a_second_name(run: Path, tmp_path: Path, flags: int) -> None:
    os.chown(run, 1, 1)
    secret = tmp_path / "secret"
    secret.chmod(0o640)
    os.link(secret, run / "artifacts/x")  # by the worker, where fs.protected_hardlinks is 0
    place = str(run / "artifacts/x")
    with pytest.raises(PermissionError, match="another"):
        beneath.open_file(place, flags)
    secret.unlink()  # as if it had been looked at a moment later
    with pytest.raises(PermissionError, match="another"):
        beneath.open_file(place, flags)
    os.chmod(place, 0o644)
    assert read(run / "artifacts/x") == "secret", "what everybody may read"
    if flags != os.O_RDONLY:
        with pytest.raises(PermissionError, match="another"):
            beneath.open_file(place, flags)
    os.chown(place, 1, 1)
    os.close(beneath.open_file(place, flags))


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root")
@pytest.mark.usefixtures("way")
def test_what_root_makes_belongs_to_the_runs_owner(run: Path) -> None:
    os.chown(run, 1, 2)
    for _ in range(2):
        os.close(beneath.open_file(str(run / "artifacts/new"), os.O_RDWR | os.O_CREAT | os.O_APPEND))
    with beneath.opened_folder(str(run)) as within:
        os.close(beneath.make_file(within, "list", 0o644))
    for name in ("artifacts/new", "list"):
        made = (run / name).stat()
        assert (made.st_uid, made.st_gid) == (1, 2), name


def test_a_file_in_the_place_of_a_link_leaves_alone_what_that_leads_to(run: Path, tmp_path: Path) -> None:
    (run / ".tmp").symlink_to(tmp_path / "secret")
    with (
        beneath.opened_folder(str(run)) as within,
        open(beneath.make_file(within, ".tmp", 0o600), "w") as file,
    ):
        file.write("new")
    assert ((run / ".tmp").read_text(), (tmp_path / "secret").read_text()) == ("new", "secret")


NAMES = st.sampled_from(["a", "b", "..", ".", "", "out", "up", "deep", "loop", "secret"])


@settings(max_examples=400, deadline=None)
@given(parts=st.lists(NAMES, min_size=1, max_size=6), with_openat2=st.booleans())
def test_whatever_the_way_is_called_it_reads_nothing_outside(parts: list[str], with_openat2: bool) -> None:
    """`out`, `up`, `deep` and `loop` are links to what is above, in every folder there is."""
    with staged() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(beneath, "_has_openat2", lambda: with_openat2)
        below = "/".join((RUN, *parts))
        within = os.open(folder, os.O_PATH | os.O_DIRECTORY)
        try:
            with suppress(OSError), open(beneath.open_at(within, below, os.O_RDONLY)) as file:
                assert file.read() == "inside"
        finally:
            os.close(within)


@contextmanager
def staged() -> Iterator[str]:
    """The folder of a run's folder with links in it, and secrets above."""
    with TemporaryDirectory() as made:
        root = Path(made)
        (root / "secret").write_text("outside")
        (root / "a").write_text("outside")
        top = root / "runs" / RUN
        for folder in (top, top / "a", top / "a/b"):
            folder.mkdir(parents=True)
            (folder / "out").symlink_to(root)
            (folder / "up").symlink_to("..")
            (folder / "deep").symlink_to("../../..")
            (folder / "loop").symlink_to("loop")
        (top / "a/b/b").write_text("inside")
        (root / "runs/secret").write_text("outside")
        yield str(root / "runs")
