"""One order, step by step: what is told to an authority when, and what is kept of it meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.unit.acme.stored import CERTIFICATE, NAME, issued
from tests.unit.client.scenes import now, run_in_no_time
from tunnel.acme.answers import Problem
from tunnel.acme.challenge import PendingAnswer
from tunnel.acme.directories import directory_of
from tunnel.acme.order import OrderLost
from tunnel.acme.ordering import (
    ISSUE_TIMEOUT,
    PAUSE_MAX,
    PROOF_TIMEOUT,
    OrderGone,
    Orders,
    Request,
)
from tunnel.acme.store import Draft, Store
from tunnel.errors import IssueFailed, NotWritable, OrderPostponed
from tunnel.settings.values import AcmeSettings
from tunnel.tls.slots import Certificate, CertificateKey

OTHER = "b.t.test"
DIRECTORY = "https://ca.test/dir"


@dataclass
class Script:
    """An authority and its one order, which do as the fields say and note what is asked."""

    url: str = "https://ca.test/order/1"
    challenges: Mapping[str, bytes] = field(default_factory=lambda: {NAME: bytes(32)})
    pause: float | None = None  # seconds that the authority wants between looks; None: it is done
    certificate: Certificate | float = CERTIFICATE
    fault: IssueFailed | None = None  # of the order once it is answered
    is_gone: bool = False
    caa_identities: tuple[str, ...] = ()
    account_url: str | None = None
    asked: list[str] = field(default_factory=list)
    on_look: Callable[[], object] = lambda: None  # called in the worker's thread

    def prepare(self) -> None:
        """Do nothing: it is ready."""

    def place(self, _names: Sequence[str], replaces: Certificate | None) -> "Script":
        self.asked.append("place" if replaces is None else "replace")
        return self

    def resume(self, url: str, _names: Sequence[str]) -> "Script | None":
        self.asked.append(f"resume {url}")
        return None if self.is_gone else self

    def answer(self) -> None:
        self.asked.append("answer")
        if self.fault is not None:
            raise self.fault

    def poll_proofs(self) -> float | None:
        self.asked.append("proofs?")
        self.on_look()
        return self.pause

    def finalize(self, _key: CertificateKey) -> None:
        self.asked.append("finalize")

    def poll_certificate(self, _key: CertificateKey) -> Certificate | float:
        self.asked.append("certificate?")
        return self.certificate

    async def ready(self, name: str) -> None:
        """Wait for nothing."""

    def addresses(self, _name: str) -> frozenset[str]:
        return frozenset({"192.0.2.1"})

    @asynccontextmanager
    async def opened(
        self, name: str, _answer: PendingAnswer, *, renewal: bool
    ) -> AsyncIterator[None]:
        self.asked.append(f"{'renew' if renewal else 'open'} {name}")
        try:
            yield
        finally:
            self.asked.append(f"close {name}")


@dataclass
class Scene:
    """Orders at a scripted authority, and what is kept of them."""

    script: Script
    store: Store
    orders: Orders

    @property
    def draft(self) -> Draft | None:
        return self.store.draft([NAME])

    async def certificate(self, *names: str, **request: Any) -> Certificate:
        return await self.orders.certificate(Request(names or (NAME,), self.script, **request))


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    script, store = Script(), Store(tmp_path / "store")
    orders = Orders(AcmeSettings(DIRECTORY), directory_of(DIRECTORY), store)
    orders._authority = script  # type: ignore[assignment] # it is one as far as orders go
    return Scene(script, store, orders)


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    run_in_no_time(work())


def test_nothing_is_ordered_before_all_names_are_open(scene: Scene) -> None:
    async def body() -> None:
        scene.script.challenges = {NAME: bytes(32), OTHER: bytes(32)}
        assert await scene.certificate(NAME, OTHER) is CERTIFICATE
        assert scene.script.asked == [
            f"open {NAME}",
            f"open {OTHER}",
            "place",
            "answer",
            "proofs?",
            "finalize",
            "certificate?",
            f"close {OTHER}",
            f"close {NAME}",
        ]

    run(body)


def test_names_that_are_proved_already_are_not_answered_for(scene: Scene) -> None:
    async def body() -> None:
        scene.script.challenges = {}
        await scene.certificate()
        assert scene.script.asked[1:-1] == ["place", "proofs?", "finalize", "certificate?"]

    run(body)


def test_an_authority_that_sees_no_proof_is_given_up_in_time(scene: Scene) -> None:
    async def body() -> None:
        begun = now()
        scene.script.pause = 1000.0
        with pytest.raises(IssueFailed, match="the authority saw no proof within 120 s"):
            await scene.certificate()
        assert PROOF_TIMEOUT <= now() - begun <= PROOF_TIMEOUT + PAUSE_MAX
        assert scene.script.asked.count("proofs?") == 1 + PROOF_TIMEOUT / PAUSE_MAX
        assert scene.script.asked[-1] == f"close {NAME}"
        assert scene.draft is not None  # it may see one yet

    run(body)


def test_an_authority_that_does_not_issue_is_given_up_in_time(scene: Scene) -> None:
    async def body() -> None:
        begun = now()
        scene.script.certificate = 7.0
        with pytest.raises(IssueFailed, match="the certificate was not issued within 120 s"):
            await scene.certificate()
        assert ISSUE_TIMEOUT <= now() - begun <= ISSUE_TIMEOUT + 7
        assert scene.draft is not None
        scene.script.certificate = CERTIFICATE
        assert await scene.certificate() is CERTIFICATE
        assert scene.script.asked.count("place") == 1

    run(body)


def test_whoever_waits_may_be_cancelled_and_nothing_stays_open(scene: Scene) -> None:
    async def body() -> None:
        scene.script.pause = 10.0
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(scene.certificate())
            scene.script.on_look = lambda: loop.call_soon_threadsafe(waiting.cancel)
        assert waiting.cancelled()
        assert scene.script.asked[-1] == f"close {NAME}"
        assert scene.draft is not None

    run(body)


def test_an_order_is_kept_with_its_key_before_anything_is_proved(scene: Scene) -> None:
    async def body() -> None:
        own = ec.generate_private_key(ec.SECP256R1())
        scene.script.pause = 10.0
        with pytest.raises(IssueFailed):
            await scene.certificate(key=own)
        assert scene.draft is not None
        assert scene.draft.url == scene.script.url
        assert scene.draft.key.public_key() == own.public_key()

    run(body)


def test_an_order_that_cannot_be_kept_goes_no_further(scene: Scene) -> None:
    async def body() -> None:
        scene.store.account_file.parent.touch()
        with pytest.raises(NotWritable, match="cannot be written"):
            await scene.certificate()
        assert scene.script.asked == [f"open {NAME}", "place", f"close {NAME}"]

    run(body)


def test_a_predecessor_is_named(scene: Scene) -> None:
    async def body() -> None:
        await scene.certificate(predecessor=issued(NAME))
        assert scene.script.asked[:2] == [f"renew {NAME}", "replace"]

    run(body)


FORGOTTEN = [
    OrderLost("ca.test gave the order up: a.t.test: connection refused"),
    Problem("ca.test refused: no such order", status=404, code="malformed"),
    Problem("ca.test refused: not yours", status=403, code="unauthorized"),
]
KEPT = [
    IssueFailed("cannot reach ca.test: Connection refused"),
    Problem("ca.test answered 503", status=503),
    Problem("ca.test refused: too many", status=429, code="rateLimited", retry_after=60.0),
    Problem("ca.test refused: agree to our new terms", status=403, code="userActionRequired"),
    OrderPostponed("relay eu refuses validations of a.t.test: busy", 60.0),
]


@pytest.mark.parametrize("fault", FORGOTTEN + KEPT, ids=str)
def test_an_order_is_forgotten_only_if_nothing_can_come_of_it(
    scene: Scene, fault: IssueFailed
) -> None:
    async def body() -> None:
        scene.script.fault = fault
        with pytest.raises(type(fault)) as raised:
            await scene.certificate()
        assert raised.value is fault
        assert (scene.draft is None) is (fault in FORGOTTEN)

    run(body)


def test_an_order_that_is_gone_is_said_and_forgotten_and_the_next_call_places_another(
    scene: Scene,
) -> None:
    async def body() -> None:
        scene.script.is_gone = True
        scene.store.save_draft(Draft("https://ca.test/order/0", (NAME,), CERTIFICATE.key))
        with pytest.raises(OrderGone, match=r"nothing will come of https://ca\.test/order/0"):
            await scene.certificate()
        assert scene.script.asked[1:-1] == ["resume https://ca.test/order/0"]
        assert scene.draft is None
        scene.script.asked.clear()
        await scene.certificate()
        assert scene.script.asked[1] == "place"

    run(body)


def test_an_order_whose_certificate_is_there_already_is_not_taken_for_a_new_one(
    scene: Scene,
) -> None:
    async def body() -> None:
        scene.store.save_draft(Draft("https://ca.test/order/0", (NAME,), CERTIFICATE.key))
        scene.script.challenges = {}
        await scene.certificate(predecessor=CERTIFICATE)
        assert scene.script.asked[1] == "resume https://ca.test/order/0"
        assert "replace" in scene.script.asked

    run(body)


@pytest.mark.parametrize(("key", "first"), [("own", "place"), ("draft's", "resume")])
def test_an_order_from_before_is_taken_up_only_for_the_key_that_is_wanted(
    scene: Scene, key: str, first: str
) -> None:
    async def body() -> None:
        scene.store.save_draft(Draft(scene.script.url, (NAME,), CERTIFICATE.key))
        own = ec.generate_private_key(ec.SECP256R1())
        await scene.certificate(key=own if key == "own" else CERTIFICATE.key)
        assert scene.script.asked[1].split()[0] == first

    run(body)
