"""Reloads as they are asked for: what `reload` and `systemctl reload` reach, doors included."""

from http import HTTPStatus
from typing import Generic, Protocol, TypeVar

from tunnel.admin.answers import Answer, Pages, Problem, Request, json_answer
from tunnel.admin.reception import Reception
from tunnel.runtime.reloading import Reloadable
from tunnel.settings.reload import ReloadOutcome, ReloadPlan
from tunnel.settings.values import ClientSettings, RelaySettings

S = TypeVar("S", RelaySettings, ClientSettings)

DRY_RUN = {"1": True, "0": False}


class CanReload(Protocol):
    """Whoever reads settings anew; see tunnel.runtime.reloading."""

    async def reload(self, *, dry_run: bool = False) -> ReloadOutcome:
        """Return what came of it; never raises."""


def reload_pages(reloader: CanReload) -> Pages:
    """Return `POST /reload`, which answers once the new settings are in force or refused.

    With `?dry_run=1` nothing is changed. A refusal is an answer like another: it has `faults`.
    """

    async def reload(request: Request) -> Answer:
        word = request.query.get("dry_run", "0")
        if word not in DRY_RUN:
            raise Problem(HTTPStatus.BAD_REQUEST, f"dry_run={word[:100]} (expected 0 or 1)")
        outcome = await reloader.reload(dry_run=DRY_RUN[word])
        return json_answer(outcome.to_json())

    return {"/reload": {"POST": reload}}


class Attended(Generic[S]):
    """A daemon with its doors: either both go on with other settings, or neither does.

    Implements tunnel.runtime.reloading.Reloadable.
    """

    def __init__(self, daemon: Reloadable[S], reception: Reception) -> None:
        self._daemon: Reloadable[S] = daemon
        self._reception = reception

    @property
    def settings(self) -> S:
        return self._daemon.settings

    async def reload(self, settings: S) -> ReloadPlan:
        reception = self._reception
        doors = reception.ready(settings.admin)
        try:
            return await self._daemon.reload(settings)
        finally:
            # Also where it was cancelled: what counts is what it runs on.
            if self._daemon.settings is settings:
                reception.adopt(settings.admin, doors)
            else:
                reception.release(doors)
