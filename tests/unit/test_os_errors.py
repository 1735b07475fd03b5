"""No text of ours shows the number of a system's error: wherever one is caught and shown, `cause` makes the text."""

from __future__ import annotations

import ast
import builtins
import errno
import os
from collections.abc import Iterator

import pytest

from tests.unit.test_names import modules
from trainshed_client.os_errors import cause

OWN_TEXT = ("services/agent/shim/",)
"""Standard library only, with a `why` of its own."""


def of_the_system(kind: ast.expr | None) -> bool:
    """Whether what is caught may be an OSError."""
    names = kind.elts if isinstance(kind, ast.Tuple) else [kind]
    kinds = [getattr(builtins, name.id, None) for name in names if isinstance(name, ast.Name)]
    return any(isinstance(one, type) and issubclass(one, OSError) for one in kinds)


def shown_raw(tree: ast.AST) -> Iterator[int]:
    """The lines on which a caught OSError becomes text by itself."""
    for handler in ast.walk(tree):
        if (
            not isinstance(handler, ast.ExceptHandler)
            or handler.name is None
            or not of_the_system(handler.type)
        ):
            continue
        for node in ast.walk(handler):
            match node:
                case ast.Call(func=ast.Name(id="str" | "repr"), args=[ast.Name(id=name)]) if (
                    name == handler.name
                ):
                    yield node.lineno
                case ast.FormattedValue(value=ast.Name(id=name)) if name == handler.name:
                    yield node.lineno
                case ast.Attribute(value=ast.Name(id=name), attr="strerror") if name == handler.name:
                    yield node.lineno
                case _:
                    pass


def test_no_error_of_the_system_is_shown_as_python_shows_it() -> None:
    found = [
        f"{path}:{line}"
        for path, tree in modules()
        if not path.startswith(OWN_TEXT)
        for line in shown_raw(tree)
    ]
    assert found == []


def test_such_a_text_of_a_handler_is_found() -> None:
    seeded = "try: f()\nexcept (ValueError, PermissionError) as e:\n  g(str(e))\n  g(f'{e}')\n  g(e.strerror)\nexcept KeyError as e: g(str(e))"
    assert sorted(shown_raw(ast.parse(seeded))) == [3, 4, 5]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "/a"), "/a: no such file or directory"),
        (OSError(errno.EXDEV, os.strerror(errno.EXDEV), "/a", None, "/b"), "/b: invalid cross-device link"),
        (OSError("the spawner ended"), "the spawner ended"),
        (TimeoutError(), "no answer in time"),
        (ConnectionRefusedError(111, "Connect call failed ('127.0.0.1', 1)"), "connection refused"),
        (
            OSError("Multiple exceptions: [Errno 111] Connect call failed, [Errno 111] x"),
            "connection refused",
        ),
        (ConnectionResetError("Connection lost"), "connection lost"),
        (ValueError("'no number'"), "no number"),
    ],
)
def test_a_cause_is_text_that_begins_small(error: Exception, text: str) -> None:
    assert cause(error) == text
