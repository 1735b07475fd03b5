"""Names: no class name twice, no retired word, no word that is neither English nor in the glossary.

Owns the lists of what is allowed beside these; knows nothing of what the code does.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

from spellchecker import SpellChecker

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("services", "events", "projections", "client/trainshed_client")
GLOSSARY = ROOT / "docs" / "glossary.md"
MOST_ROWS = 60
MODULES_OF_A_WORD = 3

ABBREVIATIONS = frozenset(
    # The field's: of operating systems, networks and formats; of nats-py (nc, msg, ack); of Python (cls, args, ctx, enum).
    [
        "ack",
        "acks",
        "api",
        "args",
        "cert",
        "cls",
        "config",
        "configs",
        "cpu",
        "cpus",
        "ctx",
        "uid",
        "privs",
        "gid",
        "datagram",
        "enum",
        "env",
        "fd",
        "fds",
        "gpu",
        "gpus",
        "hostname",
        "http",
        "inbox",
        "init",
        "json",
        "lookup",
        "metadata",
        "mib",
        "msg",
        "nats",
        "nc",
        "ns",
        "pem",
        "pid",
        "pidfd",
        "pids",
        "repr",
        "seq",
        "seqs",
        "sha",
        "stderr",
        "stdout",
        "str",
        "tls",
        "uuid",
        "uuids",
        "uri",
        "url",
        "vkey",
        "backoff",
        "cgroups",
        "trainshed",
    ]
)
BRITISH = frozenset(["colour", "normalised", "utilisation"])  # the word list is American
ON_THE_WIRE = frozenset({"upto"})  # a field of NodeLeft: stored names never change

RETIRED = {
    **dict.fromkeys(("tell", "tells", "telling", "told"), "append, report, log or print"),
    **dict.fromkeys(("say", "says", "said", "saying"), "append, report, log or print"),
    **dict.fromkeys(("word", "words"), "event, report, message or text"),
    **dict.fromkeys(("settle", "settles", "settled", "settling"), "resolve, reconcile or choose"),
    **dict.fromkeys(("blank", "blanks"), "prepared"),
    **dict.fromkeys(("bury", "buries", "buried"), "finalise"),
    **dict.fromkeys(("keeper", "keepers"), "supervisor"),
    "census": "process list",
    "outlook": "explain",
    "standing": "queue position",
}
OTHERS_NAMES = frozenset({"tell"})  # file.tell(): the standard library's


def modules() -> Iterator[tuple[str, ast.Module]]:
    """(path, syntax tree) of every module of the packages."""
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            yield str(file.relative_to(ROOT)), ast.parse(file.read_text())


def parts(name: str) -> list[str]:
    """The words of an identifier."""
    found = (re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+", part) for part in name.split("_"))
    return [word.lower() for words in found for word in words if len(word) > 1]


def defined(tree: ast.Module) -> Iterator[str]:
    """Every name that a module gives: definitions, parameters, variables and attributes; not Python's own."""
    for node in ast.walk(tree):
        name = None
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                name = node.name
            case ast.arg():
                name = node.arg
            case ast.Name(ctx=ast.Store()):
                name = node.id
            case ast.Attribute(ctx=ast.Store()):
                name = node.attr
            case _:
                pass
        if name is not None and not name.startswith("__"):
            yield name


def twice(trees: Iterable[tuple[str, ast.Module]]) -> dict[str, list[str]]:
    """Class names that stand for two things, with their files."""
    found = defaultdict(list)
    for path, tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(path)
    return {name: paths for name, paths in found.items() if len(paths) > 1}


def strange(trees: Iterable[tuple[str, ast.Module]], known: frozenset[str]) -> dict[str, list[str]]:
    """Words of three modules or more that are neither known nor English, with their modules."""
    found: dict[str, set[str]] = defaultdict(set)
    for path, tree in trees:
        for name in (*defined(tree), Path(path).stem):
            for word in parts(name):
                found[word].add(path)
    english = SpellChecker(language="en")
    return {
        word: sorted(paths)
        for word, paths in sorted(found.items())
        if len(paths) >= MODULES_OF_A_WORD and word not in known and not english.known([word])
    }


def retired(trees: Iterable[tuple[str, ast.Module]]) -> dict[str, str]:
    """``path: name`` of identifiers with a word that was given up, and what is written instead."""
    return {
        f"{path}: {name}": RETIRED[word]
        for path, tree in trees
        for name in (*defined(tree), Path(path).stem)
        if name not in OTHERS_NAMES
        for word in parts(name)
        if word in RETIRED
    }


@cache
def glossary() -> Mapping[str, str]:
    """Word → file."""
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \| `([^`]+)` \|$", GLOSSARY.read_text(), re.MULTILINE)
    assert len(rows) == len(dict(rows)), "a word stands twice"
    return dict(rows)


def test_no_two_classes_bear_one_name() -> None:
    assert twice(modules()) == {}


def test_a_word_of_three_modules_is_english_or_in_the_glossary() -> None:
    known = frozenset(word for row in glossary() for word in row.split())
    assert strange(modules(), known | ABBREVIATIONS | BRITISH | ON_THE_WIRE) == {}


def test_what_was_given_up_does_not_come_back() -> None:
    assert retired(modules()) == {}


def test_the_glossary_is_short_and_names_files_that_use_its_words() -> None:
    rows = glossary()
    assert 0 < len(rows) <= MOST_ROWS
    assert len(rows) == GLOSSARY.read_text().count("\n| ") - 2, "a row is not: | word | meaning | `file` |"
    lost = {
        word: file
        for word, file in rows.items()
        if not (ROOT / file).exists() or not _used(word, f"{file} {(ROOT / file).read_text()}")
    }
    assert lost == {}


def _used(word: str, text: str) -> bool:
    return re.search(re.sub(r" ", r"[\\s_]*", word), text, re.IGNORECASE) is not None


def test_the_checks_find_what_they_are_for() -> None:
    one, two = ("a.py", ast.parse("class State: pass")), ("b.py", ast.parse("class State: pass"))
    assert twice([one, two]) == {"State": ["a.py", "b.py"]}
    odd = [(f"{n}.py", ast.parse("def take_frobnitz(): pass")) for n in "abc"]
    assert list(strange(odd, frozenset())) == ["frobnitz"]
    assert not strange(odd[:2], frozenset())
    assert list(retired([("a.py", ast.parse("def tell_node(): pass"))])) == ["a.py: tell_node"]
