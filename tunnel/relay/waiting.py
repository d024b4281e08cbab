"""Visitors that wait until somebody serves a name."""

import asyncio


class Waiting:
    """Who waits for which name."""

    def __init__(self) -> None:
        self._futures: dict[str, set[asyncio.Future[None]]] = {}

    def __repr__(self) -> str:
        return f"<Waiting for {len(self._futures)} names>"

    async def woken(self, name: str) -> None:
        """Wait until `wake` is called for the name. Cancel-safe."""
        future = asyncio.get_running_loop().create_future()
        waiting = self._futures.setdefault(name, set())
        waiting.add(future)
        try:
            await future
        finally:
            waiting.discard(future)
            if not waiting and self._futures.get(name) is waiting:
                del self._futures[name]

    def wake(self, name: str) -> None:
        """Let everybody go on who waits for the name."""
        for future in self._futures.pop(name, ()):
            if not future.done():
                future.set_result(None)
