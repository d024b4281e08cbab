"""The preflight against the name server that comes with pebble, which others wrote."""

from collections.abc import Iterator

import pytest
from dns.asyncresolver import Resolver

from tests.integration.conftest import Run
from tests.pebble import Dns, pebble
from tests.ports import free_port
from tunnel.acme.preflight import Verdict, check

pytestmark = pytest.mark.timeout(60)  # servers are started

SHOP = "shop.example.com"
PUBLIC = "93.184.215.14"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dns]:
    with pebble(tmp_path_factory.mktemp("pebble"), tls_port=free_port()) as started:
        yield started.dns


@pytest.fixture
def dns(running: Dns) -> Iterator[Dns]:
    """Know one name with an address on the internet, and no other."""
    running.set_default("")
    running.add_a(SHOP, PUBLIC)
    yield running
    for name in (SHOP, "example.com", "gone.example.com"):
        running.reset(name)


async def verdict(dns: Dns, name: str = SHOP) -> Verdict:
    host, _, port = dns.address.rpartition(":")
    resolver = Resolver(configure=False)
    resolver.nameservers, resolver.port = [host], int(port)
    return await check([name], ["ca.test"], account=None, resolver=resolver)


def test_a_name_with_an_address_may_be_ordered_on_every_loop(dns: Dns, run_on_each: Run) -> None:
    async def body() -> None:
        assert await verdict(dns) == Verdict()

    run_on_each(body())


def test_a_name_without_an_address_may_not(dns: Dns, run: Run) -> None:
    async def body() -> None:
        found = await verdict(dns, "gone.example.com")
        assert "gone.example.com does not resolve" in found.faults[0]

    run(body())


def test_caa_of_the_parent_forbids_until_it_is_mended(dns: Dns, run: Run) -> None:
    async def body() -> None:
        dns.add_caa("example.com", ("issue", "other.test"))
        said = f'{SHOP}: CAA at example.com permits only other.test: add 0 issue "ca.test"'
        assert await verdict(dns) == Verdict((said,))
        dns.add_caa("example.com", ("issue", "other.test"), ("issue", "ca.test"))
        assert await verdict(dns) == Verdict()

    run(body())


def test_an_alias_is_followed_for_addresses_and_caa(dns: Dns, run: Run) -> None:
    async def body() -> None:
        dns._tell("set-cname", host="www.example.org.", target=f"{SHOP}.")
        assert await verdict(dns, "www.example.org") == Verdict()
        dns.add_caa(SHOP, ("issue", ";"))
        found = await verdict(dns, "www.example.org")
        assert f"www.example.org: CAA at {SHOP} permits no authority" in found.faults[0]

    run(body())


def test_a_name_server_that_fails_forbids_nothing(dns: Dns, run: Run) -> None:
    async def body() -> None:
        dns.fail(SHOP)
        found = await verdict(dns)
        assert found.faults == ()
        assert [warning.count("SERVFAIL") for warning in found.warnings] == [1, 1]

    run(body())
