"""Endpoints at run time: who may answer for which names, and with which certificate.

One `Endpoint` per table of the settings; the identity of its keypair gives it its id and, with
the suffix, its first name.
"""

import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from itertools import combinations
from pathlib import Path

from tunnel.client.counts import EndpointVisits
from tunnel.client.presented import PASSTHROUGH, Presented
from tunnel.errors import LocalProtocolError, SettingsError, joined
from tunnel.protocol.names import client_id
from tunnel.settings.values import ClientSettings, EndpointSettings, KeypairSettings
from tunnel.tls.certificates import load_chain, self_signed, stored_self_signed
from tunnel.tls.contexts import visitor_server_context
from tunnel.tls.identity import Signer, fingerprint, load_or_create
from tunnel.tls.slots import Certificate

HTTPS_PORT = 443
CERTIFICATES = "certificates"  # folder in the state directory


@dataclass(frozen=True, slots=True, eq=False)
class Keypair:
    """Who this client is towards relays: a signer, and what follows from its public key."""

    name: str
    signer: Signer
    fingerprint: bytes
    id: str


def load_keypair(
    settings: KeypairSettings, signer: Signer | None = None, before: Keypair | None = None
) -> Keypair:
    """Return the keypair of a key file, which is made if missing, or of `signer` in its place.

    That is `before` if it has the same key and id. Raises SettingsError for a file that cannot be
    used.
    """
    signer = signer or load_or_create(settings.file)
    print_of_key = fingerprint(signer.public_key)
    id_of_key = client_id(print_of_key, settings.id_bits)
    if before is not None and (before.fingerprint, before.id) == (print_of_key, id_of_key):
        return before
    return Keypair(settings.name, signer, print_of_key, id_of_key)


class Endpoint:
    """One endpoint: its names, the visitors it admits, and the TLS they meet."""

    def __init__(self, settings: EndpointSettings, keypair: Keypair, now: datetime) -> None:
        self.settings = settings
        self.keypair = keypair
        self.names = (f"{keypair.id}.{settings.suffix}", *settings.names)
        self.visits = EndpointVisits()
        self._presented = Presented(settings, now)

    def __repr__(self) -> str:
        return f"<Endpoint {self.settings.name} {self.names[0]} → {self.settings.target}>"

    @property
    def name(self) -> str:
        """The name of its table in the settings."""
        return self.settings.name

    def is_still(self, settings: EndpointSettings, keypair: Keypair) -> bool:
        """Say whether this is the endpoint that settings ask for, files of theirs included."""
        is_same = settings == self.settings and keypair is self.keypair
        return is_same and settings.visitor_ca is None  # what is in that file may be new

    @property
    def acme_names(self) -> tuple[str, ...]:
        """The names for which certificates are ordered, one for each."""
        return self.names if self.settings.certificate == "acme" else ()

    def install(self, name: str, certificate: Certificate) -> None:
        """Show `certificate` to the visitors of a name who come from now on."""
        if name not in self.names:
            raise LocalProtocolError(f"{self!r} does not serve {name}")
        self._presented.install(name, certificate)

    def certificate(self, name: str) -> Certificate | None:
        """Return what was installed for a name last, None where nothing was."""
        return self._presented.installed(name)

    @property
    def is_passthrough(self) -> bool:
        """Whether the target shows a certificate, and nobody on the way."""
        return self.settings.certificate == PASSTHROUGH

    def context(self, name: str) -> ssl.SSLContext | None:
        """Return the TLS that the next visitor of a name meets: see `Presented.context`."""
        return self._presented.context(name)

    def certificate_state(self, name: str, now: datetime) -> str:
        """Return what visitors of a name meet at `now`, in words for an operator."""
        return self._presented.state(name, now)

    def admits(self, host: str) -> bool:
        """Say whether a visitor from this IP address is let in: `deny` beats `allow`."""
        if not self.settings.allow and not self.settings.deny:
            return True
        address = ip_address(host)
        if any(address in network for network in self.settings.deny):
            return False
        return not self.settings.allow or any(address in each for each in self.settings.allow)


def url_of(name: str, port: int) -> str:
    """Return where visitors find a name."""
    return f"https://{name}" if port == HTTPS_PORT else f"https://{name}:{port}"


