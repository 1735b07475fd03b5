"""The offers of a state, kept from one decision to the next and indexed: what a simulation of a large cluster needs.

Owns which offers need not be looked at because `choose` would take none of them; which one is taken is `choose`'s. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sortedcontainers import SortedDict, SortedList

from events.change import Change
from events.config import Needs
from events.resources import Amount, fits, least_of
from events.state import Node, State
from services.scheduling.offers import Claims, Offer, offer
from trainshed_client.json_limits import MAX_INTEGER

_Key = tuple[int, str]
_NOTHING_CLAIMED = Claims()


class KeptOffers:
    """Give it every change of the fold (`note`). It serves where nothing is in flight and each slot of each node is a device
    of its own that no other node has; elsewhere `at` answers None, and every node has to be looked at.
    """

    def __init__(self) -> None:
        self._offers: dict[str, Offer] = {}
        self._stale: set[str] | None = None  # None: nothing has been looked at yet
        self._unlike: set[str] = set()
        self._bound: list[Offer] = []
        self._by_free: SortedDict[int, SortedList[_Key]] = SortedDict()
        self._by_size: SortedDict[int, SortedList[_Key]] = SortedDict()
        self._keys: dict[str, tuple[int, int, int]] = {}

    def note(self, change: Change) -> None:
        """Take in what an event changed."""
        if self._stale is not None:
            self._stale.update(change.nodes)

    def at(self, state: State, taken: Claims) -> dict[str, Offer] | None:
        """The offers of all nodes that take work, by name."""
        names = list(state.nodes) if self._stale is None else self._stale
        for name in names:
            self._look(name, state.nodes.get(name), state)
        self._stale, self._bound = set(), []
        return None if self._unlike or taken != _NOTHING_CLAIMED else self._offers

    @property
    def unlike(self) -> bool:
        """Whether there is a node for which `at` answers None."""
        return bool(self._unlike)

    def most(self) -> Amount:
        """More than this of GPUs and CPUs none of the offers has; of memory nothing is known."""
        gpus = self._by_free.peekitem(-1)[0] if self._by_free else 0
        cpus = max((-keys[0][0] for keys in self._by_size.values()), default=0)
        return Amount(gpus, cpus, MAX_INTEGER)

    def candidates(self, needs: Needs) -> Iterable[Offer]:
        """Of the offers that `choose` would take one of: that one among them, and few others."""
        if needs.gpus and not needs.mandatory:
            return self._offers.values()
        best = next(self._of_gpus(needs) if needs.gpus else self._without_gpus(needs), None)
        return self._bound if best is None else [best, *self._bound]

    def took(self, choice: Offer) -> None:
        """A grant was counted in."""
        self._touch(choice.node.name)
        self._enter(choice)

    def reserved(self, name: str) -> None:
        """The node's offer is bound by what is kept for the run that waits."""
        self._touch(name)
        self._bound = [self._offers[name]]

    def _of_gpus(self, needs: Needs) -> Iterator[Offer]:
        """Those that hold a run with GPUs, the tightest first."""
        least = (needs.cpus, "") if needs.cpus else None
        for free in self._by_free.irange(minimum=needs.gpus):
            for _, name in self._by_free[free].irange(minimum=least):
                o = self._offers[name]
                if o.kept is None and fits(least_of(needs), free, o.cpus, o.memory_mb):
                    yield o

    def _without_gpus(self, needs: Needs) -> Iterator[Offer]:
        """Those that hold a run without GPUs, the node with the fewest first."""
        for keys in self._by_size.values():
            for _, name in keys:
                o = self._offers[name]
                if needs.cpus and o.cpus < needs.cpus:
                    break
                if o.kept is None and fits(least_of(needs), 0, o.cpus, o.memory_mb):
                    yield o

    def _touch(self, name: str) -> None:
        assert self._stale is not None
        self._stale.add(name)

    def _look(self, name: str, node: Node | None, state: State) -> None:
        self._leave(name)
        self._unlike.discard(name)
        if node is None or not node.takes_work:
            return
        if node.suspect or any(device.uuid is not None or device.gpu is not None for device in node.gpus):
            self._unlike.add(name)
        self._enter(offer(state, node, _NOTHING_CLAIMED))

    def _leave(self, name: str) -> None:
        key = self._keys.pop(name, None)
        if key is None:
            return
        free, cpus, size = key
        for index, place, entry in ((self._by_free, free, cpus), (self._by_size, size, -cpus)):
            keys = index[place]
            keys.remove((entry, name))
            if not keys:
                del index[place]
        del self._offers[name]

    def _enter(self, o: Offer) -> None:
        name = o.node.name
        self._leave(name)
        free, size = len(o.free), len(o.node.gpus)
        self._keys[name] = (free, o.cpus, size)
        self._by_free.setdefault(free, SortedList()).add((o.cpus, name))
        self._by_size.setdefault(size, SortedList()).add((-o.cpus, name))
        self._offers[name] = o
