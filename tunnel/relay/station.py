"""What a relay's parts are made of: of settings alone, or of what other processes have a say in."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from tunnel.relay.admission import Admission, SettingsAdmission
from tunnel.relay.agents import Doors
from tunnel.relay.budget_file import BudgetFile, budget_of
from tunnel.relay.certificate import OwnCertificate
from tunnel.relay.challenges import Challenges
from tunnel.relay.front import Elsewhere
from tunnel.relay.known_keys import KnownKeys
from tunnel.relay.limits import AddressCounts
from tunnel.relay.listening import Opener, OwnSockets
from tunnel.relay.registry import Registry
from tunnel.relay.state import own_names
from tunnel.relay.validation import OwnValidations
from tunnel.runtime.activation import InheritedSockets
from tunnel.settings.values import RelaySettings
from tunnel.transport.options import ALONE, Share


class MakesRegistry(Protocol):
    """The constructor of a Registry."""

    def __call__(
        self,
        connections: int,
        expected: Iterable[str],
        challenges: Challenges,
        clock: Callable[[], float],
        /,
    ) -> Registry: ...


def nowhere(_registry: Registry) -> None:
    """Return None: there is no other process."""


@dataclass(frozen=True, slots=True)
class Station:
    """The place of one process: what decides for it, and whom it may hand others to."""

    certificate: OwnCertificate
    admission: Admission
    budget: BudgetFile
    opener: Callable[[Doors], Opener]
    registry: MakesRegistry = Registry
    elsewhere: Callable[[Registry], Elsewhere | None] = nowhere
    visitors_per_address: AddressCounts = field(default_factory=lambda: AddressCounts(0))
    share: Share = ALONE


def alone(
    settings: RelaySettings,
    validations: OwnValidations,
    inherited: InheritedSockets,
    admission: Admission | None,
) -> Station:
    """Return the station of a process that is the whole relay; raises SettingsError."""
    certificate = OwnCertificate(settings, validations)
    return Station(
        certificate,
        admission or settings_admission(settings, certificate),
        budget_of(settings),
        lambda doors: OwnSockets(doors, inherited),
    )


def settings_admission(settings: RelaySettings, certificate: OwnCertificate) -> SettingsAdmission:
    """Return the admission by settings, with what is known of keys; raises SettingsError."""
    known = KnownKeys(settings.state_dir / "known-keys")
    return SettingsAdmission(settings, own_names(settings, certificate.slot.current), known)
