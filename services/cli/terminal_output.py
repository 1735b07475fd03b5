r"""What of a worker's output a terminal is given: text, colours and movements within it; the rest is shown as `\x1b`.

Owns which bytes a terminal may heed; knows nothing of runs, and nothing that is not a terminal comes here.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from typing import Final

_PLAIN = re.compile(r"[\n\r\t\b -~]*\Z")
"""What most output is made of."""
_PASSED = r"\x1b\[(?:[\d;:]{0,64}m|[0-2]?K|\d{0,3}[ABCDG])"
"""Of ECMA-48 what progress bars and colours need: SGR, EL, CUU, CUD, CUF, CUB and CHA. No title, no clipboard, no query,
no other screen."""
_BEGUN = r"\x1b(?:\[[\d;:]{0,64})?\Z"
"""A sequence that may be one of those once the rest has come."""
_JOINERS: Final = "\u200c\u200d"
"""Letters of some scripts and emoji are joined by these; they move nothing."""
_PART = re.compile(f"(?P<passed>{_PASSED})|(?P<begun>{_BEGUN})|[^\n\r\t\b -~]")
_RESET = b"\x1b[0m"


class TerminalOutput:
    """One stream of one attempt, bytes as they come; a character or sequence that is cut off waits for its rest."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._begun = ""
        self._coloured = False

    def feed(self, data: bytes) -> bytes:
        """What a terminal is given of these bytes and of what waited for them."""
        text = self._begun + self._decoder.decode(data)
        self._begun = ""
        return (text if _PLAIN.match(text) else _PART.sub(self._shown, text)).encode()

    def finish(self) -> bytes:
        """What still waits, shown as it is; the terminal's own colours where they are others."""
        rest = (self._begun + self._decoder.decode(b"", final=True)).replace("\x1b", r"\x1b")
        self._begun = ""
        return rest.encode() + (_RESET if self._coloured else b"")

    def _shown(self, part: re.Match[str]) -> str:
        text = part[0]
        if part["passed"] is not None:
            if text.endswith("m"):
                self._coloured = text not in ("\x1b[m", "\x1b[0m")
            return text
        if part["begun"] is not None:
            self._begun = text
            return ""
        harmless = text.isprintable() or text in _JOINERS or unicodedata.category(text) == "Zs"
        return text if harmless else ascii(text)[1:-1]
