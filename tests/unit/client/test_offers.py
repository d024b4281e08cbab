"""What a connection offers to serve, and when it asks again."""

import ssl
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel.acme.challenge import PendingAnswer
from tunnel.client.asking import Verdict
from tunnel.client.challenges import Challenge
from tunnel.client.offers import PUT_OFF_UNTOLD, Offers
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
        (Code.BUSY, 604_800.0, 630.0),
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


CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


@dataclass
class Asked:
    """The offers of one connection, and the validations that are expected."""

    expected: dict[str, Challenge] = field(default_factory=dict)
    offers: Offers = field(init=False)

    def __post_init__(self) -> None:
        self.offers = Offers((A, B), lambda: 0.5, expected=self.expected.get)

    def expect(self, name: str, *, renewal: bool = False) -> None:
        self.expected[name] = Challenge(PendingAnswer(), renewal)

    def due(self, now: float = 0.0) -> list[Serve]:
        return self.offers.take_due(now)

    def hear(self, answer: Serving) -> Reason | None:
        return self.offers.answered(answer, 0.0)


def served() -> Asked:
    """Return offers that the relay has answered with yes."""
    asked = Asked()
    asked.offers.open()
    for name in (A, B):
        asked.hear(yes(name))
    return asked


def both(name: str, *, renewal: bool = False) -> Serve:
    return Serve(name, visitors=True, challenge=True, renewal=renewal)


def confirmed(name: str) -> Serving:
    return Serving(name, visitors=True, challenge=True)


def refused(name: str, code: Code | None = Code.BUSY, *, visitors: bool = True) -> Serving:
    reason = None if code is None else Reason(code)
    return Serving(name, visitors, challenge=False, reason=reason, retry_after=90.0)


def test_an_expected_validation_is_asked_for_once_beside_visitors() -> None:
    asked = served()
    asked.expect(B, renewal=True)
    assert (asked.due(), asked.due()) == ([both(B, renewal=True)], [])


def test_it_is_asked_for_with_the_first_offer_if_it_is_expected_by_then() -> None:
    asked = Asked()
    asked.expect(A)
    assert asked.offers.open() == [both(A), Serve(B, visitors=True, challenge=False)]


def test_when_it_is_over_visitors_alone_are_offered() -> None:
    asked = served()
    asked.expect(A)
    asked.due()
    del asked.expected[A]
    assert asked.due() == [Serve(A, visitors=True, challenge=False)]


def test_nothing_is_asked_for_after_withdrawing() -> None:
    asked = served()
    asked.offers.withdraw()
    asked.expect(A)
    assert (asked.due(), asked.offers.takes_part(A)) == ([], False)


def test_asking_does_not_make_a_complete_offer_incomplete() -> None:
    asked = served()
    asked.expect(A)
    asked.due()
    assert asked.offers.is_complete


def test_the_answer_to_an_offer_before_it_confirms_nothing() -> None:
    asked = Asked()
    asked.offers.open()
    asked.expect(A)
    asked.due()
    asked.hear(yes(A))
    before = asked.offers.verdict(A)
    asked.hear(confirmed(A))
    assert (before, asked.offers.verdict(A)) == (None, Verdict(is_granted=True))


def test_a_late_yes_to_one_that_is_over_is_none_to_the_next() -> None:
    asked = served()
    for _ in range(2):
        asked.expect(A)
        asked.due()
    asked.hear(confirmed(A))
    assert asked.offers.verdict(A) is None


def test_a_refusal_is_told_apart_from_one_of_visitors() -> None:
    asked = served()
    asked.expect(A)
    asked.due()
    assert asked.hear(refused(A)) is None
    assert A in asked.offers.serving
    assert asked.offers.verdict(A) == Verdict(False, Code.BUSY, 90.0)


def test_what_a_refusal_says_is_kept() -> None:
    asked = served()
    asked.expect(A)
    asked.due()
    asked.hear(replace(refused(A), message="no place this week"))
    assert asked.offers.verdict(A) == Verdict(False, Code.BUSY, 90.0, "no place this week")


