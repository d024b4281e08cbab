"""What is kept of a connection while nothing happens."""

import gc
import tracemalloc

import pytest
from aioquic.tls import Epoch

from tests.unit.transport.quic.wire import Wire
from tunnel.transport.quic.engine import Engine
from tunnel.transport.quic.frugality import IDS_HELD_MAX, FrameHandlers

LITTLE = 96 * 1024  # aioquic alone has twice as much

pytestmark = pytest.mark.usefixtures("engines")


class KeptWire(Wire):
    """A wire that keeps what was sent over it, with who sent it."""

    def __post_init__(self) -> None:
        self.sent: list[tuple[Engine, bytes]] = []
        super().__post_init__()

    def emit(self, engine: Engine) -> list[bytes]:
        datagrams = super().emit(engine)
        self.sent += [(engine, datagram) for datagram in datagrams]
        return datagrams


@pytest.mark.alone
def test_both_ends_of_an_idle_connection_take_little_memory() -> None:
    wires = [Wire()]  # what is made but once is made for this one
    gc.collect()
    gc.freeze()  # what other tests have left is not looked at again
    tracemalloc.start()
    try:
        wires += [Wire() for _ in range(10)]
        gc.collect()
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.unfreeze()
    assert size / 10 < LITTLE


def test_packets_of_the_handshake_that_come_late_do_no_harm() -> None:
    wire = KeptWire()
    wire.run(1)
    for sender, datagram in list(wire.sent):
        wire.hear(wire.other(sender), datagram)
    stream_id = wire.relay.open_stream()
    wire.relay.write(stream_id, b"still here")
    wire.run(1)
    assert wire.received[wire.client][stream_id] == b"still here"
    assert (wire.relay.termination, wire.client.termination) == (None, None)


def test_the_secrets_and_streams_of_the_handshake_are_gone_after_it() -> None:
    wire = Wire()
    for engine in (wire.relay, wire.client):
        assert engine.tls.key_schedule is None
        assert not engine.tls._ec_private_keys
        assert list(engine._crypto_streams) == [Epoch.ONE_RTT]
        assert not engine._cryptos[Epoch.HANDSHAKE].send.is_valid()


def test_an_end_issues_few_connection_ids() -> None:
    wire = Wire()
    for engine in (wire.relay, wire.client):
        assert len(engine._host_cids) == IDS_HELD_MAX


def test_a_frame_is_handled_by_the_connection_that_it_came_for() -> None:
    wire = Wire()
    for engine in (wire.relay, wire.client):
        handle, _ = FrameHandlers(engine)[0x01]
        assert handle.__self__ is engine


def test_no_handler_is_known_of_a_frame_that_there_is_not() -> None:
    with pytest.raises(KeyError):
        FrameHandlers(Wire().relay)[0x21]
