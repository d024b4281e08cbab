"""Accounts at a real authority: made, found, bound to another one, and lost."""

import json
import logging
import re
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.acme_front import (
    DIRECTORY_PATH,
    NEW_ACCOUNT_PATH,
    Front,
    Reply,
)
from tests.integration.acme.steps import (
    Answerer,
    authority,
    settings_for,
)
from tests.pebble import Pebble, pebble
from tunnel.acme.authority import Authority
from tunnel.acme.directories import directory_of
from tunnel.errors import IssueFailed, NotWritable, SettingsError
from tunnel.settings.values import EabSettings

pytestmark = pytest.mark.timeout(60)  # a real authority and real handshakes

EAB_KEY = urlsafe_b64encode(bytes(range(48))).decode()


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


def test_where_no_account_can_be_kept_none_is_made(front: Front) -> None:
    with pytest.raises(NotWritable, match="cannot be written"):
        authority(front, Path("/proc/account.json")).prepare()
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


def test_an_account_key_of_another_kind_is_a_fault(ca: Pebble, account: Path) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    account.parent.mkdir()
    fields = {"id": "", "key_pkcs8": urlsafe_b64encode(der).decode(), "directory": "x"}
    account.write_text(json.dumps(fields))
    account.chmod(0o600)
    with pytest.raises(SettingsError, match="not P-256"):
        Authority(settings_for(ca), directory_of(ca.directory_url), account).prepare()
