"""What a visitor is shown: before the first certificate, with one, and after it was swapped."""

import ssl
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from tests.unit.client.scenes import Scene, client_settings, play
from tests.unit.tls.wire import NOW
from tunnel.client.endpoints import Endpoint, load_keypair, make_endpoints
from tunnel.client.events import CertificateState
from tunnel.client.presented import TICKET_KEYS_SECONDS, Presented
from tunnel.errors import Code, LocalProtocolError, Refused, SettingsError
from tunnel.tls.certificates import dns_names, extension_of, self_signed
from tunnel.tls.slots import Certificate

SHOP = "shop.example.com"


def made(folder: Path, **changes: Any) -> Endpoint:
    endpoint = {"certificate": "acme", "names": (SHOP,), **changes}
    settings = client_settings(folder, endpoint=endpoint)
    keypairs = {name: load_keypair(each) for name, each in settings.keypairs.items()}
    (only,) = make_endpoints(settings, keypairs, NOW)
    return only


def context_of(endpoint: Endpoint, name: str = SHOP) -> ssl.SSLContext:
    context = endpoint.context(name)
    assert context is not None
    return context


class Visitor:
    """Trusts anyone, and comes again with the ticket that it was given."""

    def __init__(self) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname, self._context.verify_mode = False, ssl.CERT_NONE
        self._session: ssl.SSLSession | None = None

    def meet(self, context: ssl.SSLContext) -> ssl.SSLObject:
        """Return the visitor's end of a handshake with this context."""
        there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
        near = self._context.wrap_bio(back, there, session=self._session)
        far = context.wrap_bio(there, back, server_side=True)
        for end in (near, far, near, far):
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
        with suppress(ssl.SSLWantReadError):
            near.read(1)  # tickets come after the handshake
        self._session = near.session
        return near


def leaf_shown(context: ssl.SSLContext) -> bytes:
    """Return the leaf, in DER, that a handshake with this context shows."""
    leaf = Visitor().meet(context).getpeercert(binary_form=True)
    assert leaf is not None
    return leaf


def newer(name: str = SHOP) -> Certificate:
    return self_signed([name], now=NOW)


def der(certificate: Certificate) -> bytes:
    return ssl.PEM_cert_to_DER_cert(certificate.chain_pem.decode())


def test_all_names_are_to_be_ordered_with_acme_alone(tmp_path: Path) -> None:
    acme, own = made(tmp_path), made(tmp_path, certificate="self-signed")
    assert (acme.acme_names, own.acme_names) == (acme.names, ())


