"""Which settings look like plain credentials, and their refusal: the log never forgets.

Owns the word rules; knows nothing of the other fields of a run config.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from trainshed_client.errors import Refusals, TrainshedError
from trainshed_client.json_limits import Place, cut, invalid, path_of

_SEPARATORS = re.compile("[_-]+")
_ENVIRONMENT: Place = (None, "environment")
_METADATA: Place = (None, "metadata")
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


def names_credential(name: str, *, any_token: bool = False) -> bool:
    """True where the last words of ``name`` say "credential" (case-blind, words split at ``_`` and ``-``).

    With ``any_token`` the last word ``token`` is enough: in an environment HF_TOKEN is a credential, while a
    trainer's settings have names like pad_token.
    """
    if name[-1:].isalpha() and name[-3:].lower() not in _LAST_LETTERS:
        return False  # nearly every name, at once
    parts = tuple(part for part in _SEPARATORS.split(name.lower()) if part)
    return parts[-2:] in _ENDINGS or parts[-1:] in _ENDINGS or (any_token and parts[-1:] == ("token",))


def refuse_credentials(config: Mapping[str, object]) -> None:
    """Raise TrainshedError (invalid), by path, for non-empty strings under names that say "credential".

    ``config`` is a run config as it was written: what is of another type than it must be is refused by others. No value is
    in the message.
    """
    refused = Refusals()
    environment = config.get("environment")
    for name, value in environment.items() if isinstance(environment, dict) else ():
        if (
            value
            and isinstance(value, str)
            and isinstance(name, str)
            and names_credential(name, any_token=True)
        ):
            refused.add(_refusal((_ENVIRONMENT, name), name))
    _look_in(config.get("metadata"), _METADATA, None, refused)
    refused.raise_any()


def _look_in(value: object, place: Place, name: str | None, refused: Refusals) -> None:
    """``name`` is the one that ``value`` stands under, alone or in a list, where it says "credential"."""
    match value:
        case str():
            if value and name is not None:
                refused.add(_refusal(place, "_".join(_SEPARATORS.split(name)).upper()))
        case dict():
            for key, item in value.items():
                if isinstance(key, str):
                    _look_in(item, (place, key), key if names_credential(key) else None, refused)
        case list():
            for index, item in enumerate(value):
                _look_in(item, (place, index), name, refused)
        case _:
            pass


def _refusal(place: Place, variable: str) -> TrainshedError:
    return invalid(
        path_of(place),
        "this looks like a plain credential, and the event log never forgets. Write instead "
        f'"secrets": {{"{cut(variable)}": {{"file": "/path/on/the/node"}}}}, or {{"env": "NAME"}} for a '
        "variable of the node's agent (if it is no credential, the gateway's setting "
        "TRAINSHED_ALLOW_CREDENTIALS=1 lets it pass)",
    )
