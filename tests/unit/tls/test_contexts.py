"""The doors: which TLS is spoken at each, who is trusted, and what a swap leaves alone."""

import gc
import ssl
import weakref
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import Encoding

from tests.unit.tls.wire import CERTIFICATE, NAME, NOW
from tunnel.errors import DialFailed, SettingsError
from tunnel.tls.certificates import self_signed
from tunnel.tls.contexts import (
    RootFile,
    Trust,
    agents_server_context,
    check_pin,
    dial_context,
    pin_of,
    root_file,
    visitor_server_context,
)
from tunnel.tls.slots import CertificateSlot

ALPN = ("tunnel-h2/1",)
LEAF = CERTIFICATE.leaf.public_bytes(Encoding.DER)
OTHER = self_signed([NAME], now=NOW)


class Pair:
    """A client and a server, shaken as far as they get."""

    def __init__(self, server: ssl.SSLContext, client: ssl.SSLContext, name: str = NAME) -> None:
        up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.server = server.wrap_bio(up, down, server_side=True)
        self.client = client.wrap_bio(down, up, server_hostname=name)
        self.down = down

    def shake(self) -> "Pair":
        for side in (self.client, self.server) * 3:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
        return self


def client_of(version: ssl.TLSVersion, ciphers: str = "DEFAULT") -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=CERTIFICATE.chain_pem.decode())
    context.minimum_version = context.maximum_version = version
    context.set_ciphers(ciphers)
    return context


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root.pem"
    path.write_bytes(CERTIFICATE.chain_pem)
    return path


def test_an_agents_door_and_a_dial_agree(root: Path) -> None:
    pair = Pair(agents_server_context(CERTIFICATE, ALPN), dial_context(Trust(NAME, ca=root), ALPN))
    pair.shake()
    assert (pair.client.version(), pair.client.selected_alpn_protocol()) == ("TLSv1.3", ALPN[0])
    assert pair.client.getpeercert(binary_form=True) == LEAF


def test_an_agents_door_speaks_nothing_older_than_tls_13() -> None:
    pair = Pair(agents_server_context(CERTIFICATE, ALPN), client_of(ssl.TLSVersion.TLSv1_2))
    with pytest.raises(ssl.SSLError, match="UNSUPPORTED_PROTOCOL"):
        pair.shake()


def test_a_dial_speaks_nothing_older_than_tls_13() -> None:
    server = visitor_server_context(CERTIFICATE, ALPN)
    server.maximum_version = ssl.TLSVersion.TLSv1_2
    pair = Pair(server, dial_context(Trust(NAME, insecure=True), ALPN))
    with pytest.raises(ssl.SSLError, match="UNSUPPORTED_PROTOCOL"):
        pair.shake()


@pytest.mark.parametrize(("door", "sends_tickets"), [("agents", False), ("visitors", True)])
def test_only_visitors_get_tickets(door: str, *, sends_tickets: bool) -> None:
    doors = {"agents": agents_server_context, "visitors": visitor_server_context}
    pair = Pair(doors[door](CERTIFICATE, ()), client_of(ssl.TLSVersion.TLSv1_3)).shake()
    with pytest.raises(ssl.SSLWantReadError):
        pair.client.read(1)
    assert pair.client.session is not None
    assert pair.client.session.has_ticket is sends_tickets


def test_a_visitor_gets_one_ticket_and_no_second() -> None:
    pair = Pair(visitor_server_context(CERTIFICATE, ()), client_of(ssl.TLSVersion.TLSv1_3)).shake()
    after_handshake = pair.down.read()
    assert len(after_handshake) == 5 + int.from_bytes(after_handshake[3:5])  # one record


def test_the_same_certificate_has_one_agents_context_per_alpn() -> None:
    first = agents_server_context(CERTIFICATE, ALPN)
    assert agents_server_context(CERTIFICATE, ALPN) is first
    assert agents_server_context(CERTIFICATE, ("other",)) is not first
    assert agents_server_context(OTHER, ALPN) is not first


def test_a_certificate_no_longer_used_takes_its_context_along() -> None:
    certificate = self_signed([NAME], now=NOW)
    context = weakref.ref(agents_server_context(certificate, ALPN))
    del certificate
    gc.collect()
    assert context() is None


def test_a_swap_changes_new_handshakes_and_leaves_running_connections_alone() -> None:
    slot = CertificateSlot(CERTIFICATE)
    client = dial_context(Trust(NAME, insecure=True), ALPN)
    before = Pair(agents_server_context(slot.current, ALPN), client)
    with pytest.raises(ssl.SSLWantReadError):
        before.client.do_handshake()
    slot.swap(OTHER)
    after = Pair(agents_server_context(slot.current, ALPN), client).shake()
    before.shake()
    seen = [pair.client.getpeercert(binary_form=True) for pair in (before, after)]
    assert seen == [LEAF, OTHER.leaf.public_bytes(Encoding.DER)]


