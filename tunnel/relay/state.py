"""What a relay keeps on disk beside certificates: the reset key, and which names are its own."""

import secrets
from contextlib import suppress
from pathlib import Path

from tunnel.errors import NotWritable, SettingsError
from tunnel.settings.values import RelaySettings
from tunnel.tls.certificates import dns_names
from tunnel.tls.files import create_private, make_private_directory, read_private
from tunnel.tls.slots import Certificate

_RESET_KEY_BYTES = 32


def prepare_state(directory: Path) -> None:
    """Make the state directory (0700) if it is missing; raises NotWritable."""
    try:
        make_private_directory(directory)
    except OSError as fault:
        message = f"state_dir: {directory}: cannot be made: {fault.strerror}"
        raise NotWritable([message]) from fault


def own_names(settings: RelaySettings, certificate: Certificate) -> frozenset[str]:
    """Return the names that are the relay's and no client's."""
    ordered = settings.certificate.names  # perhaps not in the certificate yet
    return frozenset({*dns_names(certificate.leaf), *ordered, settings.name})


def reset_key(directory: Path) -> bytes:
    """Return the key of stateless reset tokens, making it if missing: it outlives restarts.

    Raises SettingsError for a file that does not hold one, NotWritable.
    """
    path = directory / "reset.key"
    try:
        key = _kept_or_made(path)
    except OSError as fault:
        raise NotWritable([f"{path}: cannot be made: {fault.strerror}"]) from fault
    if len(key) != _RESET_KEY_BYTES:
        raise SettingsError([f"{path}: expected {_RESET_KEY_BYTES} bytes, it has {len(key)}"])
    return key


def _kept_or_made(path: Path) -> bytes:
    with suppress(FileNotFoundError):  # what is there needs no place on the disk
        return read_private(path)
    with suppress(FileExistsError):  # another process was first: its key is the one
        create_private(path, secrets.token_bytes(_RESET_KEY_BYTES))
    return read_private(path)
