"""The calls that change something: runs are submitted, cancelled and tried again, nodes drained, resumed and removed.

Owns what each request bears; knows nothing of how an answer comes.
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from trainshed_client.answers import Acknowledged, Check, NodeAnswer, Submission, Submissions
from trainshed_client.json_limits import json_value
from trainshed_client.naming import is_run_id
from trainshed_client.queries import QueryCalls

if TYPE_CHECKING:
    from trainshed_client.provenance import Provenance


class CommandCalls(QueryCalls):
    """What changes something; see `trainshed_client.Trainshed`."""

    async def submit(
        self,
        config: Mapping[str, object],
        *,
        caller_path: str | None = None,
        provenance: Provenance | None = None,
    ) -> Submission:
        """Submit a run config. The same config is the same run: then ``created`` is false and nothing starts.

        ``caller_path`` is the PATH for the worker, where its ``environment`` has none. ``provenance`` is where its ``code``
        was read: without it a node looks in its ``working_dir``. Neither makes another run. What JSON does not have is
        refused by its path, never turned into something else (docs/contracts/run-config.md).
        """
        beside = _beside(caller_path, provenance)
        plain = json_value(config)
        return await self._asking.ask(
            "run.submit", {"config": plain, **beside} if beside else plain, Submission
        )

    async def submit_many(
        self,
        configs: Sequence[Mapping[str, object]],
        *,
        caller_path: str | None = None,
        provenance: Provenance | None = None,
    ) -> builtins.list[Submission]:
        """Submit all or none (1,000 runs and 1 MB at most), with one answer a config in order."""
        request = {"runs": list(configs), **_beside(caller_path, provenance)}
        return (await self._asking.ask("run.submit_batch", request, Submissions)).runs

    async def check(self, config: Mapping[str, object]) -> Check:
        """What submitting this config would do; nothing is appended. Raises as `submit` would."""
        return await self._asking.ask("run.check", config, Check)

    async def cancel(self, run: str, *, reason: str | None = None) -> Acknowledged:
        """Ask for a run's end. One that has ended answers with its status, and nothing is appended."""
        return await self._one_run("run.cancel", run, reason)

    async def retry(self, run: str, *, reason: str | None = None) -> Acknowledged:
        """Ask for a new attempt of an ended run."""
        return await self._one_run("run.retry", run, reason)

    async def drain(self, node: str, *, reason: str | None = None) -> NodeAnswer:
        """Grant the node nothing more; what runs there goes on."""
        return await self._one_node("node.drain", node, reason)

    async def resume(self, node: str, *, reason: str | None = None) -> NodeAnswer:
        """Grant the node runs again."""
        return await self._one_node("node.resume", node, reason)

    async def remove_node(self, node: str, *, reason: str | None = None) -> NodeAnswer:
        """Say that the machine is off: its attempts end. Refused while the node is neither lost nor left."""
        return await self._one_node("node.remove", node, reason)

    async def _one_run(self, call: str, run: str, reason: str | None) -> Acknowledged:
        run_id = run if is_run_id(run) else (await self.resolve(run, only=True)).run_id
        return await self._asking.ask(call, _with_reason({"run_id": run_id}, reason), Acknowledged)

    async def _one_node(self, call: str, node: str, reason: str | None) -> NodeAnswer:
        return await self._asking.ask(call, _with_reason({"node": node}, reason), NodeAnswer)


def _with_reason(request: dict[str, str], reason: str | None) -> dict[str, str]:
    return request if reason is None else {**request, "reason": reason}


def _beside(caller_path: str | None, provenance: Provenance | None) -> dict[str, object]:
    """What is known of what a request bears beside its configs."""
    beside = {"caller_path": caller_path, "provenance": msgspec.to_builtins(provenance)}
    return {name: value for name, value in beside.items() if value is not None}
