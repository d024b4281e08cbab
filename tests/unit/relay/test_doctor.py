"""What a relay's doctor sees of this machine, and what it makes of what it has seen."""

import errno
import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.unit.settings.documents import RELAY, write
from tunnel.relay.doctor.certificate import Kept, judge_certificate, kept_certificate
from tunnel.relay.doctor.descriptors import Allowance, allowance, judge_descriptors
from tunnel.relay.doctor.examination import own_of
from tunnel.relay.doctor.holders import Holder, address_in, holders_of
from tunnel.relay.doctor.names import Led, Wanted, is_here, judge_name, wanted_names
from tunnel.relay.doctor.ports import (
    Own,
    Port,
    Privileges,
    judge_port,
    judge_privileges,
    look_at_ports,
    try_to_bind,
)
from tunnel.runtime.lookups import Lookup
from tunnel.settings.load import load_relay
from tunnel.settings.values import InheritedAddress, RelayCertificate, RelayLimits, RelaySettings
from tunnel.stream import Address
from tunnel.tls.certificates import self_signed

NOW = datetime(2026, 5, 4, tzinfo=UTC)
ANYWHERE = "0.0.0.0"  # noqa: S104 - judged, not bound
HTTPS = Address(ANYWHERE, 443)
NGINX = Holder(HTTPS, 33, (80,), "nginx")
OWN = Own(7, frozenset({("tcp", "0.0.0.0:443")}))


@pytest.fixture
def settings(tmp_path: Path) -> RelaySettings:
    return load_relay(write(tmp_path, "relay.toml", RELAY), {"STATE_DIRECTORY": str(tmp_path)})


