"""The client on Python 3.9: a first look, without one, at what that version cannot read or does not have.

Owns that list. `make test-client` runs the client on a real 3.9, and only that proves anything.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from pathlib import Path

import pytest

CLIENT = Path(__file__).resolve().parents[2] / "client" / "trainshed_client"
FILES = sorted(CLIENT.rglob("*.py"))
LATER = {
    "asyncio": {"timeout", "timeout_at", "TaskGroup", "Runner", "Barrier"},
    "builtins": {"aiter", "anext", "BaseExceptionGroup", "ExceptionGroup", "EncodingWarning"},
    "contextlib": {"aclosing", "chdir"},
    "datetime": {"UTC"},
    "enum": {"StrEnum", "IntFlag.KEEP", "member", "nonmember", "verify"},
    "hashlib": {"file_digest"},
    "inspect": {"get_annotations"},
    "itertools": {"pairwise", "batched"},
    "types": {"EllipsisType", "NoneType", "UnionType"},
    "typing": {
        "Never",
        "NotRequired",
        "ParamSpec",
        "Required",
        "Self",
        "TypeAlias",
        "TypeGuard",
        "assert_never",
        "override",
    },
}
"""Module → names that are newer than Python 3.9."""
STAND_INS = {"_compat.py", "_compat_asyncio.py"}
"""They ask for the version."""
OTHER_PROGRAMS = {"launch.py"}
"""The start of the command line, which is Trainshed's own."""


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(CLIENT)))
def test_python_3_9_can_read_it_and_has_what_it_uses(file: Path) -> None:
    tree = ast.parse(file.read_text(), feature_version=(3, 9))
    if file.name not in STAND_INS | OTHER_PROGRAMS:
        assert list(too_new(tree)) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "import asyncio\nasync def f():\n    async with asyncio.timeout(1): pass",
            "line 3: asyncio.timeout",
        ),
        ("from typing import Self", "line 1: typing.Self"),
        ("class A(msgspec.Struct):\n    a: int | None", "line 2: | in a struct's field"),
        ("class B(Answer, frozen=True):\n    a: list[int | None]", "line 2: | in a struct's field"),
        ("Both = Callable[[int | None], int]", "line 1: | between types"),
        ("zip(a, b, strict=True)", "line 1: zip(strict=)"),
        ("@dataclass(slots=True)\nclass A: pass", "line 2: dataclass(slots=)"),
        ("isinstance(a, int | str)", "line 1: | between types"),
        ("def f(a: int | None) -> None: ...\nx: int | None = None", None),
        ("if TYPE_CHECKING:\n    from typing import Self", None),
    ],
)
def test_what_is_too_new_is_found(text: str, found: str | None) -> None:
    assert list(too_new(ast.parse(text))) == ([found] if found else [])


def too_new(tree: ast.AST) -> Iterator[str]:
    """What of a module's code is evaluated and needs a later Python."""
    for node in _evaluated(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if alias.name in LATER.get(node.module or "", ()):
                    yield f"line {node.lineno}: {node.module}.{alias.name}"
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.attr in LATER.get(node.value.id, ()):
                yield f"line {node.lineno}: {node.value.id}.{node.attr}"
        elif isinstance(node, ast.Name) and node.id in LATER["builtins"]:
            yield f"line {node.lineno}: {node.id}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "zip":
            if any(given.arg == "strict" for given in node.keywords):
                yield f"line {node.lineno}: zip(strict=)"
        elif isinstance(node, ast.ClassDef):
            yield from _class(node)
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr) and _is_type(node.right):
            yield f"line {node.lineno}: | between types"


def _class(node: ast.ClassDef) -> Iterator[str]:
    for decorator in node.decorator_list:
        for given in decorator.keywords if isinstance(decorator, ast.Call) else ():
            if given.arg in ("slots", "kw_only"):
                yield f"line {node.lineno}: dataclass({given.arg}=)"
    bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
    if not bases or bases & {"NamedTuple", "Protocol", "Exception", "TypedDict"}:
        return
    for field in node.body:
        if isinstance(field, ast.AnnAssign) and any(
            isinstance(part, ast.BinOp) for part in ast.walk(field.annotation)
        ):
            yield f"line {field.lineno}: | in a struct's field"


def _is_type(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        return node.value is None
    return isinstance(node, ast.Name) and (
        node.id in vars(builtins) or node.id[:1].isupper() and not node.id.isupper()
    )


def _evaluated(node: ast.AST) -> Iterator[ast.AST]:
    """Every node but annotations, which `from __future__ import annotations` leaves as text, and what is for type checkers."""
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns"):
            continue
        if isinstance(node, ast.If) and name == "body" and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, ast.AST):
                yield from _evaluated(inner)
