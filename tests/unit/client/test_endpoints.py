"""Endpoints as they are made from settings: names, certificates, URLs, admission."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.unit.client.scenes import client_settings
from tunnel.client.client import Client
from tunnel.client.endpoints import Endpoint, load_keypair, make_endpoints, url_of
from tunnel.errors import SettingsError
from tunnel.protocol.names import client_id
from tunnel.settings.values import ClientSettings, EndpointSettings, KeypairSettings, Target
from tunnel.stream import Address
from tunnel.tls.certificates import dns_names, extension_of, self_signed
from tunnel.tls.files import write_private
from tunnel.tls.identity import fingerprint, generate
from tunnel.tls.slots import Certificate

NOW = datetime.now(UTC)


def made(settings: ClientSettings) -> Endpoint:
    keypairs = {name: load_keypair(each) for name, each in settings.keypairs.items()}
    (endpoint,) = make_endpoints(settings, keypairs, NOW)
    return endpoint


def shown(endpoint: Endpoint, name: str | None = None) -> Certificate:
    certificate = endpoint.certificate(name or endpoint.names[0])
    assert certificate is not None
    return certificate


def fault(settings: ClientSettings) -> str:
    with pytest.raises(SettingsError) as error:
        Client(settings)
    return str(error.value)


@pytest.mark.parametrize("bits", [64, 128])
def test_the_first_name_is_made_of_the_keys_id_and_the_suffix(tmp_path: Path, bits: int) -> None:
    keypair = KeypairSettings("key", tmp_path / "client.key", bits)
    endpoint = made(client_settings(tmp_path, keypairs={"key": keypair}))
    own_id = client_id(fingerprint(endpoint.keypair.signer.public_key), bits)
    assert endpoint.names == (f"{own_id}.t.test",)


def test_custom_names_follow(tmp_path: Path) -> None:
    endpoint = made(client_settings(tmp_path, endpoint={"names": ("shop.example.com",)}))
    assert endpoint.names[1:] == ("shop.example.com",)


def test_a_url_leaves_the_usual_port_out() -> None:
    assert (url_of("a.test", 443), url_of("a.test", 8443)) == (
        "https://a.test",
        "https://a.test:8443",
    )


def test_a_self_signed_certificate_is_kept_so_that_pins_stay_valid(tmp_path: Path) -> None:
    settings = client_settings(tmp_path, endpoint={"certificate": "self-signed"})
    first, second = (shown(made(settings)) for _ in range(2))
    assert first.leaf == second.leaf


def test_a_self_signed_certificate_names_all_names_and_carries_the_extension(
    tmp_path: Path,
) -> None:
    changes = {
        "certificate": "self-signed",
        "names": ("shop.example.com",),
        "certificate_extension": b"\xca\xfe",
    }
    endpoint = made(client_settings(tmp_path, endpoint=changes))
    certificate = shown(endpoint)
    assert dns_names(certificate.leaf) == set(endpoint.names)
    assert extension_of(certificate.leaf) == b"\xca\xfe"


def test_a_certificate_from_files_is_shown(tmp_path: Path) -> None:
    certificate = self_signed(["shop.example.com"], now=NOW)
    (tmp_path / "chain.pem").write_bytes(certificate.chain_pem)
    write_private(tmp_path / "key.pem", certificate.key_pem)
    changes = {
        "certificate": "files",
        "chain_file": tmp_path / "chain.pem",
        "key_file": tmp_path / "key.pem",
    }
    endpoint = made(client_settings(tmp_path, endpoint=changes))
    assert [shown(endpoint, name).leaf for name in endpoint.names] == [certificate.leaf]


def test_passed_through_tls_is_nobodys_business(tmp_path: Path) -> None:
    endpoint = made(client_settings(tmp_path))
    assert endpoint.context(endpoint.names[0]) is None


def test_every_bad_file_is_told_at_once(tmp_path: Path) -> None:
    def endpoint(name: str) -> EndpointSettings:
        return EndpointSettings(
            name,
            "key",
            f"{name}.test",
            Target(Address("127.0.0.1", 1)),
            certificate="files",
            chain_file=tmp_path / f"{name}.pem",
            key_file=tmp_path / f"{name}.pem",
            servers=("eu",),
        )

    settings = client_settings(tmp_path, endpoints={name: endpoint(name) for name in ("b", "a")})
    lines = fault(settings).splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        str(tmp_path / "a.pem"),
        str(tmp_path / "b.pem"),
    ]


def test_roots_for_visitors_that_cannot_be_read_are_told_before_anybody_comes(
    tmp_path: Path,
) -> None:
    changes = {"certificate": "self-signed", "visitor_ca": tmp_path / "none.pem"}
    assert "none.pem: cannot be read" in fault(client_settings(tmp_path, endpoint=changes))


def test_a_corrupt_key_is_told_and_stays_as_it_is(tmp_path: Path) -> None:
    write_private(tmp_path / "client.key", b"garbage")
    assert "client.key: is not a readable key" in fault(client_settings(tmp_path))
    assert (tmp_path / "client.key").read_bytes() == b"garbage"


def test_a_key_is_made_for_the_owner_alone(tmp_path: Path) -> None:
    Client(client_settings(tmp_path))
    assert os.stat(tmp_path / "client.key").st_mode & 0o777 == 0o600


def test_a_state_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    settings = client_settings(
        tmp_path / "file" / "state",
        keypairs={"key": KeypairSettings("key", tmp_path / "client.key")},
        endpoint={"certificate": "self-signed"},
    )
    assert "Not a directory" in fault(settings)


def test_more_names_than_a_claim_may_hold_are_told(tmp_path: Path) -> None:
    names = tuple(f"n{number}.example.com" for number in range(64))
    text = fault(client_settings(tmp_path, endpoint={"names": names}))
    assert text == "keypairs.key: 65 names, at most 64 allowed"


@pytest.mark.parametrize(
    ("signers", "expected"),
    [
        ({"signers": {"other": generate()}}, "signers: there is no keypair other"),
        (
            {"signer": generate(), "signers": {"key": generate()}},
            "signer: there is more than one keypair, name them in signers",
        ),
    ],
)
def test_a_signer_that_belongs_to_nobody_is_a_fault(
    tmp_path: Path, signers: dict[str, Any], expected: str
) -> None:
    with pytest.raises(SettingsError) as error:
        Client(client_settings(tmp_path), **signers)
    assert str(error.value) == expected
