"""The worker processes: begun, told, asked, looked after, begun again, ended. Decides nothing."""

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from types import TracebackType
from typing import Protocol

from tunnel.errors import ConnectionLost, Refused, SettingsError, TunnelError
from tunnel.log import get_log
from tunnel.relay.workers.parcels import HandedListener, note_of
from tunnel.relay.workers.shares import clear_row, new_table, table_bytes
from tunnel.runtime.supervision import Crowd, first_of
from tunnel.runtime.workers.channel import Channel, Message
from tunnel.runtime.workers.launching import launch
from tunnel.runtime.workers.mailbox import Mailbox, drop, new_mailbox

MODULE = "tunnel.relay.workers"
OPEN_TIMEOUT = 60.0  # seconds, on a machine that has very much else to do
PING_INTERVAL, PING_TIMEOUT = 5.0, 5.0
PINGS_MISSED_MAX = 3  # in a row: a worker that stands still for longer is ended
ASK_TIMEOUT = 15.0
LOOK_TIMEOUT = 2.0
REAP_TIMEOUT = 5.0  # seconds from the end of the channel to that of the process
RESTART_MIN, RESTART_MAX = 0.2, 30.0  # seconds; doubled each time that it did not last
LASTING = 60.0  # seconds after which a worker that ends is begun anew at once
PASSING_PAUSE = 0.05

log = get_log(__name__)


Sockets = Iterable[tuple[str, socket.socket]]  # to listen on, by key


class Orders(Protocol):
    """What the head says to a worker, and hears of it."""

    def briefing(self, worker: int) -> Mapping[str, object]:
        """Return what a worker begins with."""

    def sockets(self, worker: int) -> Sockets:
        """Return what it listens on, by key."""

    def hear(self, worker: int, channel: Channel, message: Message) -> None:
        """Do what a worker asks or tells."""

    def lost(self, worker: int) -> None:
        """Note that a worker has ended."""


@dataclass(slots=True, eq=False)
class Post:
    """The place of one worker, whichever process has it now."""

    index: int
    mailbox: Mailbox
    process: "subprocess.Popen[bytes] | None" = None
    channel: Channel | None = None
    launches: int = 0
    visitors: int = 0  # as of the last ping
    is_open: bool = False
    faults: list[str] = field(default_factory=list)  # why it ended, in its own words


