"""The page by which settings are read anew: what `reload` and `systemctl reload` ask for."""

from http import HTTPStatus
from typing import Protocol

from tunnel.admin.answers import Answer, Pages, Problem, Request, json_answer
from tunnel.settings.reload import ReloadOutcome

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
