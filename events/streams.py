"""The streams and buckets that Trainshed needs, made or brought up to date at start by the control side alone.

Owns their settings; what exists keeps its data, and a safety flag that differs is refused, never changed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import nats.errors

from events.codec import uuid7
from events.feed import TRANSIENT_FROM, ApiError, api_call
from events.log import reconnected
from trainshed_client import subjects
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.nats_client import SafeClient
from trainshed_client.os_errors import cause

_log = logging.getLogger("trainshed.streams")

MINUTE_NS = 60_000_000_000
NEVER_CHANGED = (
    "storage",
    "deny_delete",
    "deny_purge",
    "discard",
    "retention",
    "max_age",
)
NEVER_ON = ("allow_msg_ttl", "allow_msg_schedules")
"""What cannot be switched off again, refused where a stream must not have it."""
_NOT_FOUND = 10059
_ALONE = 10074
"""Copies are asked of a server that is none of several."""
_ELECTING = frozenset({10005})
"""Refusals of a cluster that is not whole yet: no suitable peers for placement."""


class MissingLog(TrainshedError):
    """The log that was here before is gone."""


def events_stream(replicas: int) -> dict[str, Any]:
    """The event log: nothing in it is ever deleted, and it refuses rather than forgets."""
    return {
        "name": subjects.EVENTS_STREAM,
        "subjects": [subjects.ALL_EVENTS],
        "storage": "file",
        "retention": "limits",
        "discard": "new",
        "deny_delete": True,
        "deny_purge": True,
        "allow_atomic": True,
        "allow_direct": True,
        "allow_msg_ttl": False,
        "allow_msg_schedules": False,  # schedules undo deny_purge
        "compression": "s2",
        "max_age": 0,
        "max_msgs": -1,
        "max_msgs_per_subject": -1,
        "max_bytes": -1,
        "duplicate_window": 2 * MINUTE_NS,
        "republish": {"src": subjects.ALL_EVENTS, "dest": f"{subjects.LOG}.>"},
        "num_replicas": replicas,
    }


def heartbeats_stream(replicas: int) -> dict[str, Any]:
    """Heartbeats, apart from the log: it grows with transitions and not with time."""
    return {
        "name": subjects.HEARTBEATS_STREAM,
        "subjects": [subjects.ALL_HEARTBEATS],
        "storage": "file",
        "retention": "limits",
        "discard": "old",
        "allow_direct": True,
        "max_msgs_per_subject": 100,
        "max_age": 24 * 60 * MINUTE_NS,
        "duplicate_window": 2 * MINUTE_NS,
        "num_replicas": replicas,
    }


def bucket(name: str, watch: str, key: str = ">", *, replicas: int = 1) -> dict[str, Any]:
    """A record bucket (a KV stream, ADR-8): derived, so in memory, and republished for who watches; ``key``: its only one.

    On a cluster each server has it: one that lay on a single server would be gone for as long as that is.
    """
    every = key == ">"
    return {
        "name": f"KV_{name}",
        "subjects": [f"$KV.{name}.>"],
        "storage": "memory",
        "retention": "limits",
        "discard": "new",
        "allow_rollup_hdrs": True,
        "allow_direct": True,
        "allow_msg_ttl": True,
        "deny_delete": True,
        "max_msgs_per_subject": 1,
        "max_age": 0,
        "republish": {"src": f"$KV.{name}.{key}", "dest": f"{watch}.>" if every else watch},
        "num_replicas": replicas,
    }


async def ensure_streams(
    nc: SafeClient,
    *,
    replicas: int = 1,
    known: str | None = None,
    ids: Callable[[], str] = uuid7,
    patient: bool = False,
    buckets: bool = True,
) -> str:
    """Make what is missing, bring the rest up to date, and return the log's id. ``known``: the log that was here before; where
    it is missing none is made in its place.

    An update keeps what is stored and not ours to set, metadata with ``log_id`` above all (an update without metadata
    would erase it). ``patient``: servers that have no leader yet, or are no three yet, are asked until they answer; so is each
    where ``replicas`` says that it is one of several. ``buckets`` False: without the record buckets, for who may make none and
    needs none: the projector makes those anew that a server lost. Raises TrainshedError (CONFLICT) where a stored safety setting is not
    ours, and `MissingLog`.
    """
    while True:
        try:
            return await _ensure_all(nc, replicas, known, ids, buckets=buckets)
        except (TimeoutError, nats.errors.Error, ApiError) as error:
            if not (patient or replicas > 1) or not _passes(error):
                raise
            _log.info("the servers do not keep the streams yet (%s); asking again", cause(error))
        await reconnected(nc)


async def _ensure_all(
    nc: SafeClient, replicas: int, known: str | None, ids: Callable[[], str], *, buckets: bool
) -> str:
    if known is not None and not await _exists(nc, subjects.EVENTS_STREAM):
        raise MissingLog(
            ErrorCode.CONFLICT,
            f"the event log {known} is not in the server's store, and no other is made in its place",
        )
    log = await _ensure(nc, {**events_stream(replicas), "metadata": {"log_id": ids()}})
    await _ensure(nc, heartbeats_stream(replicas))
    if buckets:
        await ensure_buckets(nc, replicas=replicas)
    return str(log["metadata"]["log_id"])


def _passes(error: Exception) -> bool:
    if not isinstance(error, ApiError):
        return True
    if error.err_code == _ALONE:
        return False
    return error.http_code >= TRANSIENT_FROM or error.err_code in _ELECTING


async def ensure_buckets(nc: SafeClient, *, replicas: int = 1) -> None:
    """Make the record buckets, which live in memory and are gone after a restart of the server."""
    for name, watch, key in (
        (subjects.RUNS_BUCKET, subjects.WATCH_RUNS, ">"),
        (subjects.SLOTS_BUCKET, subjects.WATCH_SLOTS, ">"),
        (subjects.NODES_BUCKET, subjects.WATCH_NODES, ">"),
        (subjects.QUEUE_BUCKET, subjects.WATCH_QUEUE, subjects.QUEUE_KEY),
    ):
        await _ensure(nc, bucket(name, watch, key, replicas=replicas))


async def _exists(nc: SafeClient, name: str) -> bool:
    try:
        await api_call(nc, f"STREAM.INFO.{name}")
    except ApiError as error:
        if error.err_code != _NOT_FOUND:
            raise
        return False
    return True


async def _ensure(nc: SafeClient, wanted: dict[str, Any]) -> dict[str, Any]:
    name = wanted["name"]
    try:
        stored: dict[str, Any] = (await api_call(nc, f"STREAM.INFO.{name}"))["config"]
    except ApiError as error:
        if error.err_code != _NOT_FOUND:
            raise
        try:
            return dict((await api_call(nc, f"STREAM.CREATE.{name}", wanted))["config"])
        except ApiError as refusal:  # another service made it meanwhile: then it is there to be looked at
            try:
                stored = (await api_call(nc, f"STREAM.INFO.{name}"))["config"]
            except ApiError:
                raise refusal from None
    for field in (*NEVER_CHANGED, *(name for name in NEVER_ON if wanted.get(name) is False)):
        there = stored.get(field)
        if field in wanted and (there or None) != (wanted[field] or None):
            raise TrainshedError(
                ErrorCode.CONFLICT,
                f"stream {name} has {field} {stored.get(field)!r} where Trainshed needs {wanted[field]!r}. It is left as it "
                "is: use another server or account, or mend the stream by hand",
            )
    metadata = {**wanted.get("metadata", {}), **(stored.get("metadata") or {})}
    updated = {**stored, **wanted, **({"metadata": metadata} if metadata else {})}
    if all((stored.get(key) or None) == (value or None) for key, value in updated.items()):
        return stored
    return dict((await api_call(nc, f"STREAM.UPDATE.{name}", updated))["config"])
