"""What a connection offers to serve, and when it asks again."""

import pytest

from tunnel.client.offers import Offers
from tunnel.errors import Code
from tunnel.protocol.fields import Reason
from tunnel.protocol.messages import Serve, Serving

A, B = "a.t.test", "b.t.test"


def offers(*names: str) -> Offers:
    return Offers(names, lambda: 0.5)


def yes(name: str) -> Serving:
    return Serving(name, visitors=True, challenge=False)


def no(name: str, code: Code | None = None, retry_after: float | None = None) -> Serving:
    reason = None if code is None else Reason(code)
    return Serving(name, visitors=False, challenge=False, reason=reason, retry_after=retry_after)


def test_every_name_is_offered_to_visitors_alone() -> None:
    assert offers(A, B).open() == [
        Serve(A, visitors=True, challenge=False),
        Serve(B, visitors=True, challenge=False),
    ]


def test_it_is_complete_once_every_offer_is_answered_and_one_is_served() -> None:
    offer = offers(A, B)
    offer.open()
    offer.answered(yes(A), 0)
    before = offer.is_complete
    offer.answered(no(B, Code.NAME_TAKEN), 0)
    assert (before, offer.is_complete, offer.serving) == (False, True, {A})


def test_nothing_served_is_never_complete() -> None:
    offer = offers(A)
    offer.open()
    offer.answered(no(A, Code.NAME_TAKEN), 0)
    assert not offer.is_complete


@pytest.mark.parametrize(
    ("code", "retry_after", "pause"),
    [
        (Code.NAME_TAKEN, None, 63.0),
        (Code.NAME_REFUSED, None, 630.0),
        (Code.BUSY, 7.0, 7.35),
        (Code.INTERNAL, None, 0.25),
    ],
)
def test_a_refused_offer_is_repeated_when_its_code_says(
    code: Code, retry_after: float | None, pause: float
) -> None:
    offer = offers(A)
    offer.open()
    offer.answered(no(A, code, retry_after), 100.0)
    assert offer.next_timeout() == pytest.approx(100.0 + pause)
    assert offer.take_due(100.0 + pause + 0.01) == [Serve(A, visitors=True, challenge=False)]


def test_a_name_lost_later_is_offered_again_too() -> None:
    offer = offers(A)
    offer.open()
    offer.answered(yes(A), 0)
    reason = offer.answered(no(A, Code.REVOKED), 50.0)
    assert (reason, offer.serving) == (Reason(Code.REVOKED), set())
    assert offer.next_timeout() == pytest.approx(680.0)


def test_a_superseded_name_is_left_to_the_session() -> None:
    offer = offers(A)
    offer.open()
    offer.answered(yes(A), 0)
    offer.answered(no(A, Code.SUPERSEDED), 50.0)
    assert (offer.is_superseded, offer.next_timeout()) == (True, None)


def test_withdrawing_takes_back_what_is_served_and_what_is_still_open() -> None:
    offer = offers(A, B)
    offer.open()
    offer.answered(yes(A), 0)
    assert offer.withdraw() == [
        Serve(A, visitors=False, challenge=False),
        Serve(B, visitors=False, challenge=False),
    ]


def test_after_withdrawing_nothing_is_offered_again() -> None:
    offer = offers(A, B)
    offer.open()
    offer.answered(no(A, Code.NAME_TAKEN), 0)
    offer.withdraw()
    offer.answered(no(B, Code.NAME_TAKEN), 0)
    assert offer.next_timeout() is None


def test_an_answer_about_somebody_elses_name_is_passed_over() -> None:
    offer = offers(A)
    offer.open()
    offer.answered(yes("stranger.t.test"), 0)
    assert offer.serving == set()
