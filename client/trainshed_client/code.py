"""The code of a run: one digest of the program files in a project's folder, and where in git they stand.

Owns which files count, their bounds and how git is asked; knows no run, and nobody who asks.
"""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.naming import is_run_id
from trainshed_client.provenance import Code, Provenance

_ENDINGS = """
.py .pyi .pyx .pxd .ipynb .sh .bash .zsh .pl .rb .lua .r .jl .go .rs .java .scala .js .mjs .ts .c .h .cc .cpp .cxx .hh .hpp
.cu .cuh .cl .f .f90 .sql .proto .mk .cmake .yaml .yml .toml .cfg .ini .gin
"""
ENDINGS = frozenset(_ENDINGS.split())
"""What counts by the end of its name, in small letters. JSON, text and tables do not: they are what runs leave."""
NAMES = frozenset({"Makefile", "GNUmakefile", "makefile", "Snakefile", "Justfile", "CMakeLists.txt"})
PASSED_OVER = frozenset({"__pycache__", "node_modules", "site-packages", "lightning_logs", "mlruns", "wandb"})
"""Folders of which nothing counts, beside hidden ones, environments and run folders: those of libraries and of results."""
MAX_FILES = 2_000
MAX_BYTES = 32 * 1024 * 1024
MAX_ENTRIES = 100_000
"""So many names are looked at where no git says which files there are."""
GIT_WITHIN_S = 30.0
_STATUS_WITHIN_S = 2.0
_ENVIRONMENTS = frozenset({"pyvenv.cfg", "conda-meta"})


class _Files(NamedTuple):
    """Paths in a folder; ``whole``: there are no more."""

    paths: list[str]
    whole: bool


def code_of(path: str | os.PathLike[str] = ".", ignore: Sequence[str] = ()) -> dict[str, Any] | None:
    """The field ``code`` of a run config: ``{"sha256", "partial"}`` of the program files under the git root of ``path``,
    or under ``path`` where there is none. None where there are no such files, and for what is no project's folder.

    ``ignore``: patterns of paths and names to leave out, as in ``outputs/*``. Raises TrainshedError where git hangs.
    """
    folder = root_of(path)
    code = None if folder is None else read_code(folder, ignore)
    return None if code is None else {"sha256": code.sha256, "partial": code.partial}


def root_of(path: str | os.PathLike[str]) -> str | None:
    """The folder whose code counts for a run in ``path``: its git root, else itself.

    None for what is no project's: ``/``, the home folder, that of temporary files, and what is no folder here.
    """
    start = folder = os.path.realpath(path)
    nobodys = {"/", os.path.realpath(os.path.expanduser("~")), os.path.realpath(tempfile.gettempdir())}
    if start in nobodys or not os.path.isdir(start):
        return None
    while folder not in nobodys:
        if _is_repository(folder):
            return folder
        folder = os.path.dirname(folder)
    return start


class GitUser(NamedTuple):
    """As whom git runs, where root asks for what is another's: a repository may name programs."""

    uid: int
    gid: int
    groups: Sequence[int]
    home: str


def read_code(folder: str, ignore: Sequence[str] = (), *, git_user: GitUser | None = None) -> Code | None:
    """The digest of the program files under ``folder``; None where there are none. Blocks. ``git_user``: None, as we do.

    SHA-256 over path, nul byte and SHA-256 of the content of each file, the upper levels first, a level by its paths. Of
    more than `MAX_FILES` or `MAX_BYTES` the first count, and time never does. Raises TrainshedError where git hangs.
    """
    folder = os.path.realpath(folder)
    listed = _listed(folder, git_user)
    digest, files, left, whole = hashlib.sha256(), 0, MAX_BYTES, listed.whole
    for path in sorted(_counted(listed.paths, ignore), key=_place):
        if files == MAX_FILES:
            whole = False
            break
        try:
            content = _content(folder, path, left)
        except (OSError, _TooLargeError):
            whole = False
            continue
        if content is not None:
            files, left = files + 1, left - len(content)
            digest.update(os.fsencode(path) + b"\0" + hashlib.sha256(content).digest())
    return Code(digest.hexdigest(), partial=not whole) if files or not whole else None


def provenance_of(folder: str, ignore: Sequence[str] = ()) -> Provenance:
    """Where the code of ``folder`` stands in git, as far as that is told in time. Blocks."""
    shown = None
    if _is_repository(folder):
        try:
            shown = _git(folder, _STATUS_WITHIN_S, "status", "--porcelain=v2", "--branch", "-uall", "-z")
        except subprocess.TimeoutExpired:
            pass  # a courtesy
    if shown is None:
        return Provenance(folder=folder, ignore=tuple(ignore))
    commit, dirty = None, False
    for entry in shown.split("\0"):
        kind, _, rest = entry.partition(" ")
        if kind == "#":
            name, _, value = rest.partition(" ")
            commit = value if name == "branch.oid" and value != "(initial)" else commit
        elif kind == "?":  # results are no other code
            dirty = dirty or any(_counted([rest], ignore))
        else:
            dirty = dirty or bool(entry)
    return Provenance(folder=folder, commit=commit, dirty=dirty, ignore=tuple(ignore))


# --- which files there are ----------------------------------------------------------------------------------


