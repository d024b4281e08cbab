"""Runs that are acknowledged or lost in part, against one record for each packet."""

from typing import cast

from aioquic.quic.packet_builder import QuicSentPacket
from hypothesis import given
from hypothesis import strategies as st

from tunnel.transport.quic.fast.records import Record, Run, count_of, parts_of
from tunnel.transport.quic.fast.sender import ChunkSender
from tunnel.transport.quic.fast.settling import replaced, settle

CHUNK = bytes(range(256)) * 400
SIZE = 10
NOBODY = cast(ChunkSender, None)


def run(number: int, count: int) -> Run:
    """Return a run whose packets hold the bytes that their numbers say."""
    made = Run(NOBODY, number, count, 1.0)
    made.carry(number * SIZE, CHUNK, number * SIZE, SIZE)
    made.sent_bytes = 1350 * count
    return made


def numbers_of(packets: list[QuicSentPacket]) -> list[int]:
    return [
        number
        for packet in packets
        for number in range(packet.packet_number, packet.packet_number + count_of(packet))
    ]


def flight(counts: list[int]) -> dict[int, QuicSentPacket]:
    """Return records with consecutive numbers; a count of 0 is a number that is not there."""
    sent: dict[int, QuicSentPacket] = {}
    number = 0
    for count in counts:
        if count == 1:
            sent[number] = Record(number, 100, 1.0, [], eliciting=True)
        elif count:
            sent[number] = run(number, count)
        number += max(1, count)
    return sent


@given(
    st.lists(st.integers(0, 20), max_size=12),
    st.sets(st.integers(0, 150), min_size=1),
)
def test_each_packet_is_acknowledged_or_kept_once(counts: list[int], known: set[int]) -> None:
    sent = flight(counts)
    before = numbers_of(list(sent.values()))
    ranges: list[range] = []
    for number in sorted(known):
        if ranges and ranges[-1].stop == number:
            ranges[-1] = range(ranges[-1].start, number + 1)
        else:
            ranges.append(range(number, number + 1))
    acknowledged, remains = settle(sent.values(), ranges)
    kept = replaced(sent, remains)
    assert numbers_of(acknowledged) == [number for number in before if number in known]
    assert numbers_of(list(kept.values())) == [number for number in before if number not in known]
    assert [packet.packet_number for packet in kept.values()] == list(kept)


def test_a_part_of_a_run_holds_the_bytes_of_its_packets_and_its_share_of_the_sizes() -> None:
    first, second, third = cast("list[Run]", parts_of(run(100, 16), [103, 110]))
    assert [part.count for part in (first, second, third)] == [3, 7, 6]
    assert [part.sent_bytes for part in (first, second, third)] == [4050, 9450, 8100]
    assert (second.packet_number, second.offset) == (103, 1030)
    assert second.data == CHUNK[1030:1100]


def test_what_a_controller_noted_on_a_run_stays_with_its_parts() -> None:
    whole = run(0, 4)
    whole.delivered = 12345  # type: ignore[attr-defined]  # a controller's own
    assert [vars(part)["delivered"] for part in parts_of(whole, [1])] == [12345, 12345]
