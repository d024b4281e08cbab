"""Settings with all that they need, read and checked: the first of a reload's two phases.

Nothing here touches what runs. A client that starts goes the same way, with nothing before.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from tunnel.client.endpoints import Endpoint, Keypair, load_keypair, make_endpoints
from tunnel.client.sessions import Wishes, wishes_of
from tunnel.client.way import trust_in
from tunnel.errors import SettingsError, joined
from tunnel.settings.values import ClientSettings, ServerSettings
from tunnel.tls.contexts import dial_context, root_file
from tunnel.tls.identity import Signer


@dataclass(frozen=True, slots=True)
class Furnished:
    """Settings, and what was made of them; what has not changed is what it was before."""

    settings: ClientSettings
    keypairs: Mapping[str, Keypair]
    endpoints: tuple[Endpoint, ...]
    wishes: Wishes


def furnish(
    settings: ClientSettings, signers: Mapping[str, Signer], before: Furnished | None = None
) -> Furnished:
    """Return settings with keys, endpoints and their certificates, those to be ordered excepted.

    Missing keys are made. `signers` take the place of key files. Raises SettingsError.
    """
    check_trust(settings.servers.values())
    keypairs = _keypairs(settings, signers, before.keypairs if before else {})
    now = datetime.now(UTC)
    endpoints = make_endpoints(settings, keypairs, now, before.endpoints if before else ())
    return Furnished(settings, keypairs, endpoints, wishes_of(settings, endpoints))


def check_trust(servers: Iterable[ServerSettings]) -> None:
    """Raise SettingsError for roots that could never be used: retrying would not mend them."""
    faults: list[str] = []
    for server in servers:
        try:
            trust = trust_in(server)
            root_file(trust)
            if server.ca is not None:  # the system's own take too long to load for a check
                dial_context(trust, ())
        except SettingsError as error:
            faults.extend(error.faults)
    if faults:
        raise SettingsError(sorted(faults))


def _keypairs(
    settings: ClientSettings, signers: Mapping[str, Signer], before: Mapping[str, Keypair]
) -> dict[str, Keypair]:
    """Return the keypairs that any endpoint uses; raises SettingsError with every fault."""
    used = {endpoint.keypair for endpoint in settings.endpoints.values()}
    keypairs: dict[str, Keypair] = {}
    errors: list[SettingsError] = []
    for name, keypair in settings.keypairs.items():
        if name not in used:
            continue
        try:
            keypairs[name] = load_keypair(keypair, signers.get(name), before.get(name))
        except SettingsError as error:
            errors.append(error)
    if errors:
        raise joined(errors)
    return keypairs
