"""Names looked up with a deadline, and the buffers that a socket is granted."""

import asyncio
import threading

import pytest

from tunnel.runtime.buffers import granted_buffers, judge_buffers
from tunnel.runtime.findings import Check, is_healthy
from tunnel.runtime.lookups import Lookup, look_up
from tunnel.transport.options import SOCKET_BUFFER_BYTES

LINE = Check("udp", "eu")


def test_an_address_is_its_own_answer() -> None:
    found = asyncio.run(look_up("2001:db8::1", 1.0))
    assert (found.addresses, found.is_literal) == (("2001:db8::1",), True)


def test_a_name_of_this_machine_is_found() -> None:
    found = asyncio.run(look_up("localhost", 5.0))
    assert "127.0.0.1" in found.addresses or "::1" in found.addresses
    assert not found.is_literal


def test_what_is_no_host_name_has_no_address() -> None:
    assert asyncio.run(look_up("a" * 64, 5.0)).trouble
    assert asyncio.run(look_up("a..b", 5.0)).trouble == "not a host name"


def test_a_deadline_is_kept_and_nobody_is_waited_for() -> None:
    assert asyncio.run(look_up("localhost", 0)) == Lookup(
        "localhost", trouble="no answer within 0 s"
    )
    assert all(thread.daemon for thread in threading.enumerate() if "look up" in thread.name)


def test_buffers_are_what_a_socket_is_granted() -> None:
    granted = granted_buffers()
    assert set(granted) == {"rmem_max", "wmem_max"}
    assert all(0 < size <= SOCKET_BUFFER_BYTES for size in granted.values())


@pytest.mark.parametrize("short", ["rmem_max", "wmem_max"])
def test_a_capped_buffer_is_a_warning_that_names_the_sysctl(short: str) -> None:
    whole = {"rmem_max": SOCKET_BUFFER_BYTES, "wmem_max": SOCKET_BUFFER_BYTES}
    assert judge_buffers(whole).outcome == "ok"
    capped = judge_buffers({**whole, short: 212_992})
    assert (capped.outcome, f"net.core.{short}=4194304" in capped.advice) == ("warning", True)


def test_only_a_failure_is_unhealthy() -> None:
    assert is_healthy([LINE.ok(""), LINE.warning("", ""), LINE.skipped("")])
    assert not is_healthy([LINE.ok(""), LINE.failed("", "")])
