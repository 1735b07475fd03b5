"""Why a role is not heard: the client's rule is the server's."""

from __future__ import annotations

import json

import pytest

from services.access.identities import Person, PersonRole
from services.access.table import CALLS, may_call
from trainshed_client import subjects
from trainshed_client.errors import ErrorCode
from trainshed_client.roles import lacking

OF_PEOPLE = [call for call in CALLS if not call.startswith("w.")]


def health(role: str | None) -> bytes:
    return json.dumps({"v": 1, "ok": True, **({"person": "vic", "role": role} if role else {})}).encode()


@pytest.mark.parametrize("role", list(PersonRole))
@pytest.mark.parametrize("call", OF_PEOPLE)
def test_who_is_called_denied_is_whom_the_server_does_not_let_call(call: str, role: PersonRole) -> None:
    denied = lacking(subjects.api(call), health(role))
    assert (denied is None) == may_call(Person("vic", role), call)


def test_the_sentence() -> None:
    denied = lacking(subjects.api("run.submit"), health("viewer"))
    assert denied is not None
    assert denied.code is ErrorCode.DENIED
    assert str(denied) == (
        "vic is a viewer here, who reads and changes nothing; run.submit takes the role submitter. On the control side's "
        "machine: trainshed user add vic --role submitter"
    )


@pytest.mark.parametrize("answer", [health(None), health("owner of a later release"), b"", b"[]", b"{"])
def test_without_a_role_that_is_known_it_is_not_that(answer: bytes) -> None:
    assert lacking(subjects.api("run.submit"), answer) is None
