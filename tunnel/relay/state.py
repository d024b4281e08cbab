"""What a relay keeps on disk: its own certificate, the reset key, the keys it has seen."""

import secrets
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from tunnel.errors import NotWritable, SettingsError
from tunnel.settings.values import RelaySettings
from tunnel.tls.certificates import dns_names, load_chain, stored_self_signed
from tunnel.tls.files import create_private, make_private_directory, read_private
from tunnel.tls.slots import Certificate

SELF_SIGNED_NAME = "tunnel-relay.invalid"
_RESET_KEY_BYTES = 32


def prepare_state(directory: Path) -> None:
    """Make the state directory (0700) if it is missing; raises NotWritable."""
    try:
        make_private_directory(directory)
    except OSError as fault:
        message = f"state_dir: {directory}: cannot be made: {fault.strerror}"
        raise NotWritable([message]) from fault


def relay_certificate(settings: RelaySettings) -> Certificate:
    """Return what clients see on the agents listeners; raises SettingsError, NotWritable."""
    wanted = settings.certificate
    if wanted.chain_file is not None and wanted.key_file is not None:
        return load_chain(wanted.chain_file, wanted.key_file)
    try:
        names = [SELF_SIGNED_NAME]  # nobody checks it: clients trust the pin
        return stored_self_signed(settings.state_dir, "relay", names, now=datetime.now(UTC))
    except OSError as fault:
        message = f"state_dir: {settings.state_dir}: cannot be written: {fault.strerror}"
        raise NotWritable([message]) from fault


def own_names(settings: RelaySettings, certificate: Certificate) -> frozenset[str]:
    """Return the names that are the relay's and no client's."""
    return frozenset(dns_names(certificate.leaf)) | {settings.name}


def reset_key(directory: Path) -> bytes:
    """Return the key of stateless reset tokens, making it if missing: it outlives restarts.

    Raises SettingsError for a file that does not hold one, NotWritable.
    """
    path = directory / "reset.key"
    try:
        with suppress(FileExistsError):
            create_private(path, secrets.token_bytes(_RESET_KEY_BYTES))
        key = read_private(path)
    except OSError as fault:
        raise NotWritable([f"{path}: cannot be made: {fault.strerror}"]) from fault
    if len(key) != _RESET_KEY_BYTES:
        raise SettingsError([f"{path}: expected {_RESET_KEY_BYTES} bytes, it has {len(key)}"])
    return key
