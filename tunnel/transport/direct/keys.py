"""The keys of one session's direct connections (docs/protocol.md §7)."""

import hashlib
import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tunnel.errors import RemoteProtocolError
from tunnel.protocol.direct import Prelude, claim_of

_NONCE_BYTES = 12


class DirectKeys:
    """Proves and verifies preludes, seals and opens stream headers.

    A counter is used for one spare only, so that no nonce ever comes twice.
    """

    __slots__ = ("_cipher", "_prelude_key")

    def __init__(self, key: bytes) -> None:
        self._prelude_key = _derived(key, b"tunnel-direct-prelude/1", 32)
        self._cipher = AESGCM(_derived(key, b"tunnel-direct-header/1", 16))

    def prelude(self, session: bytes, counter: int) -> Prelude:
        """Return the prelude of a new spare."""
        return Prelude(session, counter, self._proof(claim_of(session, counter)))

    def proves(self, prelude: Prelude) -> bool:
        """Say whether a prelude was made with this key."""
        return hmac.compare_digest(self._proof(prelude.claim), prelude.proof)

    def seal(self, prelude: Prelude, header: bytes) -> bytes:
        """Return a stream header that only the far end of this very spare can read."""
        return self._cipher.encrypt(_nonce(prelude), header, bytes(prelude))

    def open(self, prelude: Prelude, sealed: bytes) -> bytes:
        """Return the stream header; raises RemoteProtocolError if it is not for this spare."""
        try:
            return self._cipher.decrypt(_nonce(prelude), sealed, bytes(prelude))
        except InvalidTag as error:
            raise RemoteProtocolError("a sealed header that is not for us") from error

    def _proof(self, claim: bytes) -> bytes:
        return hmac.digest(self._prelude_key, claim, hashlib.sha256)


def _nonce(prelude: Prelude) -> bytes:
    return prelude.counter.to_bytes(_NONCE_BYTES, "big")


def _derived(key: bytes, info: bytes, length: int) -> bytes:
    return HKDF(SHA256(), length, salt=None, info=info).derive(key)
