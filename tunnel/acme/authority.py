"""One ACME server (RFC 8555) through one account: blocking, in steps that take one network timeout.

Whoever calls runs it in a thread of its own. This module is slow to import: import it there, too.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

from acme.messages import Directory as AcmeDirectory
from acme.messages import ExternalAccountBinding

from tunnel.acme.account import (
    Account,
    create_account,
    load_account,
    read_eab_key,
    save_account,
)
from tunnel.acme.answers import Answer, Document, Problem
from tunnel.acme.directories import Directory, is_https
from tunnel.acme.network import Network, host_of, roots_for
from tunnel.acme.order import Order, OrderLost
from tunnel.acme.renewal_info import ask_again, certificate_id, window_of
from tunnel.acme.schedule import RenewalWindow
from tunnel.errors import IssueFailed, NotWritable
from tunnel.log import get_log
from tunnel.settings.values import AcmeSettings
from tunnel.tls.slots import Certificate

GONE = frozenset({400, 401, 403, 404, 410})  # what an order may be answered with that is no more
# What an authority may say of a predecessor that it does not take: RFC 9773 §5, or not its own.
NOT_REPLACED = frozenset({"alreadyReplaced", "malformed", "unauthorized"})
UNKNOWN_ACCOUNT = "accountDoesNotExist"
# Refusals that say nothing of the order which was asked for.
NOT_OF_THE_ORDER = frozenset({UNKNOWN_ACCOUNT, "badNonce", "rateLimited", "userActionRequired"})
FRESH = 86400.0  # seconds for which a directory and an account are taken to be as they were

T = TypeVar("T")
log = get_log(__name__)


class Authority:
    """Places and resumes orders; used by one thread at a time. Making it asks nobody.

    All methods raise IssueFailed; for local files SettingsError, NotWritable.
    """

    def __init__(self, settings: AcmeSettings, directory: Directory, account_file: Path) -> None:
        self.caa_identities: tuple[str, ...] = ()  # known after `prepare`
        self._settings = settings
        self._directory = directory
        self._account_file = account_file
        self._account: Account | None = None
        self._network: Network | None = None
        self._urls = Document(host_of(directory.url), {})
        self._stale_at = 0.0  # on the monotonic clock

    @property
    def account_url(self) -> str | None:
        """What the authority calls the account; None until it is known."""
        return self._account.url if self._account else None

    @property
    def offers_renewal_info(self) -> bool:
        """Whether the authority says when to renew (RFC 9773); known after `prepare`."""
        return isinstance(self._urls.fields.get("renewalInfo"), str)

    def prepare(self) -> None:
        """Read the directory, and find the account or make it; does nothing if that is done."""
        self._ready()

    def place(self, names: Sequence[str], replaces: Certificate | None = None) -> Order:
        """Return a new order for `names`, to take the place of a certificate if there is one."""
        return self._as_account(lambda network: self._placed(network, names, replaces))

    def resume(self, url: str, names: Sequence[str]) -> Order | None:
        """Return an order from before; None if nothing can come of it any more."""
        if not is_https(url):
            return None
        try:
            return self._as_account(lambda network: _opened(network, url, names))
        except (OrderLost, Problem) as reason:
            if not is_gone(reason):
                raise
            log.info("order from before is gone", names=list(names), cause=reason)
            return None

    def renewal_window(self, certificate: Certificate) -> tuple[RenewalWindow | None, float]:
        """Return when to renew, if the authority says so, and the seconds until to ask again."""
        network = self._ready()
        known_as = self._known_as(certificate)
        if known_as is None:
            return None, ask_again(None)
        base = self._urls.text("renewalInfo").rstrip("/")
        return window_of(network.fetch(f"{base}/{known_as}"))

    # -- orders

    def _placed(
        self, network: Network, names: Sequence[str], replaces: Certificate | None
    ) -> Order:
        new_order = self._urls.text("newOrder")
        fields = {"identifiers": [{"type": "dns", "value": name} for name in names]}
        predecessor = self._known_as(replaces) if replaces else None
        if predecessor is None:
            answer = network.send(new_order, fields)
        else:
            answer = self._replacing(network, new_order, fields, predecessor)
        if answer.location is None:
            raise IssueFailed(f"{answer.source} took the order without saying where it is")
        return Order.opened(network, answer.location, names, answer)

    def _replacing(
        self, network: Network, new_order: str, fields: dict[str, Any], predecessor: str
    ) -> Answer:
        """Order with the word of what is replaced (RFC 9773 §5), else without."""
        try:
            return network.send(new_order, fields | {"replaces": predecessor})
        except Problem as problem:
            if problem.code not in NOT_REPLACED:
                raise
            log.info("ordered without naming what is replaced", cause=problem)
            return network.send(new_order, fields)

    def _known_as(self, certificate: Certificate) -> str | None:
        """Return what the authority knows a certificate by, if it wants to hear of any."""
        if not self.offers_renewal_info:
            return None
        try:
            return certificate_id(certificate.leaf)
        except ValueError:  # not from an authority
            return None

    # -- directory and account

    def _as_account(self, step: Callable[[Network], T]) -> T:
        """Return what a step returns; if the account turns out to be unknown, after making it."""
        try:
            return step(self._ready())
        except Problem as problem:
            if problem.code != UNKNOWN_ACCOUNT:
                raise
        self._network = None
        return step(self._ready())

    def _ready(self) -> Network:
        if self._network is None or time.monotonic() > self._stale_at:
            account = load_account(self._account_file, self._directory.url)  # its faults come first
            network = Network(roots_for(self._directory.url, self._settings.ca))
            self._learn(network, network.fetch(self._directory.url).document())
            self._account = self._signed_up(network, account)
            network.identify(self._account.key, self._account.url)
            self._network, self._stale_at = network, time.monotonic() + FRESH
        return self._network

    def _learn(self, network: Network, urls: Document) -> None:
        for needed in ("newAccount", "newOrder"):
            urls.text(needed)
        network.nonce_url = urls.text("newNonce")
        self.caa_identities = urls.document("meta").texts("caaIdentities")
        self._urls = urls

    def _signed_up(self, network: Network, kept: Account | None) -> Account:
        """Return the account as the authority has it, its file written."""
        if kept is None:
            self._require_eab()  # before a file is made
        account = kept or create_account(self._account_file, self._directory.url)
        network.identify(account.key, None)
        url = self._found(network, account)
        if url is None:
            url, email = self._made(network, account)
            account = replace(account, email=email)
        account = replace(account, url=url)
        network.identify(account.key, url)
        account = self._reachable(network, account)
        if account != kept:
            self._remember(account)
        return account

    def _found(self, network: Network, account: Account) -> str | None:
        """Return where the account is, None if it is yet to be made."""
        if account.url is None:
            return None
        try:
            answer = network.send(self._urls.text("newAccount"), {"onlyReturnExisting": True})
        except Problem as problem:
            if problem.code != UNKNOWN_ACCOUNT:
                raise
            log.warning("authority does not know the account: making it anew", account=account.url)
            return None
        return answer.location or account.url

    def _made(self, network: Network, account: Account) -> tuple[str, str | None]:
        """Return where the new account is and the e-mail that it has."""
        fields: dict[str, Any] = {"termsOfServiceAgreed": True}
        fields |= _contact(self._settings.email) if self._settings.email else {}
        if (binding := self._binding(network)) is not None:
            fields["externalAccountBinding"] = binding
        answer = network.send(self._urls.text("newAccount"), fields)
        if answer.location is None:
            raise IssueFailed(f"{answer.source} made an account without saying where it is")
        is_new = answer.status == HTTPStatus.CREATED
        log.info("account made" if is_new else "account found", account=answer.location)
        return answer.location, self._settings.email if is_new else account.email

    def _binding(self, network: Network) -> dict[str, Any] | None:
        """Return what binds the account to one at the authority's shop (RFC 8555 §7.3.4)."""
        self._require_eab()
        eab = self._settings.eab
        if eab is None:
            return None
        urls = AcmeDirectory(self._urls.fields)
        return ExternalAccountBinding.from_data(
            network.jwk.public_key(), eab.kid, read_eab_key(eab), urls
        )

    def _require_eab(self) -> None:
        says_so = self._urls.document("meta").fields.get("externalAccountRequired") is True
        if says_so and self._settings.eab is None:
            raise IssueFailed(f"{self._urls.source} requires an external account: set acme.eab")

    def _reachable(self, network: Network, account: Account) -> Account:
        """Tell the authority the e-mail of the settings if it was told another one."""
        email = self._settings.email
        if email == account.email or account.url is None:
            return account
        try:
            network.send(account.url, _contact(email))
        except Problem as problem:  # certificates do not depend on it
            log.warning("authority did not take the e-mail", cause=problem)
            return account
        return replace(account, email=email)

    def _remember(self, account: Account) -> None:
        try:
            save_account(self._account_file, account)
        except NotWritable as error:  # the key is kept: by it the account is found again
            log.warning("account not kept", cause=error)


def _contact(email: str | None) -> dict[str, Any]:
    return {"contact": [f"mailto:{email}"] if email else []}


def is_gone(reason: IssueFailed) -> bool:
    """Return whether what an authority said of an order means that nothing will come of it."""
    if isinstance(reason, Problem):
        return reason.status in GONE and reason.code not in NOT_OF_THE_ORDER
    return isinstance(reason, OrderLost)


def _opened(network: Network, url: str, names: Sequence[str]) -> Order:
    answer = network.send(url)
    identifiers = answer.document().documents("identifiers")
    if {each.text("value").lower() for each in identifiers} != {name.lower() for name in names}:
        raise OrderLost(f"{url} is an order for other names")
    return Order.opened(network, url, names, answer)
