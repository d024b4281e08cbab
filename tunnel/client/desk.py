"""A client towards its operator: what stands behind its control socket."""

import asyncio
from collections.abc import Iterable
from dataclasses import asdict

from tunnel.admin.answers import Members
from tunnel.admin.families import Family
from tunnel.admin.pages import renewal
from tunnel.client.client import Client
from tunnel.client.counts import Chronicle
from tunnel.client.figures import families_of
from tunnel.client.status import DRAINING, obstacle_of, status_of
from tunnel.log import get_log

log = get_log(__name__)


class ClientDesk:
    """Implements tunnel.admin.pages.Desk; `stop` is set to end the client in order.

    `chronicle` hears the client's events. Made on the running event loop.
    """

    def __init__(self, client: Client, chronicle: Chronicle, stop: asyncio.Event) -> None:
        self._client = client
        self._chronicle = chronicle
        self._stop = stop
        self._since = asyncio.get_running_loop().time()

    async def gather(self) -> None:
        """Do nothing: all is known here."""

    def obstacle(self) -> str | None:
        return DRAINING if self._stop.is_set() else obstacle_of(self._client.info())

    def status(self) -> Members:
        return status_of(self._client, self._uptime, is_draining=self._stop.is_set())

    def certificates(self) -> list[Members]:
        states = {
            state.name: state for endpoint in self._client.info() for state in endpoint.certificates
        }
        return [asdict(state) for state in states.values()]

    def renew(self, name: str) -> Members:
        sources = {str(each["name"]): str(each["source"]) for each in self.certificates()}
        return renewal(name, sources, lambda: self._client.renew(name))

    def drain(self) -> None:
        log.info("asked to drain")
        self._stop.set()

    def families(self) -> Iterable[Family]:
        is_ready = self.obstacle() is None
        info = self._client.info()
        return families_of(info, self._chronicle, self._uptime, is_ready=is_ready)

    @property
    def _uptime(self) -> float:
        return asyncio.get_running_loop().time() - self._since
