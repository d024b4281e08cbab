"""A relay towards its operator: the pages of the control socket, over what `status` knows."""

import asyncio
from collections.abc import Iterable
from dataclasses import asdict
from http import HTTPStatus
from typing import Protocol

from tunnel import __version__
from tunnel.admin.answers import Answer, Members, Pages, Problem, Request, json_answer
from tunnel.admin.families import Family
from tunnel.admin.pages import renewal
from tunnel.log import get_log
from tunnel.relay.explanation import Explainer
from tunnel.relay.figures import families_of
from tunnel.relay.state import own_names
from tunnel.relay.status import View, certificate_of, status_of

log = get_log(__name__)

STARTING = "starting: nothing is listened on yet"


class Viewed(Protocol):
    """A relay, as far as it is looked at."""

    @property
    def view(self) -> View | None:
        """What runs; None until it listens."""

    async def gather(self) -> None:
        """As of tunnel.admin.pages.Desk."""


class RelayDesk:
    """Implements tunnel.admin.pages.Desk; `stop` is set to end the relay in order.

    Made on the running event loop.
    """

    def __init__(self, relay: Viewed, stop: asyncio.Event) -> None:
        self._relay = relay
        self._stop = stop
        self._since = asyncio.get_running_loop().time()

    @property
    def pages(self) -> Pages:
        """What only a relay has."""
        return {"/explain": {"GET": self._explain}}

    async def gather(self) -> None:
        await self._relay.gather()

    def obstacle(self) -> str | None:
        view = self._relay.view
        return STARTING if view is None else view.obstacle()

    def status(self) -> Members:
        view = self._relay.view
        if view is None:
            words = {"state": "starting", "ready": False, "why": STARTING}
            return {"program": "relay", "version": __version__, **words}
        return status_of(view, self._since)

    def certificates(self) -> list[Members]:
        view = self._relay.view
        return [] if view is None else [certificate_of(view)]

    def renew(self, name: str) -> Members:
        view = self._started()
        certificate = certificate_of(view)
        names = (str(certificate["name"]), *view.settings.certificate.names)
        sources = dict.fromkeys(names, str(certificate["source"]))
        return renewal(name, sources, view.certificate.renew)

    def drain(self) -> None:
        log.info("asked to drain")
        self._stop.set()

    def families(self) -> Iterable[Family]:
        view = self._relay.view
        if view is None:
            return ()
        return families_of(view, asyncio.get_running_loop().time() - self._since)

    def _started(self) -> View:
        view = self._relay.view
        if view is None:
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, STARTING)
        return view

    async def _explain(self, request: Request) -> Answer:
        await self._relay.gather()
        view = self._started()
        names = own_names(view.settings, view.certificate.slot.current)
        explainer = Explainer(view.settings, names, view.registry, view.budget)
        try:
            return json_answer(asdict(explainer.explain(request.query.get("host", ""))))
        except ValueError as error:
            raise Problem(HTTPStatus.BAD_REQUEST, f"host: {error}") from None
