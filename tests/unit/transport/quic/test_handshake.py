"""Dialling: what is trusted, what is refused, and what the operator reads then."""

import asyncio
import datetime
from pathlib import Path

import pytest
from aioquic.quic.configuration import QuicConfiguration
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from tests.unit.transport.loops import until
from tests.unit.transport.quic.places import (
    CERTIFICATE,
    LOOPBACK,
    NAME,
    TRUST,
    calling,
    certificate_for,
    deaf,
    listening,
    run,
)
from tunnel.errors import Code, DialFailed, SettingsError
from tunnel.stream import Address, Binding
from tunnel.tls.certificates import self_signed
from tunnel.tls.contexts import Trust
from tunnel.tls.slots import Certificate, CertificateSlot
from tunnel.transport.options import TransportOptions
from tunnel.transport.quic import dialer
from tunnel.transport.quic.configuration import client_configuration
from tunnel.transport.quic.dialer import dial
from tunnel.transport.quic.listener import listen

OPTIONS = TransportOptions()


def refusal(trust: Trust, certificate: Certificate = CERTIFICATE) -> str:
    """Return what a dial of a relay with this certificate fails with."""

    async def main() -> str:
        async with listening(certificate=certificate) as listener:
            with pytest.raises(DialFailed) as failure:
                await dial(listener.address, trust, OPTIONS)
            return str(failure.value)

    return asyncio.run(main(), debug=True)


def succeeds(trust: Trust, certificate: Certificate = CERTIFICATE) -> None:
    async def main() -> None:
        async with listening(certificate=certificate) as listener, calling(listener, trust):
            pass

    run(main())


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    path.write_bytes(CERTIFICATE.leaf.public_bytes(Encoding.PEM))
    return path


def test_a_self_signed_relay_is_accepted_by_its_pin_alone() -> None:
    succeeds(Trust("another.name", pin=CERTIFICATE.pin))


def test_a_relay_is_accepted_by_chain_and_name(ca: Path) -> None:
    succeeds(Trust(NAME, ca=ca))


def test_a_relay_is_accepted_by_its_ip_address(tmp_path: Path) -> None:
    certificate = certificate_for("127.0.0.1")
    path = tmp_path / "ca.pem"
    path.write_bytes(certificate.leaf.public_bytes(Encoding.PEM))
    succeeds(Trust("127.0.0.1", ca=path), certificate)


def test_any_relay_is_accepted_when_told_not_to_verify() -> None:
    succeeds(Trust("another.name", insecure=True))


@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_relays_may_have_other_keys(kind: str) -> None:
    key = ed25519.Ed25519PrivateKey.generate() if kind == "ed25519" else rsa_key()
    certificate = self_signed([NAME], now=datetime.datetime.now(datetime.UTC), key=key)
    succeeds(Trust(NAME, pin=certificate.pin), certificate)


def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def test_a_wrong_pin_is_named_with_what_was_seen() -> None:
    assert refusal(Trust(NAME, pin=b"\x11" * 32)) == (
        "relay certificate does not match the pin: "
        f"expected sha256:{'11' * 32} but it has sha256:{CERTIFICATE.pin.hex()}"
    )


def test_a_wrong_name_is_named_with_those_of_the_certificate(ca: Path) -> None:
    text = refusal(Trust("another.name", ca=ca))
    assert text == f"relay certificate is not valid: it is for '{NAME}', not for another.name"


def test_an_unknown_issuer_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_bytes(certificate_for("other.test").leaf.public_bytes(Encoding.PEM))
    assert "relay certificate is not valid: self-signed certificate" in refusal(
        Trust(NAME, ca=path)
    )


def test_an_expired_certificate_is_named(tmp_path: Path) -> None:
    long_ago = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
    certificate = self_signed([NAME], now=long_ago, lifetime=datetime.timedelta(days=1))
    path = tmp_path / "ca.pem"
    path.write_bytes(certificate.leaf.public_bytes(Encoding.PEM))
    text = refusal(Trust(NAME, ca=path), certificate)
    assert text == "relay certificate is not valid: certificate has expired"


