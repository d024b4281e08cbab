"""What is kept on disk of one authority: certificates, how their orders went, orders under way.

A file that cannot be used is set aside as `.bad` and said so, once; reading never fails. Nothing
here orders anything, and it touches no file but those named after a certificate. All of it
blocks; files are small and local.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from tunnel.acme.directories import Directory
from tunnel.acme.schedule import Record
from tunnel.errors import NotWritable, SettingsError
from tunnel.log import PEER_TEXT_LIMIT, get_log
from tunnel.tls.certificates import dns_names, parse_certificate
from tunnel.tls.files import (
    create_private,
    make_private_directory,
    read_private,
    read_public,
    write_private,
)
from tunnel.tls.identity import UNREADABLE
from tunnel.tls.slots import Certificate, CertificateKey

T = TypeVar("T")

ACCOUNT = "account"
STEM_LIMIT = 200  # bytes: endings, and those of drafts, have to fit within 255, too
STEM_CUT = 100

NAMES_SHOWN = 3  # in a warning

# What the library raises for malformed certificates beside ValueError.
MALFORMED = (x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)

log = get_log(__name__)


@dataclass(frozen=True, slots=True)
class Draft:
    """An order under way, and the private key that it is for."""

    url: str
    names: tuple[str, ...]
    key: CertificateKey = field(repr=False)

    def to_json(self) -> bytes:
        """Return what `from_json` reads back, the key unencrypted."""
        pem = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        fields = {"url": self.url, "names": self.names, "key": pem.decode()}
        return json.dumps(fields, indent=1).encode()

    @classmethod
    def from_json(cls, content: bytes) -> "Draft":
        """Return the draft in a file; raises ValueError saying what is wrong with it."""
        try:
            fields = json.loads(content)
            url, names, pem = fields["url"], fields["names"], fields["key"]
            key = load_pem_private_key(pem.encode(), password=None)
        except (*UNREADABLE, KeyError, TypeError, AttributeError, RecursionError):
            raise ValueError("is not an order and its key") from None
        if not isinstance(url, str) or not _are_names(names) or not isinstance(key, CertificateKey):
            raise ValueError("is not an order and its key")
        return cls(url, tuple(names), key)


class Store:
    """The files of one authority in `directory`, which is made (0700) when first written to."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @classmethod
    def below(cls, state_dir: Path, directory: Directory) -> "Store":
        """Return the files that a program keeps of an authority."""
        return cls(state_dir / "acme" / directory.slug)

    @property
    def account_file(self) -> Path:
        """Where the account with the authority belongs."""
        return self._directory / f"{ACCOUNT}.json"

    # -- certificates

    def certificate_file(self, names: Sequence[str]) -> Path:
        """Where the certificate for exactly `names` is kept, with its key."""
        return self._path(names, ".pem")

    def load(
        self, names: Sequence[str], now: datetime, record: Record | None = None
    ) -> Certificate | None:
        """Return the certificate that is kept for exactly `names`, if it may be used at `now`.

        One that has lost certificates of its chain, by what is remembered of it, may not.
        """
        path = self.certificate_file(names)
        return _read(path, read_private, lambda content: _whole(content, names, now, record))

    def save(self, names: Sequence[str], certificate: Certificate) -> None:
        """Keep chain and key in one file, in place of what it held; raises NotWritable."""
        self._write(self._path(names, ".pem"), certificate.key_pem + certificate.chain_pem)

    def import_seed(self, path: Path, names: Sequence[str], now: datetime) -> Certificate | None:
        """Return the certificate that another program left in a PEM file, and keep a copy.

        None where one is kept already, and where it does not fit: it has to be for exactly
        `names`, in force and not self-signed. The file itself stays as it is, whatever its mode.
        """
        try:
            certificate = _fitting(read_public(path), names, now)
            if path.stat().st_mode & 0o077:
                log.warning("found a seed open to others, who may know its key", file=path)
        except (OSError, SettingsError, ValueError) as error:
            log.warning("did not import a seed", file=path, cause=_cause(error))
            return None
        return self._adopt(path, names, certificate)

    def _adopt(
        self, seed: Path, names: Sequence[str], certificate: Certificate
    ) -> Certificate | None:
        path = self._path(names, ".pem")
        try:
            make_private_directory(self._directory)
            create_private(path, certificate.key_pem + certificate.chain_pem)
        except FileExistsError:
            log.warning("did not import a seed", file=seed, cause=f"there is already {path}")
            return None
        except OSError as error:  # it is as good without a copy
            log.warning("used a seed but could not copy it", file=seed, cause=_cause(error))
        else:
            log.info("imported a seed", file=seed, kept=path)
        return certificate

    # -- how orders went

    def record(self, names: Sequence[str]) -> Record:
        """Return what is remembered of a certificate; a fresh record if nothing is."""
        return _read(self._path(names, ".json"), read_public, Record.from_json) or Record()

    def save_record(self, names: Sequence[str], record: Record) -> None:
        """Remember `record`; raises NotWritable."""
        self._write(self._path(names, ".json"), record.to_json())

    # -- orders under way

    def draft(self, names: Sequence[str]) -> Draft | None:
        """Return the order under way for exactly `names`; one for others is dropped."""
        draft = _read(self._path(names, ".order"), read_private, Draft.from_json)
        if draft is not None and set(draft.names) != set(names):
            log.info("dropped an order for other names", url=draft.url, names=draft.names)
            self.drop_draft(names)
            return None
        return draft

    def save_draft(self, draft: Draft) -> None:
        """Keep an order until it is dropped; raises NotWritable."""
        self._write(self._path(draft.names, ".order"), draft.to_json())

    def drop_draft(self, names: Sequence[str]) -> None:
        """Forget the order under way, if there is one."""
        path = self._path(names, ".order")
        try:
            path.unlink(missing_ok=True)
        except OSError as error:  # at worst it is asked for again, and found to be over
            log.warning("could not drop an order", file=path, cause=_cause(error))

    # -- files

    def _path(self, names: Sequence[str], ending: str) -> Path:
        return self._directory / f"{_stem(names[0])}{ending}"

    def _write(self, path: Path, content: bytes) -> None:
        try:
            make_private_directory(self._directory)
            write_private(path, content)
        except OSError as error:
            raise NotWritable([f"{path}: cannot be written: {_cause(error)}"]) from error


