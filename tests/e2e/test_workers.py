"""A relay in several processes, while visitors come and stay, and clients come by every way."""

import hashlib
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.targets import pages, pattern
from tests.e2e.visitors import get, post, request, tls
from tests.e2e.world import SUFFIX, WAYS, Client, Relay, World, new_world
from tests.ports import free_port

WORKERS = 3
VISITORS = 12  # all of whom meet the worker of their client once in half a million times
BODY_BYTES = 3 << 20
TURNED_AWAY = r"(?i)unrecognized.name"

pytestmark = pytest.mark.timeout(60)


@dataclass
class Scene:
    """A relay of several workers, and a client for each way by which visitors come."""

    world: World
    relay: Relay
    clients: dict[str, Client]

    def status(self) -> Any:
        return self.world.ask("relay", "status", "-c", str(self.relay.settings))

    def pids(self) -> set[int]:
        return set(self.status()["workers"]["pids"].values())


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("workers")
    with pages() as target, new_world(folder) as world:
        relay = world.relay(workers=WORKERS)
        clients = {
            way: world.client(relay, target=target, name=way, options=options)
            for way, options in WAYS.items()
        }
        yield Scene(world, relay, clients)
        world.report()


def test_workers_is_how_many_processes_there_are(scene: Scene) -> None:
    pids = scene.pids()
    assert len(pids) == WORKERS
    assert {parent_of(pid) for pid in pids} == {scene.relay.process.popen.pid}


@pytest.mark.parametrize("way", WAYS)
def test_every_visitor_is_served_whichever_worker_it_meets(scene: Scene, way: str) -> None:
    client = scene.clients[way]
    before = scene.status()
    body = pattern(BODY_BYTES)

    def visit(number: int) -> bool:
        if number % 2:
            return get(scene.relay, client, f"/bytes/{BODY_BYTES}").body == body
        answer = post(scene.relay, client, [body], BODY_BYTES)
        return answer.body == hashlib.sha256(body).hexdigest().encode()

    assert client.host
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(visit, range(VISITORS))) == [True] * VISITORS
    after = scene.status()
    assert after["visitors"]["total"] - before["visitors"]["total"] == VISITORS
    for direction in ("received", "sent"):
        passed = after["visitors"][direction] - before["visitors"][direction]
        assert passed > VISITORS // 2 * BODY_BYTES
    if way != "h2":  # a pool may have connections to all of them
        assert after["workers"]["handed_over"] > before["workers"]["handed_over"]


def test_a_name_that_nobody_serves_is_refused_by_every_worker(scene: Scene) -> None:
    turned_away = scene.status()["visitors"]["turned_away"].get("not_serving", 0)
    for _ in range(VISITORS):
        with pytest.raises(OSError, match=TURNED_AWAY):
            get(scene.relay, scene.clients["quic"], host=f"nobody.{SUFFIX}")
    after = scene.status()["visitors"]["turned_away"]["not_serving"]
    assert after - turned_away == VISITORS


def test_status_lists_every_client_once_and_the_way_it_came(scene: Scene) -> None:
    assert all(client.host for client in scene.clients.values())
    listed = {each["names"][0]: each for each in scene.status()["clients"]}
    assert listed.keys() == {client.host for client in scene.clients.values()}
    links = listed[scene.clients["h2"].host]["connections"]
    assert {link["transport"] for link in links} == {"h2"}
    assert all(link["round_trip"] is None or link["round_trip"] > 0 for link in links)
    assert listed[scene.clients["direct"].host]["direct_spares"] > 0


def test_what_a_refused_reload_says_is_in_force_nowhere(scene: Scene) -> None:
    client, settings = scene.clients["quic"], scene.relay.settings
    text = settings.read_text()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings.write_text(
            f'{text}{revoked(scene, client)}[listeners.more]\nkind = "public"\n'
            f'listen = ["127.0.0.1:{port}"]\n'
        )
        asked = scene.world.start("relay", "refused", "reload", "-c", str(settings))
        assert asked.wait() == 78
    settings.write_text(text)
    assert f"cannot listen on 127.0.0.1:{port}" in asked.logged()
    for _ in range(VISITORS):
        assert get(scene.relay, client).status == 200


