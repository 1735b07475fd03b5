"""C2SP's tlog-policy: what such a file may say, what is wrong with one by its line, and which checkpoints are valid by it."""

from __future__ import annotations

import random

import pytest

from projections.transparency.checkpoint import TreeHead
from projections.transparency.note import KeyKind, Note, SignerKey, VerifierKey
from projections.transparency.policy import OPTION, WitnessPolicy, parse_policy
from trainshed_client.errors import ErrorCode, TrainshedError

LOG = SignerKey("trainshed/0197", KeyKind.ED25519, b"l" * 32)
OTHER_LOG = SignerKey("trainshed/0198", KeyKind.ED25519, b"o" * 32)
NODES = {
    name: SignerKey(f"{LOG.name}/{name}", KeyKind.COSIGNATURE, name.encode().ljust(32, b"."))
    for name in ("x1", "x2", "x3", "y1", "y2", "y3")
}
KEYS = {name: str(key.verifier) for name, key in NODES.items()}
TWO_LEVELS = "\n".join(
    [
        "# an example",
        f"log {LOG.verifier}",
        "",
        *(f"witness {name} {key}" for name, key in KEYS.items()),
        "group x 2 x1 x2 x3",
        "group y any y1 y2 y3",
        "\tgroup both  all\tx y ",
        "quorum both",
    ]
)


def policy(*lines: str) -> WitnessPolicy:
    return parse_policy("\n".join(lines).encode())


def signers(*names: str, log: SignerKey | None = LOG) -> tuple[VerifierKey, ...]:
    keys = [NODES[name].verifier for name in names]
    return tuple(keys if log is None else [log.verifier, *keys])


@pytest.mark.parametrize(
    ("names", "lacking"),
    [
        (("x1", "x3", "y2"), None),
        (("x1", "x2", "x3", "y1", "y2", "y3"), None),
        (("x1", "x3"), "1 of (a cosignature of y1, a cosignature of y2, a cosignature of y3)"),
        (("x1", "y1"), "1 of (a cosignature of x2, a cosignature of x3)"),
        (("y1", "y2", "y3"), "2 of (a cosignature of x1, a cosignature of x2, a cosignature of x3)"),
    ],
)
def test_a_quorum_of_groups(names: tuple[str, ...], lacking: str | None) -> None:
    read = parse_policy(TWO_LEVELS.encode())
    assert read.lacks(LOG.name, signers(*names)) == lacking
    assert read.cosigners(signers(*names)) == names


def test_one_of_the_logs_must_have_signed_under_its_own_name() -> None:
    read = policy(f"log {LOG.verifier}", f"log {OTHER_LOG.verifier} https://example.org/log", "quorum none")
    lacking = "the signature of a log of the policy"
    assert read.lacks(LOG.name, signers()) is None
    assert read.lacks(OTHER_LOG.name, signers(log=OTHER_LOG)) is None
    assert read.lacks(LOG.name, signers(log=None)) == lacking
    assert read.lacks(LOG.name, signers(log=OTHER_LOG)) == lacking


def test_a_quorum_may_be_one_witness() -> None:
    read = policy(f"log {LOG.verifier}", f"witness w {KEYS['x1']} https://x1.example", "quorum w")
    assert read.lacks(LOG.name, signers("x2")) == "a cosignature of w"
    assert read.lacks(LOG.name, signers("x1")) is None


def test_only_signatures_of_the_policys_keys_count_and_these_must_hold() -> None:
    read = policy(f"log {LOG.verifier}", f"witness w {KEYS['x1']}", "quorum w")
    text = TreeHead(LOG.name, 5, bytes(32)).text
    lines = (LOG.sign(text), NODES["x1"].sign(text, 7), NODES["x2"].sign(text, 7))
    assert read.signers(Note(text, lines)) == signers("x1")
    assert read.signers(Note(text, lines[2:])) == ()
    other = NODES["x1"].sign(text.replace("5", "6"), 7)
    with pytest.raises(TrainshedError, match="the signature of .*/x1 does not hold"):
        read.signers(Note(text, (lines[0], other)))


