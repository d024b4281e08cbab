"""The pages that both programs have, over what each says of itself."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

from tunnel.admin.answers import (
    TEXT,
    Answer,
    Handler,
    Members,
    Pages,
    Problem,
    Request,
    json_answer,
)
from tunnel.admin.families import Family

if TYPE_CHECKING:
    from tunnel.admin.metrics import Exposition


class Desk(Protocol):
    """What a running program says of itself, and what may be asked of it.

    Nothing here waits but `gather`.
    """

    async def gather(self) -> None:
        """Bring up to date what other processes know; called before anything else is asked."""

    def obstacle(self) -> str | None:
        """Return why the program is not ready in one line, None if it is."""

    def status(self) -> Members:
        """Return how everything stands."""

    def certificates(self) -> list[Members]:
        """Return the certificates, each with its `name`."""

    def renew(self, name: str) -> Members:
        """Have a certificate ordered now; raises Problem where there is none to be ordered."""

    def drain(self) -> None:
        """Begin to end in order, as after SIGTERM."""

    def families(self) -> Iterable[Family]:
        """Return every figure."""


def renewal(name: str, sources: Mapping[str, str], at: Callable[[], datetime | None]) -> Members:
    """Return what is answered to the wish for a new certificate; raises Problem.

    `sources` has the certificates that there are, and where from; `at` has one ordered and says
    when that is due, None where nobody orders any.
    """
    if name not in sources:
        raise Problem(HTTPStatus.NOT_FOUND, f"there is no certificate for {name[:100]}")
    due = at()
    if due is None:
        message = f'the certificate is "{sources[name]}": there is nobody to order from'
        raise Problem(HTTPStatus.CONFLICT, message)
    return {"name": name, "order_at": due}


def read_only_pages(desk: Desk) -> Pages:
    """Return what anybody may read who reaches a TCP address."""

    @cache  # 60 ms of imports, for those who are asked for metrics
    def exposition() -> "Exposition":
        from tunnel.admin.metrics import Exposition  # noqa: PLC0415 - see above

        return Exposition(desk.families)

    async def live(_request: Request) -> Answer:
        return Answer(b"live\n", media_type=TEXT)

    async def ready(_request: Request) -> Answer:
        obstacle = desk.obstacle()
        status = HTTPStatus.OK if obstacle is None else HTTPStatus.SERVICE_UNAVAILABLE
        return Answer(f"{obstacle or 'ready'}\n".encode(), status, TEXT)

    async def metrics(_request: Request) -> Answer:
        await desk.gather()
        from tunnel.admin.metrics import MEDIA_TYPE  # noqa: PLC0415 - as above

        return Answer(exposition().text(), media_type=MEDIA_TYPE)

    return {"/livez": _get(live), "/readyz": _get(ready), "/metrics": _get(metrics)}


def control_pages(desk: Desk, more: Pages) -> Pages:
    """Return what stands behind the control socket; `more` are pages of one program only."""

    async def status(_request: Request) -> Answer:
        await desk.gather()
        return json_answer(desk.status())

    async def drain(_request: Request) -> Answer:
        desk.drain()
        return json_answer({"draining": True}, HTTPStatus.ACCEPTED)

    async def certificates(_request: Request) -> Answer:
        return json_answer({"certificates": desk.certificates()})

    async def renew(request: Request) -> Answer:
        name = request.members().get("name")
        if not isinstance(name, str):
            raise Problem(HTTPStatus.BAD_REQUEST, 'expected {"name": "…"}')
        return json_answer(desk.renew(name), HTTPStatus.ACCEPTED)

    return {
        **read_only_pages(desk),
        "/status": _get(status),
        "/drain": {"POST": drain},
        "/certificates": _get(certificates),
        "/certificates/renew": {"POST": renew},
        **more,
    }


def _get(handler: Handler) -> dict[str, Handler]:
    return {"GET": handler}
