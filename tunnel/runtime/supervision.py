"""Tasks that live together: crowds that outlive one member, races that end with the first."""

import asyncio
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, NoReturn, Protocol

from tunnel.errors import LocalProtocolError, TunnelError
from tunnel.log import get_log

RESTART_PAUSE = 60.0  # seconds

log = get_log(__name__)


class Member(Protocol):
    """Somebody in a crowd who needs no task."""

    def cut(self) -> None:
        """Leave at once, or very soon."""


class Crowd:
    """Tasks that come and go; a fault of one is logged and ends only that one.

    Whoever does without a task may `enter` as well, and has to `leave` in the end. Leaving the
    `async with` waits for all of them; `cancel` ends them first.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._group = asyncio.TaskGroup()
        self._tasks: set[asyncio.Task[None]] = set()
        self._members: set[Member] = set()
        self._emptied = asyncio.Event()
        self._emptied.set()

    def __repr__(self) -> str:
        return f"<Crowd {self.name}: {len(self)}>"

    def __len__(self) -> int:
        return len(self._tasks) + len(self._members)

    async def __aenter__(self) -> "Crowd":
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.cancel()
        # What left the block is passed on bare: none of the tasks raises, so no group is owed.
        await self._group.__aexit__(None, None, None)
        await self._emptied.wait()

    def enter(self, member: Member) -> None:
        """Count somebody without a task as one more of them."""
        self._members.add(member)
        self._emptied.clear()

    def leave(self, member: Member) -> None:
        """Count them no more; it does nothing a second time."""
        self._members.discard(member)
        self._note_leaving()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` as one more of them."""
        task = self._group.create_task(self._guard(work), name=self.name)
        self._tasks.add(task)
        self._emptied.clear()
        task.add_done_callback(self._forget)
        # Cancelled before its first step, a task never comes to await its work.
        task.add_done_callback(lambda _: work.close())

    async def _guard(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001 - the boundary at which a bug is logged
            if isinstance(error, TunnelError) and not isinstance(error, LocalProtocolError):
                log.debug("task ended", task=self.name, cause=error)
            else:
                log.error("task failed", task=self.name, exception=error)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._note_leaving()

    def _note_leaving(self) -> None:
        if not self._tasks and not self._members:
            self._emptied.set()

    async def emptied(self) -> None:
        """Wait until none is left. Cancel-safe."""
        await self._emptied.wait()

    def cancel(self) -> None:
        """Cancel all that are running now, and cut those who need no task."""
        for task in self._tasks:
            task.cancel()
        for member in tuple(self._members):
            member.cut()


Work = Callable[[], Coroutine[Any, Any, None]]


async def first_of(*works: Work) -> None:
    """Run all of `works` until one returns or raises, cancel the others, and do as that one did.

    What is raised comes bare, not in a group.
    """
    errors: list[Exception] = []
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0

    async def run(work: Work) -> None:
        try:
            await work()
        except Exception as error:
            errors.append(error)
            raise
        raise _Returned

    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(run(work))
    except ExceptionGroup:
        _settle_cancellations(before)  # what is in it was noted when it was raised
    try:
        if errors:
            raise errors[0]
    finally:
        errors.clear()  # its traceback refers to this frame: a circle the collector would find late


async def restarted(name: str, work: Work, pause: float = RESTART_PAUSE) -> NoReturn:
    """Run `work` for ever: again `pause` seconds after a fault of its own, which is logged."""
    while True:
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - the boundary at which a bug is logged
            log.error("task failed", task=name, retry_in=pause, exception=error)
        await asyncio.sleep(pause)


def _settle_cancellations(before: int) -> None:
    """Take back the cancellation that a task group of Python 3.11.2 (Debian 12) leaves behind.

    With it, a time-out later in this task would look like a cancellation from outside.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling() > before:
        task.uncancel()


class _Returned(Exception):  # noqa: N818 - never leaves this module
    """One of the works came to its end."""
