"""Samples of how fast a path delivers."""

from tests.unit.transport.quic.bottleneck import PACKET, sent_packet
from tunnel.transport.quic.delivery import DeliveryRate, Sample

ROUND_TRIP = 0.1  # seconds


def sample_of(sent_at: list[float], acked_at: list[float]) -> Sample:
    """Return the sample of the last packet."""
    rate = DeliveryRate()
    packets = [sent_packet(number, at) for number, at in enumerate(sent_at)]
    for number, packet in enumerate(packets):
        rate.on_sent(packet, number * PACKET)
    for packet, at in zip(packets, acked_at, strict=True):
        rate.on_acked(packet, at)
        sample = rate.take_sample(ROUND_TRIP)
    assert sample is not None
    return sample


def test_a_rate_is_that_of_what_arrived_while_the_packet_was_on_its_way() -> None:
    sample = sample_of([0.0, 0.01, 0.02], [0.1, 0.11, 0.12])
    assert round(sample.rate) == round(3 * PACKET / 0.12)


def test_acknowledgements_in_a_lump_do_not_exaggerate() -> None:
    assert sample_of([0.0, 0.2, 0.4], [0.5, 0.5, 0.5]).rate <= 3 * PACKET / 0.4


def test_packets_in_a_lump_do_not_exaggerate() -> None:
    assert sample_of([0.0, 0.0, 0.0], [0.1, 0.3, 0.5]).rate <= 3 * PACKET / 0.4


def test_what_was_measured_over_less_than_a_round_trip_says_nothing() -> None:
    assert sample_of([0.0, 0.0], [0.02, 0.03]).rate == 0.0


def test_a_packet_sent_with_too_little_behind_it_is_marked_until_it_has_arrived() -> None:
    rate = DeliveryRate()
    first, second, third = (sent_packet(number, number / 10) for number in range(3))
    rate.on_sent(first, 0)
    rate.note_app_limited(PACKET)
    rate.on_sent(second, PACKET)
    for packet in (first, second):
        rate.on_acked(packet, 0.3)
    sample = rate.take_sample(ROUND_TRIP)
    assert sample is not None
    assert sample.stamp.is_app_limited
    rate.on_sent(third, 0)
    rate.on_acked(third, 0.5)
    sample = rate.take_sample(ROUND_TRIP)
    assert sample is not None
    assert not sample.stamp.is_app_limited


def test_without_an_acknowledgement_there_is_no_sample() -> None:
    assert DeliveryRate().take_sample(ROUND_TRIP) is None
