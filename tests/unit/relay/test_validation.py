"""Validations of the relay's own names."""

import asyncio
from datetime import UTC, datetime

import pytest

from tests.unit.relay.scenes import in_loop
from tunnel.acme.challenge import PendingAnswer, challenge_context
from tunnel.errors import OrderPostponed
from tunnel.relay.validation import OwnValidations

NAME = "relay.test"
ANSWER = PendingAnswer(challenge_context(NAME, bytes(32), datetime.now(UTC)))


@in_loop
async def test_a_way_is_there_at_once() -> None:
    async with asyncio.timeout(0):
        await OwnValidations().ready(NAME)


@in_loop
async def test_a_name_is_answered_for_while_it_is_opened() -> None:
    own = OwnValidations()
    assert NAME not in own
    async with own.opened(NAME, ANSWER, renewal=False):
        assert NAME in own
        assert "b.test" not in own
    assert NAME not in own


@in_loop
async def test_it_is_taken_back_whatever_happens() -> None:
    own = OwnValidations()

    async def fail() -> None:
        async with own.opened(NAME, ANSWER, renewal=True):
            raise LookupError

    with pytest.raises(LookupError):
        await fail()
    assert NAME not in own


@in_loop
async def test_a_second_order_for_a_name_has_to_wait() -> None:
    own = OwnValidations()
    async with own.opened(NAME, ANSWER, renewal=False):
        with pytest.raises(OrderPostponed, match="another order for relay"):
            await own.opened(NAME, ANSWER, renewal=False).__aenter__()
        assert NAME in own
