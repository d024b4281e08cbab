"""Renewal information (RFC 9773): what an authority says of when to renew, and what it is told.

Pebble 2.4 has none: a front before it does.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.acme_front import NEW_ORDER_PATH, RENEWAL_PATH, Front, Reply
from tests.integration.acme.steps import Answerer, authority, collected, new_key, ordered, prove
from tests.pebble import Pebble
from tunnel.acme.renewal_info import ASK_DEFAULT, certificate_id
from tunnel.acme.schedule import RenewalWindow
from tunnel.errors import IssueFailed
from tunnel.tls.certificates import self_signed
from tunnel.tls.slots import Certificate

pytestmark = pytest.mark.timeout(60)  # a real authority and real handshakes

START = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
END = START + timedelta(days=2)


@pytest.fixture(scope="module")
def issued(ca: Pebble, answerer: Answerer, tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """Have a certificate that is to be renewed."""
    account = tmp_path_factory.mktemp("issued") / "account.json"
    return ordered(authority(ca, account), ["renewed.test"], answerer)


def test_an_authority_that_offers_no_window_is_asked_for_none(
    ca: Pebble, account: Path, issued: Certificate
) -> None:
    one = authority(ca, account)
    assert one.renewal_window(issued) == (None, ASK_DEFAULT)
    assert not one.offers_renewal_info


@pytest.mark.parametrize(
    ("retry_after", "seconds"), [(None, 21600), ("7200", 7200), ("1", 60), ("999999", 86400)]
)
def test_the_window_and_when_to_ask_again_are_told(
    front: Front, account: Path, issued: Certificate, retry_after: str | None, seconds: float
) -> None:
    front.window, front.window_retry_after = (START, END), retry_after
    one = authority(front, account)
    assert one.renewal_window(issued) == (RenewalWindow(START, END), seconds)
    assert one.offers_renewal_info
    assert front.requests[-1] == ("GET", f"{RENEWAL_PATH}/{certificate_id(issued.leaf)}")


def test_a_window_that_ends_before_it_starts_is_none(
    front: Front, account: Path, issued: Certificate
) -> None:
    front.window = (END, START)
    with pytest.raises(IssueFailed, match="a window that ends"):
        authority(front, account).renewal_window(issued)


def test_a_refusal_to_tell_the_window_keeps_its_wait(
    front: Front, account: Path, issued: Certificate
) -> None:
    front.window = (START, END)
    front.plan(Reply.problem(503, "serverInternal", "later", "300"), RENEWAL_PATH)
    with pytest.raises(IssueFailed, match="serverInternal: later") as caught:
        authority(front, account).renewal_window(issued)
    assert caught.value.retry_after == 300


def test_a_certificate_that_no_authority_issued_has_no_window(front: Front, account: Path) -> None:
    front.window = (START, END)
    own = self_signed(["own.test"], now=START)
    assert authority(front, account).renewal_window(own) == (None, ASK_DEFAULT)


def test_a_new_order_says_what_it_replaces(
    front: Front, answerer: Answerer, account: Path, issued: Certificate
) -> None:
    front.window = (START, END)
    order = authority(front, account).place(["renewed.test"], replaces=issued)
    prove(order, answerer)
    renewed = collected(order, new_key())
    assert renewed.leaf != issued.leaf
    assert front.replaced == [certificate_id(issued.leaf)]


def test_it_says_nothing_to_an_authority_that_would_not_know(
    front: Front, account: Path, issued: Certificate
) -> None:
    assert authority(front, account).place(["renewed.test"], replaces=issued).challenges
    assert front.replaced == []


@pytest.mark.parametrize("code", ["alreadyReplaced", "malformed", "unauthorized"])
def test_what_cannot_be_replaced_is_ordered_without(
    front: Front, account: Path, issued: Certificate, code: str
) -> None:
    front.window = (START, END)
    front.plan(Reply.problem(409, code, "no"), NEW_ORDER_PATH)
    assert authority(front, account).place(["renewed.test"], replaces=issued).challenges
    assert [path for _, path in front.requests].count(NEW_ORDER_PATH) == 2
    assert len(front.replaced) == 1


def test_a_limit_is_no_reason_to_order_without(
    front: Front, account: Path, issued: Certificate
) -> None:
    front.window = (START, END)
    front.refuse_orders(1, "60")
    with pytest.raises(IssueFailed, match="rateLimited"):
        authority(front, account).place(["renewed.test"], replaces=issued)
    assert [path for _, path in front.requests].count(NEW_ORDER_PATH) == 1
