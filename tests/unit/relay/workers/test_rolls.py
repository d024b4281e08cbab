"""What the head decides for all workers, and whom it tells."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.unit.relay.scenes import Clock, Orders, in_loop
from tunnel.protocol.names import client_id
from tunnel.relay.admission import SettingsAdmission
from tunnel.relay.challenges import Challenges
from tunnel.relay.known_keys import KnownKeys
from tunnel.relay.reload import review
from tunnel.relay.sessions import Kinds
from tunnel.relay.workers.rolls import HeadRegistry, Rolls
from tunnel.settings.values import ClientGrant, GrantLimits, RelaySettings, SuffixSettings

KEY, OTHER = b"k" * 32, b"o" * 32
OLD, NEW = b"1" * 16, b"2" * 16
NAME = f"{client_id(KEY, 128)}.t.test"
SERVED = {"visitors": True, "challenge": False}


class Scene:
    """The head's rolls, and what three workers were told."""

    def __init__(self, folder: Path, connections: int = 100, **limits: int) -> None:
        self.settings = RelaySettings(
            "eu1",
            folder,
            {},
            {"t.test": SuffixSettings("t.test", access="open", id_bits=(128,), public_port=443)},
            {"one": ClientGrant("one", KEY, suffixes=("t.test",), limits=GrantLimits(**limits))},
        )
        self.clock = Clock()
        self.budget = Orders()
        self.told: list[tuple[int, str, Mapping[str, Any]]] = []
        challenges = Challenges(self.budget, self.clock)
        registry = HeadRegistry(connections, (), challenges, self.clock)
        admission = SettingsAdmission(self.settings, set(), KnownKeys(folder / "known-keys"))
        self.rolls = Rolls(registry, admission, 3, self._tell)

    def _tell(self, worker: int, kind: str, /, **members: object) -> None:
        self.told.append((worker, kind, members))

    def enrol(
        self,
        worker: int,
        number: int,
        *,
        instance: bytes = OLD,
        key: bytes = KEY,
        features: tuple[str, ...] = (),
    ) -> Mapping[str, Any]:
        return self.rolls.enrol(
            worker,
            {
                "number": number,
                "fingerprint": key.hex(),
                "instance": instance.hex(),
                "names": [f"{client_id(key, 128)}.t.test"],
                "features": features,
                "peer": ["192.0.2.9", 5000],
            },
        )

    def serve(
        self, worker: int, number: int, kinds: Kinds | None = None, name: str = NAME
    ) -> Mapping[str, Any]:
        kinds = kinds or Kinds(visitors=True, challenge=False)
        message = {"number": number, "name": name, "renewal": False}
        return self.rolls.serve(
            worker, message | {"visitors": kinds.visitors, "challenge": kinds.challenge}
        )

    def names(self) -> dict[str, Any]:
        """Return what the directory of worker 0 has come to."""
        entries: dict[str, Any] = {}
        for worker, kind, members in self.told:
            if (worker, kind) == (0, "names"):
                entries.update(members["names"])
        return entries

    def kinds(self) -> list[tuple[int, str]]:
        return [(worker, kind) for worker, kind, _ in self.told if kind not in ("names", "limits")]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    async def make() -> Scene:
        return Scene(tmp_path)

    return asyncio.run(make())


def test_a_client_is_granted_what_settings_grant(scene: Scene) -> None:
    answer = scene.enrol(1, 7)
    assert (answer["granted"], answer["refused"]) == ({NAME: 443}, {})
    assert answer["limits"] == {"streams": 1000, "connections": 16, "rate": None}


def test_all_workers_hear_who_serves_a_name(scene: Scene) -> None:
    scene.enrol(1, 7)
    assert scene.serve(1, 7) == SERVED
    told = [(worker, members["names"]) for worker, kind, members in scene.told if kind == "names"]
    assert told == [(worker, {NAME: ([1], None)}) for worker in range(3)]


def test_a_session_may_serve_a_name_from_several_workers(scene: Scene) -> None:
    for worker in (2, 0):
        scene.enrol(worker, 7)
        scene.serve(worker, 7)
    assert scene.names() == {NAME: ([0, 2], None)}


def test_a_link_that_is_suspect_is_out_of_the_directory_until_it_is_back(scene: Scene) -> None:
    scene.enrol(1, 7)
    scene.serve(1, 7)
    scene.rolls.note_state(1, {"number": 7, "state": "SUSPECT"})
    assert scene.names() == {NAME: ([], None)}
    scene.rolls.note_state(1, {"number": 7, "state": "READY"})
    assert scene.names() == {NAME: ([1], None)}


def test_what_a_worker_served_that_has_ended_is_served_by_nobody(scene: Scene) -> None:
    for worker in (0, 1):
        scene.enrol(worker, 7)
        scene.serve(worker, 7)
    scene.rolls.lose(1)
    assert scene.names() == {NAME: ([0], None)}
    scene.rolls.left(0, {"number": 7})
    assert scene.names() == {NAME: ([], None)}
    assert scene.rolls.registry.links == []