def test_a_reload_is_in_force_in_every_worker(scene: Scene) -> None:
    client, settings = scene.clients["quic"], scene.relay.settings
    text, port = settings.read_text(), free_port()
    settings.write_text(
        f"{text}{revoked(scene, client)}[timeouts]\nvisitor_hold = 0\n[listeners.more]\n"
        f'kind = "public"\nlisten = ["127.0.0.1:{port}"]\n'
    )
    assert scene.world.ask("relay", "reload", "-c", str(settings))["applied"]
    until(lambda: len(scene.status()["clients"]) == len(scene.clients) - 1)
    more = replace(scene.relay, public_port=port)
    for _ in range(VISITORS):
        assert get(more, scene.clients["h2"]).status == 200
    for _ in range(VISITORS):
        with pytest.raises(OSError, match=TURNED_AWAY):
            get(scene.relay, client)
    client.process.stop()
    settings.write_text(text)
    assert scene.world.ask("relay", "reload", "-c", str(settings))["applied"]
    client.restart()
    assert client.process.wait_for("serving server=relay")
    for _ in range(VISITORS):
        assert get(scene.relay, client).status == 200


@pytest.mark.slow  # the relay hears of another port by the next ping only
def test_a_client_whose_nat_forgets_it_stays_with_its_worker(scene: Scene, target: str) -> None:
    with Nat(scene.relay.agents_port) as nat:
        behind = replace(scene.relay, agents_port=nat.port)
        client = scene.world.client(behind, target=target, name="nat", options=WAYS["quic"])
        for _ in range(4):  # each time with one chance in three to be right by chance
            nat.rebind()
            assert get(scene.relay, client, "/bytes/300000").body == pattern(300_000)
        assert client.process.logged().count(" connected server=relay") == 1
        client.process.stop()


def test_a_worker_that_is_killed_is_begun_anew_and_its_clients_come_back(scene: Scene) -> None:
    before = scene.pids()
    total = scene.status()["visitors"]["total"]
    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    until(lambda: len(scene.pids() - before) == 1)
    assert before - scene.pids() == {victim}
    for client in scene.clients.values():
        until(lambda client=client: is_served(scene.relay, client))
        for _ in range(VISITORS):
            assert get(scene.relay, client).status == 200
    after = scene.status()
    assert after["workers"]["restarts"] == 1
    assert after["visitors"]["total"] >= total + VISITORS * len(scene.clients)


def test_all_of_them_drain_and_end_in_order(scene: Scene) -> None:
    pids = scene.pids()
    with tls(scene.relay, scene.clients["quic"]) as early:
        scene.relay.process.signal(signal.SIGTERM)
        until(lambda: not all(map(is_alive, pids)))  # those whom nobody visits are first
        assert request(early, "/bytes/100000").body == pattern(100_000)
    assert scene.relay.process.wait() == 0
    assert not any(map(is_alive, pids))


class Nat:
    """Passes datagrams on to a port of this machine, from another one each time that it forgets."""

    def __init__(self, port: int) -> None:
        self._near = udp_socket()
        self._to = ("127.0.0.1", port)
        self._client: tuple[str, int] | None = None
        self._far = udp_socket()
        self._has_ended = threading.Event()
        self._thread = threading.Thread(target=self._pass_on)
        self.port: int = self._near.getsockname()[1]

    def __enter__(self) -> "Nat":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._has_ended.set()
        self._thread.join()
        self._near.close()
        self._far.close()

    def rebind(self) -> None:
        """Come from another port from now on; what is on its way to the former one is lost."""
        former, self._far = self._far, udp_socket()
        time.sleep(0.05)  # the thread has seen it
        former.close()

    def _pass_on(self) -> None:
        while not self._has_ended.is_set():
            far = self._far
            for sock in select.select([self._near, far], [], [], 0.02)[0]:
                if sock is self._near:
                    datagram, self._client = sock.recvfrom(65_535)
                    far.sendto(datagram, self._to)
                elif self._client is not None:
                    self._near.sendto(sock.recv(65_535), self._client)


def udp_socket() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    return sock


def revoked(scene: Scene, client: Client) -> str:
    """Return the table that revokes a client's key."""
    listed = {each["names"][0]: each["fingerprint"] for each in scene.status()["clients"]}
    return f'[clients.gone]\nenabled = false\nfingerprint = "{listed[client.host]}"\n'


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def is_alive(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def is_served(relay: Relay, client: Client) -> bool:
    with suppress(OSError):
        return get(relay, client).status == 200
    return False


def until(holds: Any) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)
