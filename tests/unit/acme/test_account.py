"""Account files: those of ours, those of the original, and those that are neither."""

import json
import re
from base64 import urlsafe_b64encode
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from tunnel.acme.account import (
    Account,
    create_account,
    load_account,
    read_eab_key,
    save_account,
)
from tunnel.errors import NotWritable, SettingsError
from tunnel.settings.values import EabSettings

DIRECTORY = "https://ca.test/directory"
URL = "https://ca.test/acme/acct/1"
KEY = ec.generate_private_key(ec.SECP256R1())
DER = KEY.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def base64url(octets: bytes) -> str:
    return urlsafe_b64encode(octets).rstrip(b"=").decode()


def kept(path: Path, content: str) -> Path:
    path.write_text(content)
    path.chmod(0o600)
    return path


def original(**changes: object) -> str:
    fields = {"id": URL, "key_pkcs8": base64url(DER), "directory": DIRECTORY}
    return json.dumps(fields | changes)


def test_where_no_file_is_there_is_no_account(tmp_path: Path) -> None:
    assert load_account(tmp_path / "account.json", DIRECTORY) is None


def test_an_account_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "new" / "account.json"
    made = replace(create_account(file, DIRECTORY), url=URL, email="a@example.org")
    save_account(file, made)
    read = load_account(file, DIRECTORY)
    assert read is not None
    assert read.key.private_numbers() == made.key.private_numbers()
    assert (read.url, read.email, read.directory_url) == (URL, "a@example.org", DIRECTORY)


def test_the_key_is_kept_before_its_account_is_made(tmp_path: Path) -> None:
    file = tmp_path / "account.json"
    made = create_account(file, DIRECTORY)
    read = load_account(file, DIRECTORY)
    assert read is not None
    assert read.url is None
    assert read.key.private_numbers() == made.key.private_numbers()


def test_of_two_that_make_an_account_at_once_one_wins(tmp_path: Path) -> None:
    file = tmp_path / "account.json"
    first, second = create_account(file, DIRECTORY), create_account(file, DIRECTORY)
    assert first.key.private_numbers() == second.key.private_numbers()


def test_an_account_of_the_original_is_read(tmp_path: Path) -> None:
    read = load_account(kept(tmp_path / "acme_credentials.json", original()), DIRECTORY)
    assert read is not None
    assert read.key.private_numbers() == KEY.private_numbers()
    assert (read.url, read.email) == (URL, None)


def test_one_without_a_directory_belongs_to_its_host(tmp_path: Path) -> None:
    file = kept(tmp_path / "acme_credentials.json", original(directory=None))
    assert load_account(file, DIRECTORY) is not None
    with pytest.raises(SettingsError, match=r"is an account at https://ca\.test, not at"):
        load_account(file, "https://other.test/directory")


def test_an_account_at_another_authority_is_a_fault(tmp_path: Path) -> None:
    file = kept(tmp_path / "account.json", original())
    with pytest.raises(SettingsError, match=r"is an account at .*, not at https://other\.test/"):
        load_account(file, "https://other.test/directory")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("", "expected a JSON object"),
        ("[" * 100_000, "expected a JSON object"),
        ("[]", "expected a JSON object"),
        (original(id=7), 'expected a string as "id"'),
        (original(key_pkcs8=None), 'expected a string as "key_pkcs8"'),
        (original(key_pkcs8=""), "holds no readable key"),
        (original(key_pkcs8="!!!!"), "holds no readable key"),
        (original(key_pkcs8=base64url(DER[:-10])), "holds no readable key"),
        (original(directory=7), 'expected a string as "directory"'),
        (original(id="https://[", directory=None), "is not an ACME account"),
    ],
)
def test_a_corrupt_file_is_named_and_left_alone(tmp_path: Path, content: str, fault: str) -> None:
    file = kept(tmp_path / "account.json", content)
    with pytest.raises(SettingsError, match=re.escape(str(file)) + ".*" + re.escape(fault)):
        load_account(file, DIRECTORY)
    assert file.read_text() == content


@pytest.mark.parametrize(
    ("der", "fault"),
    [
        (
            ed25519.Ed25519PrivateKey.generate().private_bytes(
                Encoding.DER, PrivateFormat.PKCS8, NoEncryption()
            ),
            "not P-256",
        ),
        (
            KEY.private_bytes(Encoding.DER, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")),
            "no readable key",
        ),
    ],
    ids=["Ed25519", "encrypted"],
)
def test_a_key_that_cannot_sign_requests_is_a_fault(tmp_path: Path, der: bytes, fault: str) -> None:
    file = kept(tmp_path / "account.json", original(key_pkcs8=base64url(der)))
    with pytest.raises(SettingsError, match=fault):
        load_account(file, DIRECTORY)


def test_a_file_open_to_others_is_refused(tmp_path: Path) -> None:
    file = kept(tmp_path / "account.json", original())
    file.chmod(0o644)
    with pytest.raises(SettingsError, match="is open to others"):
        load_account(file, DIRECTORY)


def test_what_cannot_be_written_is_told() -> None:
    with pytest.raises(NotWritable, match=r"/proc/account\.json: cannot be written"):
        save_account(Path("/proc/account.json"), Account(KEY, DIRECTORY))


@given(
    st.binary(min_size=1), st.sampled_from(["", "=", "=="]), st.sampled_from(["", "\n", " \r\n"])
)
def test_an_external_key_is_read_padded_or_not(octets: bytes, padding: str, end: str) -> None:
    from tempfile import TemporaryDirectory  # noqa: PLC0415 - a fixture would be shared by examples

    with TemporaryDirectory() as folder:
        file = kept(Path(folder) / "eab.key", base64url(octets) + padding + end)
        assert read_eab_key(EabSettings("kid", file)) == base64url(octets)


@pytest.mark.parametrize("text", ["", "a+b/", "a b", "ab!d", "schlüssel", "a"])
def test_an_external_key_that_is_no_base64url_is_a_fault(tmp_path: Path, text: str) -> None:
    file = kept(tmp_path / "eab.key", text)
    with pytest.raises(SettingsError, match=r"eab\.key: expected"):
        read_eab_key(EabSettings("kid", file))


def test_an_external_key_that_is_not_there_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"eab\.key: cannot be read"):
        read_eab_key(EabSettings("kid", tmp_path / "eab.key"))


def test_a_link_stays_a_link_whatever_becomes_known(tmp_path: Path) -> None:
    target, link = tmp_path / "elsewhere" / "account.json", tmp_path / "account.json"
    link.symlink_to(target)
    made = create_account(link, DIRECTORY)
    save_account(link, replace(made, url=URL))
    assert link.is_symlink()
    read = load_account(target, DIRECTORY)
    assert read is not None
    assert read.url == URL


def test_whose_account_is_another_authoritys_is_told_what_to_do(tmp_path: Path) -> None:
    file = kept(tmp_path / "account.json", original(directory="https://b.test/dir"))
    advice = "set acme.directory to that one, or move the file away"
    with pytest.raises(SettingsError, match=f"/dir, not at {DIRECTORY}: {advice}"):
        load_account(file, DIRECTORY)