WITNESS = f"witness x1 {KEYS['x1']}"


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("logs x", "begins with 'logs'; expected: log, witness, group, quorum or #"),
        ("log", "expected: `log VKEY"),
        (f"log {LOG.verifier} u more", "expected: `log VKEY"),
        ("log nonsense", "not a key as NAME"),
        (f"log {LOG.verifier}", "has the key of a log above"),
        (f"log {KEYS['x2']}", "expected: a log's key, which begins with 1"),
        (f"log {str(OTHER_LOG.verifier).replace('8+', '9+', 1)}", "its key id is"),
        (f"witness {KEYS['x2']}", "expected: `witness NAME VKEY"),
        (f"witness x1 {KEYS['x2']}", "the name 'x1' is taken"),
        (f"witness none {KEYS['x2']}", "the name 'none' is taken"),
        (f"witness again {KEYS['x1']}", "the witness again has the key of x1"),
        (f"witness x2 {OTHER_LOG.verifier}", "expected: a key for cosignatures, which begins with 4"),
        ("group g all", "expected: `group NAME"),
        ("group g none x1", "'none' of 1 members; expected: all, any or a number from 1 to 1"),
        ("group g 0 x1", "expected: all, any or a number from 1 to 1"),
        ("group g 2 x1", "expected: all, any or a number from 1 to 1"),
        ("group g 01 x1", "expected: all, any or a number from 1 to 1"),
        (f"group g {'9' * 5000} x1", "expected: all, any or a number from 1 to 1"),
        ("group g any x1 x1", "x1 is in the group g already"),
        ("group g any g", "no witness and no group above is called 'g'"),
        ("group g any none", "no witness and no group above is called 'none'"),
        ("group x1 any x1", "the name 'x1' is taken"),
        ("quorum later", "no witness and no group above is called 'later'"),
        ("quorum x1 x1", "expected: `quorum NAME`"),
        ("quorum", "expected: `quorum NAME`"),
        ("quorum x1\r", "the control character 0x0d"),
        (f"witness x2\u00a0{KEYS['x2']}", "expected: `witness NAME VKEY"),
    ],
)
def test_what_is_wrong_is_named_by_its_line(line: str, wrong: str) -> None:
    text = "\n".join([f"log {LOG.verifier}", WITNESS, line, "quorum x1"])
    with pytest.raises(TrainshedError) as refused:
        parse_policy(text.encode(), "my.policy")
    assert (refused.value.code, refused.value.path) == (ErrorCode.INVALID, OPTION)
    assert refused.value.message.startswith("my.policy, line 3: ")
    assert wrong in refused.value.message


def test_there_is_one_quorum() -> None:
    with pytest.raises(TrainshedError, match="has no line `quorum NAME`"):
        policy(WITNESS)
    with pytest.raises(TrainshedError, match="line 3: a second quorum"):
        policy(WITNESS, "quorum none", "quorum x1")


def test_names_are_octets_that_are_told_apart_and_shown_escaped() -> None:
    lines = [b"witness \xe2\x84\xaa " + KEYS["x1"].encode(), b"witness \xff " + KEYS["x2"].encode()]
    read = parse_policy(b"\n".join([*lines, b"group both all \xff \xe2\x84\xaa", b"quorum both"]))
    assert len(read.witnesses) == 2
    assert read.cosigners(signers("x1", "x2")) == ("\u212a", "\\xff")
    assert read.lacks(LOG.name, signers("x1", log=None)) == "the signature of a log of the policy"
    with pytest.raises(TrainshedError) as refused:
        parse_policy(b"\n".join([*lines, b"quorum \xfe"]))
    assert refused.value.message.encode()  # it can be printed
    with pytest.raises(TrainshedError, match="a key's name is not UTF-8"):
        parse_policy(b"witness a \xff+00000000+" + KEYS["x1"].split("+", 2)[2].encode())


def test_groups_may_lie_deep_in_one_another() -> None:
    deep = [f"group g{number} any g{number - 1}" for number in range(1, 3000)]
    read = policy(f"log {LOG.verifier}", WITNESS, "group g0 any x1", *deep, "quorum g2999")
    assert read.lacks(LOG.name, signers("x2")) == "a cosignature of x1"
    assert read.lacks(LOG.name, signers("x1")) is None


@pytest.mark.parametrize("seed", range(200))
def test_a_random_policy_is_met_exactly_where_its_groups_are(seed: int) -> None:
    dice = random.Random(seed)
    lines = [f"log {LOG.verifier}", *(f"witness {name} {key}" for name, key in KEYS.items())]
    free, groups = list(KEYS), dict[str, tuple[int, list[str]]]()
    while len(free) > 1 and len(groups) < 4:
        members = dice.sample(free, dice.randint(1, len(free)))
        name, least = f"g{len(groups)}", dice.randint(1, len(members))
        groups[name] = least, members
        free = [each for each in free if each not in members] + [name]
        lines.append(f"group {name} {least} {' '.join(members)}")
    quorum = dice.choice([*KEYS, *groups])
    read = policy(*lines, f"quorum {quorum}")

    def met(name: str, names: list[str]) -> bool:
        if name not in groups:
            return name in names
        least, members = groups[name]
        return sum(met(member, names) for member in members) >= least

    for _ in range(10):
        names = dice.sample(list(KEYS), dice.randint(0, len(KEYS)))
        assert (read.lacks(LOG.name, signers(*names)) is None) == met(quorum, names)
