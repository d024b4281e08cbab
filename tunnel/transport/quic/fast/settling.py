"""Which records an acknowledgement settles, and what is left of those that it splits. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from aioquic.quic.packet_builder import QuicSentPacket

from tunnel.transport.quic.fast.records import count_of, parts_of

Sent = dict[int, QuicSentPacket]
Remains = Mapping[int, Sequence[QuicSentPacket]]


class Settlement(NamedTuple):
    """What was acknowledged, in order; what remains of each touched record, by its number."""

    acknowledged: list[QuicSentPacket]
    remains: Remains


def settle(sent: Iterable[QuicSentPacket], ranges: Sequence[range]) -> Settlement:
    """Match records with the ranges of an ACK frame (both ascending)."""
    acknowledged: list[QuicSentPacket] = []
    remains: dict[int, Sequence[QuicSentPacket]] = {}
    index, last = 0, len(ranges)
    for packet in sent:
        start = packet.packet_number
        stop = start + count_of(packet)
        while index < last and ranges[index].stop <= start:
            index += 1
        if index == last:
            break
        told = ranges[index]
        if told.start >= stop:
            continue
        if told.start <= start and stop <= told.stop:
            acknowledged.append(packet)
            remains[start] = ()
        else:
            remains[start] = _split(packet, ranges[index:], acknowledged)
    return Settlement(acknowledged, remains)


def _split(
    packet: QuicSentPacket, ranges: Sequence[range], acknowledged: list[QuicSentPacket]
) -> list[QuicSentPacket]:
    """Add the acknowledged parts of one record to the list; return the others."""
    start = packet.packet_number
    stop = start + count_of(packet)
    inside = [told for told in ranges if told.start < stop]
    cuts = {edge for told in inside for edge in (told.start, told.stop) if start < edge < stop}
    begun = {max(told.start, start) for told in inside}
    remains: list[QuicSentPacket] = []
    known = False
    ended = {told.stop for told in inside}
    for part in parts_of(packet, sorted(cuts)):
        if part.packet_number in begun:
            known = True
        elif part.packet_number in ended:
            known = False
        (acknowledged if known else remains).append(part)
    return remains


def replaced(sent: Sent, remains: Remains) -> Sent:
    """Return the records, in order, with what remains of each in its place."""
    if not any(remains.values()):
        for number in remains:
            del sent[number]
        return sent
    kept: Sent = {}
    for number, packet in sent.items():
        for part in remains.get(number, (packet,)):
            kept[part.packet_number] = part
    return kept
