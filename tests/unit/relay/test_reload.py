"""What follows from other settings for the relay's certificate, and for the sessions it has."""

from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from tunnel.errors import SettingsError
from tunnel.relay.admission import SettingsAdmission
from tunnel.relay.certificate import OwnCertificate
from tunnel.relay.known_keys import KnownKeys
from tunnel.relay.limits import ClientUse, client_bucket
from tunnel.relay.reload import expected_names
from tunnel.relay.validation import OwnValidations
from tunnel.settings.values import (
    AcmeSettings,
    ClientGrant,
    GrantLimits,
    RelayCertificate,
    RelaySettings,
    SuffixSettings,
)

NAMES = ("relay.example.org",)
ORDERED = RelayCertificate("acme", names=NAMES)


def relay_settings(folder: Path, certificate: RelayCertificate) -> RelaySettings:
    return RelaySettings("relay.test", folder, {}, {}, certificate=certificate)


def from_files(folder: Path) -> RelayCertificate:
    """Return the settings of a certificate in files, which are written anew."""
    issued = trustme.CA().issue_cert("relay.test")
    chain, key = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    key.chmod(0o600)
    return RelayCertificate("files", chain, key)


# -- the certificate


def test_an_order_goes_on_if_nothing_about_it_has_changed(tmp_path: Path) -> None:
    settings = relay_settings(tmp_path, ORDERED)
    own = OwnCertificate(settings, OwnValidations())
    upkeep, shown = own.upkeep, own.slot.current
    own.adopt(own.read(replace(settings, name="other", drain_timeout=1.0)))
    assert own.upkeep is upkeep
    assert own.slot.current is shown


@pytest.mark.parametrize(
    "changes",
    [
        {"acme": AcmeSettings(email="ops@example.org")},
        {"certificate": replace(ORDERED, names=("other.example.org",))},
        {"certificate": replace(ORDERED, keep_key=False)},
    ],
)
def test_an_order_is_another_one_by_other_settings(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    settings = relay_settings(tmp_path, ORDERED)
    own = OwnCertificate(settings, OwnValidations())
    upkeep = own.upkeep
    own.adopt(own.read(replace(settings, **changes)))  # type: ignore[arg-type]  # of the test's table
    assert own.upkeep not in (None, upkeep)


def test_an_authority_means_nothing_to_a_certificate_of_our_own(tmp_path: Path) -> None:
    settings = relay_settings(tmp_path, RelayCertificate())
    own = OwnCertificate(settings, OwnValidations())
    shown = own.slot.current
    own.adopt(own.read(replace(settings, acme=AcmeSettings(email="ops@example.org"))))
    assert own.slot.current is shown
    assert own.upkeep is None


def test_what_is_read_is_not_shown_before_it_is_adopted(tmp_path: Path) -> None:
    settings = relay_settings(tmp_path, RelayCertificate())
    own = OwnCertificate(settings, OwnValidations())
    shown = own.slot.current
    source = own.read(replace(settings, certificate=from_files(tmp_path)))
    assert own.slot.current is shown
    own.adopt(source)
    assert own.slot.current is source.certificate


def test_the_same_files_are_the_same_certificate(tmp_path: Path) -> None:
    settings = relay_settings(tmp_path, from_files(tmp_path))
    own = OwnCertificate(settings, OwnValidations())
    shown = own.slot.current
    own.adopt(own.read(settings))
    assert own.slot.current is shown


def test_files_of_no_use_change_nothing(tmp_path: Path) -> None:
    settings = relay_settings(tmp_path, from_files(tmp_path))
    own = OwnCertificate(settings, OwnValidations())
    shown, upkeep = own.slot.current, own.upkeep
    (tmp_path / "chain.pem").write_text("nothing")
    with pytest.raises(SettingsError, match=r"chain\.pem"):
        own.read(settings)
    assert (own.slot.current, own.upkeep) == (shown, upkeep)


# -- limits of whoever is here


def test_a_bucket_is_kept_and_its_rate_follows() -> None:
    use = ClientUse(GrantLimits(rate=10), bucket=client_bucket(GrantLimits(rate=10), 0.0))
    bucket = use.bucket
    assert bucket is not None
    use.reconfigure(GrantLimits(rate=20), 1.0)
    assert use.bucket is bucket
    assert bucket.rate == 20


def test_a_rate_may_come_and_go() -> None:
    use = ClientUse(GrantLimits())
    use.reconfigure(GrantLimits(rate=20), 1.0)
    assert use.bucket is not None
    use.reconfigure(GrantLimits(), 1.0)
    assert use.bucket is None


# -- names


def test_admission_made_anew_has_the_same_memory_of_keys(tmp_path: Path) -> None:
    open_to_all = {"t.test": SuffixSettings("t.test", access="open")}
    settings = replace(relay_settings(tmp_path, RelayCertificate()), suffixes=open_to_all)
    known = KnownKeys(tmp_path / "known-keys")
    admission = SettingsAdmission(settings, frozenset(), known)
    fingerprint = bytes(32)
    name = f"{fingerprint.hex()[:32]}.t.test"
    admission.anew(settings, frozenset()).judge(fingerprint, [name])
    assert len(known) == 1


def test_names_of_a_key_that_is_revoked_are_not_expected(tmp_path: Path) -> None:
    settings = replace(
        relay_settings(tmp_path, RelayCertificate()),
        suffixes={"t.test": SuffixSettings("t.test", id_bits=(64,))},
        clients={
            "a": ClientGrant("a", b"a" * 32, ("t.test",), ("a.example.com", "*.example.com")),
            "b": ClientGrant("b", b"b" * 32, ("t.test",), ("b.example.com",), enabled=False),
        },
    )
    assert expected_names(settings) == {f"{b'a'.hex() * 8}.t.test", "a.example.com"}
