"""Orders at a real authority, from nothing to the certificate, and what may go wrong in between."""

import json
import logging
import re
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.acme_front import (
    CERTIFICATE_PATH,
    DIRECTORY_PATH,
    FINALIZE_PATH,
    NEW_ACCOUNT_PATH,
    NEW_ORDER_PATH,
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
    settings_for,
    until_issued,
    until_proved,
)
from tests.pebble import Pebble, pebble
from tunnel.acme import network
from tunnel.acme.authority import Authority
from tunnel.acme.directories import directory_of
from tunnel.errors import IssueFailed, NotWritable, SettingsError
from tunnel.settings.values import AcmeSettings, EabSettings

pytestmark = pytest.mark.timeout(60)  # a real authority and real handshakes

SOMEWHERE = {"Location": "https://127.0.0.1/1"}
EAB_KEY = urlsafe_b64encode(bytes(range(48))).decode()


def sans(certificate: x509.Certificate) -> set[str]:
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return set(found.value.get_values_for_type(x509.DNSName))


# -- accounts


def test_an_account_is_made_once_and_kept_for_its_owner_alone(ca: Pebble, account: Path) -> None:
    first, second = authority(ca, account), authority(ca, account)
    first.prepare()
    second.prepare()
    assert first.account_url == second.account_url == json.loads(account.read_text())["id"]
    assert account.stat().st_mode & 0o777 == 0o600
    assert account.parent.stat().st_mode & 0o777 == 0o700


def test_preparing_again_asks_nobody(front: Front, account: Path) -> None:
    one = authority(front, account)
    one.prepare()
    asked = len(front.requests)
    one.prepare()
    assert len(front.requests) == asked


def test_a_day_later_the_directory_is_read_again(front: Front, account: Path) -> None:
    one = authority(front, account)
    one.prepare()
    one._stale_at = 0.0
    one.prepare()
    assert [path for _, path in front.requests].count(DIRECTORY_PATH) == 2


def test_a_key_whose_account_was_not_heard_of_finds_it(ca: Pebble, account: Path) -> None:
    one = authority(ca, account)
    one.prepare()
    fields = json.loads(account.read_text())
    account.write_text(json.dumps(fields | {"id": ""}))
    again = authority(ca, account)
    again.prepare()
    assert again.account_url == one.account_url


def test_the_making_of_an_account_that_breaks_off_is_taken_up_again(
    front: Front, account: Path
) -> None:
    front.plan(Reply(after=True), NEW_ACCOUNT_PATH)
    with pytest.raises(IssueFailed, match="cannot reach"):
        authority(front, account).prepare()
    key = json.loads(account.read_text())["key_pkcs8"]
    again = authority(front, account)
    again.prepare()
    assert again.account_url
    assert json.loads(account.read_text())["key_pkcs8"] == key


def test_an_account_that_the_authority_forgot_is_made_anew_with_its_key(
    answerer: Answerer, tmp_path: Path, account: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pebble(tmp_path, tls_port=answerer.port) as ca:
        one = authority(ca, account)
        one.prepare()
        before = json.loads(account.read_text())
        ca.stop()
        ca.start()
        with caplog.at_level(logging.WARNING):
            assert one.place(["forgotten.test"]).challenges
    after = json.loads(account.read_text())
    assert after["id"] != before["id"]
    assert after["key_pkcs8"] == before["key_pkcs8"]
    assert "authority does not know the account: making it anew" in caplog.messages


def test_an_account_of_the_original_is_used(ca: Pebble, account: Path) -> None:
    one = authority(ca, account)
    one.prepare()
    fields = json.loads(account.read_text())
    del fields["email"]  # which is ours alone
    content = json.dumps(fields)
    account.write_text(content)
    again = authority(ca, account)
    again.prepare()
    assert again.account_url == one.account_url
    assert account.read_text() == content


def test_a_changed_email_is_told_once(front: Front, account: Path) -> None:
    authority(front, account, email="a@example.org").prepare()
    for _ in range(2):
        authority(front, account, email="b@example.org").prepare()
    updates = [path for _, path in front.requests if path.startswith("/my-account/")]
    assert len(updates) == 1
    assert json.loads(account.read_text())["email"] == "b@example.org"


def test_an_email_that_is_not_taken_does_not_stand_in_the_way(
    front: Front, account: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority(front, account).prepare()
    front.plan(Reply.problem(400, "invalidContact", "no such domain"), "/my-account/")
    authority(front, account, email="a@nowhere.test").prepare()
    assert "authority did not take the e-mail" in caplog.messages


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"id": "x", "key_pkcs8": "!"}'])
def test_a_corrupt_account_is_a_fault_and_stays_as_it_is(
    ca: Pebble, account: Path, content: str
) -> None:
    account.parent.mkdir()
    account.write_text(content)
    account.chmod(0o600)
    with pytest.raises(SettingsError, match=re.escape(str(account))):
        authority(ca, account).prepare()
    assert account.read_text() == content


@pytest.mark.parametrize("folder", ["/proc", "dangling"])
def test_where_no_account_can_be_kept_none_is_made(
    front: Front, tmp_path: Path, folder: str
) -> None:
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "at-all")
    with pytest.raises(NotWritable, match="cannot be written"):
        authority(front, tmp_path / folder / "account.json").prepare()
    assert NEW_ACCOUNT_PATH not in {path for _, path in front.requests}


