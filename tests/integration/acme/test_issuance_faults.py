"""What an authority may do wrong or refuse: told once per attempt, tried again on a schedule."""

from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from pathlib import Path

import pytest
import trustme

from tests.acme_front import (
    CERTIFICATE_PATH,
    DIRECTORY_PATH,
    FINALIZE_PATH,
    NEW_ORDER_PATH,
    Front,
    Reply,
)
from tests.integration.acme.keeping import (
    DAY,
    HOUR,
    MINUTE,
    Keeper,
    Showing,
    fields_of,
    orders_at,
    so_it_is,
    told,
)
from tests.integration.acme.steps import Answerer, settings_for
from tests.integration.conftest import Run
from tests.pebble import Pebble, pebble
from tunnel.acme.challenge import PendingAnswer, challenge_context
from tunnel.acme.schedule import FAILURES_PER_HOUR, RETRY_DELAYS
from tunnel.settings.values import EabSettings

pytestmark = pytest.mark.timeout(60)  # a real authority and real handshakes

NAME = "a.t.test"
BLOCKED = "blocked.t.test"
EAB_KEY = urlsafe_b64encode(bytes(range(48))).decode()


@pytest.fixture(scope="module")
def ca(answerer: Answerer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    """Run an authority that does not certify one name."""
    folder = tmp_path_factory.mktemp("pebble")
    with pebble(folder, tls_port=answerer.port, blocklist=[BLOCKED]) as one:
        yield one


@pytest.fixture
def kept(front: Front, answerer: Answerer, tmp_path: Path) -> Keeper:
    return Keeper(settings_for(front), tmp_path, Showing(answerer), draw=0.0)


def is_told(caplog: pytest.LogCaptureFixture, kept: Keeper, what: str) -> None:
    """See that each failure has one line, which says what it was, where and how it goes on."""
    assert told(caplog) == ["certificate not issued"] * len(kept.failures)
    for fields, failure in zip(
        fields_of(caplog, "certificate not issued"), kept.failures, strict=True
    ):
        assert what in failure.cause
        assert "\n" not in failure.cause
        assert (fields["cause"], fields["retry_in"]) == (failure.cause, round(failure.retry_in, 1))
        assert fields["directory"].startswith("https://127.0.0.1:")


# -- what is borne without a word


def test_half_of_all_nonces_may_be_refused(
    answerer: Answerer, tmp_path: Path, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> None:
        with pebble(tmp_path, tls_port=answerer.port, bad_nonces=50) as moody:
            kept = Keeper(settings_for(moody), tmp_path / "state", Showing(answerer), draw=0.0)
            await kept.until(NAME, issued=1)
        assert kept.failures == []

    run(body())
    assert told(caplog) == []


def test_an_answer_that_is_lost_costs_no_second_order(kept: Keeper, front: Front, run: Run) -> None:
    async def body() -> None:
        for path in (FINALIZE_PATH, CERTIFICATE_PATH):
            front.plan(Reply(after=True), path)
        await kept.until(NAME, issued=1)
        assert orders_at(front) == 1
        assert [failure.retry_in for failure in kept.failures] == [60, 600]

    run(body())


# -- external accounts


@contextmanager
def shop(answerer: Answerer, folder: Path) -> Iterator[Pebble]:
    """Run an authority that requires an external account."""
    with pebble(folder, tls_port=answerer.port, eab_keys={"kid-1": EAB_KEY}) as one:
        yield one


def test_with_the_external_account_that_is_required_it_is_issued(
    answerer: Answerer, tmp_path: Path, run: Run
) -> None:
    file = tmp_path / "eab.key"
    file.touch(0o600)
    file.write_text(EAB_KEY)

    async def body() -> None:
        with shop(answerer, tmp_path) as one:
            settings = settings_for(one, eab=EabSettings("kid-1", file))
            kept = Keeper(settings, tmp_path / "state", Showing(answerer), draw=0.0)
            await kept.until(NAME, issued=1)
        assert kept.failures == []

    run(body())


def test_without_it_the_setting_that_is_missing_is_named(
    answerer: Answerer, tmp_path: Path, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> None:
        with shop(answerer, tmp_path) as one:
            kept = Keeper(settings_for(one), tmp_path / "state", Showing(answerer), draw=0.0)
            await kept.until(NAME, failed=2)
        is_told(caplog, kept, "requires an external account: set acme.eab")

    run(body())


# -- an authority that is away, busy or out of order


def test_an_authority_that_is_down_is_asked_on_a_schedule_until_it_is_back(
    kept: Keeper, front: Front, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> None:
        front.down()
        await kept.until(NAME, failed=6)
        front.up()
        await kept.until(NAME, issued=1)
        waits = [failure.retry_in for failure in kept.failures]
        assert waits == [*RETRY_DELAYS, DAY.total_seconds(), DAY.total_seconds()]
        for failure, later in pairwise(kept.failures):
            assert later.at == failure.at + timedelta(seconds=failure.retry_in)
        is_told(caplog, kept, "cannot reach 127.0.0.1:")
        assert kept.standing(NAME).last_error is None

    run(body())


def in_half_an_hour() -> str:
    return format_datetime(datetime.now(UTC) + HOUR / 2, usegmt=True)


@pytest.mark.parametrize("retry_after", [lambda: "1800", in_half_an_hour], ids=["seconds", "date"])
def test_what_an_authority_asks_for_is_waited(
    retry_after: Callable[[], str],
    kept: Keeper,
    front: Front,
    run: Run,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def body() -> None:
        front.refuse_orders(1, retry_after())
        await kept.until(NAME, issued=1)
        is_told(caplog, kept, "too many new orders recently")
        (failure,) = kept.failures
        assert 1790 < failure.retry_in <= 1800
        assert kept.clock.moment == failure.at + timedelta(seconds=failure.retry_in)

    run(body())


HTML = {"Content-Type": "text/html"}
ORDER = {"Location": "https://127.0.0.1/order/1"}
MOODS = {
    "a problem": (Reply.problem(500, "serverInternal", "out of order"), "out of order"),
    "a bare 503": (Reply(503), "503"),
    "a page": (Reply(200, b"<h1>It works!</h1>", HTML | ORDER), "answered what is no JSON object"),
    "a page of its balancer": (Reply(502, b"<h1>502</h1>\n<hr>", HTML), "answered 502"),
    "noise": (Reply(200, bytes(range(256)), ORDER), "answered what is no JSON object"),
    "another document": (Reply(201, b"{}", ORDER), "answered without"),
    "nothing": (Reply(), "cannot reach"),
    "silence": (Reply(hangs=True), "no answer within 0.5 s"),
}


@pytest.mark.parametrize("mood", MOODS)
@pytest.mark.parametrize(
    "path",
    [
        NEW_ORDER_PATH,
        pytest.param(DIRECTORY_PATH, marks=pytest.mark.slow),
        pytest.param(FINALIZE_PATH, marks=pytest.mark.slow),
    ],
)
def test_a_mood_is_told_once_and_passes(
    mood: str,
    path: str,
    kept: Keeper,
    front: Front,
    run: Run,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reply, what = MOODS[mood]
    if reply.hangs:
        monkeypatch.setattr("tunnel.acme.network.TIMEOUT", 0.5)

    async def body() -> None:
        front.plan(reply, path)
        await kept.until(NAME, issued=1)
        assert [failure.retry_in for failure in kept.failures] == [60]
        is_told(caplog, kept, what)

    run(body())


def test_an_authority_that_has_lost_everything_is_begun_with_anew(
    answerer: Answerer, tmp_path: Path, run: Run
) -> None:
    async def body() -> None:
        with pebble(tmp_path, tls_port=answerer.port) as forgetful:
            kept = Keeper(settings_for(forgetful), tmp_path / "state", Showing(answerer), draw=0.0)
            kept.path.goes_on.clear()
            async with kept.keeping(NAME):
                await so_it_is(lambda: kept.path.open_now)
            forgetful.stop()
            forgetful.start()
            kept.path.goes_on.set()
            await kept.until(NAME, issued=1)
        assert kept.failures == []

    run(body())


# -- orders that come to nothing


def test_a_proof_that_nobody_shows_is_ordered_anew_on_the_schedule(
    kept: Keeper, front: Front, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> None:
        kept.path.shows_nothing = True
        await kept.until(NAME, failed=5)
        is_told(caplog, kept, NAME)
        waits = [failure.retry_in for failure in kept.failures]
        assert waits == [*RETRY_DELAYS, DAY.total_seconds()]
        assert orders_at(front) == 5
        kept.path.shows_nothing = False
        await kept.until(NAME, issued=1)
        assert orders_at(front) == 6

    run(body())


def test_a_wrong_proof_is_told_in_the_words_of_the_authority(
    kept: Keeper, answerer: Answerer, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> None:
        kept.path.shows_nothing = True
        answerer.present(NAME, PendingAnswer(challenge_context(NAME, bytes(32), datetime.now(UTC))))
        await kept.until(NAME, failed=1)
        is_told(caplog, kept, "Incorrect validation certificate for tls-alpn-01 challenge")
        kept.path.shows_nothing = False
        await kept.until(NAME, issued=1)

    run(body())


def test_one_name_without_a_proof_is_named(
    kept: Keeper, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> None:
        kept.path.hidden = frozenset({"b.t.test"})
        await kept.until(NAME, "b.t.test", failed=1)
        is_told(caplog, kept, "b.t.test: ")
        assert f"{NAME}: " not in kept.failures[0].cause

    run(body())


@pytest.mark.slow
def test_never_more_than_five_orders_of_a_name_fail_in_an_hour(
    kept: Keeper, front: Front, tmp_path: Path, answerer: Answerer, run: Run
) -> None:
    async def body() -> None:
        moments: list[datetime] = []
        for _ in range(3):  # each time somebody forgets what was planned
            again = Keeper(settings_for(front), tmp_path, Showing(answerer), kept.clock)
            again.path.shows_nothing = True
            await again.until(NAME, failed=3)
            moments += [failure.at for failure in again.failures]
            record = replace(again.store.record([NAME]), failures=0, retry_at=None)
            again.store.save_record([NAME], record)
        assert len(moments) == 9
        for first, sixth in zip(moments, moments[FAILURES_PER_HOUR:], strict=False):
            assert sixth - first >= HOUR
        assert moments[5] - moments[0] == HOUR

    run(body())


def test_failures_are_remembered_over_a_restart(
    kept: Keeper, front: Front, tmp_path: Path, answerer: Answerer, run: Run
) -> None:
    async def body() -> None:
        front.refuse_orders(3, "1")
        await kept.until(NAME, failed=2)
        again = Keeper(settings_for(front), tmp_path, Showing(answerer), kept.clock, draw=0.0)
        before = kept.standing(NAME)
        assert again.standing(NAME) == replace(before, activity="not begun")
        assert before.last_error == kept.failures[1].cause
        await again.until(NAME, failed=1)
        assert again.failures[0].at == before.retry_at
        assert again.failures[0].retry_in == RETRY_DELAYS[2]

    run(body())


# -- names that are refused


def test_a_refused_name_keeps_the_certificate_that_it_has_to_the_end(
    kept: Keeper, front: Front, tmp_path: Path, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    now = kept.clock.moment
    issuer = trustme.CA(key_type=trustme.KeyType.ECDSA)
    seed = issuer.issue_cert(BLOCKED, not_before=now - DAY, not_after=now + 3 * HOUR)
    file = tmp_path / "seed.pem"
    file.touch(0o600)
    file.write_bytes(seed.private_key_pem.bytes() + seed.cert_chain_pems[0].bytes())

    async def body() -> None:
        cached = kept.issuer.cached([BLOCKED], file)
        assert cached is not None
        await kept.until(BLOCKED, failed=3)
        assert kept.issuer.cached([BLOCKED]) is cached
        await kept.passes(MINUTE, BLOCKED)
        assert kept.standing(BLOCKED).activity == "valid"
        assert kept.standing(BLOCKED).not_after == cached.not_after
        await kept.passes(3 * HOUR, BLOCKED)
        assert kept.standing(BLOCKED).activity == "expired, waiting to try again"
        is_told(caplog, kept, "refused")
        assert {failure.cause for failure in kept.failures} == {kept.failures[0].cause}
        assert BLOCKED in kept.failures[0].cause
        assert kept.installed == []

    run(body())


# -- before anything is asked


def test_a_corrupt_account_is_told_and_left_alone(
    kept: Keeper, front: Front, tmp_path: Path, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> None:
        account = kept.store.account_file
        account.parent.mkdir(parents=True, mode=0o700)
        account.touch(0o600)
        account.write_text("[]")
        await kept.until(NAME, failed=2)
        assert str(account) in kept.failures[0].cause
        assert front.requests == []
        assert account.read_text() == "[]"

    run(body())
    assert told(caplog) == ["certificate not ordered"] * 2
