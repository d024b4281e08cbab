"""What is written on a descriptor that goes to another process."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel.errors import RemoteProtocolError
from tunnel.protocol.direct import PROOF_BYTES, SESSION_BYTES, Prelude
from tunnel.protocol.hello import MAX_HELLO_BYTES, Arrival, ClientHello
from tunnel.relay.arrivals import Caller, Guest
from tunnel.relay.direct import Unserved
from tunnel.relay.workers.parcels import (
    HandedGuest,
    HandedListener,
    HandedSpare,
    note_of,
    parcel_of,
)
from tunnel.runtime.workers.mailbox import NOTE_MAX_BYTES
from tunnel.stream import Address

ADDRESSES = st.builds(Address, st.sampled_from(["192.0.2.1", "2001:db8::1"]), st.integers(0, 65535))
HELLOS = st.builds(
    ClientHello,
    st.just("a.t.test"),
    st.lists(st.binary(min_size=1, max_size=255), max_size=5).map(tuple),
    st.integers(0, MAX_HELLO_BYTES),
)
GUESTS = st.builds(Guest, st.sampled_from(Arrival), st.builds(Caller, ADDRESSES, ADDRESSES), HELLOS)
UNSERVED = st.builds(Unserved, st.binary(min_size=1, max_size=1000), st.integers(0, 2))
PARCELS = st.one_of(
    st.builds(HandedGuest, GUESTS, st.none() | UNSERVED),
    st.builds(
        HandedSpare,
        st.builds(
            Prelude,
            st.binary(min_size=SESSION_BYTES, max_size=SESSION_BYTES),
            st.integers(0, 2**64 - 1),
            st.binary(min_size=PROOF_BYTES, max_size=PROOF_BYTES),
        ),
    ),
    st.builds(HandedListener, st.text(max_size=50), st.integers(1, 1000)),
)


@given(PARCELS)
def test_what_was_written_is_what_is_read(
    parcel: HandedGuest | HandedSpare | HandedListener,
) -> None:
    assert parcel_of(note_of(parcel)) == parcel


def test_the_longest_hello_with_all_that_it_may_ask_for_fits_into_a_note() -> None:
    alpn = (b"x" * 255,) * (MAX_HELLO_BYTES // 256)
    guest = Guest(
        Arrival.VISITOR,
        Caller(Address("2001:db8::1", 65535), Address("2001:db8::2", 65535)),
        ClientHello("a" * 253, alpn, MAX_HELLO_BYTES),
    )
    assert len(note_of(HandedGuest(guest, Unserved(b"x" * MAX_HELLO_BYTES, 1)))) < NOTE_MAX_BYTES


@given(st.binary(max_size=200))
def test_anything_else_is_refused(note: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parcel_of(note)


@pytest.mark.parametrize(
    "note",
    [b"{}", b"[]", b"7", b'{"guest": [], "so_far": null}', b'{"spare": "eA=="}', b'{"listen": 1}'],
)
def test_what_is_only_nearly_a_note_is_refused(note: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parcel_of(note)
