"""One order after the other: from the names to the certificate (RFC 8555 §7.4).

What blocks runs in a thread of its own; the libraries it needs are imported there, since that
takes a sixth of a second.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec

from tunnel.acme.challenge import ChallengePath, PendingAnswer, challenge_context
from tunnel.acme.directories import Directory
from tunnel.acme.preflight import check, wants_preflight
from tunnel.acme.store import Draft, Store
from tunnel.acme.worker import Worker
from tunnel.errors import IssueFailed, OrderPostponed
from tunnel.log import get_log
from tunnel.settings.values import AcmeSettings
from tunnel.tls.slots import Certificate, CertificateKey

if TYPE_CHECKING:
    from tunnel.acme.authority import Authority
    from tunnel.acme.order import Order
    from tunnel.acme.preflight import Resolver
    from tunnel.acme.schedule import RenewalWindow

T = TypeVar("T")

PROOF_TIMEOUT = 120.0  # seconds for the authority to validate all names
ISSUE_TIMEOUT = 120.0  # seconds for it to issue the certificate
WARNINGS_KEPT = 10_000  # so as not to repeat them
PAUSE_MAX = 30.0  # seconds between two looks, whatever the authority asks for

log = get_log(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be certified, and where the authority's validations come in."""

    names: tuple[str, ...]
    path: ChallengePath
    key: CertificateKey | None = None  # None: a new one
    predecessor: Certificate | None = None  # what the new certificate takes the place of


class OrderGone(IssueFailed):
    """An order from before has come to nothing since; it is forgotten."""


