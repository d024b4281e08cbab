"""Who may serve what."""

import asyncio
import logging
from pathlib import Path

import pytest

from tunnel.errors import Code, Refused
from tunnel.protocol.registration import Claim
from tunnel.relay.admission import Decision, SettingsAdmission
from tunnel.relay.known_keys import KnownKeys
from tunnel.settings.values import ClientGrant, GrantLimits, RelaySettings, SuffixSettings
from tunnel.stream import Address

KEY = bytes(range(32))
ID, SHORT_ID = KEY.hex()[:32], KEY.hex()[:16]
STRANGER = b"s" * 32
PEER = Address("192.0.2.1", 4000)

SUFFIXES = {
    "t.test": SuffixSettings("t.test", public_port=8443),
    "new.test": SuffixSettings("new.test", id_bits=(128,)),
    "open.test": SuffixSettings("open.test", access="open"),
}
GRANT = ClientGrant(
    "shop",
    KEY,
    suffixes=("t.test", "new.test"),
    names=("shop.example.com", "*.shop.example.com"),
    limits=GrantLimits(streams=7),
)
NEIGHBOUR = ClientGrant("neighbour", b"n" * 32, names=("*.example.com",))
REVOKED = ClientGrant("old", b"r" * 32, suffixes=("t.test",), enabled=False)


def claim(*names: str, key: bytes = KEY) -> Claim:
    return Claim(key, b"spki", b"i" * 16, names, "test", None, 1, frozenset())


def decide(folder: Path, *names: str, key: bytes = KEY) -> Decision:
    settings = RelaySettings(
        "relay.example.com",
        folder,
        {},
        SUFFIXES,
        {"shop": GRANT, "old": REVOKED, "neighbour": NEIGHBOUR},
    )
    known = KnownKeys(folder / "known")
    admission = SettingsAdmission(settings, frozenset({"relay.example.com"}), known)
    return asyncio.run(admission.decide(claim(*names, key=key), PEER))


def test_a_listed_client_gets_its_own_name(tmp_path: Path) -> None:
    assert decide(tmp_path, f"{ID}.t.test").granted == {f"{ID}.t.test": 8443}


def test_an_id_made_with_the_original_is_accepted_where_the_suffix_says_so(tmp_path: Path) -> None:
    assert f"{SHORT_ID}.t.test" in decide(tmp_path, f"{SHORT_ID}.t.test").granted


def test_custom_names_are_granted_exactly_or_by_wildcard(tmp_path: Path) -> None:
    names = ("shop.example.com", "eu.shop.example.com")
    assert set(decide(tmp_path, *names).granted) == set(names)


def test_a_wildcard_leaves_out_what_another_client_is_granted_exactly(tmp_path: Path) -> None:
    decision = decide(tmp_path, "shop.example.com", "free.example.com", key=NEIGHBOUR.fingerprint)
    assert (list(decision.granted), list(decision.refused)) == (
        ["free.example.com"],
        ["shop.example.com"],
    )


def test_the_limits_of_the_grant_come_with_it(tmp_path: Path) -> None:
    assert decide(tmp_path, f"{ID}.t.test").limits.streams == 7


def test_what_is_granted_is_granted_though_another_name_is_not(tmp_path: Path) -> None:
    decision = decide(tmp_path, f"{ID}.t.test", "else.example.com")
    assert (list(decision.granted), decision.refused) == (
        [f"{ID}.t.test"],
        {"else.example.com": Code.NAME_REFUSED},
    )


def test_anyone_with_a_key_gets_its_name_under_an_open_suffix(tmp_path: Path) -> None:
    name = f"{STRANGER.hex()[:32]}.open.test"
    assert name in decide(tmp_path, name, key=STRANGER).granted


@pytest.mark.parametrize(
    ("name", "key", "code"),
    [
        (f"{STRANGER.hex()[:32]}.t.test", KEY, Code.UNAUTHORIZED),  # the id of another key
        (f"{STRANGER.hex()[:32]}.t.test", STRANGER, Code.UNAUTHORIZED),  # not listed
        (f"{SHORT_ID}.new.test", KEY, Code.NAME_REFUSED),  # a length the suffix does not take
        (f"{ID}.elsewhere.test", KEY, Code.NAME_REFUSED),  # a suffix that is not served here
        ("relay.example.com", KEY, Code.NAME_REFUSED),  # the relay's own name
        ("t.test", KEY, Code.NAME_REFUSED),  # a bare suffix
        ("other.example.com", KEY, Code.NAME_REFUSED),
        ("a.b.shop.example.com", KEY, Code.NAME_REFUSED),  # a wildcard is one label
        ("shop.example.com", STRANGER, Code.NAME_REFUSED),
        (f"{b'r'.hex() * 16}.t.test", b"r" * 32, Code.REVOKED),
    ],
)
def test_refused(tmp_path: Path, name: str, key: bytes, code: Code) -> None:
    with pytest.raises(Refused) as caught:
        decide(tmp_path, name, key=key)
    assert caught.value.code is code


def test_a_claim_of_no_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused) as caught:
        decide(tmp_path)
    assert caught.value.code is Code.NAME_REFUSED


def test_the_operator_is_told_once_what_would_admit_an_unknown_key(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = RelaySettings("relay", tmp_path, {}, SUFFIXES)
    admission = SettingsAdmission(settings, frozenset(), KnownKeys(tmp_path / "known"))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            with pytest.raises(Refused):
                asyncio.run(admission.decide(claim(f"{ID}.t.test"), PEER))
    stanzas = [record.fields["stanza"] for record in caplog.records if hasattr(record, "fields")]
    assert stanzas == [
        f'[clients.c{ID[:8]}]\nfingerprint = "sha256:{KEY.hex()}"\nsuffixes = ["t.test"]'
    ]
