"""Which names say that what they stand for is a credential.

Owns the word rules; knows nothing of where names stand.
"""

from __future__ import annotations

import re

_SEPARATORS = re.compile("[_-]+")
_ENDINGS = frozenset(
    (
        ("api", "key"),
        ("access", "key"),
        ("secret", "key"),
        ("secret",),
        ("password",),
        ("access", "token"),
        ("auth", "token"),
    )
)
_LAST_LETTERS = frozenset(parts[-1][-3:] for parts in (*_ENDINGS, ("token",)))


def parts_of(name: str) -> list[str]:
    """The words of a name, in small letters."""
    return [part for part in _SEPARATORS.split(name.lower()) if part]


def names_credential(name: str, *, any_token: bool = False) -> bool:
    """True where the last words of ``name`` say "credential" (case-blind, words split at ``_`` and ``-``).

    With ``any_token`` the last word ``token`` is enough: in an environment HF_TOKEN is a credential, while a
    trainer's settings have names like pad_token.
    """
    if name[-1:].isalpha() and name[-3:].lower() not in _LAST_LETTERS:
        return False  # nearly every name, at once
    parts = tuple(parts_of(name))
    return parts[-2:] in _ENDINGS or parts[-1:] in _ENDINGS or (any_token and parts[-1:] == ("token",))
