"""The authorities that settings may call by name, and what is known of any other.

Nothing here asks the network: a directory's own `meta` is read where it is fetched.
"""

import re
from dataclasses import dataclass
from hashlib import sha256
from urllib.parse import urlsplit

from tunnel.errors import SettingsError

HOST_CHARACTERS = 200  # of a folder's name, which file systems bound at 255 bytes


@dataclass(frozen=True, slots=True)
class Directory:
    """One ACME server (RFC 8555 §7.1.1), and what must be known of it before it is asked."""

    name: str  # what settings say: a word, or the URL
    url: str
    caa: tuple[str, ...] = ()  # issuer domain names (RFC 8659 §4.2); empty: not known
    is_named: bool = False

    @property
    def slug(self) -> str:
        """The name of the folder for all that this authority issues; safe on any file system."""
        if self.is_named:
            return self.name
        parts = urlsplit(self.url)
        host = re.sub(r"[^a-z0-9.-]", "-", (parts.hostname or "").lower())[:HOST_CHARACTERS]
        port = f"-{parts.port}" if parts.port is not None else ""
        return f"{host}{port}-{sha256(self.url.encode()).hexdigest()[:8]}"


NAMED = {
    directory.name: directory
    for directory in (
        Directory(
            "letsencrypt",
            "https://acme-v02.api.letsencrypt.org/directory",
            ("letsencrypt.org",),
            is_named=True,
        ),
        Directory(
            "letsencrypt-staging",
            "https://acme-staging-v02.api.letsencrypt.org/directory",
            ("letsencrypt.org",),
            is_named=True,
        ),
        Directory(
            "zerossl",
            "https://acme.zerossl.com/v2/DV90",
            # Sectigo signs for ZeroSSL, and reads its former names as its own.
            (
                "sectigo.com",
                "trust-provider.com",
                "usertrust.com",
                "comodoca.com",
                "comodo.com",
            ),
            is_named=True,
        ),
        Directory(
            "google",
            "https://dv.acme-v02.api.pki.goog/directory",
            ("pki.goog",),
            is_named=True,
        ),
    )
}
BY_URL = {directory.url: directory for directory in NAMED.values()}


def directory_of(word_or_url: str) -> Directory:
    """Return the directory that settings call so: by its word, or by any https URL.

    The URL of a named one is that one, so that it shares its account. Raises SettingsError.
    """
    known = NAMED.get(word_or_url) or BY_URL.get(word_or_url)
    if known:
        return known
    if not is_https(word_or_url):
        raise SettingsError([f"directory {word_or_url!r}: {' | '.join(NAMED)} | an https:// URL"])
    return Directory(word_or_url, word_or_url)


def is_https(url: str) -> bool:
    """Return whether this is an https URL with a host and, if any, a port that exists."""
    try:
        parts = urlsplit(url)
        return parts.scheme == "https" and bool(parts.hostname) and parts.port != 0
    except ValueError:  # unbalanced brackets, or a port beyond 65535
        return False
