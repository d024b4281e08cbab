"""What may arrive on an HTTP/2 connection, judged by frame headers alone."""

import pytest

from tunnel.errors import RemoteProtocolError
from tunnel.transport.http2.frames import FrameReader
from tunnel.transport.http2.meter import EXCUSED_MAX, FrameMeter

DATA, PRIORITY, RST, SETTINGS, PING, UNKNOWN = 0, 2, 3, 4, 6, 0xFA
MAX = 1000


def frame(kind: int, size: int = 0, flags: int = 0) -> bytes:
    return size.to_bytes(3) + bytes((kind, flags)) + bytes(4) + bytes(size)


class Metered(FrameMeter):
    """A meter that is told of each frame by a reader."""

    def __init__(self, *, has_preface: bool = False) -> None:
        super().__init__(MAX)
        self.reader = FrameReader(self.judge, has_preface=has_preface)

    def inspect(self, data: bytes, now: float) -> None:
        self.tick(now)
        for _ in self.reader.read(memoryview(data)):
            pass


def meter() -> Metered:
    return Metered()


def test_a_frame_that_is_too_long_is_refused_by_its_first_nine_bytes() -> None:
    with pytest.raises(RemoteProtocolError, match="1001 bytes, 1000 are allowed"):
        meter().inspect(frame(DATA, MAX + 1)[:9], now=0)


def test_frames_are_followed_through_pieces_of_every_size() -> None:
    stream = frame(DATA, 10) + frame(DATA, MAX) + frame(SETTINGS) + frame(DATA, MAX + 1)
    for size in range(1, 30):
        followed = meter()
        last_header_ends = len(stream) - (MAX + 1)
        before = (last_header_ends - 1) // size * size
        for start in range(0, before, size):
            followed.inspect(stream[start : start + size], now=0)
        with pytest.raises(RemoteProtocolError):
            followed.inspect(stream[before : before + size], now=0)


def test_the_preface_is_no_frame() -> None:
    followed = Metered(has_preface=True)
    followed.inspect(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS), now=0)


@pytest.mark.parametrize(
    ("kind", "most", "name"),
    [
        (PING, 100, "PING"),
        (SETTINGS, 50, "SETTINGS"),
        (DATA, 100, "empty"),
        (UNKNOWN, 100, "empty"),
    ],
)
def test_floods_are_refused(kind: int, most: int, name: str) -> None:
    flooded = meter()
    flooded.inspect(frame(kind) * most, now=0)
    with pytest.raises(RemoteProtocolError, match=f"flood of {name}"):
        flooded.inspect(frame(kind), now=0.9)


def test_another_second_is_another_count() -> None:
    patient = meter()
    for second in range(5):
        patient.inspect(frame(PING) * 100, now=second)


def test_empty_data_that_ends_a_stream_is_no_flood() -> None:
    meter().inspect(frame(DATA, flags=1) * 1000, now=0)


def test_resets_are_a_flood_only_beyond_the_streams_they_cut() -> None:
    cut = meter()
    cut.inspect(frame(RST, 4) * 1100, now=0)
    for _ in range(1000):
        cut.excuse_reset()
    cut.check_resets()
    cut.inspect(frame(RST, 4), now=0)
    with pytest.raises(RemoteProtocolError, match="flood of RST_STREAM"):
        cut.check_resets()


def test_a_reset_is_excused_however_late_it_comes() -> None:
    cut = meter()
    for _ in range(1000):
        cut.excuse_reset()
    cut.inspect(frame(PING), now=5)
    cut.inspect(frame(RST, 4) * 1000, now=10)
    cut.check_resets()
    cut.inspect(frame(RST, 4) * 1000, now=11)
    with pytest.raises(RemoteProtocolError, match="flood of RST_STREAM"):
        cut.check_resets()


def test_excuses_of_streams_that_ended_without_a_reset_do_not_add_up() -> None:
    cut = meter()
    for _ in range(1_000_000):
        cut.excuse_reset()
    cut.inspect(frame(RST, 4) * (EXCUSED_MAX + 101), now=0)
    with pytest.raises(RemoteProtocolError, match="flood of RST_STREAM"):
        cut.check_resets()
