"""Where everything of an attempt lies: markers and JSON in the node's state, output and artifacts with the run.

Owns the paths, how they are made and what they show; knows no event and no process.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection
from pathlib import Path

import msgspec

from events.types import AttemptRef
from services.agent.folders import claims, files, ownership
from services.agent.folders.files import PrunedFile, PruneRootsFile, WorkerUser
from services.agent.session.values import OnDisk
from trainshed_client.naming import is_run_id

MAX_ATTEMPT = 10**9
ATTEMPTS = "attempts"
ARTIFACTS = "artifacts"
ARTIFACTS_LIST = "artifacts.json"
OUTPUT_FILES = ("stdout.log", "stderr.log")
METRICS = "metrics.jsonl"
NOTHING = OnDisk()
GONE = OnDisk(ended=True)
"""An attempt that had ended when its folder was pruned: whatever is delivered of it again has no effect."""
_LINKED = "open.marker"
_PRUNE_ROOTS = "roots.json"


def is_ref(run_id: object, attempt: object) -> bool:
    """Whether these can name an attempt, and so a folder: nothing else ever becomes part of a path."""
    return (
        isinstance(run_id, str)
        and is_run_id(run_id)
        and isinstance(attempt, int)
        and not isinstance(attempt, bool)
        and 1 <= attempt <= MAX_ATTEMPT
    )


class Folders(msgspec.Struct, frozen=True):
    """The three roots. The runs' folders may be shared storage; the state folder is the node's own.

    ``programs_dir``: where workers that run as other users find the command line, since none of them may look into the state
    folder.
    """

    state_dir: Path
    runs_dir: Path
    var_logs_dir: Path | None = None
    programs_dir: Path | None = None

    def attempt(self, ref: AttemptRef) -> Path:
        """Lock and JSON files."""
        return self.state_dir / "attempts" / ref.run_id / str(ref.attempt)

    def run(self, run_id: str) -> Path:
        """``TRAINSHED_RUN_DIR``: kept over attempts."""
        return self.runs_dir / run_id

    def output(self, ref: AttemptRef) -> Path:
        """stdout.log, stderr.log, index.jsonl and metrics.jsonl."""
        if self.var_logs_dir is not None:
            return self.var_logs_dir / ref.run_id / str(ref.attempt)
        return self.runs_dir / ref.run_id / "attempts" / str(ref.attempt)

    @property
    def opened(self) -> Path:
        """One empty marker file for each attempt whose end was not acknowledged."""
        return self.state_dir / "open"

    @property
    def unhashed(self) -> Path:
        """One empty marker file for each completed attempt whose artifacts are still to be hashed."""
        return self.state_dir / "unhashed"

    @property
    def uncounted(self) -> Path:
        """One empty marker file for each ended attempt of whose stdout metrics are still to be counted."""
        return self.state_dir / "uncounted"

    @property
    def programs(self) -> Path:
        """The command line of this release alone, for workers: its venv is not in their PATH."""
        return self.programs_dir or self.state_dir / "bin"

    @property
    def witness(self) -> Path:
        """What this node keeps as a witness of the log."""
        return self.state_dir / "witness"

    def make_roots(self) -> None:
        """Make what every attempt needs once in the node's own state. Raises OSError."""
        self._link_command_line()
        self.opened.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.unhashed.mkdir(mode=0o700, exist_ok=True)
        self.uncounted.mkdir(mode=0o700, exist_ok=True)
        _touch(f"{self.state_dir}/{_LINKED}")
        (self.state_dir / "attempts").mkdir(exist_ok=True)
        self.pruned.mkdir(exist_ok=True)  # now: when it is needed the disk may be full

    def _link_command_line(self) -> None:
        own = Path(sys.prefix) / "bin" / "trainshed"
        link = self.programs / own.name
        self.programs.mkdir(parents=True, exist_ok=True)
        if self.programs_dir is not None:
            self.programs.chmod(0o755)  # whatever our umask
        if not link.is_symlink() or link.readlink() != own:
            link.unlink(missing_ok=True)
            link.symlink_to(own)

    def mark(self, ref: AttemptRef) -> None:
        """Make the open marker. Raises OSError."""
        self._mark(f"{self.state_dir}/open/{ref.run_id}.{ref.attempt}")

    def unmark(self, ref: AttemptRef) -> None:
        """The end was acknowledged."""
        (self.opened / f"{ref.run_id}.{ref.attempt}").unlink(missing_ok=True)

    def open_attempts(self) -> list[AttemptRef]:
        """The attempts whose end was not acknowledged, oldest names first; other files are passed over."""
        return _marked(self.opened)

    def mark_unhashed(self, ref: AttemptRef) -> None:
        """Its artifacts are to be hashed. Raises OSError."""
        self._mark(f"{self.unhashed}/{ref.run_id}.{ref.attempt}")

    def unmark_unhashed(self, ref: AttemptRef) -> None:
        """Their hashes are appended."""
        (self.unhashed / f"{ref.run_id}.{ref.attempt}").unlink(missing_ok=True)

    def unhashed_attempts(self) -> list[AttemptRef]:
        """The attempts whose artifacts are still to be hashed."""
        return _marked(self.unhashed)

    def mark_uncounted(self, ref: AttemptRef) -> None:
        """Metrics of its stdout are to be counted. Raises OSError."""
        self._mark(f"{self.uncounted}/{ref.run_id}.{ref.attempt}")

    def unmark_uncounted(self, ref: AttemptRef) -> None:
        """They are."""
        (self.uncounted / f"{ref.run_id}.{ref.attempt}").unlink(missing_ok=True)

    def uncounted_attempts(self) -> list[AttemptRef]:
        """The attempts of whose stdout metrics are still to be counted."""
        return _marked(self.uncounted)

    def _mark(self, marker: str) -> None:
        """A link to one empty file: a file of its own, made and removed with each attempt, takes the file system (ext4
        looks past what was removed lately) ever longer to make."""
        try:
            os.link(f"{self.state_dir}/{_LINKED}", marker)
        except FileExistsError:
            pass
        except OSError:  # no such links here, or too many; or a cleaner was here
            self.make_roots()
            _touch(marker)

    def make_run(self, ref: AttemptRef, owner: WorkerUser | None = None) -> None:
        """Make the run's folder with artifacts/ and the attempt's place for output; no pruner takes them from now on.
        ``owner``: whose they are, if not ours.

        (A first attempt's were never claimed.) Raises OSError.
        """
        # attempts/<n> also where output goes elsewhere: by it others who share the runs' folders see that it is in use.
        made = [(self.runs_dir, ARTIFACTS), (self.runs_dir, f"{ATTEMPTS}/{ref.attempt}")]
        if self.var_logs_dir is not None:
            made.append((self.var_logs_dir, str(ref.attempt)))
        while True:
            for root, below in made:
                _make(root, ref.run_id, below, owner)
            for root in {root for root, _ in made}:
                claims.remove_older(root, ref)
            if all(_is_there(root, ref.run_id, below) for root, below in made):
                return

    def make_output(self, ref: AttemptRef, owner: WorkerUser | None) -> None:
        """Make the attempt's place for output alone, where it lies elsewhere. Raises OSError."""
        assert self.var_logs_dir is not None
        _make(self.var_logs_dir, ref.run_id, str(ref.attempt), owner)

    @property
    def pruned(self) -> Path:
        """A small file for each run of which folders were pruned here, in their place."""
        return self.state_dir / "pruned"

    def read_pruned(self, run_id: str) -> PrunedFile:
        """What was pruned of a run here."""
        return files.read_pruned(self.pruned / f"{run_id}.json") or PrunedFile()

    def write_pruned(self, run_id: str, record: PrunedFile) -> None:
        """Write that down. Raises OSError."""
        files.write_pruned(self.pruned / f"{run_id}.json", record)

    def prune_roots(self) -> list[Path]:
        """Every folder, of earlier settings too, beside whose folders something may wait for its deletion."""
        record = files.read_prune_roots(self.pruned / _PRUNE_ROOTS)
        return [] if record is None else [Path(root) for root in record.roots]

    def add_prune_roots(self, roots: Collection[Path]) -> None:
        """Remember these too. Raises OSError."""
        known = self.prune_roots()
        if more := [root for root in roots if root not in known]:
            record = PruneRootsFile(roots=tuple(map(str, (*known, *more))))
            files.write_prune_roots(self.pruned / _PRUNE_ROOTS, record)

    def pruned_at(self, ref: AttemptRef) -> str | None:
        """When the attempt's folder was pruned; None where it was not."""
        for each in self.read_pruned(ref.run_id).pruned:
            if ref.attempt <= each.attempt:
                return each.at
        return None

    def on_disk(self, ref: AttemptRef) -> OnDisk:
        """What an earlier delivery, or an earlier process, left."""
        folder = f"{self.state_dir}/attempts/{ref.run_id}/{ref.attempt}"
        if not os.path.exists(folder):
            return NOTHING if self.pruned_at(ref) is None else GONE
        return OnDisk(
            started=os.path.exists(f"{folder}/{files.STARTED}"),
            ended=os.path.exists(f"{folder}/{files.EXIT}"),
        )


def _make(root: Path, run_id: str, below: str, owner: WorkerUser | None) -> None:
    try:
        if owner is None:
            os.makedirs(f"{root}/{run_id}/{below}", exist_ok=True)
        else:
            ownership.make(root, f"{run_id}/{below}", owner)
    except (FileNotFoundError, FileExistsError):
        root.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(root / run_id):  # a link that leads nowhere, or a file in the way
            raise
        # else another node takes it at this moment: it is missed, and made anew


def _is_there(root: Path, run_id: str, below: str) -> bool:
    with claims.opened(root):
        return os.path.exists(f"{root}/{run_id}/{below}")


def _marked(folder: Path) -> list[AttemptRef]:
    found = []
    for name in sorted(os.listdir(folder)) if folder.exists() else ():
        run_id, _, number = name.partition(".")
        if number.isascii() and number.isdigit() and is_ref(run_id, int(number)):
            found.append(AttemptRef(run_id, int(number)))
    return found


def _touch(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