@pytest.fixture
def listening() -> Iterator[Address]:
    """Return an address that this process listens on, by TCP."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield Address(*sock.getsockname())


# -- ports


def test_who_has_a_port_is_found_with_process_and_command(listening: Address) -> None:
    (holder,) = holders_of("tcp", listening.port)
    assert (holder.address, holder.pids, holder.uid) == (listening, (os.getpid(),), os.getuid())
    assert "python" in holder.command


def test_a_udp_socket_has_its_port_only_while_it_is_not_connected() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        name = Address(*sock.getsockname())
        assert [each.address for each in holders_of("udp", name.port)] == [name]
        sock.connect(("127.0.0.1", 9))
        assert holders_of("udp", name.port) == []


def test_a_connection_is_no_listener(listening: Address) -> None:
    with socket.create_connection(listening) as caller:
        assert holders_of("tcp", caller.getsockname()[1]) == []


def test_addresses_are_read_as_the_kernel_writes_them() -> None:
    assert address_in("0100007F:01BB") == ("127.0.0.1", 443)
    assert address_in("B80D0120000000000000000001000000:1151") == ("2001:db8::1", 4433)


def test_a_taken_port_is_not_free_and_a_free_one_can_be_bound(listening: Address) -> None:
    assert try_to_bind("tcp", listening) == errno.EADDRINUSE
    assert try_to_bind("udp", listening) is None
    assert try_to_bind("tcp", Address("192.0.2.1", 4433)) == errno.EADDRNOTAVAIL


def test_every_socket_of_the_settings_is_looked_at(settings: RelaySettings) -> None:
    ports = [(port.layer, str(port.address)) for port in look_at_ports(settings)]
    assert ports == [
        ("tcp", "127.0.0.1:4433"),
        ("udp", "127.0.0.1:4433"),
        ("tcp", "127.0.0.1:8443"),
    ]


PUBLIC = ("listeners", "public", "listen")
TAKEN = Port(PUBLIC, "tcp", HTTPS, errno.EADDRINUSE, (NGINX,))


def test_a_port_that_another_program_has_fails_and_names_it() -> None:
    finding = judge_port(TAKEN, None)
    assert (finding.outcome, finding.seen) == ("failed", "held by process 80 (nginx)")
    assert "listeners.public" in finding.advice


def test_a_port_that_this_relay_has_is_well() -> None:
    assert judge_port(TAKEN, OWN).outcome == "ok"
    assert judge_port(replace(TAKEN, layer="udp"), OWN).outcome == "failed"


def test_the_metrics_address_is_looked_at_like_every_other(
    settings: RelaySettings, listening: Address
) -> None:
    watched = replace(settings, admin=replace(settings.admin, metrics=listening))
    port = look_at_ports(watched)[-1]
    assert judge_port(port, Own(os.getpid(), frozenset())).outcome == "ok"
    finding = judge_port(port, OWN)
    assert (finding.outcome, finding.of) == ("failed", f"tcp {listening}")
    assert f"process {os.getpid()} " in finding.seen
    assert finding.advice == "stop that, or take another port in admin.metrics"


def test_a_holder_that_may_not_be_seen_may_be_this_relay() -> None:
    hidden = replace(NGINX, pids=(), command="")
    finding = judge_port(replace(TAKEN, holders=(hidden,)), None)
    assert (finding.outcome, finding.seen) == ("warning", "held by a process of user 33")


@pytest.mark.parametrize(
    ("error", "host", "outcome"),
    [
        (None, ANYWHERE, "ok"),
        (errno.EACCES, ANYWHERE, "skipped"),
        (errno.EADDRNOTAVAIL, "192.0.2.1", "failed"),
        (errno.EAFNOSUPPORT, "::", "warning"),
        (errno.EAFNOSUPPORT, "::1", "failed"),
    ],
)
def test_a_port_that_nobody_has_is_judged_by_the_attempt(
    error: int | None, host: str, outcome: str
) -> None:
    assert judge_port(Port(PUBLIC, "tcp", Address(host, 443), error), None).outcome == outcome


@pytest.mark.parametrize(
    ("holders", "outcome"),
    [
        ((), "failed"),
        ((replace(NGINX, pids=(1,), command="systemd"),), "ok"),
        ((replace(NGINX, pids=(1, 7), command="systemd"),), "ok"),
        ((replace(NGINX, pids=()),), "ok"),
        ((NGINX,), "failed"),
    ],
)
def test_an_inherited_address_is_systemds_to_bind(
    holders: tuple[Holder, ...], outcome: str
) -> None:
    port = Port(PUBLIC, "tcp", InheritedAddress(*HTTPS), None, holders)
    assert judge_port(port, None).outcome == outcome


NOBODY = Privileges(1000, has_capability=False, first_free=1024)


def test_low_ports_need_a_capability() -> None:
    free = [replace(TAKEN, error=None, holders=())]
    refused = judge_privileges(free, NOBODY, None)
    assert (refused.outcome, refused.seen) == ("failed", "this user (1000) may not listen on 443")
    assert judge_privileges(free, replace(NOBODY, has_capability=True), None).outcome == "ok"
    assert judge_privileges(free, replace(NOBODY, first_free=443), None).outcome == "ok"
    assert judge_privileges(free, NOBODY, OWN).outcome == "ok"


def test_ports_that_systemd_binds_need_none() -> None:
    port = Port(PUBLIC, "tcp", InheritedAddress(*HTTPS))
    assert judge_privileges([port], NOBODY, None).outcome == "ok"


def test_a_relay_that_starts_has_no_sockets_yet() -> None:
    assert own_of(None) is None
    assert own_of({"program": "relay", "state": "starting"}) is None
    listener = {"protocol": "tcp", "address": "0.0.0.0:443"}
    assert own_of({"pid": 7, "listeners": [listener]}) == OWN


# -- certificate


def judged(settings: RelaySettings, kept: Kept, error: str | None = None) -> tuple[str, str]:
    status = {"certificate": {"last_error": error}}
    finding = judge_certificate(settings, kept, status, NOW)
    return finding.outcome.value, finding.seen


def test_a_certificate_is_looked_at_and_never_made(settings: RelaySettings) -> None:
    assert kept_certificate(settings) == Kept()
    assert judged(settings, Kept()) == ("ok", "none yet: it is made by the first start")
    assert not (settings.state_dir / "relay.pem").exists()


def test_a_file_of_rubbish_fails_and_stays_where_it_is(settings: RelaySettings) -> None:
    path = write(settings.state_dir, "relay.pem", "rubbish")
    path.chmod(0o600)
    assert judged(settings, kept_certificate(settings))[0] == "failed"
    assert path.read_text() == "rubbish"


def test_a_key_that_is_not_the_chains_fails(settings: RelaySettings, tmp_path: Path) -> None:
    one, other = (self_signed(["relay.test"], now=NOW) for _ in range(2))
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(one.chain_pem)
    key.write_bytes(other.key_pem)
    key.chmod(0o600)
    files = replace(settings, certificate=RelayCertificate("files", chain, key))
    assert judged(files, kept_certificate(files)) == (
        "failed",
        f"{key}: is not the key of the first certificate in the chain",
    )
    key.write_bytes(one.key_pem)
    assert judged(files, kept_certificate(files)) == (
        "ok",
        "for relay.test, until 2036-05-01; key and chain fit",
    )


@pytest.mark.parametrize(
    ("begun", "outcome", "seen"),
    [
        (timedelta(0), "ok", "for relay.test"),
        (timedelta(days=-31), "failed", "expired"),
        (timedelta(days=-26), "warning", "ends soon"),
        (timedelta(days=365), "failed", "not valid before"),
    ],
)
def test_dates_are_judged(
    settings: RelaySettings, begun: timedelta, outcome: str, seen: str
) -> None:
    made = self_signed(["relay.test"], now=NOW + begun, lifetime=timedelta(days=30))
    found = judged(settings, Kept(made))
    assert (found[0], seen in found[1]) == (outcome, True)


def test_a_relay_that_starts_says_nothing_of_its_certificate(settings: RelaySettings) -> None:
    kept = Kept(self_signed(["relay.test"], now=NOW))
    for status in (None, {"program": "relay", "state": "starting"}):
        assert judge_certificate(settings, kept, status, NOW).outcome == "ok"


def test_an_order_that_failed_is_told(settings: RelaySettings) -> None:
    kept = Kept(self_signed(["relay.test"], now=NOW))
    assert judged(settings, kept, "no CAA")[0] == "warning"
    assert judged(settings, Kept(), "no CAA") == ("failed", "none yet: no CAA")


def test_a_file_that_only_this_user_cannot_read_is_a_warning(settings: RelaySettings) -> None:
    assert judged(settings, Kept(fault="denied", is_hidden=True))[0] == "warning"


# -- names, descriptors


def test_a_suffix_and_every_ordered_name_are_looked_up(settings: RelaySettings) -> None:
    ordered = replace(settings, certificate=RelayCertificate("acme", names=("relay.test",)))
    assert wanted_names(ordered) == [
        Wanted("relay.test", "relay.test"),
        Wanted(f"{'0' * 32}.t.example.org", "*.t.example.org"),
    ]


@pytest.mark.parametrize(
    ("lookup", "here", "outcome"),
    [
        (Lookup("a", ("192.0.2.1",)), ("192.0.2.1",), "ok"),
        (Lookup("a", ("192.0.2.1",)), (), "warning"),
        (Lookup("a", trouble="no such name", is_missing=True), (), "failed"),
        (Lookup("a", trouble="no answer"), (), "warning"),
    ],
)
def test_a_name_is_judged_by_where_it_leads(
    lookup: Lookup, here: tuple[str, ...], outcome: str
) -> None:
    assert judge_name(Led(Wanted("a.t.test", "*.t.test"), lookup, here)).outcome == outcome


def test_this_machine_knows_its_addresses() -> None:
    assert is_here("127.0.0.1")
    assert not is_here("192.0.2.1")


def test_fewer_files_than_connections_are_a_warning() -> None:
    limits = RelayLimits(connections=800)
    assert judge_descriptors(limits, Allowance(1000, "process 7")).outcome == "ok"
    assert judge_descriptors(limits, Allowance(999, "process 7")).outcome == "warning"


def test_the_limit_is_that_of_the_relay_that_runs() -> None:
    assert allowance(Own(os.getpid(), frozenset())).whose == f"process {os.getpid()}"
    assert allowance(None).whose == "a start from here"
