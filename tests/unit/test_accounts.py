"""The server's accounts as text: what is refused, what is quoted, and that nothing crosses a border that nobody granted."""

from __future__ import annotations

import re
from collections import defaultdict
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.access import table
from services.access.accounts import User, accounts_text, covers, quoted
from services.access.identities import (
    CONTROL_ACCOUNT,
    Control,
    ControlRole,
    Known,
    NodeIdentity,
    PageUser,
    Person,
    PersonRole,
    account,
    user_name,
)
from services.access.permissions import Way, permissions_of

PERMISSIONS_PAGE = Path(__file__).resolve().parents[2] / "docs" / "permissions.md"


def test_the_page_of_permissions_is_current() -> None:
    assert PERMISSIONS_PAGE.read_text() == table.page(), (
        "make it again: python -m services.access.table > docs/permissions.md"
    )


def test_without_anybody_of_the_control_side_there_is_no_text() -> None:
    """Rather than a server that is open, or of use to nobody."""
    others = [User(identity=who) for who in table.COLUMNS.values() if not isinstance(who, Control)]
    for users in ([], others):
        with pytest.raises(ValueError, match="no user of the control side"):
            accounts_text(users)


def test_what_stands_in_a_password_cannot_end_its_string() -> None:
    bad = 'x" } ] } OPEN: { users: [ { user: "x\n\\'
    text = accounts_text([User(identity=Control(ControlRole.OPERATOR), password=bad)])
    assert f"password: {quoted(bad)}" in text
    assert "\n" not in quoted(bad) and '" }' not in quoted(bad).replace('\\"', "")


# --- what crosses the borders -------------------------------------------------------------------------------


class Crossing(NamedTuple):
    """An export or import as it stands in the text."""

    kind: str
    subject: str
    accounts: tuple[str, ...]
    to: str


class Written(NamedTuple):
    """One account of the text."""

    exports: list[Crossing]
    imports: list[Crossing]


_EXPORT = re.compile(r'\{ (service|stream): "([^"]+)"(?:, accounts: \[([^\]]*)\])?[^}]*\}')
_IMPORT = re.compile(
    r'\{ (service|stream): \{ account: "?([\w-]+)"?, subject: "([^"]+)" \}(?:, to: "([^"]+)")?[^}]*\}'
)


def read_back(text: str) -> dict[str, Written]:
    """Exports and imports of each account."""
    found = {}
    for block in re.split(r'\n  (?=")', text.partition("accounts {")[2]):
        if not block.strip():
            continue
        name = block.split('"')[1]
        _, _, after = block.partition("exports: [")
        exports = after.partition("\n    ]")[0]
        _, _, after = block.partition("imports: [")
        imports = after.partition("\n    ]")[0]
        out = [
            Crossing(m[1], m[2], tuple(re.findall(r"[\w-]+", m[3] or "")), "")
            for m in _EXPORT.finditer(exports)
        ]
        into = [Crossing(m[1], m[3], (m[2],), m[4] or m[3]) for m in _IMPORT.finditer(imports)]
        assert len(out) == exports.count("\n      ") and len(into) == imports.count("\n      "), block
        found[name] = Written(out, into)
    return found


people = st.dictionaries(
    st.from_regex(r"[a-z][a-z0-9_-]{0,5}", fullmatch=True), st.sampled_from(PersonRole), max_size=4
).map(lambda drawn: [Person(*one) for one in drawn.items()])
nodes = st.lists(st.from_regex(r"[a-z0-9-]{1,6}", fullmatch=True).map(NodeIdentity), max_size=4, unique=True)
rosters = st.tuples(people, nodes, st.sampled_from([[], [PageUser()]])).map(
    lambda drawn: [*(Control(role) for role in ControlRole), *drawn[0], *drawn[1], *drawn[2]]
)


@given(rosters)
def test_every_import_has_its_export_and_every_private_export_names_its_importer(roster: list[Known]) -> None:
    """An import without would have the server refuse the whole file, or be silent."""
    written = read_back(accounts_text([User(identity=one) for one in roster], by_web_socket=True))
    assert set(written) == {account(one) for one in roster}
    for name, block in written.items():
        for wanted in block.imports:
            (source,) = wanted.accounts
            assert source != name
            assert any(
                export.kind == wanted.kind
                and covers(export.subject, wanted.subject)
                and (not export.accounts or name in export.accounts)
                for export in written[source].exports
            ), (name, wanted)


