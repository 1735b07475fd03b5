"""C2SP's tlog-policy: which logs may have signed a checkpoint, and which of their witnesses must have cosigned it.

Owns the format of the file and what it asks for; knows neither where a checkpoint comes from nor whether it is true.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping

import msgspec

from projections.transparency.note import KeyKind, Note, VerifierKey, bad, verified
from trainshed_client.errors import TrainshedError

OPTION = "--policy"
MAX_POLICY_BYTES = 1_000_000
_NONE = "none"
_SPACE = re.compile("[ \t]+")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f]")
_NUMBER = re.compile("[1-9][0-9]{0,5}")


class WitnessGroup(msgspec.Struct, frozen=True):
    """``least`` of these members, witnesses and other groups, must have cosigned."""

    least: int
    members: tuple[str, ...]


class WitnessPolicy(msgspec.Struct, frozen=True):
    """A policy as it was read. ``quorum``: a witness, a group or `none`. Members of ``groups`` are defined before them."""

    logs: tuple[VerifierKey, ...]
    witnesses: Mapping[str, VerifierKey]
    groups: Mapping[str, WitnessGroup]
    quorum: str

    def signers(self, note: Note, field: str = "note") -> tuple[VerifierKey, ...]:
        """Which of its logs and witnesses signed a note. Raises TrainshedError (invalid) where a signature of one of them
        does not hold."""
        keys = [*self.logs, *self.witnesses.values()]
        named = {(key.name, key.key_id) for key in keys}
        if not any((each.name, each.key_id) in named for each in note.signatures):
            return ()
        return verified(note, keys, field)

    def cosigners(self, signers: Collection[VerifierKey]) -> tuple[str, ...]:
        """What the policy calls those of ``signers`` that are its witnesses."""
        return tuple(_printable(name) for name, key in self.witnesses.items() if key in signers)

    def lacks(self, origin: str, signers: Collection[VerifierKey]) -> str | None:
        """What a checkpoint of ``origin`` lacks that these have signed; None where it is valid."""
        if not any(key in signers and key.name == origin for key in self.logs):
            return "the signature of a log of the policy"
        lacking: dict[str, str | None] = {_NONE: None}
        for name, key in self.witnesses.items():
            lacking[name] = None if key in signers else f"a cosignature of {_printable(name)}"
        for name, group in self.groups.items():  # whose members stand above it
            lacks = [lack for lack in map(lacking.get, group.members) if lack is not None]
            more = group.least - (len(group.members) - len(lacks))
            if more <= 0:
                lacking[name] = None
            elif more == len(lacks):
                lacking[name] = " and ".join(lacks)
            else:
                lacking[name] = f"{more} of ({', '.join(lacks)})"
        return lacking[self.quorum]


def parse_policy(data: bytes, file: str = "policy") -> WitnessPolicy:
    """A policy of a file's bytes. Raises TrainshedError (invalid) that names the line, and what was expected there."""
    if len(data) > MAX_POLICY_BYTES:
        raise bad(f"{file} is longer than {MAX_POLICY_BYTES} bytes", OPTION)
    read = _Reader()
    # octets of no UTF-8 are opaque, and stay different from all others
    for number, line in enumerate(data.decode("utf-8", "surrogateescape").split("\n"), 1):
        try:
            read.line(line)
        except TrainshedError as error:
            raise bad(f"{file}, line {number}: {_printable(error.message)}", OPTION) from None
    if read.quorum is None:
        raise bad(f"{file} has no line `quorum NAME` (or `quorum none`)", OPTION)
    return WitnessPolicy(tuple(read.logs), read.witnesses, read.groups, read.quorum)


class _Reader:
    """Feed it the lines in order. A line raises what is wrong with it."""

    def __init__(self) -> None:
        self.logs: list[VerifierKey] = []
        self.witnesses: dict[str, VerifierKey] = {}
        self.groups: dict[str, WitnessGroup] = {}
        self.quorum: str | None = None
        self._members: dict[str, str] = {}
        """Who is in a group already, and in which."""

    def line(self, line: str) -> None:
        """Take one line."""
        if control := _CONTROL.search(line):
            raise _wrong(f"has the control character {ord(control[0]):#04x}; expected: text, spaces and tabs")
        text = line.strip(" \t")
        if not text or text.startswith("#"):
            return
        kind, *items = _SPACE.split(text)
        take: Callable[[list[str]], None] | None = {
            "log": self._log,
            "witness": self._witness,
            "group": self._group,
            "quorum": self._quorum,
        }.get(kind)
        if take is None:
            raise _wrong(f"begins with {kind!r:.60}; expected: log, witness, group, quorum or #")
        take(items)

    def _log(self, items: list[str]) -> None:
        if not 1 <= len(items) <= 2:
            raise _wrong("expected: `log VKEY [URL]`")
        key = _key(items[0], KeyKind.ED25519, "a log's key, which begins with 1")
        if any(key.public == other.public for other in self.logs):
            raise _wrong(f"the log {key.name} has the key of a log above")
        self.logs.append(key)

    def _witness(self, items: list[str]) -> None:
        if not 2 <= len(items) <= 3:
            raise _wrong("expected: `witness NAME VKEY [URL]`")
        name = self._new_name(items[0])
        key = _key(items[1], KeyKind.COSIGNATURE, "a key for cosignatures, which begins with 4")
        for other, there in self.witnesses.items():
            if there.public == key.public:
                raise _wrong(f"the witness {name} has the key of {other}")
        self.witnesses[name] = key

    def _group(self, items: list[str]) -> None:
        if len(items) < 3:
            raise _wrong("expected: `group NAME all|any|NUMBER MEMBER...`")
        name, least, *members = items
        self._new_name(name)
        most = len(members)
        if least not in ("all", "any") and not (_NUMBER.fullmatch(least) and int(least) <= most):
            raise _wrong(f"{least!r:.60} of {most} members; expected: all, any or a number from 1 to {most}")
        for member in members:
            self._known(member)
            if member in self._members:
                raise _wrong(f"{member} is in the group {self._members[member]} already, and may be in one")
            self._members[member] = name
        self.groups[name] = WitnessGroup({"all": most, "any": 1}.get(least) or int(least), tuple(members))

    def _quorum(self, items: list[str]) -> None:
        if self.quorum is not None:
            raise _wrong("a second quorum; expected: one")
        if len(items) != 1:
            raise _wrong("expected: `quorum NAME`, of a witness or a group above, or `quorum none`")
        if items[0] != _NONE:
            self._known(items[0])
        self.quorum = items[0]

    def _new_name(self, name: str) -> str:
        if name == _NONE or name in self.witnesses or name in self.groups:
            raise _wrong(f"the name {name!r:.60} is taken; expected: one of its own")
        return name

    def _known(self, name: str) -> None:
        if name not in self.witnesses and name not in self.groups:
            raise _wrong(f"no witness and no group above is called {name!r:.60}")


def _key(text: str, kind: KeyKind, expected: str) -> VerifierKey:
    try:
        key = VerifierKey.parse(text)
    except UnicodeEncodeError:
        raise _wrong("a key's name is not UTF-8") from None
    if key.kind is not kind:
        raise _wrong(f"the key of {key.name} signs something else; expected: {expected}")
    return key


def _wrong(message: str) -> TrainshedError:
    return bad(message, OPTION)


def _printable(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
