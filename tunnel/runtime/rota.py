"""Works that run for as long as a program does, and of which some give way to others meanwhile."""

import asyncio
from collections.abc import Hashable, Mapping
from typing import NoReturn

from tunnel.log import get_log
from tunnel.runtime.supervision import Work

log = get_log(__name__)


class Rota:
    """Works side by side, each under a key; a reload arranges them anew.

    `run` may be called once. A work that returns is over; its key stays taken.
    """

    def __init__(self) -> None:
        self._works: dict[Hashable, Work] = {}
        self._tasks: dict[Hashable, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._errors: list[Exception] = []  # the first one, once there is any
        self._ending = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Rota of {', '.join(map(str, self._works)) or 'nothing'}>"

    def arrange(self, works: Mapping[Hashable, Work]) -> None:
        """Begin what is new, end what is not among `works` any more, leave alone what is."""
        for key in self._works.keys() - works.keys():
            del self._works[key]
            if key in self._tasks:
                self._tasks.pop(key).cancel()
        for key in works.keys() - self._works.keys():
            self._works[key] = works[key]
            self._begin(key)

    async def run(self) -> NoReturn:
        """Run them all until one raises, and raise that; what is arranged later runs too."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for key in self._works:
                    self._begin(key)
                try:
                    await self._ending.wait()
                finally:
                    self._ending.set()
                    for task in self._tasks.values():
                        task.cancel()
                    self._group = None
            raise self._errors[0]
        finally:
            self._errors.clear()  # its traceback refers to this frame

    def _begin(self, key: Hashable) -> None:
        if self._group is not None:
            work = self._guard(key, self._works[key])
            self._tasks[key] = self._group.create_task(work, name=str(key))

    async def _guard(self, key: Hashable, work: Work) -> None:
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - the first is raised by `run`, bare
            if self._ending.is_set():
                log.error("task failed", task=str(key), exception=error)
            else:
                self._errors.append(error)
                self._ending.set()
