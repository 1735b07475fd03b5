"""Calls every public method of the client, asynchronous and blocking, against the stack whose URL it is given.

Owns what each call is tried with. It runs on Python 3.9 too, with nothing but the client: no test library.
"""

# What is called here is checked by running it.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

import asyncio
import importlib
import os
import pkgutil
import sys
import tempfile
from datetime import datetime, timedelta, timezone

import msgspec

import trainshed_client
from trainshed_client import PRESENT, ErrorCode, RunStatus, Trainshed, TrainshedError

NOT_CALLS = {"connect", "sync", "connection", "nc", "watching", "where", "close"}
SCRIPT = """mkdir -p artifacts; printf model > artifacts/m.pt; echo '{"type": "step", "step": 1, "reward": 2.5}'; sleep 0.3; echo done"""
OF = f"{sys.version_info.major}.{sys.version_info.minor}"


class Faces:
    """One of the two faces, which notes what was called."""

    def __init__(self, trainshed, called):
        self._trainshed = trainshed
        self._called = called

    def __getattr__(self, name):
        self._called.add(name)
        return getattr(self._trainshed, name)


def config(face, kind, script=SCRIPT):
    return {"entry_point": "/bin/sh", "arguments": ["-c", script], "labels": {"of": f"{OF} {face} {kind}"}}


def imports_everything():
    """Every module and every struct: msgspec evaluates annotations when a decoder is made."""
    passed_over = ("launch", "qt", "integrations")
    for found in pkgutil.walk_packages(trainshed_client.__path__, "trainshed_client."):
        if any(f".{name}" in found.name for name in passed_over):
            continue
        module = importlib.import_module(found.name)
        for value in vars(module).values():
            if (
                isinstance(value, type)
                and issubclass(value, msgspec.Struct)
                and value.__module__ == found.name
            ):
                msgspec.json.Decoder(value)
    for name in trainshed_client.__all__:
        getattr(trainshed_client, name)


def check_of(t, face):
    """The calls that are awaited, in an order in which each has something to do; yields what each gives to whoever waits."""
    checked = yield t.check(config(face, "a"))
    assert checked.new
    submission = yield t.submit(config(face, "a"))
    run = submission.run_id
    (record,) = yield t.wait([run], timeout=30)
    assert record.status is RunStatus.COMPLETED, record
    assert record.ended_at.utcoffset() == timedelta(0) and str(record.status) == "COMPLETED"
    view = yield t.get(run)
    assert view.run.run_id == run and view.attempts[0].started_at is not None
    assert (yield t.resolve(run)).run_id == (yield t.run_id_of(run)) == run
    assert (yield t.explain(run)).run.run_id == run
    assert [one.path for one in (yield t.artifacts(run))] == ["m.pt"]
    assert (yield t.read_artifact(run, "m.pt")) == b"model"
    with tempfile.TemporaryDirectory() as folder:
        assert (yield t.fetch_artifact(run, "m.pt", folder)).read_bytes() == b"model"
    many = yield t.submit_many([config(face, "long", "sleep 300"), config(face, "b", "true")])
    assert (yield t.cancel(many[0].run_id, reason="enough")).run_id == many[0].run_id
    yield t.wait([one.run_id for one in many], timeout=30)
    assert (yield t.retry(many[1].run_id)).status is RunStatus.PENDING
    yield t.wait([many[1].run_id], timeout=30)
    assert (yield t.slots()).slots and (yield t.nodes()).nodes
    node = (yield t.nodes()).nodes[0].node
    yield t.drain(node, reason="a look")
    yield t.resume(node)
    try:
        yield t.remove_node("no-such-node")
    except TrainshedError as error:
        assert error.code is ErrorCode.NOT_FOUND, error
    health = yield t.health()
    assert health["log_id"]
    yield t.behind()
    assert (yield t.moment(time=datetime.now(timezone.utc))).time.tzinfo is not None
    assert b"health" not in (yield t.call("health", {}))
    report = yield t.prune(ended_before=datetime.now(timezone.utc) - timedelta(days=30), dry_run=True)
    assert report.nodes[0].error is None
    try:
        yield t.submit({"entry_point": "/bin/true", "resources": {"cpus": -1}})
    except TrainshedError as error:
        assert error.code is ErrorCode.INVALID and error.path, error
    else:
        raise AssertionError("it was not refused")
    return run


