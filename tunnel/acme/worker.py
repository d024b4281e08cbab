"""Blocking work beside the event loop, one piece at a time."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from tunnel.errors import IssueFailed

T = TypeVar("T")


class Worker:
    """Runs blocking functions in a thread, never two at once.

    Whoever waits may be cancelled at any time: the function runs to its end unseen, and the next
    one only begins then. The thread never holds up the end of the process, as those of asyncio's
    own executor do.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._free = asyncio.Lock()

    async def run(self, work: Callable[[], T]) -> T:
        """Return what `work` returns, or raise what it raises. Cancel-safe."""
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: BaseException | None) -> None:
            self._free.release()
            if future.done():  # cancelled meanwhile
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type] # without an error it is a T

        def body() -> None:
            result, error = None, None
            try:
                result = work()
            except BaseException as caught:  # noqa: BLE001 - raised where it is awaited
                error = caught
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(settle, result, error)

        try:
            threading.Thread(target=body, name=self._name, daemon=True).start()
        except RuntimeError as error:
            self._free.release()
            raise IssueFailed(f"no thread could be started: {error}") from error
        return await future
