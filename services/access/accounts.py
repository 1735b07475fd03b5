"""The server's accounts and users, as text of nats-server's configuration: made of who there is and what each may do.

Owns that translation (docs/security.md); knows no subject of its own, writes no file and runs nothing.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from services.access.identities import (
    CONTROL_ACCOUNT,
    SYSTEM_ACCOUNT,
    Control,
    Known,
    NodeIdentity,
    PageUser,
    Person,
    account,
    user_name,
)
from services.access.permissions import (
    LOG_INFO,
    Permission,
    Permissions,
    Way,
    is_answered_by_many,
    permissions_of,
)
from services.nats_server.web_socket import INBOX_PREFIX
from trainshed_client import subjects

ANSWERS_ABROAD = "_R_.>"
"""Where the server has what other accounts ask answered: it makes each such subject anew, too long to be guessed."""
_TOKEN = 4
"""Of ``trainshed.api.u.<account>.…``: the server itself sees to what stands there."""


class User(msgspec.Struct, frozen=True, kw_only=True):
    """Someone whom the server lets in. ``password`` None: by his certificate (verify and map) alone.

    ``confined`` False: one of the control side who may do whatever his account can, on a server of his own.
    """

    identity: Known
    password: str | None = None
    confined: bool = True


class AccountLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one account may hold open at once."""

    connections: int
    subscriptions: int
    payload: str


_NODE_LIMITS = AccountLimits(connections=4, subscriptions=2_000, payload="1MB")
_PERSON_LIMITS = AccountLimits(connections=400, subscriptions=20_000, payload="1MB")
_PAGE_LIMITS = AccountLimits(connections=100, subscriptions=1_000, payload="64KB")


def inbox_prefix(identity: Known) -> str | None:
    """Below which this one's answers come; None where his account is his own and any will do."""
    match identity:
        case Control(role):
            return f"_INBOX_{role}"
        case PageUser():
            return INBOX_PREFIX
        case _:
            return None


def accounts_text(users: Sequence[User], *, by_web_socket: bool = False) -> str:
    """The ``accounts`` block, and which of them is the system's where it has a user. ``by_web_socket``: a listener for pages is
    there, which takes pages alone.

    Raises ValueError where nobody of the control side is among them: the server would be open, or of no use.
    """
    given = [(user, permissions_of(user.identity)) for user in users]
    control = [(user, may) for user, may in given if account(user.identity) == CONTROL_ACCOUNT]
    system = [(user, may) for user, may in given if account(user.identity) == SYSTEM_ACCOUNT]
    if not control:
        raise ValueError("no user of the control side")
    others = [(user, may) for user, may in given if not isinstance(user.identity, Control)]
    shown = [
        (account(user.identity), subject) for user, may in others for way, subject in may if way is Way.SHOW
    ]
    types = ["STANDARD"] if by_web_socket else []
    blocks = [
        _block(
            CONTROL_ACCOUNT,
            ["jetstream: enabled", _peer_mappings(others)],
            [_user(user, may, types) for user, may in control],
            list(_control_exports(others)),
            list(_control_imports(others)),
        )
    ]
    for user, may in others:
        blocks.append(
            _block(
                account(user.identity),
                [_limited(_limits(user.identity))],
                [_user(user, may, ["WEBSOCKET"] if isinstance(user.identity, PageUser) else types)],
                list(_own_exports(may)),
                list(_own_imports(user.identity, may, shown)),
            )
        )
    named = f"system_account: {SYSTEM_ACCOUNT}\n" if system else ""
    if system:
        blocks.append(_block(SYSTEM_ACCOUNT, [], [_user(user, may, types) for user, may in system], [], []))
    return named + "accounts {\n" + "\n".join(blocks) + "\n}\n"


def _limits(identity: Known) -> AccountLimits:
    match identity:
        case NodeIdentity():
            return _NODE_LIMITS
        case PageUser():
            return _PAGE_LIMITS
        case _:
            return _PERSON_LIMITS


def _limited(limits: AccountLimits) -> str:
    return (
        f"limits {{ max_connections: {limits.connections}, max_subscriptions: {limits.subscriptions}, "
        f"max_payload: {limits.payload} }}"
    )


def _block(name: str, settings: list[str], users: list[str], exports: list[str], imports: list[str]) -> str:
    lines = [*settings, _listing("users", users), _listing("exports", exports), _listing("imports", imports)]
    return f"  {quoted(name)}: {{\n" + "".join(f"    {line}\n" for line in lines if line) + "  }"


def _listing(name: str, entries: list[str]) -> str:
    return f"{name}: [\n      " + "\n      ".join(entries) + "\n    ]" if entries else ""


# --- users ------------------------------------------------------------------------------------------------


def _user(user: User, may: Permissions, types: list[str]) -> str:
    parts = [f"user: {quoted(user_name(user.identity))}"]
    if user.password is not None:
        parts.append(f"password: {quoted(user.password)}")
    if types:
        parts.append(f"allowed_connection_types: [{', '.join(types)}]")
    match user.identity:
        case Control() if not user.confined:
            pass
        case Control() | PageUser():
            parts.append(f"permissions {{ {_user_permissions(user.identity, may)} }}")
        case NodeIdentity() | Person():
            pass  # what crosses the border of the account is all that there is to reach
    return f"{{ {', '.join(parts)} }}"


