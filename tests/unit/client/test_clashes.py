"""Keypairs that hold the same key: nothing that settings tell, so it is looked for in the keys."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.client.scenes import client_settings
from tunnel.client.client import Client
from tunnel.errors import SettingsError
from tunnel.protocol.names import client_id
from tunnel.settings.values import (
    ClientSettings,
    EndpointSettings,
    KeypairSettings,
    ServerSettings,
    Target,
)
from tunnel.stream import Address
from tunnel.tls.identity import Identity, fingerprint, generate, load_or_create

HOLDERS = "keypairs.p and keypairs.q hold the same key"


def two_endpoints(folder: Path, bits: int = 128, **changes: Any) -> ClientSettings:
    """Return an endpoint under each of two keypairs; `changes` are those of the second."""
    relays = ("eu", "us")
    common: dict[str, Any] = {
        "suffix": "t.test",
        "target": Target(Address("127.0.0.1", 1)),
        "certificate": "passthrough",
        "certificate_extension": b"one",
        "servers": ("eu",),
    }
    return client_settings(
        folder,
        servers={name: ServerSettings(name, Address("192.0.2.1", 1), name) for name in relays},
        keypairs={
            "p": KeypairSettings("p", folder / "p.key"),
            "q": KeypairSettings("q", folder / "q.key", bits),
        },
        endpoints={
            "a": EndpointSettings("a", "p", **common),
            "b": EndpointSettings("b", "q", **common | changes),
        },
    )


def copied(settings: ClientSettings) -> Identity:
    """Put the same key into both files, and return it."""
    one, other = (each.file for each in settings.keypairs.values())
    identity = load_or_create(one)
    shutil.copy(one, other)
    return identity


def faults(settings: ClientSettings, **options: Any) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as error:
        Client(settings, **options)
    return tuple(error.value.faults)


def own_name(identity: Identity) -> str:
    return f"{client_id(fingerprint(identity.public_key), 128)}.t.test"


def test_copies_of_a_key_file_give_two_endpoints_one_name(tmp_path: Path) -> None:
    settings = two_endpoints(tmp_path)
    name = own_name(copied(settings))
    told = f"endpoints.a and endpoints.b have the same name {name}: {HOLDERS}"
    assert faults(settings) == (told,)


def test_equal_signers_give_two_endpoints_one_name(tmp_path: Path) -> None:
    identity = generate()
    told = f"endpoints.a and endpoints.b have the same name {own_name(identity)}: {HOLDERS}"
    assert faults(two_endpoints(tmp_path), signers={"p": identity, "q": identity}) == (told,)


@pytest.mark.parametrize("changes", [{"suffix": "u.test"}, {"bits": 64}], ids=str)
def test_one_key_has_one_extension_under_whatever_names(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    settings = two_endpoints(tmp_path, certificate_extension=b"other", **changes)
    copied(settings)
    told = f"endpoints.a and endpoints.b have different certificate_extension_hex: {HOLDERS}"
    assert faults(settings) == (told,)


def test_a_custom_name_belongs_to_one_endpoint_whatever_the_keys(tmp_path: Path) -> None:
    settings = two_endpoints(tmp_path, names=("shop.test",))
    owner = replace(settings.endpoints["a"], names=("shop.test",))
    shared = replace(settings, endpoints={**settings.endpoints, "a": owner})
    assert faults(shared) == ("endpoints.a and endpoints.b have the same name shop.test",)


def test_no_certificate_is_made_for_names_that_clash(tmp_path: Path) -> None:
    settings = two_endpoints(tmp_path, certificate="self-signed")
    copied(settings)
    faults(settings)
    assert not (tmp_path / "certificates").exists()


@pytest.mark.parametrize(
    "changes", [{"suffix": "u.test"}, {"bits": 64}, {"servers": ("us",)}], ids=str
)
def test_one_key_may_serve_where_names_or_relays_differ(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    settings = two_endpoints(tmp_path, **changes)
    copied(settings)
    assert len(Client(settings).info()) == 2


def test_extensions_may_differ_where_keys_do(tmp_path: Path) -> None:
    assert len(Client(two_endpoints(tmp_path, certificate_extension=b"other")).info()) == 2
