"""The blocking face of the client, written from the asynchronous one: `python -m tests.support.sync_face` after a change.

Owns how each of its methods becomes one that waits; a test compares the file with what this writes.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

CLIENT = Path(__file__).resolve().parents[2] / "client" / "trainshed_client"
FILE = CLIENT / "sync.py"
CLASSES = {
    "commands": "CommandCalls",
    "following": "FollowingCalls",
    "file_calls": "FileCalls",
    "queries": "QueryCalls",
    "calls": "Calls",
}
LEFT_OUT = {"get_json", "explain_json", "slots_json", "nodes_json", "request", "where", "watching"}
"""The same as the server's text, for the command line; and what is in the base class."""
ITERATED = {
    "RecordWatch": "Iteration",
    "AsyncIterator": "Iteration",
    "RunOutput": "RunIteration",
    "RunLines": "RunIteration",
    "EventStream": "Iteration",
}
YIELDS = {"RunOutput": "OutputChunk", "EventStream": "LogEvent", "RecordWatch": "{} | Gone | PresentMarker"}

HEAD = '''"""The blocking face of the client: every call of the asynchronous one, each waited for.

Owns nothing. Generated from that face by `make sync-face`: do not edit; a test holds the two together.
"""

from __future__ import annotations

{imports}

class SyncTrainshed(SyncConnection):
    """A connection to a stack for code that blocks: ``with Trainshed.sync() as trainshed: ...``.

    Every method does what the one of that name of `Trainshed` does, and waits for it. It is for any number of threads, also
    inside a running event loop, as in Jupyter; callbacks are called on its own thread.
    """
'''


def text() -> str:
    """What the file is to hold."""
    names: dict[str, str] = {
        "Iteration": "trainshed_client.sync_base",
        "RunIteration": "trainshed_client.sync_base",
        "SyncConnection": "trainshed_client.sync_base",
        "OutputChunk": "trainshed_client.output_range",
        "LogEvent": "trainshed_client.log_reading.log_event",
        "Gone": "trainshed_client.watching.newest",
        "PresentMarker": "trainshed_client.watching.newest",
    }
    methods = []
    for module, name in CLASSES.items():
        tree = ast.parse((CLIENT / f"{module}.py").read_text())
        names |= dict(_imported(tree))
        (found,) = (one for one in tree.body if isinstance(one, ast.ClassDef) and one.name == name)
        methods += [
            _method(one)
            for one in found.body
            if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)
            and not one.name.startswith("_")
            and one.name not in LEFT_OUT
        ]
    body = "\n".join(methods)
    return _formatted(HEAD.replace("{imports}", _imports(body, names)) + "\n" + body)


def _method(source: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    assert source.returns is not None
    given = [one.arg for one in source.args.args[1:]] + [
        f"{one.arg}={one.arg}" for one in source.args.kwonlyargs
    ]
    call = f"self._trainshed.{source.name}({', '.join(given)})"
    returns, how = ast.unparse(source.returns), "self._portal.run"
    kind, _, inner = returns.partition("[")
    if kind in ITERATED:
        yields = YIELDS.get(kind, "{}").format(inner[:-1])
        returns, how = f"{ITERATED[kind]}[{yields}]", f"{ITERATED[kind]}"
    made = f"{how}(lambda: {call})" if how == "self._portal.run" else f"{how}(self._portal, lambda: {call})"
    doc = (ast.get_docstring(source) or "").replace("async with", "with").replace("async for", "for")
    doc = doc.replace("\n", "\n        ").replace("\n        \n", "\n\n")
    end = "\n        " if "\n" in doc else ""
    return (
        f"    def {source.name}({ast.unparse(source.args)}) -> {returns}:\n"
        f'        """{doc}{end}"""\n        return {made}\n'
    )


def _imported(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((alias.name, node.module) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)


def _imports(body: str, names: dict[str, str]) -> str:
    tree = ast.parse("class A:\n" + body)
    written = [
        part
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        for part in (node.args, node.returns)
        if part is not None
    ]
    used = {node.id for part in written for node in ast.walk(part) if isinstance(node, ast.Name)}
    used.add("SyncConnection")
    at_run_time = {"Iteration", "RunIteration", "SyncConnection", "CALL_TIMEOUT_S"}
    lines = {True: list[str](), False: list[str]()}
    for name in sorted(used & names.keys()):
        module = names[name]
        lines[name in at_run_time].append(f"from {module} import {name}" if module else f"import {name}")
    typed = "\n".join(f"    {line}" for line in sorted(lines[False]))
    return "\n".join(
        ["from typing import TYPE_CHECKING", *sorted(lines[True]), "", "if TYPE_CHECKING:", typed, ""]
    )


def _formatted(code: str) -> str:
    ruff = [sys.executable, "-m", "ruff"]
    name = ["--stdin-filename", str(FILE), "-"]
    sorted_code = _piped([*ruff, "check", "-q", "--select", "I", "--fix", *name], code)
    return _piped([*ruff, "format", "-q", *name], sorted_code)


def _piped(command: list[str], text: str) -> str:
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    FILE.write_text(text())