def _listed(folder: str, git_user: GitUser | None) -> _Files:
    """What git tracks or does not ignore; without git every file. Raises TrainshedError where git hangs."""
    if not _is_repository(folder):
        return _walked(folder)
    try:
        shown = _git(folder, GIT_WITHIN_S, "ls-files", "-co", "--exclude-standard", "-z", user=git_user)
    except subprocess.TimeoutExpired:
        raise TrainshedError(
            ErrorCode.UNAVAILABLE,
            f"git has not listed the files of {folder} within {GIT_WITHIN_S:g} s; to submit without the code: --no-code",
        ) from None
    if shown is None:  # no git is installed, or this is no repository after all: what it ignores is not known
        return _Files(_walked(folder).paths, False)
    paths, whole = [], True
    modules = os.path.exists(f"{folder}/.gitmodules")
    for path in {one for one in shown.split("\0") if one}:
        if not path.endswith("/") and not (modules and _is_repository(f"{folder}/{path}")):
            paths.append(path)
        elif not any(map(_is_passed_over, path.split("/"))):  # a repository in this one
            within = _listed(f"{folder}/{path.rstrip('/')}", git_user)
            whole = whole and within.whole
            paths += [f"{path.rstrip('/')}/{one}" for one in within.paths]
    environments = set(_environments(paths))
    return _Files([one for one in paths if environments.isdisjoint(_folders(one))], whole)


def _environments(paths: Iterable[str]) -> Iterator[str]:
    for path in paths:
        for mark in _ENVIRONMENTS:
            folder, found, _ = f"/{path}/".partition(f"/{mark}/")
            if found and folder:
                yield folder[1:]


def _walked(folder: str) -> _Files:
    """Every file, level by level. Where there are too many names the last folders of the last level are not looked at."""
    paths: list[str] = []
    level, seen, whole = [""], 0, True
    while level:
        below: list[str] = []
        for inner in level:
            try:
                with os.scandir(f"{folder}/{inner}") as found:
                    entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found]
            except OSError:
                whole = False
                continue
            seen += len(entries)
            if inner and any(name in _ENVIRONMENTS for name, _ in entries):
                continue
            paths += [inner + name for name, is_folder in entries if not is_folder]
            below += [
                f"{inner}{name}/" for name, is_folder in entries if is_folder and not _is_passed_over(name)
            ]
            if seen > MAX_ENTRIES:
                return _Files(paths, False)
        level = sorted(below, key=os.fsencode)
    return _Files(paths, whole)


def _is_repository(folder: str) -> bool:
    return os.path.exists(f"{folder}/.git")


def _git(folder: str, within_s: float, *arguments: str, user: GitUser | None = None) -> str | None:
    """What git prints; None where there is no git, or it fails. Raises subprocess.TimeoutExpired.

    Nothing that a repository's own settings name is started, and nothing is written.
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    settings = ("-c", "core.fsmonitor=false", "-c", "safe.directory=*")
    who: dict[str, Any] = {}
    if user is not None:
        own["HOME"] = user.home
        who = {"user": user.uid, "group": user.gid, "extra_groups": user.groups}
    try:
        done = subprocess.run(
            ["git", "-C", folder, *settings, *arguments],
            env={**own, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=within_s,
            check=False,
            **who,
        )
    except OSError:
        return None
    return os.fsdecode(done.stdout) if done.returncode == 0 else None


# --- which of them count -------------------------------------------------------------------------------------


def _counted(paths: Iterable[str], ignore: Sequence[str]) -> Iterator[str]:
    patterns = [one.removeprefix("./").rstrip("/") for one in ignore]
    for path in paths:
        *folders, name = path.split("/")
        if not any(map(_is_passed_over, folders)) and _may_count(name) and not _is_ignored(path, patterns):
            yield path


def _is_passed_over(folder: str) -> bool:
    return folder.startswith(".") or folder in PASSED_OVER or is_run_id(folder)


def _may_count(name: str) -> bool:
    return name in NAMES or _ending(name) in ENDINGS or _has_no_ending(name)


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _has_no_ending(name: str) -> bool:
    """Then it counts where it is a script by its first line."""
    return "." not in name and name not in NAMES


def _is_ignored(path: str, patterns: Sequence[str]) -> bool:
    return any(
        fnmatchcase(one, pattern) or fnmatchcase(os.path.basename(one), pattern)
        for pattern in patterns
        for one in (path, *_folders(path))
    )


def _folders(path: str) -> Iterator[str]:
    """Every folder above a path, the nearest first."""
    while path := path.rpartition("/")[0]:
        yield path


def _place(path: str) -> tuple[int, bytes]:
    return path.count("/"), os.fsencode(path)


class _TooLargeError(Exception):
    """A file is larger than what is left of the bound."""


def _content(folder: str, path: str, left: int) -> bytes | None:
    """What counts of a file: its content, or of a link out of the folder where it leads; None where it does not count.

    Raises OSError, and _TooLargeError where it is larger than ``left`` bytes.
    """
    place = f"{folder}/{path}"
    try:
        status = os.lstat(place)
    except FileNotFoundError:  # tracked, and deleted
        return None
    script = _has_no_ending(os.path.basename(path))
    if stat.S_ISLNK(status.st_mode):
        target = os.path.realpath(place)
        if not target.startswith(f"{folder}/") or not os.path.exists(target):
            return None if script else os.fsencode(os.readlink(place))
        place, status = target, os.stat(target)
    if not stat.S_ISREG(status.st_mode) or (script and not status.st_mode & 0o111):
        return None
    if status.st_size > left:
        raise _TooLargeError
    with open(place, "rb", buffering=0) as file:
        content = file.readall()
    return None if script and not content.startswith(b"#!") else content
