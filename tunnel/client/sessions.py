"""All sessions of a client: one for each relay and keypair that have endpoints in common.

New settings are brought into force by `arrange`. A session whose claim or relay is another one now
is replaced by a new one, which serves before the old one leaves.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from tunnel.client import events
from tunnel.client.challenges import Challenges
from tunnel.client.endpoints import Endpoint, Keypair, by_name
from tunnel.client.favourites import Favourites
from tunnel.client.forward import Forwarder
from tunnel.client.journal import Journal
from tunnel.client.passage import Claim, Passage
from tunnel.client.racing import Rules
from tunnel.client.refusals import stanza
from tunnel.client.terms import Terms
from tunnel.client.uplink import Uplink
from tunnel.client.way import Resolver, Way
from tunnel.errors import SettingsError
from tunnel.log import get_log
from tunnel.protocol.messages import NAMES_LIMIT
from tunnel.settings.values import ClientSettings, ServerSettings
from tunnel.transport.doors import Dialer
from tunnel.transport.options import TransportOptions
from tunnel.transport.parking import ParkingBudget

HANDOVER_TIMEOUT = 30.0  # seconds after which what was replaced leaves, whatever came of the other
RETIRED_MAX = 8  # replaced sessions of one relay and keypair that only finish their streams

log = get_log(__name__)

Key = tuple[str, str]  # names of the server and of the keypair
Parting = Callable[[Key, Uplink], None]


@dataclass(frozen=True, slots=True)
class Wish:
    """A session that there is to be; none with another wish can become it."""

    server: ServerSettings
    keypair: Keypair
    names: frozenset[str]
    extension: bytes | None


@dataclass(frozen=True, slots=True)
class Wishes:
    """All sessions that there are to be, with the terms of each."""

    sessions: Mapping[Key, Wish]
    terms: Mapping[Key, Terms]


@dataclass(frozen=True, slots=True, eq=False)
class Outfit:
    """What all sessions have in common for as long as the client lives."""

    instance: bytes
    dialers: Mapping[str, Dialer]
    resolver: Resolver
    favourites: Favourites
    challenges: Challenges
    emit: events.Sink


def wishes_of(settings: ClientSettings, endpoints: Iterable[Endpoint]) -> Wishes:
    """Return the sessions that settings ask for; raises SettingsError for too many names."""
    sessions: dict[Key, Wish] = {}
    terms: dict[Key, Terms] = {}
    options = _options(settings)
    for key, served in _grouped(settings, endpoints).items():
        server, keypair = settings.servers[key[0]], served[0].keypair
        table = by_name(served)
        if len(table) > NAMES_LIMIT:
            fault = f"keypairs.{keypair.name}: {len(table)} names, at most {NAMES_LIMIT} allowed"
            raise SettingsError([fault])
        extensions = (each.settings.certificate_extension for each in served)
        extension = next((each for each in extensions if each is not None), None)
        sessions[key] = Wish(server, keypair, frozenset(table), extension)
        terms[key] = Terms(
            endpoints=table,
            options=options,
            direct=settings.direct,
            rules=Rules(server.transport, server.pool_size, settings.probe_interval),
            register_timeout=settings.timeouts.register,
            heartbeat=settings.timeouts.heartbeat,
            linger_timeout=settings.timeouts.linger,
            drain_timeout=settings.drain_timeout,
        )
    return Wishes(sessions, terms)


def _grouped(settings: ClientSettings, endpoints: Iterable[Endpoint]) -> dict[Key, list[Endpoint]]:
    """Return the endpoints of each session, in the order of the settings."""
    every = list(endpoints)
    grouped = {
        (server, keypair): [
            each
            for each in every
            if each.keypair.name == keypair and server in each.settings.servers
        ]
        for server in settings.servers
        for keypair in settings.keypairs
    }
    return {key: served for key, served in grouped.items() if served}


class Sessions:
    """The uplinks of a client, those that are leaving included."""

    def __init__(self, outfit: Outfit) -> None:
        self._outfit = outfit
        self._wishes: Mapping[Key, Wish] = {}
        self._current: dict[Key, Uplink] = {}
        self._outgoing: dict[Uplink, Key] = {}  # until another serves in their place
        self._retired: dict[Uplink, Key] = {}
        self._group: asyncio.TaskGroup | None = None
        self._stopped = asyncio.Event()

    def __repr__(self) -> str:
        leaving = len(self._outgoing) + len(self._retired)
        return f"<Sessions {len(self._current)} current, {leaving} leaving>"

    @property
    def uplinks(self) -> list[Uplink]:
        """Those that visitors and validations may come through."""
        return [*self._current.values(), *self._outgoing]

    @property
    def is_stopped(self) -> bool:
        """Whether they were asked to end."""
        return self._stopped.is_set()

    # -- running

    async def run(self) -> None:
        """Keep them up until `stop`, and let them end in order then."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            for uplink in self._current.values():
                self._begin(uplink)
            await self._stopped.wait()

    def stop(self) -> None:
        """Ask `run` to return; see `Uplink.stop`."""
        self._stopped.set()
        for uplink in (*self._current.values(), *self._outgoing, *self._retired):
            uplink.stop()

    def _begin(self, uplink: Uplink) -> None:
        if self._group is not None and not self._stopped.is_set():
            self._group.create_task(self._run(uplink), name=repr(uplink))

    async def _run(self, uplink: Uplink) -> None:
        await uplink.run()
        self._outgoing.pop(uplink, None)
        self._retired.pop(uplink, None)

    # -- arranging anew

    def arrange(self, wishes: Wishes) -> None:
        """Have exactly these sessions from now on; those that are as wished are not touched.

        After `stop` there are to be none, whatever is wished.
        """
        if self._stopped.is_set():
            return
        before, self._current = self._current, {}
        for key, wish in wishes.sessions.items():
            uplink = before.pop(key, None)
            terms = wishes.terms[key]
            if uplink is not None and wish == self._wishes[key]:
                uplink.reconfigure(terms)
                self._current[key] = uplink
                continue
            self._current[key] = successor = self._make(wish, terms)
            self._begin(successor)
            if uplink is not None and self._group is not None:
                work = self._hand_over(key, uplink, successor, self._parting(key, wish))
                self._outgoing[uplink] = key
                self._group.create_task(work, name=f"handover from {uplink!r}")
        for key, uplink in before.items():
            self._leave(key, uplink)
        self._wishes = wishes.sessions

    def _parting(self, key: Key, wish: Wish) -> Parting:
        """Return how the session is left that another one replaces.

        Where only the claim is another one, that is no reason to cut a visitor.
        """
        before = self._wishes[key]
        is_same_peer = (before.server, before.keypair) == (wish.server, wish.keypair)
        return self._retire if is_same_peer else self._leave

    def _make(self, wish: Wish, terms: Terms) -> Uplink:
        outfit = self._outfit
        keypair, server = wish.keypair, wish.server
        passage = Passage(
            way=Way(server, terms.options, outfit.dialers, outfit.resolver),
            claim=Claim(keypair, outfit.instance, tuple(terms.endpoints), wish.extension),
            forwarder=Forwarder(terms.endpoints, terms.linger_timeout, outfit.challenges),
            challenges=outfit.challenges,
            register_timeout=terms.register_timeout,
            heartbeat=terms.heartbeat,
        )
        served = terms.endpoints.values()
        suffixes = [each.settings.suffix for each in dict.fromkeys(served)]
        custom = [name for each in dict.fromkeys(served) for name in each.settings.names]
        wanted = stanza(keypair.fingerprint, suffixes, custom)
        journal = Journal(server.name, keypair.name, wanted, outfit.emit)
        return Uplink(passage, terms, journal, outfit.favourites)

    async def _hand_over(self, key: Key, old: Uplink, new: Uplink, part: Parting) -> None:
        """Let `old` go once `new` serves."""
        try:
            async with asyncio.timeout(HANDOVER_TIMEOUT):
                await new.served()
        except TimeoutError:
            log.warning("replaced before another serves", server=old.server, by=new)
        if self._outgoing.pop(old, None) is not None:  # else it has ended
            old.hand_over(lambda: self._urls(key))
            part(key, old)

    def _urls(self, key: Key) -> Mapping[str, str]:
        """Return where visitors find the names that a session, if there is one now, serves."""
        uplink = self._current.get(key)
        return {} if uplink is None else uplink.urls

    def _leave(self, key: Key, uplink: Uplink) -> None:
        self._retired[uplink] = key
        uplink.stop()

    def _retire(self, key: Key, uplink: Uplink) -> None:
        """Let an uplink finish its streams; of those that do so, the oldest have to hurry."""
        self._retired[uplink] = key
        uplink.retire()
        retired = [each for each, whose in self._retired.items() if whose == key]
        for oldest in retired[:-RETIRED_MAX]:
            oldest.stop()


def _options(settings: ClientSettings) -> TransportOptions:
    return TransportOptions(
        flow=settings.flow,
        quic=settings.quic,
        budget=_shared_budget(settings.limits.buffer_total),
        handshake_timeout=settings.timeouts.register,
    )


@lru_cache(maxsize=8)
def _shared_budget(total: int) -> ParkingBudget:
    """Return one account for all clients of this process: the limit is the process's."""
    return ParkingBudget(total)
