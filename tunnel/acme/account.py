"""The account at an authority as a file: its key, what the authority calls it, and where that is.

The form is that of the Rust library instant-acme, with one field of our own, so that files of the
original can be read: `{"id": URL, "key_pkcs8": base64url, "directory": URL, "email": …}`.
"""

import binascii
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from tunnel.acme.answers import one_line
from tunnel.errors import NotWritable, SettingsError
from tunnel.settings.values import EabSettings
from tunnel.tls.files import (
    create_private,
    make_private_directory,
    read_private,
    write_private,
)
from tunnel.tls.identity import UNREADABLE

REMEDY = "restore it, or move it away to have a new account made"


@dataclass(frozen=True)
class Account:
    """An account key (P-256) and what is known of its account."""

    key: ec.EllipticCurvePrivateKey
    directory_url: str
    url: str | None = None  # None: not made yet, or its making was not heard of
    email: str | None = None  # that the authority was told last

    def encoded(self) -> bytes:
        """Return the content of its file."""
        der = self.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        fields = {
            "id": self.url or "",
            "key_pkcs8": urlsafe_b64encode(der).rstrip(b"=").decode(),
            "directory": self.directory_url,
            "email": self.email,
        }
        return json.dumps(fields).encode() + b"\n"


def load_account(file: Path, directory_url: str) -> Account | None:
    """Return the account that is kept in a file; None if there is no such file.

    Raises SettingsError if it is corrupt, or another authority's: it is never written over.
    """
    try:
        content = read_private(file)
    except FileNotFoundError:
        return None
    try:
        account = _decoded(content, directory_url)
    except ValueError as error:
        raise SettingsError([f"{file}: {error}; {REMEDY}"]) from error
    if account.directory_url != directory_url:
        raise SettingsError(
            [
                f"{file}: is an account at {one_line(account.directory_url)}, not at "
                f"{directory_url}: set acme.directory to that one, or move the file away"
            ]
        )
    return account


def create_account(file: Path, directory_url: str) -> Account:
    """Return an account that is yet to be made, its new key kept in the file from now on.

    If another process is making one at the same moment, it is that one. Raises SettingsError,
    NotWritable.
    """
    fresh = Account(ec.generate_private_key(ec.SECP256R1()), directory_url)
    file = file.resolve()  # a link, even to nothing yet, stays one
    try:
        make_private_directory(file.parent)
    except OSError as error:
        raise _not_written(file, error) from error
    try:
        create_private(file, fresh.encoded())
    except FileExistsError:
        return load_account(file, directory_url) or create_account(file, directory_url)
    except OSError as error:
        raise _not_written(file, error) from error
    return fresh


def save_account(file: Path, account: Account) -> None:
    """Write what became known of an account, through a link to its target; raises NotWritable."""
    try:
        write_private(file.resolve(), account.encoded())
    except OSError as error:
        raise _not_written(file, error) from error


def read_eab_key(eab: EabSettings) -> str:
    """Return the MAC key of an external account, as base64url without padding.

    Raises SettingsError.
    """
    try:
        text = read_private(eab.key_file)
    except FileNotFoundError as error:
        raise SettingsError([f"{eab.key_file}: cannot be read: {error.strerror}"]) from error
    with suppress(ValueError):
        return urlsafe_b64encode(_decode(text.strip().decode())).rstrip(b"=").decode()
    raise SettingsError([f"{eab.key_file}: expected the external account's key as base64url"])


def _decoded(content: bytes, directory_url: str) -> Account:
    """Return the account in a file's content; raises ValueError saying what is wrong."""
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise ValueError("is not an ACME account: expected a JSON object")  # noqa: TRY004 - a fault of a file, whatever its kind
    url = _text(fields, "id")
    directory = fields.get("directory") or None
    if directory is not None:
        directory = _text(fields, "directory")
    email = fields.get("email")
    return Account(
        _key(_text(fields, "key_pkcs8")),
        directory or _directory_beside(url, directory_url),
        url or None,
        email if isinstance(email, str) else None,
    )


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise ValueError(f'is not an ACME account: expected a string as "{name}"')  # noqa: TRY004 - a fault of a file, whatever its kind
    return value


def _key(text: str) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_der_private_key(_decode(text), password=None)
    except (*UNREADABLE, TypeError):
        raise ValueError('holds no readable key as "key_pkcs8"') from None
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise ValueError('holds a key that is not P-256 as "key_pkcs8"')


def _directory_beside(account_url: str, directory_url: str) -> str:
    """Return where an account is that does not say so: with the directory, if on its host."""
    try:
        ours, theirs = urlsplit(directory_url), urlsplit(account_url)
    except ValueError:
        raise ValueError('is not an ACME account: expected a URL as "id"') from None
    if not account_url or ours.netloc == theirs.netloc:
        return directory_url
    return f"{theirs.scheme}://{theirs.netloc}"


def _decode(text: str) -> bytes:
    """Return base64url, padded or not, as bytes; raises ValueError for anything else."""
    if not text or not text.isascii() or set(text) & set("+/"):
        raise ValueError("not base64url")
    unpadded = text.rstrip("=")
    try:
        padded = unpadded + "=" * (-len(unpadded) % 4)
        decoded = urlsafe_b64decode(padded)
    except binascii.Error as error:
        raise ValueError("not base64url") from error
    if urlsafe_b64encode(decoded).rstrip(b"=").decode() != unpadded:  # stray characters are skipped
        raise ValueError("not base64url")
    return decoded


def _not_written(file: Path, error: OSError) -> NotWritable:
    return NotWritable([f"{file}: cannot be written: {error.strerror}"])
