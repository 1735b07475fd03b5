"""Which arguments and values look like plain credentials by how they are written: options, headers, URLs with a password.

Owns these forms; knows no field of a run config, and which names say "credential" by events/credential_names.py alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from events.credential_names import names_credential, parts_of

_OPTION = re.compile(r"-{1,2}(?P<name>[A-Za-z][\w.-]*)")
_GIVEN = re.compile(r"(?:-{1,2}|\+{1,2})?(?P<name>[A-Za-z_][\w./-]*)=(?P<value>.*)", re.DOTALL)
_HEADER = re.compile(r"(?P<name>[A-Za-z][\w-]*):\s+(?P<value>\S+)")
_SCHEMES = re.compile(
    r"""(?ix) (?: ^ | [:=]\s*["']? ) bearer \s+ (?!\$)[^\s"']+ ["']? $
      | authorization ["']? \s*[:=]\s* ["']? (?:bearer|basic|token) \s+ (?!\$)[^\s"']"""
)
_QUERY = re.compile(r"[?&](?P<name>[\w.-]+)=(?P<value>[^&\s]+)")
_URL = re.compile(r"(?<![A-Za-z0-9+.-])[A-Za-z][A-Za-z0-9+.-]*://[^/\s:@?#]*:(?!\$|\{\{)[^/\s@]+@(?!sha256:)")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_PARTS = re.compile(r"""(?:"([^"]*)"|'([^']*)'|((?:[^\s;&|()"']|"[^"]*"|'[^']*')+))""")
_SHELLS = frozenset(("sh", "bash", "dash", "zsh", "ksh"))
_SCRIPT = re.compile(r"-[a-z]*c")
_TOKENS_OF = frozenset(
    ("api", "bearer", "bot", "github", "gitlab", "hf", "hub", "huggingface", "private", "refresh", "slack")
)
_REFERENCE = re.compile(r"\$|\{\{|@?(?:~|\.{1,2})?/[\w.-]+(?:/[\w.-]+)*/?\Z|(?:[\w.-]+=)?(?:file|env):")
"""A variable, a placeholder, a path, or what `--secret` of our own command line takes."""
_NO_VALUES = frozenset(("true", "false", "yes", "no", "on", "off", "none", "null", "0", "1"))
"""What a switch is given, as in ``--use_auth_token True``."""


def credentials_in(program: str, arguments: Sequence[object]) -> Iterator[tuple[int, str]]:
    """The place of each argument that holds a credential, and a variable's name for it. What is no string is passed over.

    Told are ``--api-key=…``, ``--api-key …``, ``API_KEY=…``, a header, ``Bearer …``, a URL with a password, and these in
    the script of ``sh -c`` (a query's ``?api_key=…`` too); never a variable (``$API_KEY``), a placeholder, a path, or what a switch is given.
    """
    option: str | None = None
    for index, text in enumerate(arguments):
        if not isinstance(text, str):
            option = None
            continue
        name = option if option is not None and not text.startswith("-") and _is_value(text) else None
        name = name or _name_in(text) or plain_credential(text)
        if name is None and _is_script(program, arguments, index):
            parts = ["".join(found.groups(default="")) for found in _PARTS.finditer(text)]
            name = next((name for _, name in credentials_in("", parts)), None)
        if name is not None:
            yield index, name
        found = _OPTION.fullmatch(text)
        option = _variable(found["name"]) if found else None


def plain_credential(text: str) -> str | None:
    """A variable's name for the credential that a text holds whatever its name: a bearer's, or a URL's password."""
    if "://" in text and _URL.search(text):
        return "URL"
    return "AUTH_TOKEN" if _SCHEMES.search(text) else None


def _name_in(text: str) -> str | None:
    whole = _GIVEN.fullmatch(text) or _HEADER.fullmatch(text)
    for found in [whole] if whole else _QUERY.finditer(text) if "://" in text else ():
        if _is_value(found["value"]) and (variable := _variable(found["name"])) is not None:
            return variable
    return None


def _is_value(text: str) -> bool:
    bare = text.strip("\"' ")
    return bool(bare) and bare.lower() not in _NO_VALUES and not _REFERENCE.match(bare)


def _variable(name: str) -> str | None:
    """The name of a variable for what an option of this name takes, if that is a credential."""
    last = _CAMEL.sub("_", re.split(r"[./]", name)[-1])
    parts = parts_of(last)
    if not parts or parts[0] == "no":
        return None
    is_token = parts[-1] == "token" and (len(parts) == 1 or parts[-2] in _TOKENS_OF)
    if not is_token and not names_credential(last, any_token=last.isupper()):
        return None
    return "_".join(parts).upper()


def _is_script(program: str, arguments: Sequence[object], index: int) -> bool:
    """Whether this is the script of a shell's ``-c``."""
    before = arguments[index - 1] if index else None
    if not isinstance(before, str) or not _SCRIPT.fullmatch(before):
        return False
    parts = [program, *(part for part in arguments[:index] if isinstance(part, str))]
    shell = next((part for part in reversed(parts) if not part.startswith("-")), "")
    return shell.rpartition("/")[2] in _SHELLS
