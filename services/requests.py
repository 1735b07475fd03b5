"""What each call of the API takes, as a struct for each form of request.

Owns the names and types of their fields; knows neither who answers nor what is refused beside a wrong type.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec

from events.config import RunConfig
from trainshed_client.naming import RUN_ID
from trainshed_client.provenance import Provenance
from trainshed_client.statuses import RunStatus

RunId = Annotated[str, msgspec.Meta(pattern=f"^{RUN_ID}$")]
AttemptNumber = Annotated[int, msgspec.Meta(ge=1)]
Sequence = Annotated[int, msgspec.Meta(ge=1)]
"""Of an event in the log."""
TreeSize = Annotated[int, msgspec.Meta(ge=0)]


class ApiRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all: a JSON object, in which a field of another name is refused. Null is as if a field were left out."""


class NoFields(ApiRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of a call that takes nothing: an empty object, or no bytes at all."""


class SubmitRequest(ApiRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A run config, with what goes beside it and is no part of its digest.

    ``caller_path``: the PATH of who submits a command, for its worker. ``provenance``: where the run's code was read.
    """

    config: RunConfig
    caller_path: str | None = None
    provenance: Provenance | None = None


class BatchRequest(ApiRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Run configs that are accepted all or none. ``caller_path`` and ``provenance`` are of all runs that bear none."""

    runs: Annotated[list[RunConfig], msgspec.Meta(min_length=1, max_length=1_000)]
    caller_path: str | None = None
    provenance: Provenance | None = None


class RunCommand(ApiRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be cancelled, or run again. ``reason``: for people, kept in the log."""

    run_id: str
    reason: str | None = None


class NodeCommand(ApiRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be drained, resumed or removed. ``reason``: for people, kept in the log."""

    node: str
    reason: str | None = None


class AcceptRequest(ApiRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why the log is no longer what was signed before."""

    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=2_000)]


class RunQuestion(ApiRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which run. ``at``: as it was after this event and before the next."""

    run_id: str
    at: Sequence | None = None


class ListRequest(ApiRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which runs, newest first.

    ``labels``: those that a run must bear. ``name``: the runs of this name. ``run``: what a person calls a run, as on the
    command line: at most six that it may mean. ``prefix``: an older word for ``run``. ``live``: those that have not ended.
    ``ended``: those that ended last, the last first, in one page. ``ended_before``: RFC 3339; those whose end was stored
    before it. ``limit``: of one page. ``before_seq``: the ``submit_seq`` of the last one of the page before. ``at``: as it
    was after this event and before the next.
    """

    status: list[RunStatus] | None = None
    labels: dict[str, str] | None = None
    name: str | None = None
    run: str | None = None
    prefix: str | None = None
    live: bool | None = None
    ended: bool | None = None
    ended_before: str | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=500)] | None = None
    before_seq: int | None = None
    at: Sequence | None = None


class AtRequest(ApiRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``at``: as it was after this event and before the next; without it as it is now."""

    at: Sequence | None = None


class MomentRequest(ApiRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Exactly one of the two. ``time``: RFC 3339; the last event that was stored by then."""

    seq: Sequence | None = None
    time: str | None = None


class CheckpointRequest(ApiRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``size``: of the log's tree in leaves; without it the whole tree. ``cosigned``: in place of a size, that which most
    nodes have cosigned."""

    size: TreeSize | None = None
    cosigned: bool | None = None


class ConsistencyRequest(
    ApiRequest, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"from_": "from"}
):
    """Two sizes of the log's tree, in leaves; ``to``: without it the whole tree."""

    from_: TreeSize
    to: TreeSize | None = None


class InclusionRequest(ApiRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``event``: its sequence. ``size``: of the log's tree in leaves; without it the whole tree."""

    event: Sequence
    size: TreeSize | None = None


class AttemptRequest(ApiRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which attempt, of a run by its whole id."""

    run_id: RunId
    attempt: AttemptNumber


class ArtifactsRequest(AttemptRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which attempt's. ``after``: what the page before has as ``next``."""

    after: str | None = None


class AttemptFilesRequest(AttemptRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which files of an attempt. ``artifacts``: paths below artifacts/. ``list``: artifacts.json too."""

    artifacts: tuple[str, ...] | None = None
    list: bool | None = None


class FilesRequest(ApiRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The attempts that are asked about, with 2,000 paths in all at most."""

    attempts: Annotated[list[AttemptFilesRequest], msgspec.Meta(max_length=500)] | None = None


class PruneRequest(ApiRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Runs, each with the number of its last attempt. ``dry_run``: delete nothing."""

    runs: Annotated[list[AttemptRequest], msgspec.Meta(max_length=500)] | None = None
    dry_run: bool | None = None


@functools.cache
def json_types(kind: type[ApiRequest]) -> Mapping[str, type]:
    """Of each field of a request, by its name in the JSON, what its value is: a dict, list, str, int or bool."""
    return {field.encode_name: _json_type(field.type) for field in msgspec.structs.fields(kind)}


def _json_type(hint: Any) -> type:
    origin = get_origin(hint)
    if origin is Annotated:
        return _json_type(get_args(hint)[0])
    if origin in (Union, types.UnionType):
        (some,) = (one for one in get_args(hint) if one is not types.NoneType)
        return _json_type(some)
    plain = origin or hint
    assert isinstance(plain, type), hint
    if issubclass(plain, msgspec.Struct):
        return dict
    return list if plain is tuple else plain
