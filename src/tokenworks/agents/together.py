"""
Read facts for all who ask at once: one statement, begun after each of them asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, TypeVar
from uuid import UUID

Fact = TypeVar("Fact")


class Together(Generic[Fact]):
    """
    Gather those who ask while a statement runs, and answer them by the next one.

    Args:
        read: Reads the facts of some ids; what it does not return is not there.
        askers_max: Who is answered by one statement.
    """

    def __init__(
        self,
        read: Callable[[Sequence[UUID]], Awaitable[Mapping[UUID, Fact]]],
        *,
        askers_max: int,
    ) -> None:
        self._read = read
        self._askers_max = askers_max
        self._asked: list[tuple[Sequence[UUID], asyncio.Future[dict[UUID, Fact]]]] = []
        self._reading: asyncio.Task[None] | None = None

    async def ask(self, ids: Sequence[UUID]) -> dict[UUID, Fact]:
        """
        Return the facts of some ids as they are now, in the order of the ids.

        Raises:
            Exception: Whatever reading raised.
        """
        answer: asyncio.Future[dict[UUID, Fact]] = asyncio.get_running_loop().create_future()
        self._asked.append((ids, answer))
        if self._reading is None or self._reading.done():
            # Its own task: a caller who gives up must not end what others wait for.
            self._reading = asyncio.create_task(self._work())
        return await answer

    async def _work(self) -> None:
        while self._asked:
            asked = self._asked[: self._askers_max]
            del self._asked[: self._askers_max]
            try:
                found = await self._read(sorted({one for ids, _ in asked for one in ids}))
            except Exception as error:  # noqa: BLE001 - each who asked is told, and judges it
                for _, answer in asked:
                    if not answer.done():
                        answer.set_exception(error)
                continue
            for ids, answer in asked:
                if not answer.done():
                    answer.set_result({one: found[one] for one in ids if one in found})