class Orders:
    """Everything that is asked of one authority."""

    def __init__(
        self,
        settings: AcmeSettings,
        directory: Directory,
        store: Store,
        resolver: "Resolver | None" = None,
    ) -> None:
        self._settings = settings
        self._directory = directory
        self._store = store
        self._resolver = resolver  # None: the system's
        self._worker = Worker(f"acme {directory.name}")
        self._authority: Authority | None = None
        self._warned: set[str] = set()  # what preflights have said already
        self._finished: dict[tuple[str, ...], str] = {}  # URL of the last order that succeeded

    async def renewal_window(
        self, certificate: Certificate
    ) -> "tuple[RenewalWindow | None, float]":
        """Return when the authority wants a certificate renewed, and the seconds until to ask anew.

        Raises IssueFailed, SettingsError.
        """
        return await self._run(lambda authority: authority.renewal_window(certificate))

    async def certificate(self, request: Request) -> Certificate:
        """Return a new certificate; the store holds it as a draft until `drop_draft`.

        Raises IssueFailed, OrderGone if another call is to place a new order, OrderPostponed if
        nothing was ordered, SettingsError for files.
        """
        authority = await self._run(lambda authority: authority)
        await self._check(request, authority)
        # Nothing is ordered before every relay is ready for what follows from it.
        async with AsyncExitStack() as stack:
            expected = {name: PendingAnswer() for name in request.names}
            renewal = request.predecessor is not None
            for name, each in expected.items():
                opened = request.path.opened(name, each, renewal=renewal)
                await stack.enter_async_context(opened)
            return await self._ordered(request, expected)

    async def _ordered(
        self, request: Request, expected: Mapping[str, PendingAnswer]
    ) -> Certificate:
        """Return the certificate of the order under way, or else of a new one."""
        draft = self._draft(request)
        if draft is not None:
            order = await self._resumed(draft, request.names)
            certificate = await self._pursue(order, draft.key, request, expected)
            if not _is_known(certificate, request):
                return certificate
            self._store.drop_draft(request.names)  # left behind by a process that was killed
        return await self._pursue(*await self._placed(request), request, expected)

    async def _pursue(
        self,
        order: "Order",
        key: CertificateKey,
        request: Request,
        expected: Mapping[str, PendingAnswer],
    ) -> Certificate:
        """Bring an order to its end, from wherever it stands."""
        try:
            await self._prove(order, expected)
            await self._run(lambda _authority: order.finalize(key))
            certificate = await self._until(
                lambda: order.poll_certificate(key), ISSUE_TIMEOUT, "the certificate was not issued"
            )
        except IssueFailed as error:
            if _is_over(error):
                self._store.drop_draft(request.names)
            raise
        self._finished[request.names] = order.url
        return certificate

    async def _run(self, step: "Callable[[Authority], T]") -> T:
        """Return what a step with the authority returns, once its account is there."""

        def work() -> T:
            return step(self._prepared())

        return await self._worker.run(work)

    def _prepared(self) -> "Authority":
        if self._authority is None:
            from tunnel.acme.authority import Authority  # noqa: PLC0415 - see the module's docstring

            account = self._settings.account_file or self._store.account_file
            self._authority = Authority(self._settings, self._directory, account)
        self._authority.prepare()
        return self._authority

    async def _check(self, request: Request, authority: "Authority") -> None:
        """Look whether the order could succeed at all; raises OrderPostponed."""
        if not wants_preflight(self._settings.preflight, self._directory):
            return
        identities = authority.caa_identities or self._directory.caa
        verdict = await check(
            request.names,
            identities,
            account=authority.account_url,
            resolver=self._resolver,
            expected=frozenset().union(*map(request.path.addresses, request.names)),
        )
        for warning in verdict.warnings:
            tell = log.debug if warning in self._warned else log.warning
            tell("preflight", cause=warning)
        if len(self._warned) < WARNINGS_KEPT:
            self._warned.update(verdict.warnings)
        if verdict.faults:
            raise OrderPostponed("; ".join(verdict.faults))

    def _draft(self, request: Request) -> Draft | None:
        """Return the order that was under way when this or an earlier process gave it up."""
        draft = self._store.draft(request.names)
        if draft is None or self._is_worth_resuming(draft, request):
            return draft
        self._store.drop_draft(request.names)
        return None

    async def _resumed(self, draft: Draft, names: Sequence[str]) -> "Order":
        """Return the order of a draft; raises OrderGone."""
        order = await self._run(lambda authority: authority.resume(draft.url, names))
        if order is None:
            self._store.drop_draft(names)
            raise OrderGone(f"nothing will come of {draft.url}")
        return order

    def _is_worth_resuming(self, draft: Draft, request: Request) -> bool:
        """Say no to what is done already, and to an order for another key than is wanted."""
        if draft.url == self._finished.get(request.names):  # a full disk may keep us from dropping
            return False
        return request.key is None or request.key.public_key() == draft.key.public_key()

    async def _placed(self, request: Request) -> "tuple[Order, CertificateKey]":
        key = request.key or ec.generate_private_key(ec.SECP256R1())
        replaces = request.predecessor
        order = await self._run(lambda authority: authority.place(request.names, replaces))
        self._store.save_draft(Draft(order.url, request.names, key))
        return order, key

    async def _prove(self, order: "Order", expected: Mapping[str, PendingAnswer]) -> None:
        """Answer the authority's challenges until it has seen that the names are ours."""
        for name, digest in order.challenges.items():
            expected[name].context = challenge_context(name, digest, datetime.now(UTC))
        if order.challenges:
            await self._run(lambda _authority: order.answer())
        await self._until(order.poll_proofs, PROOF_TIMEOUT, "the authority saw no proof")

    async def _until(self, look: "Callable[[], T | float]", timeout: float, failure: str) -> T:
        """Return what `look` comes to see; until then it returns the seconds to the next look.

        Raises IssueFailed after `timeout` seconds.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        while True:
            seen = await self._run(lambda _authority: look())
            if not isinstance(seen, float):
                return seen
            if asyncio.get_running_loop().time() >= deadline:
                raise IssueFailed(f"{failure} within {timeout:g} s")
            await asyncio.sleep(min(seen, PAUSE_MAX))


def _is_known(certificate: Certificate, request: Request) -> bool:
    known = request.predecessor
    return known is not None and certificate.leaf_hash == known.leaf_hash


def _is_over(error: IssueFailed) -> bool:
    """Return whether nothing can come any more of the order that failed so."""
    from tunnel.acme.authority import is_gone  # noqa: PLC0415 - see the module's docstring

    return is_gone(error)
