"""What the programs do besides running: `init`, `keygen`, `id`. Keys are loaded where needed."""

import json
import os
import sys
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tunnel.cli.tables import format_table, is_coloured
from tunnel.cli.template import commented_settings
from tunnel.protocol.names import client_id, format_fingerprint
from tunnel.runtime.exits import Exit
from tunnel.settings.client_schema import CLIENT
from tunnel.settings.relay_schema import RELAY


@dataclass(frozen=True, slots=True)
class NamedKey:
    """What an endpoint's name is made from."""

    endpoint: str
    file: Path
    id_bits: int
    suffix: str


def run_verb(program: str, arguments: Namespace) -> int:
    """Run the verb and return the exit status; results go to stdout, complaints to stderr.

    Raises SettingsError where settings or a key file have faults.
    """
    if arguments.verb == "init":
        return _init(program, arguments)
    return _keygen(arguments) if arguments.verb == "keygen" else _show_ids(arguments)


def _init(program: str, arguments: Namespace) -> int:
    """Write commented settings; never over anything."""
    text = commented_settings(RELAY if program == "relay" else CLIENT)
    try:
        _write_new(arguments.path, text)
    except OSError as error:
        return _cannot_write(arguments.path, error)
    _report(arguments, {"path": str(arguments.path)}, f"wrote {arguments.path}\n")
    return Exit.DONE


def _write_new(path: Path, text: str) -> None:
    """Make a file of `text`, or none at all: half a file would stand in the next try's way."""
    file = path.open("x", encoding="utf-8")
    try:
        with file:
            file.write(text)
    except OSError:
        path.unlink()
        raise


def _cannot_write(path: Path, error: OSError) -> int:
    sys.stderr.write(f"{path}: cannot be written: {error.strerror}\n")
    return Exit.CANNOT_WRITE


def _keygen(arguments: Namespace) -> int:
    """Make an identity key; never over anything."""
    from tunnel.tls.files import create_private, make_private_directory  # noqa: PLC0415 - loads cryptography
    from tunnel.tls.identity import fingerprint, generate  # noqa: PLC0415 - as above

    identity = generate()
    try:
        make_private_directory(arguments.path.parent)
        create_private(arguments.path, identity.pem)
    except OSError as error:
        return _cannot_write(arguments.path, error)
    name = format_fingerprint(fingerprint(identity.public_key))
    row = {"path": str(arguments.path), "fingerprint": name}
    _report(arguments, row, f"wrote {arguments.path}\nfingerprint {name}\n")
    return Exit.DONE


def _show_ids(arguments: Namespace) -> int:
    """Show each endpoint's id, fingerprint and name; a missing key is made, as at a start."""
    try:
        keys = _named_keys(arguments)
    except OSError as error:
        sys.stderr.write(f"{error.filename}: cannot be read: {error.strerror}\n")
        return Exit.CANNOT_READ
    rows = [_identify(key) for key in keys]
    headings = ("endpoint", "id", "url", "fingerprint")
    table = format_table(
        [heading.upper() for heading in headings],
        [[row[heading] for heading in headings] for row in rows],
        coloured=is_coloured(sys.stdout, os.environ),
    )
    _report(arguments, {"endpoints": rows}, table)
    return Exit.DONE


def _named_keys(arguments: Namespace) -> list[NamedKey]:
    if arguments.config is None:
        file = arguments.primary_key or Path("client.key")
        suffix = arguments.domain_suffix or "localhost"
        return [NamedKey("primary", file, arguments.id_bits or 128, suffix)]
    from tunnel.settings.load import load_client  # noqa: PLC0415 - only with -c

    settings = load_client(arguments.config)
    keypairs = settings.keypairs
    return [
        NamedKey(e.name, keypairs[e.keypair].file, keypairs[e.keypair].id_bits, e.suffix)
        for e in settings.endpoints.values()
    ]


def _identify(key: NamedKey) -> dict[str, str]:
    """Return an endpoint's row. Its URL has no port: which one it is the relay says later."""
    from tunnel.tls.identity import fingerprint, load_or_create  # noqa: PLC0415 - loads cryptography

    proof = fingerprint(load_or_create(key.file).public_key)
    own_id = client_id(proof, key.id_bits)
    return {
        "endpoint": key.endpoint,
        "id": own_id,
        "url": f"https://{own_id}.{key.suffix}",
        "fingerprint": format_fingerprint(proof),
    }


def _report(arguments: Namespace, result: Mapping[str, object], text: str) -> None:
    sys.stdout.write(f"{json.dumps(result)}\n" if arguments.json else text)
