"""The control stream's two ends as state machines (docs/protocol.md §3, §4).

Each takes the payloads of frames and returns what they mean, and gives the frames to send. Who may
have which name, and every deadline, is decided elsewhere.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from types import MappingProxyType

from tunnel.errors import Code, LocalProtocolError, Refused, RemoteProtocolError
from tunnel.protocol.fields import Reason
from tunnel.protocol.frames import AUTHENTICATED_LIMIT, UNAUTHENTICATED_LIMIT, frame
from tunnel.protocol.messages import (
    MESSAGE_LIMIT,
    Auth,
    AuthBody,
    Bye,
    Drain,
    Hello,
    Message,
    Ping,
    Pong,
    Reject,
    Serve,
    Serving,
    Welcome,
    decode,
    decode_body,
    encode,
)

VERSIONS = (1,)  # that this program speaks

Authenticate = Callable[[bytes, bytes, bytes], bytes]
"""`authenticate(key, signature, message)` verifies the signature by the SubjectPublicKeyInfo and
returns the key's fingerprint (32 bytes); raises Refused(UNAUTHORIZED)."""

Seal = Callable[[bytes], bytes]
"""`seal(message)` returns the identity key's signature: ECDSA in DER, or Ed25519."""


class State(Enum):
    """How far a control stream has come, at either end."""

    OPENED = auto()
    GREETED = auto()  # hello
    CLAIMED = auto()  # auth
    WELCOMED = auto()  # welcome
    LEAVING = auto()  # we have said the last word; what still comes from the peer is passed over
    LEFT = auto()  # the peer has


Steps = Mapping[tuple[State, type[Message]], State]

# Both ends use both tables: one says what may be sent, the other what may be received.
FROM_RELAY: Steps = MappingProxyType(
    {
        (State.OPENED, Hello): State.GREETED,
        (State.CLAIMED, Welcome): State.WELCOMED,
        **{(State.WELCOMED, each): State.WELCOMED for each in (Serving, Ping, Pong, Drain)},
        **{(each, Reject): State.LEFT for each in (State.OPENED, State.GREETED, State.CLAIMED)},
        (State.WELCOMED, Bye): State.LEFT,
    }
)
FROM_CLIENT: Steps = MappingProxyType(
    {
        (State.GREETED, Auth): State.CLAIMED,
        **{(State.WELCOMED, each): State.WELCOMED for each in (Serve, Ping, Pong)},
        (State.OPENED, Bye): State.LEFT,
        (State.GREETED, Bye): State.LEFT,
        (State.CLAIMED, Bye): State.LEFT,
        (State.WELCOMED, Bye): State.LEFT,
    }
)


@dataclass(frozen=True, slots=True)
class Claim:
    """What a client asks for, after its signature was verified."""

    fingerprint: bytes
    key: bytes  # SubjectPublicKeyInfo
    instance: bytes
    names: tuple[str, ...]
    software: str
    extension: bytes | None
    version: int
    features: frozenset[str]  # that both ends have


# What either end may hear, once it is decoded and verified.
FromClient = Claim | Serve | Ping | Pong | Bye
FromRelay = Hello | Welcome | Reject | Serving | Ping | Pong | Drain | Bye


def signed_message(transport: str, leaf_hash: bytes, hello: bytes, body: bytes) -> bytes:
    """Return the bytes that a client's signature covers.

    `transport` is the word of the transport, `leaf_hash` SHA-256 of the certificate that the relay
    presented in this handshake, `hello` and `body` are the bytes as they were sent.
    """
    parts = (transport.encode("ascii"), leaf_hash, hello, body)
    # Like RFC 8446 §4.4.3: no signature made for TLS or SSH can be taken for one of ours.
    prefix = b"\x20" * 64 + b"tunnel-auth/1\x00"
    return prefix + b"".join(len(part).to_bytes(4, "big") + part for part in parts)


class _ControlStream:
    """What both ends have in common: one state, and the tables that move it."""

    __slots__ = ("_incoming", "_leaf_hash", "_outgoing", "_transport", "frame_limit", "state")

    def __init__(self, transport: str, leaf_hash: bytes, outgoing: Steps, incoming: Steps) -> None:
        self._transport = transport
        self._leaf_hash = leaf_hash
        self._outgoing = outgoing
        self._incoming = incoming
        self.state = State.OPENED
        self.frame_limit = UNAUTHENTICATED_LIMIT  # payload bytes, for the reader of this stream

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._transport} {self.state.name}>"

    @property
    def is_open(self) -> bool:
        """Whether messages may still be sent: neither end has said its last word."""
        return self.state not in (State.LEAVING, State.LEFT)

    def _advance(self, payload: bytes) -> Message | None:
        """Return the message, or None if it does not matter any more."""
        message = decode(payload)
        if self.state is State.LEAVING:
            return message if isinstance(message, Bye | Reject) else None
        step = (self.state, type(message))
        if step not in self._incoming:
            raise RemoteProtocolError(f"{type(message).__name__} while {self.state.name}")
        self._enter(self._incoming[step])
        return message

    def _send(self, message: Message) -> bytes:
        step = (self.state, type(message))
        if step not in self._outgoing:
            raise LocalProtocolError(f"sent {type(message).__name__} while {self.state.name}")
        sent = frame(encode(message), self.frame_limit)
        state = self._outgoing[step]
        self._enter(State.LEAVING if state is State.LEFT else state)
        return sent

    def _enter(self, state: State) -> None:
        self.state = state
        if state is State.WELCOMED:
            self.frame_limit = AUTHENTICATED_LIMIT


