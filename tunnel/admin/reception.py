"""All doors of a program: opened at its start, and exchanged by a reload."""

import asyncio
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

from tunnel.admin import NOTE, SOCKET
from tunnel.admin.answers import Pages
from tunnel.admin.doors import SOCKET_KEY, Door, control_socket, metrics_address
from tunnel.admin.pages import Desk, control_pages, read_only_pages
from tunnel.errors import ListenFailed
from tunnel.log import get_log
from tunnel.runtime.supervision import Crowd, Work, first_of
from tunnel.settings.values import AdminSettings
from tunnel.stream import Address
from tunnel.tls.files import make_private_directory, write_private

NO_PAGES: Pages = MappingProxyType({})

Place = Path | Address
Doors = Mapping[Place, Door]

log = get_log(__name__)


class Reception:
    """The doors that settings speak of; `ready` and `adopt` are the two phases of a change.

    `desk` answers behind all of them, and what else the control socket has is said by `open`.
    """

    def __init__(self, desk: Desk, state_dir: Path) -> None:
        self._desk = desk
        self._state_dir = state_dir
        self._pages = NO_PAGES
        self._doors: Doors = {}
        self._wanted: frozenset[Place] = frozenset()
        self._crowd: Crowd | None = None  # while it runs

    def __repr__(self) -> str:
        return f"<Reception {list(self._doors.values())}>"

    def open(self, settings: AdminSettings, pages: Pages = NO_PAGES) -> None:
        """Listen wherever the settings say; raises ListenFailed where that cannot be done.

        `pages` are for the control socket beside those that both programs have. A control socket
        that nobody has asked for, in the state directory, may be missing: that is only logged.
        """
        self._pages = pages
        if settings.socket is None:
            self._wanted = frozenset({self._default})
        self.adopt(settings, self.ready(settings))

    async def run(self, work: Work) -> None:
        """Run `work` to its end and answer at the doors meanwhile; closes them.

        Does as `work` did; what it raises comes bare.
        """
        try:
            await first_of(work, self._attend)
        finally:
            _close(self._doors.values())
            self._note(None)

    async def _attend(self) -> NoReturn:
        async with Crowd("doors") as crowd:
            self._crowd = crowd
            try:
                for door in self._doors.values():
                    crowd.start(door.serve())
                await asyncio.get_running_loop().create_future()
            finally:
                self._crowd = None
        raise AssertionError("nobody ends it but by cancelling")

    # -- other settings

    def ready(self, settings: AdminSettings) -> Doors:
        """Return an open door at each place; one that is open already, and found, is that one.

        Raises ListenFailed, and has opened none then.
        """
        doors: dict[Place, Door] = {}
        try:
            for place in self._places(settings):
                door = self._doors.get(place)
                if door is None or not door.is_found:
                    door = self._open(place) or door
                if door is not None:
                    doors[place] = door
        except BaseException:
            self.release(doors)
            raise
        return doors

    def release(self, doors: Doors) -> None:
        """Close those of `doors` that nothing was made of."""
        known = self._doors.values()
        _close(door for door in doors.values() if door not in known)

    def adopt(self, settings: AdminSettings, doors: Doors) -> None:
        """Answer at exactly these from now on; who came to another still gets an answer."""
        before, self._doors = self._doors, doors
        wanted = frozenset(self._places(settings))
        if wanted != self._wanted:
            self._wanted = wanted
            self._note(settings.socket)
        for place, door in doors.items():
            if self._crowd is not None and before.get(place) is not door:
                self._crowd.start(door.serve())
        for place, door in before.items():
            if doors.get(place) is not door:
                log.info("closed to callers", at=place)
                door.retire()
                if self._crowd is None:  # then nobody has served there, who would close it
                    door.close()

    def _note(self, socket: Path | None) -> None:
        """Note where the control socket is; None: nowhere else. What fails is passed over."""
        note = self._state_dir / NOTE
        try:
            if socket in (None, self._default):
                note.unlink(missing_ok=True)
            else:
                make_private_directory(self._state_dir)
                write_private(note, os.fsencode(str(socket)))
        except OSError as error:
            log.debug("control socket not noted", file=note, cause=error.strerror)

    @property
    def _default(self) -> Path:
        return self._state_dir / SOCKET

    def _places(self, settings: AdminSettings) -> Iterator[Place]:
        yield settings.socket or self._default
        if settings.metrics is not None:
            yield settings.metrics

    def _open(self, place: Place) -> Door | None:
        """Open one more door; None where it cannot be, and nobody has asked for it now.

        That is a control socket by default, and one that somebody else has removed since.
        """
        if isinstance(place, Address):
            return Door(metrics_address(place), read_only_pages(self._desk))
        try:
            if place == self._default:
                make_private_directory(self._state_dir)
            return Door(control_socket(place), control_pages(self._desk, self._pages))
        except (ListenFailed, OSError) as fault:
            if place not in self._wanted:
                raise ListenFailed(str(fault), SOCKET_KEY) from fault
            log.warning("no control socket", cause=fault, setting=SOCKET_KEY)
            return None


def _close(doors: Iterable[Door]) -> None:
    for door in doors:
        door.close()
