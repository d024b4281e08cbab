"""How a visitor of some name would be routed now, and why: the way of `routing`, told in words."""

from collections.abc import Iterator
from dataclasses import dataclass

from tunnel.protocol.names import (
    best_match,
    check_host_name,
    client_id,
    format_fingerprint,
    has_id_shape,
)
from tunnel.relay.budget_file import BudgetFile
from tunnel.relay.registry import Registry
from tunnel.relay.sessions import Session
from tunnel.settings.values import RelaySettings

SERVED = "served"
HELD = "held"
TURNED_AWAY = "turned away"


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing that was looked at, and what was found."""

    question: str
    found: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """What becomes of a visitor: `outcome` is one of the words above."""

    name: str
    outcome: str
    because: str
    reasons: tuple[Reason, ...]


class Explainer:
    """Explains by the settings and by who is there now; asks nobody."""

    def __init__(
        self,
        settings: RelaySettings,
        own_names: frozenset[str],
        registry: Registry,
        budget: BudgetFile,
    ) -> None:
        self._settings = settings
        self._own_names = own_names
        self._registry = registry
        self._budget = budget

    def explain(self, host: str) -> Explanation:
        """Return what a visitor of `host` meets; raises ValueError if that is no host name."""
        name = check_host_name(host.strip().rstrip(".").lower())
        outcome, because = self._outcome(name)
        reasons = (
            Reason("own name", "yes: no client may serve it" if self._is_own(name) else "no"),
            Reason("suffix", self._suffix(name)),
            Reason("granted by name", ", ".join(self._grants(name)) or "to nobody"),
            Reason("served by", "; ".join(map(_shown, self._registry.holders(name))) or "nobody"),
            Reason("worth waiting for", self._expectation(name)),
            Reason("validations go to", self._validator(name)),
            Reason("new certificates", self._certificates(name)),
        )
        return Explanation(name, outcome, because, reasons)

    def _is_own(self, name: str) -> bool:
        return name in self._own_names or name in self._settings.suffixes

    def _outcome(self, name: str) -> tuple[str, str]:
        link = self._registry.route(name)
        if link is not None:
            over = f"{link.connection.binding.transport} from {link.connection.peer}"
            return SERVED, f"the next stream goes to {link.session.label} over {over}"
        hold = self._settings.timeouts.visitor_hold
        if self._registry.is_expected(name):
            return HELD, f"nobody serves it now; a client may within {hold:g} s"
        if self._is_own(name):
            return TURNED_AWAY, "it is the relay's own: there is nothing for visitors"
        return TURNED_AWAY, "nobody serves it (TLS alert unrecognized_name)"

    def _suffix(self, name: str) -> str:
        label, _, parent = name.partition(".")
        suffix = self._settings.suffixes.get(parent)
        if suffix is None:
            return f"none of {', '.join(self._settings.suffixes) or 'none'}"
        if not has_id_shape(name, parent):
            return f"{parent}, but {label} is no id of a key (16 or 32 hexadecimal digits)"
        bits = len(label) * 4
        if bits not in suffix.id_bits:
            return f"{parent}, which does not accept ids of {bits} bits"
        owners = list(self._owners(label, parent))
        if suffix.access == "open":
            owners.append("whoever has the key: access is open")
        return f"{parent}, id of {bits} bits: {', '.join(owners) or 'of no listed client'}"

    def _owners(self, label: str, suffix: str) -> Iterator[str]:
        for grant in self._settings.clients.values():
            if label == client_id(grant.fingerprint, len(label) * 4):
                allowed = grant.enabled and suffix in grant.suffixes
                why_not = "not granted this suffix" if grant.enabled else "revoked"
                yield f"clients.{grant.name}{'' if allowed else f' ({why_not})'}"

    def _grants(self, name: str) -> Iterator[str]:
        for grant in self._settings.clients.values():
            pattern = best_match(grant.names, name)
            if pattern:
                revoked = "" if grant.enabled else ", revoked"
                yield f"clients.{grant.name} ({pattern}{revoked})"

    def _expectation(self, name: str) -> str:
        if not self._registry.is_expected(name):
            return "no: no client is listed for it, and none served it of late"
        return f"yes, for {self._settings.timeouts.visitor_hold:g} s: listed, or served of late"

    def _validator(self, name: str) -> str:
        if name in self._own_names:
            return "the relay itself, while it orders"
        session = self._registry.validator(name)
        return "nobody" if session is None else _shown(session)

    def _certificates(self, name: str) -> str:
        use = self._budget.use_of(name)
        return f"{use.orders} of {use.limit} ordered in 7 days under {use.domain}"


def _shown(session: Session) -> str:
    states = ", ".join(
        f"{link.connection.binding.transport} {link.state.name.lower()}, {link.streams} streams"
        for link in session.links
    )
    return f"{format_fingerprint(session.fingerprint)} [{states}]"
