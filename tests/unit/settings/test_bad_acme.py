"""What `[acme]` must not say, in either program's file."""

from pathlib import Path

import pytest

from tests.unit.settings.documents import CLIENT, faults, write
from tunnel.acme.directories import NAMED
from tunnel.settings.acme_kinds import BOUND_DIRECTORIES, NAMED_DIRECTORIES
from tunnel.settings.load import load_client

ORDERING = f'{CLIENT}certificate = "acme"\n[acme]\n'  # the next line is the 11th

DIRECTORY = "(expected letsencrypt, letsencrypt-staging, zerossl, google or an https:// URL)"
EMAIL = "(expected one such as ops@example.org)"
BINDING = "makes no account without a binding (expected [acme.eab], or an account_file that exists)"

BAD = [
    *(
        (f'directory = "{word}"', f'11: acme.directory: "{word}" is not an authority {DIRECTORY}')
        for word in (
            "letsencript",
            "http://ca.example.org/directory",
            "https://",
            "https:///directory",
            "https://ca_1.example.org",
            "https://ca.example.org:0/directory",
            "https://ca.example.org:65536/directory",
            "https://ca.example.org/a directory",
            "https://ca.example.org/directory#top",
            "https://[::1/directory",
        )
    ),
    ("directory = 5", f"11: acme.directory: 5 is not an authority {DIRECTORY}"),
    (
        'directory = "https://me:secret@ca.example.org/directory"',
        "11: acme.directory: has a user's name in it (expected a plain https:// URL)",
    ),
    (
        f'directory = "https://ca.example.org/{"d" * 2000}"',
        "11: acme.directory: is longer than 2000 characters",
    ),
    *(
        (f'email = "{word}"', f'11: acme.email: "{word}" is not an e-mail address {EMAIL}')
        for word in (
            "ops",
            "@example.org",
            "ops@",
            "ops@@example.org",
            "ops@-example.org",
            "ops.@example.org",
            "ops@192.0.2.1",
            "ops@example.org, me@example.org",
            "ops@example.org?cc=me",
            "mailto:ops@example.org",
        )
    ),
    ('ca = "pebble.pem"', "11: acme.ca: pebble.pem does not exist"),
    (
        'account_file = "client.toml"',
        "11: acme.account_file: client.toml is open to others (mode 0644): "
        "run chmod 600 client.toml",
    ),
    (
        'renew_before = "0s"',
        "11: acme.renew_before: 0s is out of range (expected 1s to 31536000s)",
    ),
    (
        "renew_before = true",
        '11: acme.renew_before: true is not a duration (expected seconds, "30s", "5m" or "24h")',
    ),
    (
        'preflight = "yes"',
        '11: acme.preflight: "yes" is not known here (expected one of "auto", "on", "off")',
    ),
    ('eab = "kid"', '11: acme.eab: "kid" is not a table (expected [acme.eab])'),
    ('eab = { kid = "k" }', "11: acme.eab.key_file: missing (a binding has kid and key_file)"),
    (
        '[acme.eab]\nkey_file = "secret.key"',
        "11: acme.eab.kid: missing (a binding has kid and key_file)",
    ),
    (
        'eab = { kid = "ключ", key_file = "secret.key" }',
        '11: acme.eab.kid: "ключ" is not a key id (expected what the authority gave out)',
    ),
    (
        'eab = { kid = "k", key_file = "client.toml" }',
        "11: acme.eab.key_file: client.toml is open to others (mode 0644): "
        "run chmod 600 client.toml",
    ),
    (
        'eab = { kid = "k", key_file = "secret.key", hmac = "x" }',
        "11: acme.eab.hmac: unknown key",
    ),
    ('directory = "zerossl"', f'11: acme.directory: "zerossl" {BINDING}'),
    ('directory = "google"\naccount_file = "new.json"', f'11: acme.directory: "google" {BINDING}'),
    (
        'directory = "google"\naccount_file = "client.toml/new.json"',
        "12: acme.account_file: client.toml/new.json cannot be read: Not a directory",
    ),
]


@pytest.mark.parametrize(("text", "fault"), BAD, ids=[fault for _, fault in BAD])
def test_a_fault_is_told_with_its_place(tmp_path: Path, text: str, fault: str) -> None:
    write(tmp_path, "secret.key", "").chmod(0o600)
    path = write(tmp_path, "client.toml", f"{ORDERING}{text}\n")
    assert faults(load_client, path) == [f"client.toml:{fault}"]


GOOD = [
    'directory = "zerossl"\neab = { kid = "k", key_file = "secret.key" }',
    'directory = "google"\naccount_file = "secret.key"',
    'directory = "letsencrypt-staging"\naccount_file = "new.json"',
    'directory = "https://[2001:db8::1]:14000/dir?ca=1"',
    'email = "first.last+tunnel@mail.example.org"',
]


@pytest.mark.parametrize("text", GOOD)
def test_what_an_authority_can_work_with_is_no_fault(tmp_path: Path, text: str) -> None:
    write(tmp_path, "secret.key", "").chmod(0o600)
    assert faults(load_client, write(tmp_path, "client.toml", f"{ORDERING}{text}\n")) == []


def test_the_words_for_authorities_are_those_that_are_known() -> None:
    assert tuple(NAMED) == NAMED_DIRECTORIES
    assert set(BOUND_DIRECTORIES) <= set(NAMED)
