"""What a worker finds in its environment before its run config is laid over it (docs/contracts/environment.md).

Owns what is taken over of the agent's own and what is set where nobody says otherwise; knows no attempt's launch.
"""

from __future__ import annotations

import functools
import os
import pwd
import re
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

OWN_PREFIXES = ("TRAINSHED_", "NATS_", "WATCHDOG_")
PASSED_OVER = "TRAINSHED_WORKER_ENV"
"""The setting that names more of the agent's variables to pass over."""
OF_THE_MACHINE = (
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "PATH",
    "TZ",
    "TMPDIR",
    "TEMP",
    "TMP",
    *(
        name
        for proxy in ("http", "https", "ftp", "all", "no")
        for name in (f"{proxy}_proxy", f"{proxy}_PROXY".upper())
    ),
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "CUDA_*",
    "NVIDIA_*",
    "NCCL_*",
)
"""What says something of the machine and nothing of the terminal that the agent happened to be started in."""
THREADS = (
    "OMP_NUM_THREADS",  # OpenMP, and with it PyTorch, MKL, OpenBLAS, BLIS, numexpr, Arrow, XGBoost
    # Those have pools of their own, as large as the machine, and do not look at it:
    "NUMBA_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "RAYON_NUM_THREADS",  # what is written in Rust: Hugging Face's tokenizers
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "OPENCV_FOR_THREADS_NUM",
    "NPROC",  # XLA, and with it JAX
)


def inherited_base(inherited: Mapping[str, str], own_prefix: str | None = None) -> dict[str, str]:
    """Of the agent's environment what a worker gets: the machine's, and what the operator passes over.

    The same from whatever terminal the agent was started. PATH is less the programs of Trainshed's own venv
    (``own_prefix``, by default this Python's where it is one's) unless the operator names it.
    """
    passed_over = inherited.get(PASSED_OVER, "")
    fits = _pattern(passed_over).fullmatch
    base = {
        name: value
        for name, value in inherited.items()
        if fits(name) and not name.startswith(OWN_PREFIXES) and name != "NOTIFY_SOCKET"
    }
    if not base.keys() >= _USERS:
        base = {**_user(), **base}
    path = base.get("PATH", os.defpath)
    if own_prefix is None and sys.prefix != sys.base_prefix:
        own_prefix = sys.prefix
    if own_prefix is not None and not _pattern_of((), passed_over).fullmatch("PATH"):
        path = _without(path, f"{own_prefix}/bin")
    base["PATH"] = path
    return base


def defaults(threads: int | None) -> dict[str, str]:
    """What is set where neither the operator nor the config says otherwise.

    Text is UTF-8 whatever the agent's locale, Python's output comes as it is printed, and libraries start as many
    ``threads`` as were granted (None: not known).
    """
    values = {"LANG": "C.UTF-8", "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1"}
    if threads is not None:
        values.update(dict.fromkeys(THREADS, str(threads)))
    return values


_USERS = frozenset({"HOME", "USER", "LOGNAME", "SHELL"})


@functools.cache
def _user() -> dict[str, str]:
    """Who we are, as a login would say it: a system service is told nothing of that."""
    try:
        user = pwd.getpwuid(os.getuid())
    except KeyError:
        return {}
    return {"HOME": user.pw_dir, "USER": user.pw_name, "LOGNAME": user.pw_name, "SHELL": user.pw_shell}


@functools.cache
def _without(path: str, own: str) -> str:
    own = os.path.realpath(own)
    return os.pathsep.join(
        folder for folder in path.split(os.pathsep) if not folder or os.path.realpath(folder) != own
    )


@functools.cache
def _pattern(passed_over: str) -> re.Pattern[str]:
    return _pattern_of(OF_THE_MACHINE, passed_over)


@functools.cache
def _pattern_of(names: tuple[str, ...], passed_over: str) -> re.Pattern[str]:
    every = [*names, *passed_over.replace(",", " ").split()]
    return re.compile("|".join(re.escape(name).replace(r"\*", ".*") for name in every) or r"(?!)", re.DOTALL)
