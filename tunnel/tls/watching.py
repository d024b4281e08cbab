"""Certificate files that somebody else renews: certbot, cert-manager, a copy by hand."""

import os
from pathlib import Path

from tunnel.errors import SettingsError
from tunnel.tls.certificates import load_chain
from tunnel.tls.slots import Certificate

Version = tuple[int, int, int]  # time of change (ns), size (bytes), inode


class WatchedFiles:
    """A chain and its key in two PEM files, or in one, and the version that was loaded last.

    Links are followed, so that one that points elsewhere now is seen: certbot and kubernetes
    renew in that way. Everything here blocks; the files are small and local.
    """

    def __init__(self, chain_file: Path, key_file: Path) -> None:
        self._chain_file = chain_file
        self._key_file = key_file
        self._loaded: tuple[Version, Version] | None = None
        self._chain_pem = b""

    def __repr__(self) -> str:
        return f"<WatchedFiles {self._chain_file} {self._key_file}>"

    def load(self) -> Certificate:
        """Return what the files hold now; raises SettingsError, naming the file at fault."""
        # Looked at before it is read: what changes in between is another version next time.
        versions = self._versions()
        certificate = load_chain(self._chain_file, self._key_file)
        self._loaded = versions
        self._chain_pem = certificate.chain_pem
        return certificate

    def changed(self) -> Certificate | None:
        """Return what the files hold, if it is not what was loaded last.

        Raises SettingsError for files that cannot be used: perhaps only one of the two has been
        replaced yet. They are looked at again next time.
        """
        if self._versions() == self._loaded:
            return None
        before = self._chain_pem
        certificate = self.load()
        # The same chain has the same key: it is for the leaf's, or it would not have been loaded.
        return None if certificate.chain_pem == before else certificate

    def _versions(self) -> tuple[Version, Version]:
        return _version(self._chain_file), _version(self._key_file)


def _version(path: Path) -> Version:
    try:
        status = os.stat(path)
    except OSError as error:
        raise SettingsError([f"{path}: cannot be read: {error.strerror}"]) from error
    return status.st_mtime_ns, status.st_size, status.st_ino
