"""Authorities in a bad mood, out of reach, or not to be trusted: each is one clear line."""

import json
import logging
import re
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
import trustme

from tests.acme_front import (
    CERTIFICATE_PATH,
    DIRECTORY_PATH,
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
    sans,
    until_issued,
)
from tests.pebble import Pebble
from tunnel.acme import network
from tunnel.acme.authority import Authority
from tunnel.acme.directories import directory_of
from tunnel.errors import IssueFailed, SettingsError
from tunnel.settings.values import AcmeSettings

pytestmark = pytest.mark.timeout(60)  # a real authority and real handshakes

SOMEWHERE = {"Location": "https://127.0.0.1/1"}


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