def _stem(name: str) -> str:
    """Return the file name of a DNS name: short enough, and never that of the account."""
    stem = quote(name, safe="")
    if len(stem) <= STEM_LIMIT and stem != ACCOUNT:
        return stem
    return f"{stem[:STEM_CUT]}~{hashlib.sha256(name.encode()).hexdigest()[:32]}"


def _read(path: Path, read: Callable[[Path], bytes], parse: Callable[[bytes], T]) -> T | None:
    """Return what is in a file; None if there is none or, after a warning, if it is of no use."""
    try:
        return parse(read(path))
    except FileNotFoundError:
        return None
    except ValueError as error:
        _set_aside(path, error)
    except (OSError, SettingsError) as error:
        if isinstance(error, SettingsError) and error.__cause__ is None:  # nothing kept us from it
            _set_aside(path, error)
        else:  # it may be as good as ever
            log.warning("could not read a file", file=path, cause=_cause(error))
    return None


def _set_aside(path: Path, cause: Exception) -> None:
    aside = path.with_name(f"{path.name}.bad")
    try:
        path.replace(aside)
    except OSError as error:
        fault = _cause(error)
        log.warning("left a file of no use where it was", file=path, cause=cause, fault=fault)
    else:
        log.warning("set a file of no use aside", file=path, kept=aside, cause=cause)


def _fitting(content: bytes, names: Sequence[str], now: datetime) -> Certificate:
    """Return the certificate in a PEM text; raises ValueError if it must not be used."""
    try:
        certificate = parse_certificate(content)
        held = dns_names(certificate.leaf)
    except MALFORMED as error:
        raise ValueError(f"holds a malformed certificate: {error}") from error
    leaf, wanted = certificate.leaf, frozenset(name.lower() for name in names)
    if leaf.issuer == leaf.subject:
        raise ValueError("is self-signed")
    if held != wanted:
        raise ValueError(f"is for {_listed(held)}, not for {_listed(wanted)}")
    if certificate.not_after <= now:
        raise ValueError(f"expired at {certificate.not_after.isoformat()}")
    # One from the future tells of our clock, which a board without a battery sets late; visitors
    # have their own.
    return certificate


def _whole(
    content: bytes, names: Sequence[str], now: datetime, record: Record | None
) -> Certificate:
    """Return `_fitting`; raises ValueError also if some of what was issued with it is missing."""
    certificate = _fitting(content, names, now)
    held = len(certificate.chain)
    if record and record.leaf == certificate.leaf_hash.hex() and held < (record.chain or 0):
        raise ValueError(f"holds only {held} of the {record.chain} certificates of its chain")
    return certificate


def _are_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _listed(names: frozenset[str]) -> str:
    shown = [name[:PEER_TEXT_LIMIT] for name in sorted(names)[:NAMES_SHOWN]]
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return (", ".join(shown) or "no name") + more


def _cause(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
