"""A certificate that another program left: copied into the store if it fits, never touched."""

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.unit.acme.stored import (
    CERTIFICATE,
    CHAIN,
    KEY,
    MISFITS,
    NAME,
    NAMES,
    NOW,
    folder,
    issued,
    warnings,
)
from tunnel.acme.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "acme" / "ca")


def seed(directory: Path, content: bytes, mode: int = 0o600) -> Path:
    path = directory / "seed.pem"
    path.write_bytes(content)
    path.chmod(mode)
    return path


TRADITIONAL = CERTIFICATE.key.private_bytes(
    Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()
)


@pytest.mark.parametrize(
    "content",
    [
        KEY + CERTIFICATE.chain_pem,
        CERTIFICATE.chain_pem + KEY,
        TRADITIONAL + CERTIFICATE.chain_pem,
        CHAIN[0] + b"-----END CERTIFICATE-----\n" + KEY + CHAIN[1] + b"-----END CERTIFICATE-----\n",
        (b"# by another program\n" + CERTIFICATE.chain_pem + KEY).replace(b"\n", b"\r\n"),
    ],
    ids=["key first", "chain first", "SEC1", "key in between", "CRLF"],
)
def test_a_seed_is_copied_into_the_store(tmp_path: Path, store: Store, content: bytes) -> None:
    path = seed(tmp_path, content)
    imported = store.import_seed(path, NAMES, NOW)
    kept = store.load(NAMES, NOW)
    assert imported is not None
    assert kept is not None
    assert kept.chain == imported.chain == CERTIFICATE.chain
    assert path.read_bytes() == content


@pytest.mark.parametrize(("content", "reason"), MISFITS.values(), ids=MISFITS)
def test_a_seed_that_does_not_fit_stays_where_it_is(
    tmp_path: Path, store: Store, caplog: pytest.LogCaptureFixture, content: bytes, reason: str
) -> None:
    path = seed(tmp_path, content)
    assert store.import_seed(path, NAMES, NOW) is None
    assert path.read_bytes() == content
    assert not folder(store).exists()
    [warning] = warnings(caplog)
    assert str(path) in warning
    assert reason in warning


def test_a_seed_that_is_missing_is_a_warning(
    tmp_path: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    assert store.import_seed(tmp_path / "seed.pem", NAMES, NOW) is None
    [warning] = warnings(caplog)
    assert "No such file" in warning


def test_a_seed_takes_no_other_certificates_place(
    tmp_path: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    newer = issued(NAME)
    store.save(NAMES, newer)
    assert store.import_seed(seed(tmp_path, KEY + CERTIFICATE.chain_pem), NAMES, NOW) is None
    kept = store.load(NAMES, NOW)
    assert kept is not None
    assert kept.leaf == newer.leaf
    [warning] = warnings(caplog)
    assert "there is already" in warning


def test_a_seed_open_to_others_is_used_with_a_warning(
    tmp_path: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    path = seed(tmp_path, KEY + CERTIFICATE.chain_pem, 0o644)
    assert store.import_seed(path, NAMES, NOW) is not None
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert stat.S_IMODE((folder(store) / f"{NAME}.pem").stat().st_mode) == 0o600
    [warning] = warnings(caplog)
    assert "open to others" in warning


def test_a_seed_serves_where_it_cannot_be_copied(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "ca").write_bytes(b"in the way")
    path = seed(tmp_path, KEY + CERTIFICATE.chain_pem)
    assert Store(tmp_path / "ca").import_seed(path, NAMES, NOW) is not None
    [warning] = warnings(caplog)
    assert "could not copy" in warning
