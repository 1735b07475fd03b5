"""Who connects to the stack's NATS server: the roles of the control side, nodes and people; how each is called there.

Owns these names; knows nothing of what anybody may do, nor of how he proves who he is.
"""

from __future__ import annotations

import enum
import re
from typing import TypeAlias, assert_never

import msgspec

from services.nats_server.web_socket import WEB_USER
from services.setting_values import NODE_NAME

CONTROL_ACCOUNT = "TRAINSHED"
"""The account that the streams belong to."""
SYSTEM_ACCOUNT = "SYS"
"""Where nats-server answers for itself; without a user, but in a stack of containers."""
PAGES_ACCOUNT = "PAGES"
LOCAL = "local"
"""The person who started the stack on this machine."""
PERSON_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}\Z")
"""As users of a Unix machine are called: they stand in a subject, an account's name and a certificate."""
_NODE_ACCOUNT = "NODE_"
_PERSON_ACCOUNT = "P_"
_DOMAIN = "trainshed"


class ControlRole(enum.StrEnum):
    """The control side's own processes; each connects as a user of its own, all but one in one account."""

    OPERATOR = "operator"
    """Makes the streams and hears what passes; `up` and the init service alone."""
    GATEWAY = "gateway"
    DISPATCHER = "dispatcher"
    PROJECTOR = "projector"
    ENROL = "enrol"
    RELOADER = "reloader"
    """Has servers in containers of their own read their configuration anew: `enrol` of compose.yaml alone, in the system account."""


class PersonRole(enum.StrEnum):
    """What a person may do; each may do what the one before may."""

    VIEWER = "viewer"
    SUBMITTER = "submitter"
    ADMIN = "admin"


class Control(msgspec.Struct, frozen=True):
    """A process of the control side."""

    role: ControlRole


class NodeIdentity(msgspec.Struct, frozen=True):
    """A node's agent."""

    node: str


class Person(msgspec.Struct, frozen=True):
    """A person, or a program that acts for one."""

    name: str
    role: PersonRole


class PageUser(msgspec.Struct, frozen=True):
    """A page in a browser, of `up --websocket`: all of them are one user."""


Identity: TypeAlias = Control | NodeIdentity | Person
Known: TypeAlias = Identity | PageUser
"""Everybody whom the server may let in."""


def user_name(identity: Known) -> str:
    """As the server knows it: the user who logs in, and the one name (SAN DNS) of his certificate."""
    match identity:
        case Control(role):
            return f"{role}.ctl.{_DOMAIN}"
        case NodeIdentity(node):
            return f"{node}.node.{_DOMAIN}"
        case Person(name):
            return f"{name}.user.{_DOMAIN}"
        case PageUser():
            return WEB_USER
        case _ as never:
            assert_never(never)


def account(identity: Known) -> str:
    """The account that he is a user of; one each for nodes and people, so that the server vouches for it."""
    match identity:
        case Control(role):
            return SYSTEM_ACCOUNT if role is ControlRole.RELOADER else CONTROL_ACCOUNT
        case NodeIdentity(node):
            return f"{_NODE_ACCOUNT}{node}"
        case Person(name):
            return f"{_PERSON_ACCOUNT}{name}"
        case PageUser():
            return PAGES_ACCOUNT
        case _ as never:
            assert_never(never)


def person_of(account_name: str) -> str | None:
    """The person whose account that is; None where it is no person's."""
    name = account_name.removeprefix(_PERSON_ACCOUNT)
    return name if name != account_name and PERSON_NAME.match(name) else None


def node_of(account_name: str) -> str | None:
    """The node whose account that is; None where it is no node's."""
    node = account_name.removeprefix(_NODE_ACCOUNT)
    return node if node != account_name and NODE_NAME.fullmatch(node) else None
