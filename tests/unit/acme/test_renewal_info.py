"""Renewal information without a network: what a certificate is called, which windows make sense."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

from tunnel.acme.answers import Answer
from tunnel.acme.renewal_info import ask_again, certificate_id, window_of
from tunnel.acme.schedule import RenewalWindow
from tunnel.errors import IssueFailed

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def leaf(serial: int, key_identifier: bytes | None = None) -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a.test")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=90))
    )
    if key_identifier is not None:
        issuer = x509.AuthorityKeyIdentifier(key_identifier, None, None)
        builder = builder.add_extension(issuer, critical=False)
    return builder.sign(key, SHA256())


def answer(start: object, end: object, retry_after: float | None = None) -> Answer:
    content = json.dumps({"suggestedWindow": {"start": start, "end": end}}).encode()
    return Answer("ca.test", 200, content, retry_after=retry_after)


def test_a_certificate_is_called_as_in_the_example_of_the_rfc() -> None:
    """RFC 9773 §4.1, whose serial number begins with a bit that is set."""
    key_identifier = bytes.fromhex("69885b6b87464041e1b37b847ba0ae2cde01c8d4")
    called = certificate_id(leaf(0x87654321, key_identifier))
    assert called == "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"


def test_a_first_bit_that_is_not_set_takes_no_byte_before_it() -> None:
    assert certificate_id(leaf(0x7F, b"\x01")) == "AQ.fw"


def test_a_certificate_without_its_issuers_key_is_called_nothing() -> None:
    with pytest.raises(ValueError, match="by which key it was issued"):
        certificate_id(leaf(1))


def test_a_window_is_read_in_utc() -> None:
    window, seconds = window_of(
        answer("2030-01-02T04:00:00.123456789+01:00", "2030-01-03T00:00:00Z", 7200)
    )
    start = datetime(2030, 1, 2, 3, 0, 0, 123456, tzinfo=UTC)
    assert window == RenewalWindow(start, datetime(2030, 1, 3, tzinfo=UTC))
    assert window.start.tzinfo is UTC
    assert seconds == 7200


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2030-01-02T00:00:00Z", "2030-01-02T00:00:00Z"),
        ("2030-01-03T00:00:00Z", "2030-01-02T00:00:00Z"),
        ("2030-01-02T00:00:00", "2030-01-03T00:00:00"),
        ("0001-01-01T00:00:00+14:00", "2030-01-03T00:00:00Z"),
        ("tomorrow", "2030-01-03T00:00:00Z"),
        (None, "2030-01-03T00:00:00Z"),
        (1, 2),
    ],
)
def test_a_window_that_makes_no_sense_is_a_fault(start: object, end: object) -> None:
    with pytest.raises(IssueFailed, match=r"^ca\.test "):
        window_of(answer(start, end))


@pytest.mark.parametrize("content", [b"{}", b'{"suggestedWindow": 1}', b"[]", b"<html>"])
def test_what_holds_no_window_is_a_fault(content: bytes) -> None:
    with pytest.raises(IssueFailed, match=r"^ca\.test answered"):
        window_of(Answer("ca.test", 200, content))


@pytest.mark.parametrize(
    ("said", "kept"), [(None, 21600), (0, 60), (60, 60), (7200, 7200), (1e9, 86400)]
)
def test_when_to_ask_again_is_bounded(said: float | None, kept: float) -> None:
    assert ask_again(said) == kept
