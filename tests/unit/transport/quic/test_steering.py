"""Which of several sockets a datagram goes to, decided by the kernel."""

import asyncio
import os
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.contract.quic_pair import quic_pair
from tests.unit.transport.quic.test_doorkeeper import KEY, caller, first_datagram, header_of
from tests.variants import Engines
from tunnel.stream import Address
from tunnel.transport.options import Share, TransportOptions
from tunnel.transport.quic.connection import TunnelConnection
from tunnel.transport.quic.doorkeeper import Doorkeeper
from tunnel.transport.quic.frugality import IDS_HELD_MAX
from tunnel.transport.quic.steering import bind_group, program

IDS = st.binary(min_size=8, max_size=20)
SHORT, LONG = 0x40, 0xC0


@given(IDS, st.integers(1, 64), st.data())
def test_a_marked_id_leads_to_its_process(name: bytes, of: int, data: st.DataObject) -> None:
    share = Share(data.draw(st.integers(0, of - 1)), of)
    marked = share.mark(name)
    assert marked[0] % of == share.index
    assert marked[1:] == name[1:]
    assert share.mark(marked) == marked


@given(IDS)
def test_one_process_leaves_ids_as_they_are(name: bytes) -> None:
    assert Share().mark(name) == name


def test_the_program_has_seven_instructions_that_end_with_the_choice() -> None:
    instructions = program(3)
    assert len(instructions) == 7 * 8
    assert instructions[5 * 8 :] == b"\x94\0\0\0\3\0\0\0" + b"\x16\0\0\0\0\0\0\0"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_datagrams_go_where_their_id_leads(host: str) -> None:
    with bound(host) as group, socket.socket(group[0].family, socket.SOCK_DGRAM) as sender:
        sender.connect(group[0].getsockname())
        for _ in range(50):
            name = os.urandom(8)
            sender.send(bytes([SHORT]) + name + os.urandom(20))
            assert receiver_of(group) == name[0] % 3
            sender.send(bytes([LONG, 0, 0, 0, 1, 8]) + name + os.urandom(20))
            assert receiver_of(group) == name[0] % 3


@pytest.mark.parametrize("payload", [b"", b"\x40", b"\xc0\0\0\0\1\0"])
def test_what_is_too_short_for_an_id_goes_to_the_first(payload: bytes) -> None:
    with bound() as group, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(payload, group[0].getsockname())
        assert receiver_of(group) == 0


def test_a_socket_that_one_process_has_closed_keeps_its_place_in_another() -> None:
    with bound() as group, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        group[1].dup().close()  # as a worker does that ends
        sender.sendto(bytes([SHORT, 5]) + bytes(30), group[0].getsockname())
        assert receiver_of(group) == 5 % 3


def test_an_address_that_is_taken_is_refused() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(OSError, match="in use"):
            bind_group(Address(*taken.getsockname()), 2)


@pytest.mark.parametrize("engine", ["fast", "stock"])
def test_every_id_that_a_relay_issues_leads_to_it(engine: str) -> None:
    share = Share(2, 5)

    async def main() -> None:
        async with quic_pair(
            TransportOptions(share=share), engines=Engines(engine, engine)
        ) as ends:
            relay, client = ends
            assert isinstance(relay, TunnelConnection)
            assert isinstance(client, TunnelConnection)
            ids = [entry.cid for entry in relay.engine._host_cids]
            assert len(ids) == IDS_HELD_MAX
            assert {each[0] % 5 for each in ids} == {2}
            stream = await relay.open_stream()
            await stream.send(b"here")
            far = await client.accept_stream()
            assert await far.receive() == b"here"
            await far.send(b"heard")
            assert await stream.receive() == b"heard"
            client.engine.change_connection_id()
            assert client.engine._peer_cid.cid in ids[1:]
            await far.send(b"still here")
            assert await stream.receive() == b"still here"

    asyncio.run(main())


def test_a_retry_leads_to_whoever_sent_it() -> None:
    keeper = Doorkeeper(KEY, half_open=0, now=0.0, share=Share(1, 3))
    keeper.half_open = 1
    answer = keeper.judge(first_datagram(caller()), ("192.0.2.2", 5000), 1, 0.0)
    assert isinstance(answer, bytes)
    assert header_of(answer).source_cid[0] % 3 == 1


@contextmanager
def bound(host: str = "127.0.0.1") -> Iterator[list[socket.socket]]:
    """Bind three sockets to one address."""
    group = bind_group(Address(host, 0), 3)
    try:
        yield group
    finally:
        for sock in group:
            sock.close()


def receiver_of(group: list[socket.socket]) -> int:
    """Return the number of the socket that a datagram came to; closes none."""
    readable, _, _ = select.select(group, [], [], 5)
    assert len(readable) == 1
    readable[0].recv(2000)
    return group.index(readable[0])
