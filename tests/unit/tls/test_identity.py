"""Who a client is: keys read and made, proofs accepted and refused."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as some

from tunnel.errors import Code, Refused, SettingsError
from tunnel.tls.identity import (
    Identity,
    Signer,
    authenticate,
    fingerprint,
    generate,
    load_or_create,
    parse,
)

P256 = generate()
ED25519 = Identity(ed25519.Ed25519PrivateKey.generate())
BOTH = pytest.mark.parametrize("identity", [P256, ED25519], ids=["P-256", "Ed25519"])


def pkcs8(key: PrivateKeyTypes, encoding: Encoding, passphrase: bytes | None = None) -> bytes:
    lock = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    return key.private_bytes(encoding, PrivateFormat.PKCS8, lock)


def spki(key: PrivateKeyTypes) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def keep(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    path.chmod(0o600)
    return path


def refusal_of(key: bytes, signature: bytes, message: bytes = b"message") -> str:
    with pytest.raises(Refused) as refused:
        authenticate(key, signature, message)
    assert refused.value.code is Code.UNAUTHORIZED
    return refused.value.message


@BOTH
@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
def test_a_key_file_is_read(tmp_path: Path, identity: Identity, encoding: Encoding) -> None:
    path = keep(tmp_path / "client.key", pkcs8(identity.key, encoding))
    assert load_or_create(path).public_key == identity.public_key


def test_a_missing_key_is_made_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "state" / "client.key"
    assert load_or_create(path).public_key == load_or_create(path).public_key


def test_a_made_key_is_pkcs8_pem_for_its_owner_alone(tmp_path: Path) -> None:
    load_or_create(tmp_path / "client.key")
    path = tmp_path / "client.key"
    assert path.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----\n")
    assert path.stat().st_mode & 0o777 == 0o600


def test_openssl_reads_a_made_key_as_p256(tmp_path: Path) -> None:
    load_or_create(tmp_path / "client.key")
    command = ["openssl", "pkey", "-in", str(tmp_path / "client.key"), "-noout", "-text"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "NIST CURVE: P-256" in shown


EXPECTED = "expected a P-256 or Ed25519 private key, PKCS#8, PEM or DER, without a passphrase"
RSA_KEY = rsa.generate_private_key(65537, 2048)
P384_KEY = ec.generate_private_key(ec.SECP384R1())
UNUSABLE = {
    "empty": (b"", "is not a readable key"),
    "garbage": (b"\xff" * 100, "is not a readable key"),
    "cut": (P256.pem[:100], "is not a readable key"),
    "certificate request": (
        b"-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n",
        "is not a readable key",
    ),
    "encrypted PEM": (pkcs8(P256.key, Encoding.PEM, b"pass"), "is encrypted"),
    "encrypted DER": (pkcs8(P256.key, Encoding.DER, b"pass"), "is encrypted"),
    "trailing DER": (pkcs8(P256.key, Encoding.DER) + b"\0", "is not a readable key"),
    "Ed25519 of 31 bytes": (
        bytes.fromhex("302d020100300506032b65700421041f") + bytes(31),
        "is not a readable key",
    ),
    "RSA": (pkcs8(RSA_KEY, Encoding.PEM), "is a key of another kind"),
    "P-384": (pkcs8(P384_KEY, Encoding.DER), "is a key of another kind"),
}


@pytest.mark.parametrize(("content", "cause"), UNUSABLE.values(), ids=UNUSABLE)
def test_an_unusable_key_is_named_with_what_was_expected(
    tmp_path: Path, content: bytes, cause: str
) -> None:
    path = keep(tmp_path / "client.key", content)
    with pytest.raises(SettingsError) as refusal:
        load_or_create(path)
    assert refusal.value.faults == (f"{path}: {cause}: {EXPECTED}",)


@pytest.mark.parametrize("content", [content for content, _ in UNUSABLE.values()], ids=UNUSABLE)
def test_an_unusable_key_is_never_overwritten(tmp_path: Path, content: bytes) -> None:
    path = keep(tmp_path / "client.key", content)
    with pytest.raises(SettingsError):
        load_or_create(path)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_a_key_open_to_others_is_refused(tmp_path: Path) -> None:
    path = keep(tmp_path / "client.key", P256.pem)
    path.chmod(0o644)
    with pytest.raises(SettingsError, match="open to others"):
        load_or_create(path)


def test_a_place_where_no_key_can_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"file/client\.key: "):
        load_or_create(tmp_path / "file" / "client.key")


def test_processes_that_start_at_once_agree_on_one_key(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from tunnel.tls.identity import load_or_create\n"
        "print(flush=True); input(); print(load_or_create(Path(sys.argv[1])).public_key.hex())"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "client.key")]
    racers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for racer in racers:
        assert racer.stdout is not None
        racer.stdout.readline()  # it has imported everything and waits at the line
    keys = {racer.communicate("\n")[0] for racer in start(racers)}
    assert keys == {load_or_create(tmp_path / "client.key").public_key.hex() + "\n"}


def start(racers: list[subprocess.Popen[str]]) -> list[subprocess.Popen[str]]:
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("\n")
        racer.stdin.flush()
    return racers


@BOTH
def test_a_proof_is_accepted_and_names_the_key(identity: Identity) -> None:
    signature = identity.sign(b"message")
    named = authenticate(identity.public_key, signature, b"message")
    assert named == fingerprint(identity.public_key)


@BOTH
def test_an_identity_can_stand_where_a_signer_is_asked_for(identity: Identity) -> None:
    signer: Signer = identity
    assert len(authenticate(signer.public_key, signer.sign(b"m"), b"m")) == 32


def test_a_p256_fingerprint_is_of_the_compressed_point() -> None:
    assert isinstance(P256.key, ec.EllipticCurvePrivateKey)
    numbers = P256.key.public_key().public_numbers()
    point = bytes([2 + numbers.y % 2]) + numbers.x.to_bytes(32, "big")
    assert fingerprint(P256.public_key) == hashlib.sha256(point).digest()


def test_an_ed25519_fingerprint_is_of_the_raw_key() -> None:
    assert fingerprint(ED25519.public_key) == hashlib.sha256(ED25519.public_key[-32:]).digest()


@BOTH
def test_a_proof_of_another_message_is_refused(identity: Identity) -> None:
    signature = identity.sign(b"another")
    assert refusal_of(identity.public_key, signature) == "the signature does not match the key"


@BOTH
def test_a_proof_by_another_key_is_refused(identity: Identity) -> None:
    signature = generate().sign(b"message")
    assert refusal_of(identity.public_key, signature) == "the signature does not match the key"


@BOTH
@pytest.mark.parametrize("tail", [b"\0", b"\x30\0"])
def test_a_signature_with_something_after_it_is_refused(identity: Identity, tail: bytes) -> None:
    signature = identity.sign(b"message") + tail
    assert refusal_of(identity.public_key, signature) == "the signature does not match the key"


def with_integer_padded(signature: bytes) -> bytes:
    """The same r and s, with a superfluous zero before r: BER, but not DER."""
    length = signature[3]
    padded = bytes([2, length + 1, 0]) + signature[4:]
    return bytes([0x30, signature[1] + 1]) + padded


def test_a_signature_in_another_encoding_is_refused() -> None:
    signature = with_integer_padded(P256.sign(b"message"))
    assert refusal_of(P256.public_key, signature) == "the signature does not match the key"


def compressed(key: bytes) -> bytes:
    """The same P-256 SubjectPublicKeyInfo with its point compressed."""
    point = bytes([2 + key[-1] % 2]) + key[-64:-32]
    body = key[2:23] + bytes([0x03, len(point) + 1, 0]) + point
    return bytes([0x30, len(body)]) + body


REFUSED_KEYS = {
    "empty": (b"", "the key cannot be read"),
    "point off the curve": (
        P256.public_key[:-1] + bytes([P256.public_key[-1] ^ 1]),
        "the key cannot be read",
    ),
    "trailing": (P256.public_key + b"\0", "the key cannot be read"),
    "compressed": (compressed(P256.public_key), "the key is not in its canonical encoding"),
    "P-384": (spki(P384_KEY), "the key is on another curve than P-256"),
    "RSA": (spki(RSA_KEY), "the key is neither P-256 nor Ed25519"),
    "private": (pkcs8(P256.key, Encoding.DER), "the key cannot be read"),
}


@pytest.mark.parametrize(("key", "cause"), REFUSED_KEYS.values(), ids=REFUSED_KEYS)
def test_what_is_no_identity_key_is_refused(key: bytes, cause: str) -> None:
    assert refusal_of(key, P256.sign(b"message")) == cause


@given(some.binary(max_size=200))
def test_random_bytes_are_no_key(content: bytes) -> None:
    with pytest.raises(ValueError, match="expected a P-256"):
        parse(content)


@given(
    some.sampled_from([P256, ED25519]),
    some.integers(0, 200),
    some.binary(max_size=4),
    some.integers(0, 4),
)
def test_a_damaged_key_is_only_ever_refused(
    identity: Identity, at: int, inserted: bytes, dropped: int
) -> None:
    key = identity.public_key
    damaged = key[:at] + inserted + key[at + dropped :]
    if damaged != key:
        refusal_of(damaged, identity.sign(b"message"))


def test_the_private_key_is_not_shown() -> None:
    assert repr(P256) == f"<Identity sha256:{fingerprint(P256.public_key).hex()}>"
