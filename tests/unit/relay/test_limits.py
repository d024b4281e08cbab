"""Rates, places and counts."""

import asyncio

import pytest

from tunnel.errors import Code, Refused
from tunnel.relay.limits import AddressCounts, ClientUse, TokenBucket, address_key
from tunnel.settings.values import GrantLimits
from tunnel.stream import Address


def test_a_bucket_lets_a_quarter_second_pass_at_once() -> None:
    assert TokenBucket(1000, now=0).take(250, now=0) == 0


def test_a_bucket_in_debt_delays_the_next_bytes() -> None:
    bucket = TokenBucket(1000, now=0)
    bucket.take(250, now=0)
    assert bucket.take(1000, now=0) == pytest.approx(1.0)


def test_a_bucket_keeps_its_rate_over_time() -> None:
    bucket, now = TokenBucket(1000, now=0), 0.0
    for _ in range(100):
        now += bucket.take(100, now)
    assert now == pytest.approx(100 * 100 / 1000, rel=0.05)


def test_an_idle_bucket_saves_no_more_than_its_burst() -> None:
    bucket = TokenBucket(1000, now=0)
    assert bucket.take(500, now=3600) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("host", "key"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_an_address_counts_as(host: str, key: str) -> None:
    assert address_key(host) == key


def test_one_address_has_only_so_many_places() -> None:
    counts = AddressCounts(1)
    with counts.place(Address("192.0.2.1", 1)):
        with pytest.raises(Refused) as caught, counts.place(Address("192.0.2.1", 2)):
            pass
        with counts.place(Address("192.0.2.2", 1)):
            pass
    assert caught.value.code is Code.BUSY


def test_a_place_is_free_again_after_use() -> None:
    counts = AddressCounts(1)
    for port in range(3):
        with counts.place(Address("192.0.2.1", port)):
            pass


def test_a_stream_waits_for_a_place_and_gets_it() -> None:
    async def scene() -> list[str]:
        use, order = ClientUse(GrantLimits(streams=1)), []

        async def visit(name: str) -> None:
            async with use.stream_place(timeout=5):
                order.append(name)
                await asyncio.sleep(0)
                order.append(name)

        async with asyncio.TaskGroup() as group:
            for name in ("first", "second", "third"):
                group.create_task(visit(name))
        return order

    assert asyncio.run(scene()) == ["first"] * 2 + ["second"] * 2 + ["third"] * 2
