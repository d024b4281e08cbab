"""The proof of a prelude and the seal of a header: altered or foreign, no use."""

from dataclasses import replace

import pytest

from tunnel.errors import RemoteProtocolError
from tunnel.protocol.direct import PRELUDE_BYTES, parse_prelude
from tunnel.transport.direct.keys import DirectKeys

KEYS = DirectKeys(bytes(range(32)))
PRELUDE = KEYS.prelude(b"S" * 16, 7)
HEADER = b'{"kind": "visitor"}'
EXPECTED_PROOF = "26b2e2ad4f67313ee90556531e767ea1b30621b73f8df1380fb4a6d19500971a"
EXPECTED_SEALED = "086da818eef36d3bee8a9f5fe36e98173c53cb9efb359af1562c51c5f00b09253a9f0b"


def test_the_derived_keys_are_those_of_the_document() -> None:
    # HKDF-SHA256 and HMAC-SHA256 with the words of docs/protocol.md §7, by another implementation.
    assert PRELUDE.proof.hex() == EXPECTED_PROOF
    assert KEYS.seal(PRELUDE, HEADER).hex() == EXPECTED_SEALED


def test_a_prelude_proves_its_session_and_its_counter() -> None:
    assert KEYS.proves(PRELUDE)
    assert not KEYS.proves(replace(PRELUDE, session=b"T" * 16))
    assert not KEYS.proves(replace(PRELUDE, counter=8))
    assert not DirectKeys(bytes(32)).proves(PRELUDE)


@pytest.mark.parametrize("at", range(24, PRELUDE_BYTES))
def test_no_altered_proof_proves_anything(at: int) -> None:
    raw = bytearray(bytes(PRELUDE))
    raw[at] ^= 1
    altered = parse_prelude(bytes(raw))
    assert altered is not None
    assert not KEYS.proves(altered)


def test_what_was_sealed_can_be_opened() -> None:
    assert KEYS.open(PRELUDE, KEYS.seal(PRELUDE, HEADER)) == HEADER


@pytest.mark.parametrize("at", range(len(HEADER) + 16))
def test_no_altered_header_opens(at: int) -> None:
    sealed = bytearray(KEYS.seal(PRELUDE, HEADER))
    sealed[at] ^= 1
    with pytest.raises(RemoteProtocolError):
        KEYS.open(PRELUDE, bytes(sealed))


@pytest.mark.parametrize(
    "other",
    [KEYS.prelude(b"S" * 16, 8), KEYS.prelude(b"T" * 16, 7), replace(PRELUDE, proof=bytes(32))],
)
def test_a_header_sealed_for_one_spare_opens_on_no_other(other: object) -> None:
    with pytest.raises(RemoteProtocolError):
        KEYS.open(other, KEYS.seal(PRELUDE, HEADER))  # type: ignore[arg-type] # parametrised
