"""Whether the certificate that clients are to see is there, fits its key, and is in date."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from tunnel.acme.directories import directory_of
from tunnel.acme.store import Store
from tunnel.errors import SettingsError
from tunnel.relay.certificate import STORED_AS
from tunnel.runtime.findings import Check, Finding, Status
from tunnel.settings.values import RelaySettings
from tunnel.tls.certificates import dns_names, load_chain, parse_certificate, self_signed_file
from tunnel.tls.files import read_private
from tunnel.tls.slots import Certificate

SOON = timedelta(days=5)  # an end that near should have been forestalled

CERTIFICATE = Check("certificate", "relay")


@dataclass(frozen=True, slots=True)
class Kept:
    """The certificate that was found; without one, why there is none, and whether that matters."""

    certificate: Certificate | None = None
    fault: str = ""  # empty where a start would make or order one
    is_hidden: bool = False  # only this user cannot read it


def kept_certificate(settings: RelaySettings) -> Kept:
    """Return the certificate of the settings as it is on disk; nothing is made or ordered."""
    wanted = settings.certificate
    try:
        if wanted.chain_file is not None and wanted.key_file is not None:
            return Kept(load_chain(wanted.chain_file, wanted.key_file))
        if wanted.mode == "acme":
            store = Store.below(settings.state_dir, directory_of(settings.acme.directory))
            return _read(store.certificate_file(wanted.names))
        return _read(self_signed_file(settings.state_dir, STORED_AS))
    except SettingsError as error:
        is_hidden = isinstance(error.__cause__, PermissionError)
        return Kept(fault=error.faults[0], is_hidden=is_hidden)
    except PermissionError as error:
        return Kept(fault=f"{error.filename}: cannot be read", is_hidden=True)


def _read(path: Path) -> Kept:
    """Return what is kept in a file; not by the room that keeps it, which sets bad ones aside."""
    try:
        return Kept(parse_certificate(read_private(path)))
    except FileNotFoundError:
        return Kept()
    except ValueError as error:
        return Kept(fault=f"{path}: {error}")


def judge_certificate(
    settings: RelaySettings, kept: Kept, status: Status | None, now: datetime
) -> Finding:
    """Judge the certificate, beside what a running relay says of it."""
    if kept.is_hidden:
        return CERTIFICATE.warning(kept.fault, "examine as root, or as the relay's user")
    if kept.fault:
        return CERTIFICATE.failed(kept.fault, _mend(settings))
    told = (status or {}).get("certificate") or {}  # a relay that starts has nothing to tell yet
    trouble = told.get("last_error")
    if kept.certificate is None:
        return _judge_none(settings, trouble)
    finding = judge_dates(settings, kept.certificate, now)
    if finding is None and trouble:
        seen = f"{_described(kept.certificate)}; the last order failed: {trouble}"
        return CERTIFICATE.warning(seen, "see `relay.pyz cert list`, and docs/certificates.md")
    return finding or CERTIFICATE.ok(f"{_described(kept.certificate)}; key and chain fit")


def _judge_none(settings: RelaySettings, trouble: str | None) -> Finding:
    if trouble:
        return CERTIFICATE.failed(f"none yet: {trouble}", "see docs/certificates.md")
    made = "ordered" if settings.certificate.mode == "acme" else "made"
    return CERTIFICATE.ok(f"none yet: it is {made} by the first start")


def judge_dates(settings: RelaySettings, certificate: Certificate, now: datetime) -> Finding | None:
    """Judge a certificate's dates; None if there is nothing to say."""
    if certificate.not_after <= now:
        return CERTIFICATE.failed(f"expired: {_described(certificate)}", _mend(settings))
    if certificate.leaf.not_valid_before_utc > now:
        begin = certificate.leaf.not_valid_before_utc
        seen = f"not valid before {begin:%Y-%m-%d %H:%M} UTC, by a clock that says {now:%Y-%m-%d}"
        return CERTIFICATE.failed(seen, "set the clock: see `timedatectl`; or replace it")
    if certificate.not_after - now < SOON:
        return CERTIFICATE.warning(f"ends soon: {_described(certificate)}", _mend(settings))
    return None


def _mend(settings: RelaySettings) -> str:
    if settings.certificate.mode == "files":
        return "put a chain and its key into chain_file and key_file: they are watched"
    if settings.certificate.mode == "acme":
        return "see `relay.pyz cert list` for why it was not renewed"
    return "a start makes another; without the key, clients need the new pin"


def _described(certificate: Certificate) -> str:
    names = ", ".join(sorted(dns_names(certificate.leaf))[:4]) or "no name"
    return f"for {names}, until {certificate.not_after:%Y-%m-%d}"