@pytest.fixture(scope="module")
def shop(answerer: Answerer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    """Run an authority that wants an external account."""
    folder = tmp_path_factory.mktemp("shop")
    with pebble(folder, tls_port=answerer.port, eab_keys={"kid-1": EAB_KEY}) as one:
        yield one


def eab(folder: Path, kid: str, key: str) -> EabSettings:
    file = folder / "eab.key"
    file.write_text(f"{key}\n")
    file.chmod(0o600)
    return EabSettings(kid, file)


def test_an_account_is_bound_to_an_external_one(
    shop: Pebble, tmp_path: Path, account: Path
) -> None:
    one = authority(shop, account, eab=eab(tmp_path, "kid-1", EAB_KEY))
    one.prepare()
    assert one.account_url


def test_a_bound_account_needs_no_external_one_any_more(
    shop: Pebble, tmp_path: Path, account: Path
) -> None:
    authority(shop, account, eab=eab(tmp_path, "kid-1", EAB_KEY)).prepare()
    again = authority(shop, account)
    again.prepare()
    assert again.account_url


def test_without_the_external_account_that_is_required_nothing_is_made(
    shop: Pebble, account: Path
) -> None:
    with pytest.raises(IssueFailed, match=r"requires an external account: set acme\.eab"):
        authority(shop, account).prepare()
    assert not account.exists()


@pytest.mark.parametrize("kid", ["kid-1", "kid-2"])
def test_a_wrong_external_account_is_refused_in_one_line(
    shop: Pebble, tmp_path: Path, account: Path, kid: str
) -> None:
    wrong = urlsafe_b64encode(bytes(48)).decode()
    with pytest.raises(IssueFailed, match=r"refused: \w+: .") as caught:
        authority(shop, account, eab=eab(tmp_path, kid, wrong)).prepare()
    assert "\n" not in str(caught.value)


def test_an_external_key_that_is_no_base64url_is_a_fault(
    shop: Pebble, tmp_path: Path, account: Path
) -> None:
    with pytest.raises(SettingsError, match=r"eab\.key: expected .* base64url"):
        authority(shop, account, eab=eab(tmp_path, "kid-1", "no+key/")).prepare()


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


# -- authorities in a bad mood


def test_the_wait_that_a_rate_limit_asks_for_is_kept(front: Front, account: Path) -> None:
    one = authority(front, account)
    front.refuse_orders(1, "120")
    with pytest.raises(IssueFailed, match="refused: rateLimited: too many new orders") as caught:
        one.place(["limited.test"])
    assert caught.value.retry_after == 120


def test_the_wait_may_be_a_moment(front: Front, account: Path) -> None:
    one = authority(front, account)
    front.refuse_orders(1, format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True))
    with pytest.raises(IssueFailed) as caught:
        one.place(["limited.test"])
    assert caught.value.retry_after == pytest.approx(3600, abs=30)