def _user_permissions(identity: Known, may: Permissions) -> str:
    publish, subscribe, answers = [], [f"{inbox_prefix(identity)}.>"], False
    for way, subject in may:
        match way:
            case Way.SEND | Way.READ | Way.SHOW:
                publish.append(subject)
            case Way.CALL | Way.CALL_PEER:
                publish.append(subjects.api(subject))
            case Way.HEAR:
                subscribe.append(subject)
            case Way.ANSWER:
                subscribe.append(subject)
                answers = True
    if answers:
        # Not `allow_responses`: who may send what he hears himself could then publish anything, by a reply subject.
        publish += [ANSWERS_ABROAD, f"{inbox_prefix(identity)}.>"]
    return f"publish: [{_listed(publish)}], subscribe: [{_listed(subscribe)}]"


# --- what crosses the borders of accounts -------------------------------------------------------------------

Given = Sequence[tuple[User, Permissions]]


def _control_exports(others: Given) -> Iterator[str]:
    """What the control account gives to others, each subject once, with those to whom it is given."""
    to: dict[Permission, list[str]] = defaultdict(list)
    for user, may in others:
        for permission in may:
            to[permission].append(account(user.identity))
    for (way, subject), accounts in to.items():
        given = f"accounts: [{_listed(accounts)}]"
        match way:
            case Way.SEND:
                yield f"{{ service: {quoted(subject)}, {given} }}"
            case Way.READ:  # without `response` the first message alone would arrive
                yield f"{{ service: {quoted(subject)}, {given}, response: stream }}"
            case Way.CALL:
                yield _call_export(subjects.api_as(subject), subject, given)
            case Way.CALL_PEER:
                yield _call_export(subjects.peer_as(subject), subject, given)
            case Way.HEAR:
                yield f"{{ stream: {quoted(subject)}, {given} }}"
            case Way.ANSWER | Way.SHOW:
                pass


def _call_export(asked: str, call: str, given: str) -> str:
    many = ", response: stream" if is_answered_by_many(call) else ""
    return f"{{ service: {quoted(asked)}, {given}, account_token_position: {_TOKEN}{many} }}"


def _peer_mappings(others: Given) -> str:
    """A node that imported what it answers itself would be a cycle: it asks under another name, which is put right here."""
    calls = {subject for _, may in others for way, subject in may if way is Way.CALL_PEER}
    lines = []
    for call in sorted(calls):
        to = subjects.api_as(call).replace("*", "{{wildcard(1)}}", 1).replace("*", "{{wildcard(2)}}", 1)
        lines.append(f"{quoted(subjects.peer_as(call))}: {quoted(to)}")
    return f"mappings: {{ {', '.join(lines)} }}" if lines else ""


def _control_imports(others: Given) -> Iterator[str]:
    """What others answer and show: the control account has it, and so have those to whom it gives that on."""
    for user, may in others:
        for way, subject in may:
            if way is Way.ANSWER:
                asked = quoted(subjects.api_as(subject))
                yield f"{{ service: {{ account: {quoted(account(user.identity))}, subject: {asked} }} }}"
            elif way is Way.SHOW:
                yield f"{{ stream: {{ account: {quoted(account(user.identity))}, subject: {quoted(subject)} }} }}"


def _own_exports(may: Permissions) -> Iterator[str]:
    for way, subject in may:
        if way is Way.ANSWER:
            asked = quoted(subjects.api_as(subject))
            yield f"{{ service: {asked}, accounts: [{CONTROL_ACCOUNT}], response: stream }}"
        elif way is Way.SHOW:
            yield f"{{ stream: {quoted(subject)} }}"


def _own_imports(identity: Known, may: Permissions, shown: Sequence[tuple[str, str]]) -> Iterator[str]:
    """``shown``: what is shown by which account. A stream that was imported cannot be handed on, so each imports it there."""
    for way, subject in may:
        match way:
            case Way.SEND if subject == LOG_INFO:
                # Its own name is that of the account's own JetStream, and which account is asked has to be handed on.
                yield f"{{ service: {_of_control(subject)}, to: {quoted(subjects.LOG_INFO)}, share: true }}"
            case Way.SEND | Way.READ:
                yield f"{{ service: {_of_control(subject)} }}"
            case Way.HEAR:
                yield f"{{ stream: {_of_control(subject)} }}"
                for by, one in shown:
                    if covers(subject, one) and by != account(identity):
                        yield f"{{ stream: {{ account: {quoted(by)}, subject: {quoted(one)} }} }}"
            case Way.CALL | Way.CALL_PEER:
                every = subjects.api_as(subject) if way is Way.CALL else subjects.peer_as(subject)
                asked = every.replace("*", account(identity), 1)
                yield f"{{ service: {_of_control(asked)}, to: {quoted(subjects.api(subject))} }}"
            case Way.ANSWER | Way.SHOW:
                pass


def _of_control(subject: str) -> str:
    return f"{{ account: {CONTROL_ACCOUNT}, subject: {quoted(subject)} }}"


def covers(pattern: str, subject: str) -> bool:
    """Whether all that ``subject`` matches, wildcards and all, is matched by ``pattern``."""
    wanted, there = pattern.split("."), subject.split(".")
    for place, token in enumerate(wanted):
        if token == ">":
            return len(there) > place
        if place >= len(there) or there[place] == ">" or token not in ("*", there[place]):
            return False
    return len(wanted) == len(there)


def _listed(texts: Iterable[str]) -> str:
    return ", ".join(quoted(text) for text in texts)


def quoted(text: str) -> str:
    """A string of nats-server's configuration language; JSON's escapes are its own, non-ASCII stays as it is."""
    return json.dumps(text, ensure_ascii=False)
