"""Orders at a real authority, from nothing to the certificate, also across processes."""

from pathlib import Path

import pytest
from cryptography import x509

from tests.acme_front import (
    FINALIZE_PATH,
    Front,
    Reply,
)
from tests.integration.acme.steps import (
    Answerer,
    authority,
    collected,
    new_key,
    ordered,
    prove,
    sans,
    until_issued,
    until_proved,
)
from tests.pebble import Pebble, pebble
from tunnel.errors import IssueFailed

pytestmark = pytest.mark.timeout(60)  # a real authority and real handshakes


# -- whole orders


def test_a_certificate_is_issued_for_all_names(
    ca: Pebble, answerer: Answerer, account: Path
) -> None:
    names = ["one.test", "two.test", "three.test"]
    certificate = ordered(authority(ca, account), names, answerer)
    assert sans(certificate.leaf) == set(names)
    root = x509.load_pem_x509_certificate(ca.issuing_roots().encode())
    certificate.chain[-1].verify_directly_issued_by(root)


def test_a_key_is_certified_again(ca: Pebble, answerer: Answerer, account: Path) -> None:
    one, key = authority(ca, account), new_key()
    pins = set()
    for _ in range(2):
        order = one.place(["same.test"])
        prove(order, answerer)
        pins.add(collected(order, key).pin)
    assert len(pins) == 1


def test_an_authority_that_refuses_half_of_all_nonces_is_got_past(
    answerer: Answerer, tmp_path: Path, account: Path
) -> None:
    with pebble(tmp_path, tls_port=answerer.port, bad_nonces=50) as ca:
        certificate = ordered(authority(ca, account), ["nonce.test", "other.test"], answerer)
    assert sans(certificate.leaf) == {"nonce.test", "other.test"}


def test_a_nonce_that_is_never_right_is_given_up(
    answerer: Answerer, tmp_path: Path, account: Path
) -> None:
    with (
        pebble(tmp_path, tls_port=answerer.port, bad_nonces=100) as ca,
        pytest.raises(IssueFailed, match="badNonce"),
    ):
        authority(ca, account).prepare()


def test_what_was_proved_before_is_not_proved_again(
    answerer: Answerer, tmp_path: Path, account: Path
) -> None:
    with pebble(tmp_path, tls_port=answerer.port, authz_reuse=100) as ca:
        one = authority(ca, account)
        ordered(one, ["reused.test"], answerer)
        order = one.place(["reused.test"])
        assert not order.challenges
        assert order.poll_proofs() is None
        assert sans(collected(order, new_key()).leaf) == {"reused.test"}


def test_a_wrong_proof_is_told_with_its_name(ca: Pebble, answerer: Answerer, account: Path) -> None:
    order = authority(ca, account).place(["wrong.test"])
    answerer.show("wrong.test", bytes(32))
    order.answer()
    with pytest.raises(IssueFailed, match=r"gave the order up: wrong\.test: unauthorized: .") as e:
        until_proved(order)
    assert "\n" not in str(e.value)


def test_a_name_on_the_block_list_is_refused_in_one_line(
    answerer: Answerer, tmp_path: Path, account: Path
) -> None:
    with (
        pebble(tmp_path, tls_port=answerer.port, blocklist=["blocked.test"]) as ca,
        pytest.raises(IssueFailed, match=r"refused: rejectedIdentifier: .*blocked\.test"),
    ):
        authority(ca, account).place(["blocked.test"])


def test_a_wildcard_that_only_dns_can_prove_is_told(ca: Pebble, account: Path) -> None:
    with pytest.raises(IssueFailed, match="does not offer tls-alpn-01, only dns-01"):
        authority(ca, account).place(["*.wild.test"])


# -- orders from before


def test_a_pending_order_is_taken_up_with_the_same_challenges(
    ca: Pebble, answerer: Answerer, account: Path
) -> None:
    order = authority(ca, account).place(["pending.test"])
    again = authority(ca, account).resume(order.url, ["pending.test"])
    assert again is not None
    assert again.challenges == order.challenges
    prove(again, answerer)
    assert sans(collected(again, new_key()).leaf) == {"pending.test"}


def test_the_certificate_of_a_finalized_order_is_fetched(
    ca: Pebble, answerer: Answerer, account: Path
) -> None:
    order, key = authority(ca, account).place(["finalized.test"]), new_key()
    prove(order, answerer)
    first = collected(order, key)
    again = authority(ca, account).resume(order.url, ["finalized.test"])
    assert again is not None
    assert not again.challenges
    assert again.poll_proofs() is None
    assert collected(again, key).leaf == first.leaf


def test_a_certificate_for_another_key_is_of_no_use(
    ca: Pebble, answerer: Answerer, account: Path
) -> None:
    order = authority(ca, account).place(["key.test"])
    prove(order, answerer)
    collected(order, new_key())
    again = authority(ca, account).resume(order.url, ["key.test"])
    assert again is not None
    with pytest.raises(IssueFailed, match="is not the key of the first certificate"):
        until_issued(again, new_key())


@pytest.mark.parametrize("after", [True, False])
def test_an_order_survives_a_connection_that_is_cut_while_it_is_finalized(
    front: Front, answerer: Answerer, account: Path, *, after: bool
) -> None:
    order, key = authority(front, account).place(["cut.test"]), new_key()
    prove(order, answerer)
    front.plan(Reply(after=after), FINALIZE_PATH)
    with pytest.raises(IssueFailed, match="cannot reach"):
        order.finalize(key)
    again = authority(front, account).resume(order.url, ["cut.test"])
    assert again is not None
    assert sans(collected(again, key).leaf) == {"cut.test"}


def test_an_order_that_came_to_a_bad_end_is_not_taken_up(
    ca: Pebble, answerer: Answerer, account: Path
) -> None:
    one = authority(ca, account)
    order = one.place(["ended.test"])
    answerer.show("ended.test", bytes(32))
    order.answer()
    with pytest.raises(IssueFailed):
        until_proved(order)
    assert one.resume(order.url, ["ended.test"]) is None


def test_an_order_that_the_authority_does_not_know_is_not_taken_up(
    ca: Pebble, account: Path
) -> None:
    one = authority(ca, account)
    url = one.place(["known.test"]).url
    assert one.resume(f"{url}x", ["known.test"]) is None
    assert one.resume(url, ["other.test"]) is None
    assert one.resume("nonsense", ["known.test"]) is None


def test_an_order_is_not_given_up_because_the_authority_cannot_be_reached(
    front: Front, account: Path
) -> None:
    one = authority(front, account)
    url = one.place(["away.test"]).url
    front.down()
    with pytest.raises(IssueFailed, match=r"cannot reach 127\.0\.0\.1:\d+: Connection refused"):
        one.resume(url, ["away.test"])
    front.up()
    assert one.resume(url, ["away.test"]) is not None