@pytest.mark.parametrize(
    ("reply", "line"),
    [
        (Reply(500, b"<html>"), "answered 500 Internal Server Error"),
        (Reply(200, b"<html>hello</html>", SOMEWHERE), "answered what is no JSON object"),
        (Reply(201, b"{}", SOMEWHERE), "without a string as 'status'"),
        (Reply(201, b'{"status": "ready"}'), "without saying where it is"),
        (Reply(200, b"[" * 100_000, SOMEWHERE), "answered what is no JSON object"),
        (Reply(200, b" " * (network.SIZE_LIMIT + 1)), "answered more than 1048576 bytes"),
        (Reply(302, b"", {"Location": "/dir"}), "answered 302 Found"),
        (Reply(400, b'{"type": 7, "detail": {}}'), "answered 400 Bad Request"),
        (Reply(599), "answered 599"),
        (Reply(), "cannot reach"),
    ],
)
def test_nonsense_is_one_clear_line(front: Front, account: Path, reply: Reply, line: str) -> None:
    one = authority(front, account)
    front.plan(reply, NEW_ORDER_PATH)
    with pytest.raises(IssueFailed, match=line) as caught:
        one.place(["nonsense.test"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>", b"[]", b"{}", b'{"newNonce": 1}', b'{"newNonce": "x", "newAccount": "y"}'],
)
def test_a_directory_that_is_none_is_told(front: Front, account: Path, content: bytes) -> None:
    front.plan(Reply(200, content), DIRECTORY_PATH)
    with pytest.raises(IssueFailed, match="answered w"):
        authority(front, account).prepare()


@pytest.mark.parametrize("url", ["nonsense", "http://127.0.0.1:1/", "https://[", "https://*.a/"])
def test_a_directory_with_urls_of_no_use_is_told(front: Front, account: Path, url: str) -> None:
    content = json.dumps({"newNonce": url, "newAccount": url, "newOrder": url}).encode()
    front.plan(Reply(200, content), DIRECTORY_PATH)
    with pytest.raises(IssueFailed, match="cannot reach"):
        authority(front, account).prepare()


def test_a_chain_that_is_none_is_told(front: Front, answerer: Answerer, account: Path) -> None:
    order, key = authority(front, account).place(["chain.test"]), new_key()
    prove(order, answerer)
    front.plan(Reply(200, b"<html>"), CERTIFICATE_PATH)
    with pytest.raises(IssueFailed, match="a chain that is of no use: holds no readable PEM"):
        collected(order, key)
    assert sans(until_issued(order, key).leaf) == {"chain.test"}


def test_silence_has_an_end(front: Front, account: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "TIMEOUT", 0.2)
    front.plan(Reply(hangs=True), DIRECTORY_PATH)
    with pytest.raises(IssueFailed, match=r"cannot reach .*: no answer within 0\.2 s"):
        authority(front, account).prepare()


def test_a_paused_authority_is_used_again_once_it_answers(
    ca: Pebble, account: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = authority(ca, account)
    one.prepare()
    with monkeypatch.context() as shorter:
        shorter.setattr(network, "TIMEOUT", 0.2)
        ca.pause()
        try:
            with pytest.raises(IssueFailed, match="no answer within"):
                one.place(["paused.test"])
        finally:
            ca.resume()
    assert one.place(["paused.test"]).challenges


# -- trust


def test_an_authority_that_nobody_vouches_for_is_not_trusted(
    ca: Pebble, account: Path, tmp_path: Path
) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    for other in (None, tmp_path / "other.pem"):
        settings = AcmeSettings(directory=ca.directory_url, ca=other)
        one = Authority(settings, directory_of(ca.directory_url), account)
        with pytest.raises(IssueFailed, match=r"certificate of .* is not trusted: .* set acme\.ca"):
            one.prepare()


@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN CERTIFICATE-----\nx\n"])
def test_roots_that_cannot_be_used_are_a_fault(
    ca: Pebble, account: Path, tmp_path: Path, content: bytes | None
) -> None:
    roots = tmp_path / "roots.pem"
    if content is not None:
        roots.write_bytes(content)
    settings = AcmeSettings(directory=ca.directory_url, ca=roots)
    with pytest.raises(SettingsError, match=re.escape(str(roots))):
        Authority(settings, directory_of(ca.directory_url), account).prepare()


def test_a_host_that_does_not_exist_is_told(account: Path) -> None:
    url = "https://authority.invalid/directory"
    with pytest.raises(IssueFailed, match=r"cannot reach authority\.invalid: "):
        Authority(AcmeSettings(directory=url), directory_of(url), account).prepare()


def test_nothing_of_what_is_sent_is_logged(
    ca: Pebble, answerer: Answerer, account: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        ordered(authority(ca, account), ["quiet.test"], answerer)
    assert {record.name for record in caplog.records} <= {"tunnel.acme.authority"}


def test_an_account_key_of_another_kind_is_a_fault(ca: Pebble, account: Path) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    account.parent.mkdir()
    fields = {"id": "", "key_pkcs8": urlsafe_b64encode(der).decode(), "directory": "x"}
    account.write_text(json.dumps(fields))
    account.chmod(0o600)
    with pytest.raises(SettingsError, match="not P-256"):
        Authority(settings_for(ca), directory_of(ca.directory_url), account).prepare()