def test_a_pin_mismatch_is_told_to_the_relay_before_its_handshake_is_complete() -> None:
    async def main() -> None:
        async with listening() as listener:
            with pytest.raises(DialFailed):
                await dial(listener.address, Trust(NAME, pin=b"\x11" * 32), OPTIONS)
            await until(lambda: not listener._half_open)
            assert not listener._complete._items

    run(main())


def test_a_peer_of_another_protocol_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def foreign(trust: Trust, options: TransportOptions) -> QuicConfiguration:
        configuration = made(trust, options)
        configuration.alpn_protocols = ["h3"]
        return configuration

    made = client_configuration
    monkeypatch.setattr(dialer, "client_configuration", foreign)
    assert refusal(TRUST).startswith("the far end does not speak this tunnel's protocol")


def test_nobody_there_is_a_refusal() -> None:
    async def main() -> None:
        with deaf() as address:
            pass
        with pytest.raises(DialFailed, match=rf"^127.0.0.1:{address.port} by UDP: refused$"):
            await dial(address, TRUST, OPTIONS)

    run(main())


def test_silence_is_a_time_out() -> None:
    async def main() -> None:
        with deaf() as address, pytest.raises(DialFailed, match=r"no answer from .* within 0.1 s"):
            await dial(address, TRUST, TransportOptions(handshake_timeout=0.1))

    run(main())


def test_an_address_that_cannot_be_reached_is_named() -> None:
    async def main() -> None:
        with pytest.raises(DialFailed, match=r"255.255.255.255:443 by UDP: Permission denied"):
            await dial(Address("255.255.255.255", 443), TRUST, OPTIONS)

    run(main())


def test_a_name_that_does_not_resolve_is_named() -> None:
    async def main() -> None:
        with pytest.raises(DialFailed, match=r"nowhere\.invalid:443 by UDP"):
            await dial(Address("nowhere.invalid", 443), TRUST, OPTIONS)

    run(main())


def test_roots_that_cannot_be_read_are_the_operators_fault(tmp_path: Path) -> None:
    async def main() -> None:
        async with listening() as listener:
            trust = Trust(NAME, ca=tmp_path / "missing.pem")
            with pytest.raises(SettingsError, match=r"missing\.pem"):
                await dial(listener.address, trust, OPTIONS)

    run(main())


def test_roots_without_a_certificate_are_the_operators_fault(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "empty.pem"
        path.write_text("nothing")
        with pytest.raises(SettingsError, match=r"empty\.pem: holds no usable PEM certificate"):
            await dial(Address("127.0.0.1", 9), Trust(NAME, ca=path), OPTIONS)

    run(main())


def test_a_cancelled_dial_leaves_no_socket_behind() -> None:
    async def main() -> None:
        with deaf() as address, pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await dial(address, TRUST, OPTIONS)

    run(main())


def test_both_ends_are_bound_to_the_leaf_of_their_own_handshake() -> None:
    async def main() -> None:
        newer = certificate_for()
        slot = CertificateSlot(CERTIFICATE)
        listener = await listen(LOOPBACK, slot, OPTIONS)
        async with calling(listener) as first:
            relay_first = await listener.accept()
            slot.swap(newer)
            async with calling(listener, Trust(NAME, pin=newer.pin)) as second:
                relay_second = await listener.accept()
                assert (
                    first.binding == relay_first.binding == Binding("quic", CERTIFICATE.leaf_hash)
                )
                assert second.binding == relay_second.binding == Binding("quic", newer.leaf_hash)
                await listener.close()
                relay_second.close()
            relay_first.close(Code.OK)

    run(main())


def test_ipv6_works_and_keeps_to_itself() -> None:
    async def main() -> None:
        async with listening(address=Address("::1", 0)) as listener, calling(listener) as client:
            relay = await listener.accept()
            assert (client.peer, relay.peer.host) == (listener.address, "::1")

    run(main())