def test_a_no_without_a_reason_is_a_no() -> None:
    asked = served()
    asked.expect(A)
    asked.due()
    asked.hear(refused(A, None))
    assert asked.offers.verdict(A) == Verdict(False, None, 90.0)


def test_what_was_refused_is_not_asked_for_again_but_the_next_one_is() -> None:
    asked = served()
    asked.expect(A)
    asked.due()
    asked.hear(refused(A))
    again = [asked.due(), asked.due()]
    asked.expect(A)
    assert (again, asked.due()) == ([[Serve(A, visitors=True, challenge=False)], []], [both(A)])


def test_where_visitors_are_refused_with_it_they_are_offered_alone_at_once() -> None:
    asked = Asked()
    asked.expect(A)
    asked.offers.open()
    reason = asked.hear(refused(A, visitors=False))
    assert (reason, asked.offers.takes_part(A)) == (None, True)
    assert asked.due() == [Serve(A, visitors=True, challenge=False)]


def test_visitors_who_are_refused_alone_too_wait_as_always() -> None:
    asked = Asked()
    asked.expect(A)
    asked.offers.open()
    asked.hear(refused(A, visitors=False))
    asked.due()
    reason = asked.hear(refused(A, visitors=False))
    assert (reason, asked.due(90.0), asked.due(100.0)) == (
        Reason(Code.BUSY),
        [],
        [Serve(A, visitors=True, challenge=False)],
    )


def test_a_takeover_that_is_put_off_is_asked_for_again_and_is_no_refusal() -> None:
    asked = Asked()
    asked.expect(A)
    asked.offers.open()
    put_off = no(A, Code.BUSY, 5.0)
    assert asked.hear(put_off) is None
    now = 0.0
    for _ in range(PUT_OFF_UNTOLD):
        assert asked.due(now) == [Serve(A, visitors=True, challenge=False)]
        assert asked.offers.answered(put_off, now) is None
        assert asked.due(now + 4.9) == []
        now += 5.5
    asked.due(now)
    assert asked.offers.answered(put_off, now) == Reason(Code.BUSY)


def test_a_takeover_that_was_put_off_asks_for_the_next_validation_too() -> None:
    asked = Asked()
    asked.expect(A)
    asked.offers.open()
    asked.hear(no(A, Code.BUSY, 5.0))
    asked.due()
    asked.hear(no(A, Code.BUSY, 5.0))
    asked.due(5.5)
    asked.hear(yes(A))
    asked.expect(A)
    assert asked.due() == [both(A)]


def test_a_name_that_is_refused_takes_no_part_until_it_is_offered_again() -> None:
    asked = Asked()
    asked.expect(A)
    asked.offers.open()
    asked.hear(no(A, Code.NAME_TAKEN))
    before = asked.offers.takes_part(A)
    assert (before, asked.due(100.0), asked.offers.takes_part(A)) == (False, [both(A)], True)


def test_a_validation_that_the_relay_takes_away_is_a_no() -> None:
    asked = served()
    asked.expect(A)
    asked.due()
    asked.hear(confirmed(A))
    asked.hear(refused(A))
    assert asked.offers.verdict(A) == Verdict(False, Code.BUSY, 90.0)


ANSWERS = st.builds(
    Serving,
    name=st.sampled_from((A, B)),
    visitors=st.booleans(),
    challenge=st.booleans(),
    reason=st.none() | st.builds(Reason, st.sampled_from((Code.BUSY, Code.NAME_TAKEN, Code.OK))),
    retry_after=st.none() | st.floats(0, 604_800),
)


@given(st.lists(ANSWERS | st.sampled_from((A, B))))
def test_whatever_a_relay_says_the_last_offer_asks_for_nothing_that_is_over(
    course: list[Serving | str],
) -> None:
    asked = Asked()
    sent = asked.offers.open()
    for step in course:
        if isinstance(step, Serving):
            asked.hear(step)
        elif step in asked.expected:
            del asked.expected[step]
        else:
            asked.expect(step)
        sent += asked.due()
    asked.expected.clear()
    sent += asked.due()
    last = {offer.name: offer for offer in sent}
    assert not any(last[name].challenge for name in asked.offers.serving)
    assert len(sent) <= 4 + 2 * len(course)