@pytest.mark.parametrize(
    ("version", "told"),
    [(ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")],
)
def test_visitors_may_come_with_tls_12_and_13(version: ssl.TLSVersion, told: str) -> None:
    pair = Pair(visitor_server_context(CERTIFICATE, ()), client_of(version)).shake()
    assert (pair.server.version(), pair.client.version()) == (told, told)


def test_visitors_cannot_renegotiate() -> None:
    assert visitor_server_context(CERTIFICATE, ()).options & ssl.OP_NO_RENEGOTIATION


@pytest.mark.parametrize("ciphers", ["AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA256"])
def test_visitors_without_forward_secrecy_or_aead_are_refused(ciphers: str) -> None:
    client = client_of(ssl.TLSVersion.TLSv1_2, ciphers)
    pair = Pair(visitor_server_context(CERTIFICATE, ()), client)
    with pytest.raises(ssl.SSLError, match="NO_SHARED_CIPHER"):
        pair.shake()


def test_a_relay_of_another_name_is_refused(root: Path) -> None:
    client = dial_context(Trust("b.t.test", ca=root), ALPN)
    pair = Pair(agents_server_context(CERTIFICATE, ALPN), client, "b.t.test")
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        pair.shake()


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
def test_a_relay_is_verified_by_its_ip_address(tmp_path: Path, address: str) -> None:
    certificate = self_signed([address], now=NOW)
    ca = tmp_path / "ca.pem"
    ca.write_bytes(certificate.chain_pem)
    client = dial_context(Trust(address, ca=ca), ALPN)
    Pair(agents_server_context(certificate, ALPN), client, address).shake()
    with pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"):
        Pair(agents_server_context(certificate, ALPN), client, "192.0.2.99").shake()


def test_a_relay_is_verified_by_a_root_that_issued_it(tmp_path: Path) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(NAME).configure_cert(server)
    Pair(server, dial_context(Trust(NAME, ca=tmp_path / "ca.pem"), ())).shake()


def test_a_relays_leaf_alone_may_be_its_root(tmp_path: Path) -> None:
    issued = trustme.CA().issue_cert(NAME)
    issued.cert_chain_pems[0].write_to_path(tmp_path / "leaf.pem")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issued.configure_cert(server)
    Pair(server, dial_context(Trust(NAME, ca=tmp_path / "leaf.pem"), ())).shake()


def test_roots_are_loaded_once_for_all_dials_until_their_file_changes(root: Path) -> None:
    first = dial_context(Trust(NAME, ca=root), ALPN)
    assert dial_context(Trust("b.t.test", ca=root), ALPN) is first
    root.write_bytes(CERTIFICATE.chain_pem + OTHER.chain_pem)
    assert dial_context(Trust(NAME, ca=root), ALPN) is not first


def test_a_common_name_is_no_name_of_a_relay(tmp_path: Path) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("192.0.2.1", common_name=NAME).configure_cert(server)
    pair = Pair(server, dial_context(Trust(NAME, ca=tmp_path / "ca.pem"), ()))
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        pair.shake()


def test_a_relay_that_no_system_root_vouches_for_is_refused() -> None:
    pair = Pair(agents_server_context(CERTIFICATE, ALPN), dial_context(Trust(NAME), ALPN))
    with pytest.raises(ssl.SSLCertVerificationError, match="self-signed certificate"):
        pair.shake()


@pytest.mark.parametrize("trust", [Trust("b.test", insecure=True), Trust("b.test", pin=bytes(32))])
def test_with_a_pin_or_insecure_the_handshake_verifies_no_chain(trust: Trust) -> None:
    Pair(agents_server_context(CERTIFICATE, ALPN), dial_context(trust, ALPN), "b.test").shake()


def test_a_matching_pin_is_accepted() -> None:
    check_pin(Trust(NAME, pin=CERTIFICATE.pin), LEAF)


def test_without_a_pin_any_leaf_passes() -> None:
    check_pin(Trust(NAME), LEAF)


def test_another_pin_is_refused_with_both_shown() -> None:
    with pytest.raises(DialFailed) as refusal:
        check_pin(Trust(NAME, pin=bytes(32)), LEAF)
    assert str(refusal.value) == (
        "relay certificate does not match the pin: "
        f"expected sha256:{'00' * 32} but it has sha256:{CERTIFICATE.pin.hex()}"
    )


@pytest.mark.parametrize("leaf", [b"", b"\x30\x00", LEAF[:-1], LEAF + b"\0"])
def test_a_leaf_that_cannot_be_read_is_refused(leaf: bytes) -> None:
    with pytest.raises(DialFailed, match="relay certificate cannot be read"):
        pin_of(leaf)


def test_the_pin_of_a_leaf_is_the_pin_of_its_certificate() -> None:
    assert pin_of(LEAF) == CERTIFICATE.pin


def test_the_root_file_is_the_one_asked_for(root: Path) -> None:
    assert root_file(Trust(NAME, ca=root)) == RootFile.at(str(root))


@pytest.mark.parametrize("trust", [Trust(NAME, insecure=True), Trust(NAME, pin=bytes(32))])
def test_without_verification_by_name_there_is_no_root_file(trust: Trust) -> None:
    assert root_file(trust) is None


def test_the_environment_may_name_the_systems_roots(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(root))
    assert root_file(Trust(NAME)) == RootFile.at(str(root))


def test_a_system_without_roots_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere")
    monkeypatch.setattr("tunnel.tls.contexts.ROOT_BUNDLES", ())
    with pytest.raises(SettingsError, match="set ca or pin"):
        root_file(Trust(NAME))


@pytest.mark.parametrize(
    ("content", "said"), [(None, "cannot be read: No such file"), ("x", "holds no usable PEM")]
)
def test_unusable_roots_are_named(tmp_path: Path, content: str | None, said: str) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingsError, match=f"^{path}: {said}"):
        dial_context(Trust(NAME, ca=path), ALPN)
    with pytest.raises(SettingsError, match=f"^{path}: {said}"):
        visitor_server_context(CERTIFICATE, (), path)