def test_nothing_is_written_before_there_is_a_certificate(tmp_path: Path) -> None:
    context_of(made(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["client.key"]


def test_before_the_first_one_each_name_has_a_self_signed_one_of_its_own(tmp_path: Path) -> None:
    endpoint = made(tmp_path, certificate_extension=b"\xca\xfe")
    leaves = [
        x509.load_der_x509_certificate(leaf_shown(context_of(endpoint, name)))
        for name in endpoint.names
    ]
    assert [dns_names(leaf) for leaf in leaves] == [{name} for name in endpoint.names]
    assert [extension_of(leaf) for leaf in leaves] == [b"\xca\xfe"] * 2


def test_it_is_made_once(tmp_path: Path) -> None:
    endpoint = made(tmp_path)
    assert context_of(endpoint) is context_of(endpoint)


def test_before_the_first_one_visitors_are_refused_if_that_is_wanted(tmp_path: Path) -> None:
    endpoint = made(tmp_path, before_certificate="refuse")
    with pytest.raises(Refused) as refusal:
        endpoint.context(SHOP)
    assert refusal.value.code is Code.TARGET_DOWN


@pytest.mark.parametrize("before", ["self-signed", "refuse"])
def test_an_installed_one_is_shown_to_the_visitors_of_its_name_alone(
    tmp_path: Path, before: str
) -> None:
    endpoint, certificate = made(tmp_path, before_certificate=before), newer()
    endpoint.install(SHOP, certificate)
    assert leaf_shown(context_of(endpoint)) == der(certificate)
    assert endpoint.certificate(endpoint.names[0]) is None


def test_one_that_is_swapped_is_shown_by_the_next_handshake_and_by_none_before(
    tmp_path: Path,
) -> None:
    endpoint, first, second = made(tmp_path), newer(), newer()
    endpoint.install(SHOP, first)
    before, again = context_of(endpoint), context_of(endpoint)
    endpoint.install(SHOP, second)
    after = context_of(endpoint)
    assert before is again
    assert (leaf_shown(before), leaf_shown(after)) == (der(first), der(second))


def test_what_was_shown_before_is_not_kept(tmp_path: Path) -> None:
    endpoint = made(tmp_path)
    kept = []
    for certificate in (newer(), newer()):
        kept.append(weakref.ref(context_of(endpoint)))
        endpoint.install(SHOP, certificate)
    assert [ref() for ref in kept] == [None, None]


def test_names_that_share_a_certificate_share_its_context(tmp_path: Path) -> None:
    endpoint = made(tmp_path, certificate="self-signed")
    assert context_of(endpoint, endpoint.names[0]) is context_of(endpoint, SHOP)


def presented(folder: Path, clock: Callable[[], float]) -> Presented:
    settings = client_settings(folder, endpoint={"certificate": "acme"}).endpoints["web"]
    return Presented(settings, NOW, clock)


def met(shown: Presented, name: str = SHOP) -> ssl.SSLContext:
    context = shown.context(name)
    assert context is not None
    return context


def test_a_visitor_who_comes_again_resumes(tmp_path: Path) -> None:
    shown, visitor = presented(tmp_path, lambda: 0.0), Visitor()
    resumed = [visitor.meet(met(shown)).session_reused for _ in range(3)]
    assert resumed == [False, True, True]


def test_a_ticket_of_one_name_is_none_for_another(tmp_path: Path) -> None:
    shown, visitor = presented(tmp_path, lambda: 0.0), Visitor()
    visitor.meet(met(shown))
    assert not visitor.meet(met(shown, "other.example.com")).session_reused


def test_keys_of_tickets_are_used_for_hours_and_no_longer(tmp_path: Path) -> None:
    now, visitor = 0.0, Visitor()
    shown = presented(tmp_path, lambda: now)
    visitor.meet(met(shown))
    now = TICKET_KEYS_SECONDS - 1
    assert visitor.meet(met(shown)).session_reused
    now += 1
    assert not visitor.meet(met(shown)).session_reused
    assert visitor.meet(met(shown)).session_reused


def test_a_name_of_somebody_elses_is_not_installed(tmp_path: Path) -> None:
    endpoint = made(tmp_path)
    with pytest.raises(LocalProtocolError, match=r"does not serve other\.example\.com"):
        endpoint.install("other.example.com", newer("other.example.com"))


@pytest.mark.parametrize("before", ["self-signed", "refuse"])
def test_roots_for_visitors_are_read_before_there_is_a_certificate(
    tmp_path: Path, before: str
) -> None:
    with pytest.raises(SettingsError, match=r"none\.pem: cannot be read"):
        made(tmp_path, before_certificate=before, visitor_ca=tmp_path / "none.pem")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"certificate": "passthrough"}, "shown by the target"),
        ({"certificate": "self-signed"}, "valid"),
        ({}, "self-signed until the first certificate"),
        ({"before_certificate": "refuse"}, "refused until the first certificate"),
    ],
)
def test_an_operator_is_told_what_visitors_meet(
    tmp_path: Path, changes: dict[str, str], words: str
) -> None:
    assert made(tmp_path, **changes).certificate_state(SHOP, NOW) == words


def test_an_operator_is_told_when_it_has_expired(tmp_path: Path) -> None:
    endpoint = made(tmp_path)
    endpoint.install(SHOP, self_signed([SHOP], now=NOW, lifetime=timedelta(hours=1)))
    moments = (NOW, NOW + timedelta(hours=2))
    assert [endpoint.certificate_state(SHOP, at) for at in moments] == ["valid", "expired"]


def test_a_program_around_the_client_is_told_of_each_name(tmp_path: Path) -> None:
    async def script(scene: Scene) -> tuple[CertificateState, ...]:
        return scene.client.info()[0].certificates

    settings = client_settings(tmp_path, endpoint={"certificate": "self-signed", "names": (SHOP,)})
    own, shop = play(settings, script)
    assert own == replace(shop, name=own.name)
    assert (shop.name, shop.source, shop.state) == (SHOP, "self-signed", "valid")
    assert shop.not_after is not None
    assert (shop.renew_at, shop.last_error, shop.retry_at) == (None, None, None)