class Crew:
    """Keeps so many workers running while it is entered."""

    def __init__(self, workers: int, orders: Orders) -> None:
        self.posts = [Post(index, new_mailbox()) for index in range(workers)]
        self.mailbox = new_mailbox()  # the head's own
        self.restarts = 0
        self._orders = orders
        self._crowd = Crowd("worker")
        self._is_ending = False
        self._tickets = count(1)
        self._has_begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._readied: dict[Post, int] = {}  # by which launch of it
        self._table = os.memfd_create("addresses", os.MFD_CLOEXEC)
        os.ftruncate(self._table, table_bytes(workers))
        new_table(self._table, workers)

    def __repr__(self) -> str:
        return f"<Crew of {len(self.posts)}>"

    async def __aenter__(self) -> "Crew":
        await self._crowd.__aenter__()
        for post in self.posts:
            self._crowd.start(self._keep(post))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_ending = True
        self._crowd.cancel()
        await self._crowd.__aexit__(kind, error, traceback)
        for mailbox in (self.mailbox, *(post.mailbox for post in self.posts)):
            mailbox.close()
        os.close(self._table)

    async def begun(self) -> None:
        """Wait until all of them are open; raises SettingsError, TunnelError."""
        try:
            async with asyncio.timeout(OPEN_TIMEOUT):
                await self._has_begun
        except TimeoutError:
            raise TunnelError(f"no worker was ready within {OPEN_TIMEOUT:g} s") from None

    @property
    def open(self) -> Iterator[tuple[Post, Channel]]:
        """Those that may be told something."""
        for post in self.posts:
            if post.is_open and post.channel is not None:
                yield post, post.channel

    def tell(self, worker: int, kind: str, /, **members: object) -> None:
        """Send a message to a worker, if it has begun."""
        channel = self.posts[worker].channel
        if channel is not None:
            channel.tell(kind, **members)

    def tell_all(self, kind: str, **members: object) -> None:
        """Send a message to every worker that has begun."""
        for post in self.posts:
            self.tell(post.index, kind, **members)

    async def ask_all(
        self, kind: str, timeout: float = ASK_TIMEOUT, **members: object
    ) -> dict[Post, Message | None]:
        """Ask every open worker the same; None stands for no answer."""
        answers: dict[Post, Message | None] = {}

        async def ask(post: Post, channel: Channel) -> None:
            try:
                answers[post] = await channel.ask(kind, timeout, **members)
            except (ConnectionLost, TimeoutError):
                answers[post] = None

        async with asyncio.TaskGroup() as group:
            for post, channel in self.open:
                group.create_task(ask(post, channel), name=f"{kind} {post.index}")
        return answers

    async def ready(
        self, settings: str, keys: list[str], new: Callable[[int], Sockets]
    ) -> list[str]:
        """Have open workers make other settings ready; return what stands against them.

        They are to listen on all of `keys`; those that are `new` are passed on to each.
        Raises TunnelError.
        """
        self._readied.clear()
        faults: list[str] = []
        ticket = next(self._tickets)
        for post, _ in list(self.open):
            await self._pass_on(post, ticket, new(post.index))
        answers = await self.ask_all("ready", ticket=ticket, sockets=keys, settings=settings)
        for post, answer in answers.items():
            if answer is None:
                faults.append(f"worker {post.index} does not answer")
            else:
                self._readied[post] = post.launches
                faults += answer.get("faults", ())
        return sorted(set(faults))

    def adopt(self, **members: object) -> None:
        """Have what is ready brought into force, and end a worker that has begun without it."""
        for post in self.posts:
            if post.is_open and self._readied.get(post) == post.launches:
                self.tell(post.index, "adopt", **members)
            else:
                self.end_now(post)

    def end_now(self, post: Post) -> None:
        """Kill a worker; another one takes its place."""
        if post.process is not None:
            with suppress(ProcessLookupError):
                post.process.send_signal(signal.SIGKILL)

    async def drain(self, timeout: float) -> None:
        """Have all of them drain, and end those that have not ended after `timeout` seconds."""
        self._is_ending = True
        for post in self.posts:
            if post.channel is not None:
                post.channel.tell("drain")  # one that has not opened yet does so, and ends
            else:
                self.end_now(post)
        try:
            async with asyncio.timeout(timeout):
                await self._crowd.emptied()
        except TimeoutError:
            log.warning("workers ended that did not end themselves")

    # -- one worker

    async def _keep(self, post: Post) -> None:
        """Have a process at the post until the end."""
        clock = asyncio.get_running_loop().time
        pause = RESTART_MIN
        while True:
            began = clock()
            try:
                status = await self._run(post)
            except (OSError, TunnelError) as error:
                status = None
                log.error("worker not begun", worker=post.index, cause=error)
            if self._is_ending:
                return
            if not self._has_begun.done():
                self._has_begun.set_exception(_failure(post, status))
                return
            pause = RESTART_MIN if clock() - began > LASTING else min(2 * pause, RESTART_MAX)
            log.error("worker ended", worker=post.index, status=status, retry_in=pause)
            await asyncio.sleep(pause)
            self.restarts += 1

    async def _run(self, post: Post) -> int:
        """Run one process to its end; return its status."""
        ended = asyncio.Event()
        near, far = socket.socketpair()
        post.launches += 1
        slots = [each.mailbox.slot.fileno() for each in self.posts]
        descriptors = [far.fileno(), post.mailbox.tray.fileno(), self._table, *slots]
        try:
            post.process = process = launch(MODULE, [*descriptors, self.mailbox.slot.fileno()])
        except OSError:
            near.close()
            raise
        finally:
            far.close()
        try:
            post.channel = Channel(lambda said: self._hear(post, said), ended.set)
            await post.channel.open(near)
            await self._begin(post, post.channel)
            await first_of(lambda: _wait(ended), lambda: self._watch(post))
            return await _reaped(process)
        finally:
            post.is_open, post.channel, post.process = False, None, None
            if process.poll() is None:
                process.kill()
                process.wait()
            clear_row(self._table, len(self.posts), post.index)
            self._orders.lost(post.index)

    async def _begin(self, post: Post, channel: Channel) -> None:
        sockets = list(self._orders.sockets(post.index))
        keys = [key for key, _ in sockets]
        briefing = self._orders.briefing(post.index)
        ticket = next(self._tickets)
        channel.tell("begin", index=post.index, ticket=ticket, sockets=keys, **briefing)
        await self._pass_on(post, ticket, sockets)

    async def _pass_on(self, post: Post, ticket: int, sockets: Sockets) -> None:
        """Send a worker what it is to listen on, as soon as its mailbox has room.

        Raises TunnelError if it gets none.
        """
        deadline = asyncio.get_running_loop().time() + ASK_TIMEOUT
        for key, sock in sockets:
            note = note_of(HandedListener(key, ticket))
            while post.channel is not None:
                try:
                    drop(post.mailbox.slot, note, sock)
                except Refused as refusal:
                    if asyncio.get_running_loop().time() > deadline:
                        raise TunnelError(f"worker {post.index}: {refusal.message}") from refusal
                    await asyncio.sleep(PASSING_PAUSE)
                else:
                    break

    async def _watch(self, post: Post) -> None:
        """Return never; end a worker that does not open in time, or stands still."""
        missed = 0
        began = asyncio.get_running_loop().time()
        while True:
            await asyncio.sleep(PING_INTERVAL)
            if not post.is_open:
                if asyncio.get_running_loop().time() - began > OPEN_TIMEOUT:
                    self._end_idle(post)
            elif await self._answers(post):
                missed = 0
            else:
                missed += 1
                if missed >= PINGS_MISSED_MAX:
                    self._end_idle(post)

    async def _answers(self, post: Post) -> bool:
        """Say whether a worker answers, and note how many visitors it has."""
        try:
            if post.channel is not None:
                answer = await post.channel.ask("ping", PING_TIMEOUT)
                post.visitors = answer["visitors"]
        except ConnectionLost:
            pass  # its end is noticed elsewhere
        except TimeoutError:
            return False
        return True

    def _end_idle(self, post: Post) -> None:
        log.error("worker does not answer: ended", worker=post.index)
        self.end_now(post)

    def _hear(self, post: Post, message: Message) -> None:
        if message["kind"] == "open":
            post.is_open = True
            if all(each.is_open for each in self.posts) and not self._has_begun.done():
                self._has_begun.set_result(None)
        elif message["kind"] == "failed":
            post.faults = message["faults"]
        elif post.channel is not None:
            self._orders.hear(post.index, post.channel, message)


async def _wait(ended: asyncio.Event) -> None:
    await ended.wait()


def _failure(post: Post, status: int | None) -> TunnelError:
    if post.faults:
        return SettingsError(post.faults)
    return TunnelError(f"worker {post.index} ended with {status} while it began")


async def _reaped(process: "subprocess.Popen[bytes]") -> int:
    """Return the status of a process that is about to end, and end it if it does not."""
    try:
        async with asyncio.timeout(REAP_TIMEOUT):
            while (status := process.poll()) is None:  # noqa: ASYNC110 - no event tells of it
                await asyncio.sleep(0.02)
            return status
    except TimeoutError:
        process.kill()
        return process.wait()