def iterated(t, run):
    """What is iterated over: each call, and when enough was seen (None: at its end)."""
    enough = {
        "watch_runs": lambda one: one is PRESENT,
        "watch_slots": lambda one: one is PRESENT,
        "watch_nodes": lambda one: one is PRESENT,
        "watch_queue": lambda one: one is PRESENT,
        "list": lambda one: one.run_id == run,
        "list_pages": lambda one: True,
        "events": lambda one: True,
        "output": None,
        "telemetry": None,
        "metrics": None,
        "artifact_pieces": None,
    }
    arguments = {"output": (run,), "telemetry": (run,), "metrics": (run,), "artifact_pieces": (run, "m.pt")}
    for name, is_enough in enough.items():
        yield name, (lambda name=name: getattr(t, name)(*arguments.get(name, ()))), is_enough


def check_seen(name, seen):
    if name == "output":
        assert b"done" in b"".join(one.data for one in seen)
    elif name == "telemetry":
        assert [one.data["reward"] for one in seen] == [2.5], seen
    elif name == "metrics":
        assert seen[-1].metrics["reward"] == 2.5 and seen[-1].step == 1, seen
    else:
        assert seen, name


async def asynchronous(url):
    called: set[str] = set()
    async with await Trainshed.connect(url, wait=20) as trainshed:
        t = Faces(trainshed, called)
        steps, answer, error = check_of(t, "async"), None, None
        while True:
            try:
                call = steps.send(answer) if error is None else steps.throw(error)
            except StopIteration as end:
                run = end.value
                break
            answer, error = None, None
            try:
                answer = await call
            except TrainshedError as refused:
                error = refused
        for name, make, is_enough in iterated(t, run):
            seen = []
            source = make()
            async for one in source:
                seen.append(one)
                if is_enough is not None and is_enough(one):
                    break
            if hasattr(source, "aclose"):
                await source.aclose()
            check_seen(name, seen)
        try:
            await trainshed.wait(
                [(await trainshed.submit(config("async", "s", "sleep 300"))).run_id], timeout=0.5
            )
        except TimeoutError:
            pass
        else:
            raise AssertionError("no time-out")
        async for record in trainshed.list(live=True):
            await trainshed.cancel(record.run_id)
    return called


def blocking(url):
    called: set[str] = set()
    with Trainshed.sync(url, wait=20) as trainshed:
        t = Faces(trainshed, called)
        steps = check_of(t, "sync")
        run = in_turn(steps)
        for name, make, is_enough in iterated(t, run):
            seen = []
            with make() as source:
                for one in source:
                    seen.append(one)
                    if is_enough is not None and is_enough(one):
                        break
            check_seen(name, seen)
    return called


def in_turn(steps):
    """The same where a call gives its answer at once, or raises at once, in the generator itself."""
    answer = None
    while True:
        try:
            answer = steps.send(answer)
        except StopIteration as end:
            return end.value


async def inside_a_loop(url):
    """As in Jupyter."""
    with Trainshed.sync(url) as trainshed:
        assert trainshed.health()


async def no_stack():
    try:
        await Trainshed.connect("nats://127.0.0.1:1", wait=0.5)
    except TrainshedError as error:
        assert error.code is ErrorCode.UNAVAILABLE and "0.5 s" in error.message, error
    else:
        raise AssertionError("it has connected")


def main(url):
    imports_everything()
    public = {name for name in dir(Trainshed) if not name.startswith("_")} - NOT_CALLS
    left_out = {name for name in public if name.endswith("_json")} | {"request"}
    called = asyncio.run(asynchronous(url))
    assert public - left_out <= called, f"never called: {sorted(public - left_out - called)}"
    both = blocking(url)
    assert public - left_out <= both, f"never called: {sorted(public - left_out - both)}"
    asyncio.run(inside_a_loop(url))
    asyncio.run(no_stack())
    child = os.fork()
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    print(
        f"Python {sys.version.split()[0]}, msgspec {msgspec.__version__}: {len(called)} calls, each by both faces"
    )


if __name__ == "__main__":
    main(sys.argv[1])
