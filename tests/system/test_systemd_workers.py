"""A relay of several processes as a service: systemd sees one, and signals reach all of them."""

import json

import pytest

from tests.system.container import Container
from tests.system.services import (
    INHERITED,
    LISTENERS,
    PAGE,
    RELAY,
    SOCKET,
    configure_relay,
    page,
    served,
    start_client,
    visiting,
)

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

WORKERS = "[relay]\nworkers = 2\n"


def configure(machine: Container, listeners: str = LISTENERS, more: str = "") -> None:
    """Write the settings of a relay with two workers."""
    configure_relay(machine, listeners, drain="10s")
    settings = machine.read("/etc/tunnel/relay.toml").replace("[relay]\n", WORKERS, 1)
    machine.put("/etc/tunnel/relay.toml", settings + more)


def workers(machine: Container) -> list[int]:
    """Return the processes that the relay's status names, the main one aside."""
    told = machine.run("relay.pyz", "status", "--json", "-c", "/etc/tunnel/relay.toml").stdout
    return [int(pid) for pid in json.loads(told)["workers"]["pids"].values()]


def test_two_workers_serve_take_a_reload_and_replace_one_that_is_killed(
    machine: Container,
) -> None:
    configure(machine)
    machine.systemctl("start", RELAY)
    main, first = machine.shown(RELAY, "MainPID"), workers(machine)
    assert len(first) == 2
    host = start_client(machine)
    assert page(machine, host).strip() == PAGE
    configure(machine, more='[log]\nlevel = "debug"\n')
    machine.systemctl("reload", RELAY)
    assert "changed=log.level" in machine.journal(RELAY)
    machine.run("sh", "-c", f"kill -KILL {first[0]}")
    assert served(machine, host).strip() == PAGE
    assert machine.shown(RELAY, "MainPID") == main


def test_a_stop_lets_visitors_end_though_systemd_signals_every_worker(machine: Container) -> None:
    configure(machine)
    machine.systemctl("start", RELAY)
    host = start_client(machine)
    with visiting(machine, host) as visitor:
        machine.systemctl("stop", "--no-block", RELAY)
        machine.wait_until(RELAY, "ActiveState", "deactivating")
        visitor.sendall(f"GET / HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        answer = b"".join(iter(lambda: visitor.recv(65536), b"")).decode()
    assert answer.partition("\r\n\r\n")[2].strip() == PAGE
    machine.wait_until(RELAY, "ActiveState", "inactive")
    assert machine.shown(RELAY, "Result") == "success"


def test_a_udp_socket_of_systemd_is_refused_to_several_workers(machine: Container) -> None:
    configure(machine, INHERITED)
    machine.systemctl("start", SOCKET)
    assert machine.systemctl("start", RELAY, check=False).returncode != 0
    assert "one UDP socket of systemd cannot serve several workers" in machine.journal(RELAY)
