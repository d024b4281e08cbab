"""Addresses beside each other."""

import pytest

from tunnel.stream import Address

ANYWHERE = "0.0.0.0"  # noqa: S104 - compared, not bound


@pytest.mark.parametrize(
    ("one", "other", "is_so"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        (ANYWHERE, "127.0.0.1", True),
        ("127.0.0.1", ANYWHERE, True),
        ("127.0.0.1", "127.0.0.2", False),
        ("::", "::1", True),
        ("::", ANYWHERE, False),
    ],
)
def test_addresses_overlap_within_their_family(one: str, other: str, is_so: bool) -> None:
    assert Address(one, 443).overlaps(Address(other, 443)) is is_so


def test_ports_keep_addresses_apart_and_port_0_is_anybodys() -> None:
    assert not Address(ANYWHERE, 443).overlaps(Address(ANYWHERE, 444))
    assert not Address(ANYWHERE, 0).overlaps(Address(ANYWHERE, 0))
