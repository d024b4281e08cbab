"""Who may serve which names: closed unless the settings say otherwise.

An embedding program puts its own `Admission` in the place of `SettingsAdmission`; it sees the key
and the `extension` that the client sent.
"""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Protocol

from tunnel.errors import Code, Refused
from tunnel.log import get_log
from tunnel.protocol.names import best_match, client_id, has_id_shape
from tunnel.protocol.registration import Claim
from tunnel.relay.known_keys import KnownKeys
from tunnel.relay.once import Once
from tunnel.settings.values import ClientGrant, GrantLimits, RelaySettings, SuffixSettings
from tunnel.stream import Address

log = get_log(__name__)


@dataclass(frozen=True, slots=True)
class Decision:
    """What a client was granted: name → public port for its URL; and why not the others."""

    granted: Mapping[str, int]
    refused: Mapping[str, Code] = field(default_factory=dict)
    limits: GrantLimits = field(default_factory=GrantLimits)


class Admission(Protocol):
    """Decides what a proven key may serve."""

    async def decide(self, claim: Claim, peer: Address) -> Decision:
        """Return what is granted; raises Refused if nothing is. Called once per connection."""


class SettingsAdmission:
    """Admission by `[suffixes.*]` and `[clients.*]`."""

    def __init__(self, settings: RelaySettings, own_names: Set[str], known: KnownKeys) -> None:
        self._suffixes = settings.suffixes
        self._grants = {grant.fingerprint: grant for grant in settings.clients.values()}
        self._exact_names = {
            name: grant.fingerprint
            for grant in settings.clients.values()
            if grant.enabled
            for name in grant.names
        }
        self._own_names = own_names | set(settings.suffixes)
        self._known = known
        self._told = Once()

    def anew(self, settings: RelaySettings, own_names: Set[str]) -> "SettingsAdmission":
        """Return the admission by other settings, with the same memory of keys."""
        return SettingsAdmission(settings, own_names, self._known)

    async def decide(self, claim: Claim, peer: Address) -> Decision:
        return self.settle(claim, peer)

    def settle(self, claim: Claim, peer: Address) -> Decision:
        """As `decide`, and at once."""
        try:
            return self.judge(claim.fingerprint, claim.names)
        except Refused:
            if claim.names and claim.fingerprint not in self._grants:
                self._tell_operator(claim, peer)
            raise

    def judge(self, fingerprint: bytes, names: Iterable[str]) -> Decision:
        """Return what is granted to a key; raises Refused if nothing is."""
        grant = self._grants.get(fingerprint)
        if grant is not None and not grant.enabled:
            raise Refused(Code.REVOKED, "this key was withdrawn")
        granted: dict[str, int] = {}
        refused: dict[str, Code] = {}
        for name in names:
            try:
                granted[name] = self._port_of(name, fingerprint, grant)
            except Refused as refusal:
                refused[name] = refusal.code
                reason = refusal
        if granted:
            return Decision(granted, refused, grant.limits if grant else GrantLimits())
        if not refused:
            raise Refused(Code.NAME_REFUSED, "no name was asked for")
        raise reason

    def _port_of(self, name: str, fingerprint: bytes, grant: ClientGrant | None) -> int:
        """Return the public port of a name that is granted; raises Refused."""
        if name in self._own_names:
            raise Refused(Code.NAME_REFUSED, "the relay's own name")
        label, _, parent = name.partition(".")
        suffix = self._suffixes.get(parent)
        if suffix is not None and has_id_shape(name, parent):
            self._check_id(label, suffix, fingerprint, grant)
            return suffix.public_port
        is_anothers = self._exact_names.get(name, fingerprint) != fingerprint
        if grant is not None and best_match(grant.names, name) and not is_anothers:
            return self._custom_port(grant)
        if grant is None and suffix is not None:
            raise Refused(Code.UNAUTHORIZED, _NOT_LISTED)
        raise Refused(Code.NAME_REFUSED, f"{name[:100]} is not granted to this key here")

    def _check_id(
        self, label: str, suffix: SuffixSettings, fingerprint: bytes, grant: ClientGrant | None
    ) -> None:
        bits = len(label) * 4
        if label != client_id(fingerprint, bits):
            raise Refused(Code.UNAUTHORIZED, "the id is not the one of this key")
        if bits not in suffix.id_bits:
            raise Refused(Code.NAME_REFUSED, f"{suffix.name} does not accept ids of {bits} bits")
        if grant is not None and suffix.name in grant.suffixes:
            return
        if suffix.access != "open":
            code = Code.UNAUTHORIZED if grant is None else Code.NAME_REFUSED
            raise Refused(code, _NOT_LISTED if grant is None else f"not granted {suffix.name}")
        self._known.claim(label, fingerprint)

    def _custom_port(self, grant: ClientGrant) -> int:
        ports = [self._suffixes[name].public_port for name in grant.suffixes]
        ports += [suffix.public_port for suffix in self._suffixes.values()]
        return ports[0] if ports else 443

    def _tell_operator(self, claim: Claim, peer: Address) -> None:
        """Log, once per unknown key, the stanza that would admit it."""
        if self._told.is_new(claim.fingerprint):
            log.warning("key not listed; to admit it, add", peer=peer, stanza=self._stanza(claim))

    def _stanza(self, claim: Claim) -> str:
        parents = {name.partition(".")[2] for name in claim.names}
        suffixes = ", ".join(f'"{name}"' for name in sorted(parents & set(self._suffixes)))
        return (
            f"[clients.c{claim.fingerprint.hex()[:8]}]\n"
            f'fingerprint = "sha256:{claim.fingerprint.hex()}"\n'
            f"suffixes = [{suffixes}]"
        )


_NOT_LISTED = "this key is not listed at the relay: its log has the [clients.*] stanza to add"