class RelayRegistration(_ControlStream):
    """The relay's end of one control stream.

    `hello` carries a fresh nonce. After RemoteProtocolError or Refused, send `leave(code)`.
    """

    __slots__ = ("_authenticate", "_hello", "_hello_payload")

    def __init__(
        self, hello: Hello, transport: str, leaf_hash: bytes, authenticate: Authenticate
    ) -> None:
        super().__init__(transport, leaf_hash, FROM_RELAY, FROM_CLIENT)
        self._hello = hello
        self._hello_payload = encode(hello)
        self._authenticate = authenticate

    def greeting(self) -> bytes:
        """Return the frame that opens the exchange."""
        return self._send(self._hello)

    def receive(self, payload: bytes) -> FromClient | None:
        """Advance on a client's frame and return what it means, None if it came too late to matter.

        A Claim is returned once its signature was verified. Raises RemoteProtocolError for what
        the protocol does not allow, Refused for a claim that fails (UNAUTHORIZED, VERSION).
        """
        match self._advance(payload):
            case Auth() as auth:
                return self._claim(auth)
            case Serve() | Ping() | Pong() | Bye() as message:
                return message
            case _:
                return None

    def send(self, message: Welcome | Serving | Ping | Pong | Drain) -> bytes:
        """Return the message's frame; raises LocalProtocolError out of its turn."""
        return self._send(message)

    def leave(self, code: Code, message: str = "", retry_after: float | None = None) -> bytes:
        """Return the frame of the last message: Reject before the welcome, Bye after it."""
        farewell = Bye if self.state is State.WELCOMED else Reject
        return self._send(farewell(Reason(code), _fitting(message), retry_after))

    def _claim(self, auth: Auth) -> Claim:
        body = decode_body(auth.body)
        proof = signed_message(self._transport, self._leaf_hash, self._hello_payload, auth.body)
        fingerprint = self._authenticate(body.key, auth.signature, proof)
        if body.version not in self._hello.versions:
            raise Refused(Code.VERSION, f"version {body.version} was not offered")
        return Claim(
            fingerprint=fingerprint,
            key=body.key,
            instance=body.instance,
            names=body.names,
            software=body.software,
            extension=body.extension,
            version=body.version,
            features=frozenset(body.features).intersection(self._hello.features),
        )


class ClientRegistration(_ControlStream):
    """The client's end of one control stream.

    After the Hello, `version` is the highest one that both ends speak (0 before it) and `features`
    are those that both have.
    """

    __slots__ = ("_features", "_hello_payload", "_versions", "features", "version")

    def __init__(
        self,
        transport: str,
        leaf_hash: bytes,
        *,
        versions: Iterable[int] = VERSIONS,
        features: Iterable[str] = (),
    ) -> None:
        super().__init__(transport, leaf_hash, FROM_CLIENT, FROM_RELAY)
        self._versions = frozenset(versions)
        self._features = frozenset(features)
        self._hello_payload = b""
        self.version = 0
        self.features: frozenset[str] = frozenset()

    def receive(self, payload: bytes) -> FromRelay | None:
        """Advance on a relay's frame and return the message, None if it came too late to matter.

        Raises RemoteProtocolError for what the protocol does not allow, Refused(VERSION) for a
        Hello without a common version.
        """
        match self._advance(payload):
            case Hello() as hello:
                self._hello_payload = payload
                self._agree(hello)
                return hello
            case Auth() | Serve() | None:
                return None
            case message:
                return message

    def auth(self, body: AuthBody, seal: Seal) -> bytes:
        """Return the frame that proves the identity; `body.version` must be `version`."""
        if body.version != self.version:
            raise LocalProtocolError(f"claimed version {body.version} after {self.version}")
        raw = encode(body)
        proof = signed_message(self._transport, self._leaf_hash, self._hello_payload, raw)
        return self._send(Auth(raw, seal(proof)))

    def send(self, message: Serve | Ping | Pong) -> bytes:
        """Return the message's frame; raises LocalProtocolError out of its turn."""
        return self._send(message)

    def leave(self, code: Code, message: str = "", retry_after: float | None = None) -> bytes:
        """Return the frame of the last message, a Bye."""
        return self._send(Bye(Reason(code), _fitting(message), retry_after))

    def _agree(self, hello: Hello) -> None:
        common = self._versions.intersection(hello.versions)
        if not common:
            raise Refused(Code.VERSION, f"the relay speaks versions {hello.versions}")
        self.version = max(common)
        self.features = self._features.intersection(hello.features)


def _fitting(message: str) -> str:
    """Return the text as a message may carry it: cut, and without lone surrogates."""
    return message[:MESSAGE_LIMIT].encode("utf-8", "replace").decode("utf-8")
