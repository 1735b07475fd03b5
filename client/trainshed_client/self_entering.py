"""An async iterator that is an async context manager too, and that ``async for`` alone enters and leaves.

Owns that; knows nothing of what is iterated over.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from types import TracebackType
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")


class SelfEntering(ABC, Generic[T]):
    """What its subclass opens in ``__aenter__``, where it sets ``_entered``, is closed however the iteration ends."""

    _entered = False

    @abstractmethod
    async def __aenter__(self) -> Self: ...

    @abstractmethod
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    @abstractmethod
    async def __anext__(self) -> T: ...

    def __aiter__(self) -> AsyncIterator[T]:
        return self if self._entered else self._alone()

    async def _alone(self) -> AsyncIterator[T]:
        async with self:
            async for item in self:
                yield item
