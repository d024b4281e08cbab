"""Certificates: made so that every client takes them, read so that a mistake is named."""

import subprocess
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from tests.unit.tls.wire import CERTIFICATE, NAME, NOW
from tunnel.errors import SettingsError
from tunnel.tls.certificates import (
    EXTENSION_OID,
    LIFETIME,
    RENEWAL_MARGIN,
    certificate_from_pem,
    extension_of,
    load_chain,
    parse_certificate,
    self_signed,
    stored_self_signed,
)
from tunnel.tls.slots import Certificate


def openssl(*arguments: str | Path) -> str:
    command = ["openssl", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def keep(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(
    "key",
    [None, ed25519.Ed25519PrivateKey.generate(), rsa.generate_private_key(65537, 2048)],
    ids=["P-256", "Ed25519", "RSA"],
)
def test_openssl_verifies_it_as_its_own_root(
    tmp_path: Path, key: ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey | None
) -> None:
    certificate = self_signed([NAME, "192.0.2.1"], now=NOW, key=key)
    file = keep(tmp_path / "a.pem", certificate.chain_pem)
    for option in (("-verify_hostname", NAME), ("-verify_ip", "192.0.2.1")):
        purpose = ("-x509_strict", "-purpose", "sslserver")
        assert openssl("verify", "-CAfile", file, *purpose, *option, file) == f"{file}: OK\n"


def test_it_cannot_vouch_for_another_certificate() -> None:
    constraints = CERTIFICATE.leaf.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = CERTIFICATE.leaf.extensions.get_extension_for_class(x509.KeyUsage)
    assert not constraints.value.ca
    assert not usage.value.key_cert_sign


def test_its_key_is_p256() -> None:
    assert isinstance(CERTIFICATE.key, ec.EllipticCurvePrivateKey)
    assert isinstance(CERTIFICATE.key.curve, ec.SECP256R1)


def test_it_bears_clocks_that_lag_a_day_behind() -> None:
    certificate = self_signed([NAME], now=NOW, lifetime=timedelta(days=7))
    start, now = certificate.leaf.not_valid_before_utc, NOW.replace(microsecond=0)
    assert (start, certificate.not_after) == (now - timedelta(days=1), now + timedelta(days=7))


def test_a_name_too_long_for_a_common_name_is_fine() -> None:
    name = "a" * 63 + ".t.test"
    names = self_signed([name], now=NOW).leaf.extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert names.value.get_values_for_type(x509.DNSName) == [name]


def test_the_extension_appears_under_its_oid(tmp_path: Path) -> None:
    certificate = self_signed([NAME], now=NOW, extension=bytes.fromhex("deadbeef"))
    file = keep(tmp_path / "a.pem", certificate.chain_pem)
    shown = openssl("asn1parse", "-in", file)
    _, _, after = shown.partition("1.3.6.1.4.1.65535.1\n")
    assert after.splitlines()[0].endswith("[HEX DUMP]:DEADBEEF")


def test_the_extension_can_be_read_back() -> None:
    certificate = self_signed([NAME], now=NOW, extension=b"\x00\xff")
    assert extension_of(certificate.leaf) == b"\x00\xff"


def test_without_an_extension_there_is_none() -> None:
    oids = [entry.oid for entry in CERTIFICATE.leaf.extensions]
    assert EXTENSION_OID not in oids
    assert extension_of(CERTIFICATE.leaf) is None


def test_hash_and_pin_are_of_leaf_and_key(tmp_path: Path) -> None:
    file = keep(tmp_path / "a.pem", CERTIFICATE.chain_pem)
    key = keep(tmp_path / "a.key", CERTIFICATE.key_pem)
    openssl("x509", "-in", file, "-outform", "der", "-out", tmp_path / "leaf")
    openssl("pkey", "-in", key, "-pubout", "-outform", "der", "-out", tmp_path / "spki")
    assert CERTIFICATE.leaf_hash == sha256((tmp_path / "leaf").read_bytes()).digest()
    assert CERTIFICATE.pin == sha256((tmp_path / "spki").read_bytes()).digest()


def test_the_private_key_is_not_shown() -> None:
    assert repr(CERTIFICATE).startswith(f"<Certificate sha256:{CERTIFICATE.leaf_hash.hex()[:16]}")


# The operator's files

CA = trustme.CA()
INTERMEDIATE = CA.create_child_ca()
ISSUED = INTERMEDIATE.issue_cert(NAME)
LEAF, ISSUER = (blob.bytes() for blob in ISSUED.cert_chain_pems)
KEY = ISSUED.private_key_pem.bytes()
ROOT = CA.cert_pem.bytes()
WEAK = rsa.generate_private_key(65537, 1024)  # noqa: S505 - weak on purpose
EXCHANGE = x25519.X25519PrivateKey.generate()


def pkcs8(key: rsa.RSAPrivateKey | x25519.X25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize("chain", [LEAF, LEAF + ISSUER, LEAF + ISSUER + ROOT])
def test_an_operators_chain_is_read(tmp_path: Path, chain: bytes) -> None:
    files = keep(tmp_path / "chain.pem", chain), keep(tmp_path / "key.pem", KEY)
    certificate = load_chain(*files)
    assert certificate.chain_pem == b"".join(
        entry.public_bytes(Encoding.PEM) for entry in x509.load_pem_x509_certificates(chain)
    )
    assert certificate.leaf.subject == x509.load_pem_x509_certificate(LEAF).subject


@pytest.mark.parametrize("content", [KEY + LEAF + ISSUER, LEAF + ISSUER + KEY])
def test_chain_and_key_may_share_one_file(tmp_path: Path, content: bytes) -> None:
    file = keep(tmp_path / "all.pem", content)
    assert len(load_chain(file, file).chain) == 2


def test_a_chain_may_be_open_to_others(tmp_path: Path) -> None:
    chain = keep(tmp_path / "chain.pem", LEAF)
    chain.chmod(0o644)
    load_chain(chain, keep(tmp_path / "key.pem", KEY))


ODD_CURVE = b"""
-----BEGIN CERTIFICATE-----
MIIBITCB7KADAgECAhQHWR3koGvPWjjdPpfWeCOIGUzTeTAKBggqhkjOPQQDAjAM
MQowCAYDVQQDDAFhMB4XDTI2MTEyMjE5MTc1MloXDTI2MTEyNTE5MTc1MlowDDEK
MAgGA1UEAwwBYTAyMBAGByqGSM49AgEGBSuBBAAGAx4ABDT51HAfMOaGM0LeqYEY
tBufEmnAEOXX+1EE3A+jUzBRMB0GA1UdDgQWBBSG1vHfhEP/XEr6SBmjqITYN2hI
LDAfBgNVHSMEGDAWgBSG1vHfhEP/XEr6SBmjqITYN2hILDAPBgNVHRMBAf8EBTAD
AQH/MAoGCCqGSM49BAMCAyQAMCECDnELLjWGStm4g1zB280bAg8Auz+ZABuPS/IA
ohIIHww=
-----END CERTIFICATE-----
"""  # on secp112r1, which nobody takes any more
NO_CHAIN = "holds no readable PEM certificate"
BAD_FILES = {
    "empty chain": (b"", KEY, "chain.pem", NO_CHAIN),
    "garbage chain": (b"\xff\x00", KEY, "chain.pem", NO_CHAIN),
    "cut chain": (LEAF[:-60], KEY, "chain.pem", NO_CHAIN),
    "damaged chain": (LEAF[:100] + b"AAAA" + LEAF[104:], KEY, "chain.pem", NO_CHAIN),
    "odd chain": (
        ODD_CURVE,
        KEY,
        "chain.pem",
        "holds a certificate for a key that TLS does not use",
    ),
    "key as chain": (KEY, KEY, "chain.pem", NO_CHAIN),
    "wrong order": (
        ISSUER + LEAF,
        KEY,
        "chain.pem",
        "certificate 2 did not issue certificate 1: expected the leaf first, then each issuer",
    ),
    "gap": (
        LEAF + ROOT,
        KEY,
        "chain.pem",
        "certificate 2 did not issue certificate 1: expected the leaf first, then each issuer",
    ),
    "empty key": (LEAF, b"", "key.pem", "is not a readable PEM private key"),
    "certificate as key": (LEAF, LEAF, "key.pem", "is not a readable PEM private key"),
    "another key": (
        LEAF,
        CERTIFICATE.key_pem,
        "key.pem",
        "is not the key of the first certificate in the chain",
    ),
    "encrypted key": (
        CERTIFICATE.chain_pem,
        CERTIFICATE.key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"pass")
        ),
        "key.pem",
        "is encrypted: expected a PEM private key without a passphrase",
    ),
    "X25519 key": (LEAF, pkcs8(EXCHANGE), "key.pem", "holds a kind of key that TLS does not use"),
    "weak key": (
        self_signed([NAME], now=NOW, key=WEAK).chain_pem,
        pkcs8(WEAK),
        "key.pem",
        "cannot be used with its chain: EE_KEY_TOO_SMALL",
    ),
}


@pytest.mark.parametrize(("chain", "key", "file", "said"), BAD_FILES.values(), ids=BAD_FILES)
def test_unusable_files_are_named(
    tmp_path: Path, chain: bytes, key: bytes, file: str, said: str
) -> None:
    files = keep(tmp_path / "chain.pem", chain), keep(tmp_path / "key.pem", key)
    with pytest.raises(SettingsError) as refusal:
        load_chain(*files)
    assert refusal.value.faults == (f"{tmp_path / file}: {said}",)


@pytest.mark.parametrize("missing", ["chain.pem", "key.pem"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    files = keep(tmp_path / "chain.pem", LEAF), keep(tmp_path / "key.pem", KEY)
    (tmp_path / missing).unlink()
    with pytest.raises(SettingsError, match=f"^{tmp_path / missing}: cannot be read: No such file"):
        load_chain(*files)


def test_a_key_open_to_others_is_refused(tmp_path: Path) -> None:
    files = keep(tmp_path / "chain.pem", LEAF), keep(tmp_path / "key.pem", KEY)
    files[1].chmod(0o644)
    with pytest.raises(SettingsError, match="open to others"):
        load_chain(*files)


# What is kept between starts


def kept(folder: Path, *, days: float = 0, extension: bytes | None = None) -> Certificate:
    now = NOW + timedelta(days=days)
    return stored_self_signed(folder, "web", [NAME], now=now, extension=extension)


def test_it_is_kept_for_the_next_start(tmp_path: Path) -> None:
    assert kept(tmp_path).leaf_hash == kept(tmp_path).leaf_hash


def test_it_is_kept_where_only_its_owner_reads(tmp_path: Path) -> None:
    kept(tmp_path / "state")
    modes = [path.stat().st_mode & 0o777 for path in (tmp_path / "state").iterdir()]
    assert (modes, (tmp_path / "state").stat().st_mode & 0o777) == ([0o600], 0o700)


def test_near_its_end_it_is_renewed_with_the_same_pin(tmp_path: Path) -> None:
    first, last = kept(tmp_path), (LIFETIME - RENEWAL_MARGIN).days
    assert kept(tmp_path, days=last - 1).leaf_hash == first.leaf_hash
    renewed = kept(tmp_path, days=last)
    assert (renewed.pin, renewed.leaf_hash != first.leaf_hash) == (first.pin, True)
    assert kept(tmp_path, days=last).leaf_hash == renewed.leaf_hash


def test_a_clock_that_was_set_back_renews_nothing(tmp_path: Path) -> None:
    assert kept(tmp_path).leaf_hash == kept(tmp_path, days=-10_000).leaf_hash


@pytest.mark.parametrize("extension", [b"", b"\x01"])
def test_another_extension_renews_it_with_the_same_pin(tmp_path: Path, extension: bytes) -> None:
    first, second = kept(tmp_path), kept(tmp_path, extension=extension)
    assert (second.pin, extension_of(second.leaf)) == (first.pin, extension)


def test_other_names_renew_it_with_the_same_pin(tmp_path: Path) -> None:
    first = kept(tmp_path)
    second = stored_self_signed(tmp_path, "web", [NAME, "b.test"], now=NOW)
    assert (second.pin, second.leaf_hash != first.leaf_hash) == (first.pin, True)


def test_the_order_of_names_renews_nothing(tmp_path: Path) -> None:
    first = stored_self_signed(tmp_path, "web", ["a.test", "b.test"], now=NOW)
    second = stored_self_signed(tmp_path, "web", ["b.test", "a.test"], now=NOW)
    assert first.leaf_hash == second.leaf_hash


@pytest.mark.parametrize("content", [b"", b"garbage", CERTIFICATE.chain_pem, KEY + LEAF[:200]])
def test_a_corrupt_file_is_kept_aside_and_made_anew(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    keep(tmp_path / "web.pem", content)
    assert kept(tmp_path).leaf_hash == kept(tmp_path).leaf_hash
    assert (tmp_path / "web.pem.bad").read_bytes() == content
    assert caplog.messages == ["set a corrupt certificate aside"]


def test_a_file_open_to_others_is_refused_and_kept(tmp_path: Path) -> None:
    first = kept(tmp_path)
    (tmp_path / "web.pem").chmod(0o644)
    with pytest.raises(SettingsError, match="open to others"):
        kept(tmp_path)
    (tmp_path / "web.pem").chmod(0o600)
    assert kept(tmp_path).leaf_hash == first.leaf_hash


@pytest.mark.parametrize("name", ["../web", "a/b", "..", "ä"])
def test_any_name_stays_within_the_directory(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "state"
    stored_self_signed(folder, name, [NAME], now=NOW)
    assert [path.parent for path in tmp_path.rglob("*.pem")] == [folder]


def test_key_and_chain_in_one_text_are_read_in_any_order() -> None:
    made = self_signed(["a.test"], now=NOW)
    for content in (made.key_pem + made.chain_pem, made.chain_pem + made.key_pem):
        assert parse_certificate(content).chain == made.chain


def test_a_chain_that_arrives_for_another_key_is_refused() -> None:
    made, other = self_signed(["a.test"], now=NOW), self_signed(["a.test"], now=NOW)
    with pytest.raises(ValueError, match="is not the key of the first certificate"):
        certificate_from_pem(made.chain_pem, other.key)


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x00\xff"])
def test_what_is_no_certificate_is_a_value_error(content: bytes) -> None:
    with pytest.raises(ValueError, match="readable PEM"):
        parse_certificate(content)


def test_a_chain_that_breaks_off_is_refused() -> None:
    made = self_signed(["a.test"], now=NOW)
    with pytest.raises(ValueError, match="is truncated"):
        certificate_from_pem(made.chain_pem + made.chain_pem[:200], made.key)
