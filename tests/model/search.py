"""Breadth-first search over the model: invariants at every state, and from every state a way to a good end.

Owns the walk, the traces and what is told of them; knows no rule.
"""

from __future__ import annotations

import random
import time
from collections import deque

import msgspec

from tests.model.code import Broken
from tests.model.invariants import Invariants
from tests.model.model import Model
from tests.model.moves import first, good, moves, recovery, why_not
from tests.model.values import World

WRONG = 0.15
"""How often a walk takes what goes wrong before what goes on."""
LONGEST_WALK = 150
LONGEST_WAY = 300
"""Steps of a recovery: a longer one goes in circles."""


class Violation(msgspec.Struct, frozen=True):
    """A rule that does not hold, and the shortest way there."""

    what: str
    trace: tuple[str, ...]
    states: int

    def __str__(self) -> str:
        steps = "".join(f"\n  {place:2} {label}" for place, label in enumerate(self.trace, 1))
        return f"{self.what} (state {self.states}), after{steps}"


class Result(msgspec.Struct, frozen=True):
    """What a search found. ``whole``: there are no more states than these."""

    states: int
    transitions: int
    depth: int
    whole: bool
    violation: Violation | None
    seconds: float

    def __str__(self) -> str:
        extent = "all there are" if self.whole else "cut off there"
        return (
            f"{self.states} states ({extent}), {self.transitions} transitions, depth {self.depth}, "
            f"{self.seconds:.1f} s, {self.states / max(self.seconds, 1e-9):.0f} states/s"
        )


class Search:
    """One walk over the states of one model."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._invariants = Invariants(model)
        self._came: dict[World, tuple[World | None, str]] = {}
        self._saved: set[World] = set()
        self._nothing = model.cells.of(tuple(0 for _ in model.budget()))

    def run(self, most: int) -> Result:
        """Look at ``most`` states, the nearest first; stops at the first violation."""
        begun = time.process_time()
        world = first(self._model)
        self._came[world] = (None, "")
        ahead = deque([(world, 0)])
        transitions = depth = looked = 0
        violation = None
        while ahead and looked < most and violation is None:
            world, depth = ahead.popleft()
            looked += 1
            label = ""
            ahead_of = moves(self._model, world)
            try:
                while (move := next(ahead_of, None)) is not None:
                    label, after = move
                    transitions += 1
                    if after not in self._came:
                        self._came[after] = (world, label)
                        self._invariants.check(after)
                        ahead.append((after, depth + 1))
                    label = ""
                self._find_a_way(world)
            except Stuck as stuck:
                violation = Violation(str(stuck), (*self._trace(world), *stuck.way), looked)
            except Broken as broken:
                violation = Violation(
                    str(broken), (*self._trace(world), label or str(broken).rpartition(", at ")[2]), looked
                )
        seconds = time.process_time() - begun
        return Result(looked, transitions, depth, not ahead and violation is None, violation, seconds)

    def walk(self, seed: int, most: int) -> Result:
        """Take ``most`` steps by chance, from the first world anew where there is nothing more to do.

        Reaches ends that a search of as many states does not; its trace is not the shortest.
        """
        begun = time.process_time()
        chance = random.Random(seed)
        world, way, deepest, violation = first(self._model), list[str](), 0, None
        for _ in range(most):
            label = ""
            try:
                options = list(moves(self._model, world))
                if not options or len(way) == LONGEST_WALK:
                    world, way = first(self._model), []
                    continue
                wrong = [each for each in options if each[1].budget is not world.budget]
                usual = [each for each in options if each[1].budget is world.budget]
                label, world = chance.choice(
                    wrong if wrong and (not usual or chance.random() < WRONG) else usual
                )
                way.append(label)
                deepest = max(deepest, len(way))
                self._invariants.check(world)
                self._find_a_way(world)
            except Stuck as stuck:
                violation = Violation(str(stuck), (*way, *stuck.way), most)
                break
            except Broken as broken:
                violation = Violation(str(broken), (*way, str(broken).rpartition(", at ")[2]), most)
                break
        seconds = time.process_time() - begun
        return Result(most, most, deepest, False, violation, seconds)

    def _find_a_way(self, world: World) -> None:
        """Raises Stuck where nothing more goes wrong and it still does not end well."""
        world = world._replace(budget=self._nothing)
        way: list[World] = []
        labels: list[str] = []
        while world not in self._saved:
            way.append(world)
            step = self._recovery(world, labels)
            if step is None and good(self._model, world):
                break
            if step is None or len(way) > LONGEST_WAY:
                circles = " (it goes in circles)" if step is not None else ""
                raise Stuck(f"I1: {why_not(world)}{circles}", tuple(labels[:40]))
            world = step
        self._saved.update(way)

    def _recovery(self, world: World, labels: list[str]) -> World | None:
        """The next step of it, checked and noted in ``labels``."""
        try:
            step = recovery(self._model, world)
            if step is None:
                return None
            label, world = step
            labels.append(label)
            self._invariants.check(world)
        except Broken as broken:
            raise Stuck(str(broken), tuple(labels)) from None
        return world

    def _trace(self, world: World) -> tuple[str, ...]:
        labels: list[str] = []
        at: World | None = world
        while at is not None:
            at, label = self._came[at]
            labels.append(label)
        return tuple(reversed(labels[:-1]))


class Stuck(Exception):
    """From here there is no good end, or something broke on the way to it: ``way`` is what was done."""

    def __init__(self, what: str, way: tuple[str, ...]) -> None:
        super().__init__(what)
        self.way = way
