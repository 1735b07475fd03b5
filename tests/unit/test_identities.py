"""Who connects: the names by which the server knows them, and who an account's name means."""

from __future__ import annotations

import pytest

from services.access.identities import (
    Control,
    ControlRole,
    Identity,
    NodeIdentity,
    Person,
    PersonRole,
    account,
    node_of,
    person_of,
    user_name,
)


def test_each_has_a_name_of_its_own() -> None:
    everybody: list[Identity] = [
        *(Control(role) for role in ControlRole),
        *(NodeIdentity(node) for node in ("gateway", "sam", "gpu01")),
        *(Person(name, PersonRole.ADMIN) for name in ("gateway", "sam", "gpu01")),
    ]
    assert len({user_name(one) for one in everybody}) == len(everybody)


def test_an_account_names_its_node_or_person_alone() -> None:
    assert node_of(account(NodeIdentity("gpu-01"))) == "gpu-01"
    assert person_of(account(Person("sam_2", PersonRole.VIEWER))) == "sam_2"
    assert node_of(account(Person("sam", PersonRole.VIEWER))) is None
    assert person_of(account(NodeIdentity("gpu01"))) is None
    assert account(Control(ControlRole.GATEWAY)) == account(Control(ControlRole.DISPATCHER))


@pytest.mark.parametrize(
    "name", ["", "P_", "NODE_", "P_../x", "P_Sam", "NODE_a.b", "NODE_*", "P_sam\n", "TRAINSHED"]
)
def test_other_accounts_are_nobody(name: str) -> None:
    assert person_of(name) is None
    assert node_of(name) is None