@given(rosters)
def test_nobody_imports_what_was_not_granted(roster: list[Known]) -> None:
    written = read_back(accounts_text([User(identity=one) for one in roster], by_web_socket=True))
    given_to = {account(one): permissions_of(one) for one in roster if not isinstance(one, Control)}
    for name, may in given_to.items():
        sent = {subject for way, subject in may if way in (Way.SEND, Way.READ)}
        called = {f"trainshed.api.{subject}" for way, subject in may if way in (Way.CALL, Way.CALL_PEER)}
        heard = {subject for way, subject in may if way is Way.HEAR}
        for one in written[name].imports:
            if one.kind == "stream":
                assert any(covers(subject, one.subject) for subject in heard), (name, one)
            elif one.to in called:
                assert one.subject.split(".")[3] == name, "who asks is the account itself"
            else:
                assert one.subject in sent, (name, one)
                assert one.accounts == (CONTROL_ACCOUNT,)


@given(rosters)
def test_an_export_is_given_to_those_alone_to_whom_it_is_granted(roster: list[Known]) -> None:
    """A call's export is for several; whose name the subject bears is pinned by the account's position in it."""
    text = accounts_text([User(identity=one) for one in roster], by_web_socket=True)
    granted: dict[str, set[str]] = defaultdict(set)
    for one in roster:
        if not isinstance(one, Control):
            for way, subject in permissions_of(one):
                prefix = {Way.CALL: "trainshed.api.u.*.", Way.CALL_PEER: "trainshed.peer.u.*."}.get(way, "")
                granted[f"{prefix}{subject}"].add(account(one))
    for export in read_back(text)[CONTROL_ACCOUNT].exports:
        assert export.accounts and set(export.accounts) <= granted[export.subject], export
    for line in text.splitlines():
        if line.strip().startswith(('{ service: "trainshed.api.u.*.', '{ service: "trainshed.peer.u.*.')):
            mine = f"accounts: [{CONTROL_ACCOUNT}]" in line
            assert mine or "account_token_position: 4" in line, line


@given(rosters)
def test_each_is_one_user_of_the_text(roster: list[Known]) -> None:
    text = accounts_text([User(identity=one) for one in roster])
    assert sorted(re.findall(r'\{ user: "([^"]+)"', text)) == sorted(user_name(one) for one in roster)
    for one in roster:
        line = next(line for line in text.splitlines() if f'{{ user: "{user_name(one)}"' in line)
        assert ("permissions {" in line) == isinstance(one, Control | PageUser)


# --- covers ---------------------------------------------------------------------------------------------------

ALPHABET = ("a", "b")
SUBJECTS = [one for length in (1, 2, 3, 4) for one in product(ALPHABET, repeat=length)]
"""Literal subjects, more tokens than any pattern below has, so that `>` differs from a star."""


def matches(pattern: list[str], subject: tuple[str, ...]) -> bool:
    """NATS's rule for one literal subject, token by token."""
    match pattern:
        case []:
            return not subject
        case [">"]:
            return bool(subject)
        case [token, *rest]:
            return bool(subject) and token in ("*", subject[0]) and matches(rest, subject[1:])
    raise AssertionError(pattern)


patterns = st.tuples(
    st.lists(st.sampled_from(["a", "b", "*"]), max_size=3), st.sampled_from([[], [">"]])
).map(lambda drawn: [*drawn[0], *drawn[1]] or ["a"])


@given(patterns, patterns)
def test_covers_is_what_matching_every_subject_shows(pattern: list[str], subject: list[str]) -> None:
    every = all(matches(pattern, one) for one in SUBJECTS if matches(subject, one))
    shorter = (
        len(subject) <= 3 and len(pattern) <= 3
    )  # beyond, `SUBJECTS` has too few tokens to tell `>` from `*`
    if shorter:
        assert covers(".".join(pattern), ".".join(subject)) == every
    elif covers(".".join(pattern), ".".join(subject)):
        assert every