def test_a_newer_instance_takes_over_whichever_workers_the_old_one_has(scene: Scene) -> None:
    for worker in (0, 1):
        scene.enrol(worker, 7)
        scene.serve(worker, 7)
    scene.enrol(2, 8, instance=NEW)
    assert scene.serve(2, 8) == SERVED
    assert scene.kinds() == [(0, "supersede"), (1, "supersede")]
    assert scene.names() == {NAME: ([2], None)}
    assert scene.serve(0, 7)["code"] == "superseded"
    assert scene.enrol(1, 9)["code"] == "name_taken"


def test_replicas_serve_side_by_side_in_any_workers(scene: Scene) -> None:
    for worker, instance in ((0, OLD), (2, NEW)):
        scene.enrol(worker, 7, instance=instance, features=("replica",))
        assert scene.serve(worker, 7) == SERVED
    assert scene.names() == {NAME: ([0, 2], None)}


def test_validations_of_a_name_go_to_one_worker_only(scene: Scene) -> None:
    scene.enrol(0, 7, features=("replica",))
    scene.enrol(1, 8, instance=NEW, features=("replica",))
    challenge = Kinds(visitors=False, challenge=True)
    assert scene.serve(1, 8, challenge)["challenge"]
    assert scene.names() == {NAME: ([], 1)}
    refused = scene.serve(0, 7, challenge)
    assert (refused["challenge"], refused["code"]) == (False, "busy")
    assert scene.budget.counted == [NAME]


def test_a_validation_of_an_hour_gives_way_and_its_worker_hears(scene: Scene) -> None:
    scene.enrol(0, 7, features=("replica",))
    scene.enrol(1, 8, instance=NEW, features=("replica",))
    challenge = Kinds(visitors=False, challenge=True)
    scene.serve(0, 7, challenge)
    scene.clock.now += 3600
    assert scene.serve(1, 8, challenge)["challenge"]
    assert scene.kinds() == [(0, "give_up")]


def test_connections_of_a_key_are_counted_over_all_workers(tmp_path: Path) -> None:
    @in_loop
    async def run() -> None:
        scene = Scene(tmp_path, connections=3)
        for worker in range(3):
            assert "code" not in scene.enrol(worker, 7)
        assert scene.enrol(0, 8)["code"] == "busy"
        scene.rolls.left(1, {"number": 7})
        assert "code" not in scene.enrol(0, 8)

    run()


def test_limits_are_shared_out_among_the_workers_a_client_is_connected_to(tmp_path: Path) -> None:
    @in_loop
    async def run() -> None:
        scene = Scene(tmp_path, streams=100, rate=1000)
        assert scene.enrol(0, 7)["limits"]["streams"] == 100
        assert scene.enrol(2, 7)["limits"] == {"streams": 50, "connections": 16, "rate": 500}
        told = [(worker, m["limits"]["rate"]) for worker, kind, m in scene.told if kind == "limits"]
        assert set(told[-2:]) == {(0, 500), (2, 500)}
        scene.rolls.left(0, {"number": 7})
        assert scene.told[-1][:2] == (2, "limits")
        assert scene.told[-1][2]["limits"]["rate"] == 1000

    run()


def test_a_key_that_is_revoked_is_expelled_from_every_worker(scene: Scene) -> None:
    for worker in (0, 2):
        scene.enrol(worker, 7)
        scene.serve(worker, 7)
    revoked = ClientGrant("one", KEY, suffixes=(), enabled=False)
    admission = SettingsAdmission(
        RelaySettings("eu1", Path(), {}, scene.settings.suffixes, {"one": revoked}),
        set(),
        KnownKeys(scene.settings.state_dir / "known-keys"),
    )
    review(scene.rolls.registry, scene.rolls, admission, 0.0)
    scene.rolls.publish()
    assert scene.kinds() == [(0, "expel"), (2, "expel")]
    assert scene.names() == {NAME: ([], None)}


def test_a_link_that_the_head_does_not_know_serves_nothing(scene: Scene) -> None:
    assert scene.serve(0, 99)["code"] == "not_serving"
    scene.rolls.left(0, {"number": 99})
    scene.rolls.note_state(0, {"number": 99, "state": "READY"})


def test_two_keys_of_one_name_are_told_apart_over_workers(scene: Scene) -> None:
    """As two wildcards may grant it; ids of open suffixes cannot meet."""
    scene.enrol(0, 7)
    scene.enrol(1, 8, key=OTHER, instance=NEW)
    link = scene.rolls.numbered(1, 8)
    assert link is not None
    link.session.granted |= {NAME}
    scene.serve(0, 7)
    assert scene.serve(1, 8)["code"] == "name_taken"
