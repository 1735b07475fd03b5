"""The console script `trainshed`: says which folder hides Trainshed's own `services`, where one does, then starts it.

Owns that check, the start in UTF-8, and Ctrl-C until the command stands; it is here because no other program bears the name
`trainshed_client`. Knows no verb, and imports next to nothing before Ctrl-C is taken care of.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` loads enum first
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_PACKAGE = "services"
_INSIDE = os.path.join("cli", "main.py")


def main() -> NoReturn:
    """Run `trainshed` with the words of the command line, and exit with its code."""
    end_at_interrupt()
    as_utf8()
    import importlib

    from trainshed_client.errors import ExitCode

    if complaint := hidden():
        sys.stderr.write(f"Error: {complaint}\n")
        raise SystemExit(ExitCode.BAD_INPUT)
    importlib.import_module(f"{_PACKAGE}.cli.main").main()
    raise AssertionError("services.cli.main.main does not return")


def end_at_interrupt() -> None:
    """Let Ctrl-C end the process at once until the command takes it itself: nothing is begun, and a traceback of half an
    import helps nobody."""
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)


def as_utf8() -> None:
    """Start over in UTF-8 mode where the locale is another: names and words are the same bytes then, and the same run.

    What we start is in that mode too. Raises OSError where this Python cannot be started.
    """
    if sys.getfilesystemencoding() == "utf-8" or "utf8" in sys._xoptions or not sys.executable:
        return
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def hidden(path: list[str] | None = None) -> str | None:
    """What to say where ``services`` on ``path`` (`sys.path`) is not ours; None where it is.

    Looks and imports nothing: the other package is not run.
    """
    from importlib.machinery import PathFinder

    spec = PathFinder.find_spec(_PACKAGE, path)
    if spec is None:
        return f"Trainshed's package {_PACKAGE!r} is not installed beside trainshed-client: install Trainshed again"
    places = list(spec.submodule_search_locations or ())
    if any(os.path.isfile(os.path.join(place, _INSIDE)) for place in places):
        return None
    where = places[0] if places else spec.origin
    return (
        f"{where} hides Trainshed's own package {_PACKAGE!r}. "
        "Take its folder out of PYTHONPATH: env -u PYTHONPATH trainshed ..."
    )