def make_endpoints(
    settings: ClientSettings,
    keypairs: Mapping[str, Keypair],
    now: datetime | None = None,
    before: Iterable[Endpoint] = (),
) -> tuple[Endpoint, ...]:
    """Return all endpoints, with all certificates but those to be ordered.

    Those of `before` that have not changed are taken over. Raises SettingsError with every fault.
    """
    moment = now or datetime.now(UTC)
    known = {each.name: each for each in before}
    endpoints = tuple(
        _endpoint(each, keypairs[each.keypair], moment, known.get(each.name))
        for each in settings.endpoints.values()
    )
    faults = _clashes(endpoints)  # before either of two could overwrite the other's certificate
    if faults:
        raise SettingsError(sorted(faults))
    errors: list[SettingsError] = []
    for endpoint in set(endpoints) - set(known.values()):
        try:
            _furnish(endpoint, settings.state_dir, moment)
        except SettingsError as error:
            errors.append(error)
    if errors:
        raise joined(errors)
    return endpoints


def _endpoint(
    settings: EndpointSettings, keypair: Keypair, now: datetime, before: Endpoint | None
) -> Endpoint:
    """Return the endpoint there was before if it is still the same, else another one like it."""
    if before is not None and before.is_still(settings, keypair):
        return before
    endpoint = Endpoint(settings, keypair, now)
    if before is not None:
        endpoint.visits = before.visits  # its table goes on, and so do its counters
    return endpoint


def _clashes(endpoints: Iterable[Endpoint]) -> list[str]:
    """Return what no two endpoints may have in common at one relay.

    Which keypairs hold the same key is not seen in settings: files are copied, signers handed in.
    """
    faults: list[str] = []
    for one, other in combinations(endpoints, 2):
        if not set(one.settings.servers) & set(other.settings.servers):
            continue
        both, why = f"endpoints.{one.name} and endpoints.{other.name} have", _same_key(one, other)
        shared = (name for name in one.names if name in other.names)
        faults.extend(f"{both} the same name {name}{why}" for name in shared)
        if one.keypair.fingerprint == other.keypair.fingerprint and _differ(one, other):
            faults.append(f"{both} different certificate_extension_hex{why}")
    return faults


def _same_key(one: Endpoint, other: Endpoint) -> str:
    """Return the words for two keypairs that are one; none if they are not two."""
    first, second = one.keypair, other.keypair
    if first is second or first.fingerprint != second.fingerprint:
        return ""
    return f": keypairs.{first.name} and keypairs.{second.name} hold the same key"


def _differ(one: Endpoint, other: Endpoint) -> bool:
    """Say whether both have an extension, and not the same: a relay is shown one for a key."""
    first, second = one.settings.certificate_extension, other.settings.certificate_extension
    return first is not None and second is not None and first != second


def _furnish(endpoint: Endpoint, state_dir: Path, now: datetime) -> None:
    certificate = _certificate(endpoint, state_dir, now)
    if certificate is not None:
        for name in endpoint.names:
            endpoint.install(name, certificate)
    if endpoint.settings.visitor_ca is not None:  # a fault in it is wanted now
        example = certificate or self_signed(endpoint.names[:1], now=now)
        visitor_server_context(example, endpoint.settings.alpn, endpoint.settings.visitor_ca)


def _certificate(endpoint: Endpoint, state_dir: Path, now: datetime) -> Certificate | None:
    settings = endpoint.settings
    if settings.certificate in ("passthrough", "acme"):
        return None
    if settings.certificate == "files":
        return load_chain(*_files(settings))
    directory = state_dir / CERTIFICATES
    names = endpoint.names
    extension = settings.certificate_extension
    return stored_self_signed(directory, names[0], names, now=now, extension=extension)


def _files(settings: EndpointSettings) -> tuple[Path, Path]:
    if settings.chain_file is None or settings.key_file is None:
        fault = f"endpoints.{settings.name}: certificate = files needs chain_file and key_file"
        raise SettingsError([fault])
    return settings.chain_file, settings.key_file


def by_name(endpoints: Iterable[Endpoint]) -> dict[str, Endpoint]:
    """Return the endpoints by each of their names."""
    return {name: endpoint for endpoint in endpoints for name in endpoint.names}
