"""What the tasks that use a connection wait for: a free place for a stream, a stream, its end."""

import asyncio
from typing import Generic, TypeVar

from tunnel.errors import ConnectionLost

T = TypeVar("T")


class Queue(Generic[T]):
    """Items in order for tasks in order; after `close` every `get` raises ConnectionLost.

    Unlike asyncio's it can be closed, and `put` and `close` are plain calls.
    """

    __slots__ = ("_items", "_lost", "_waiters")

    def __init__(self) -> None:
        self._items: list[T] = []  # few at a time, and an empty deque takes 700 bytes
        self._waiters: list[asyncio.Future[None]] = []
        self._lost: ConnectionLost | None = None

    @property
    def is_awaited(self) -> bool:
        """Whether any task waits."""
        return bool(self._waiters)

    def put(self, item: T) -> None:
        """Hand an item to the task that has waited longest, or keep it."""
        self._items.append(item)
        self._wake_next()

    def close(self, lost: ConnectionLost) -> None:
        """Let all tasks raise; the first reason stays."""
        if self._lost is None:
            self._lost = lost
            self._items.clear()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def get(self) -> T:
        """Return the next item. Cancel-safe."""
        while True:
            if self._lost is not None:
                raise ConnectionLost(str(self._lost), self._lost.code)
            if self._items:
                return self._items.pop(0)
            await self._wait()

    async def _wait(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._wake_next(besides=waiter)  # it was our turn, and we pass it on
            raise
        finally:
            self._waiters.remove(waiter)

    def _wake_next(self, besides: asyncio.Future[None] | None = None) -> None:
        for waiter in self._waiters:
            if waiter is not besides and not waiter.done():
                waiter.set_result(None)
                return


class Places:
    """Places for streams on one connection; whoever finds none waits for its turn."""

    __slots__ = ("_free", "_queue")

    def __init__(self, total: int) -> None:
        self._free = total
        self._queue: Queue[None] = Queue()

    def limit(self, total: int) -> None:
        """Allow no more than `total` places; to be called before any is taken."""
        self._free = min(self._free, total)

    async def take(self) -> None:
        """Take a place, waiting for one that is freed. Cancel-safe; raises ConnectionLost."""
        if self._free:
            self._free -= 1
        else:
            await self._queue.get()

    def free(self) -> None:
        """Give a place back, to whoever has waited longest."""
        if self._queue.is_awaited:
            self._queue.put(None)
        else:
            self._free += 1

    def close(self, lost: ConnectionLost) -> None:
        """Let all who wait, now or later, raise."""
        self._free = 0
        self._queue.close(lost)
