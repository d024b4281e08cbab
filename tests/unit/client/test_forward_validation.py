"""Streams that are not a visitor's: an authority validates a name."""

import logging
import ssl
from dataclasses import replace
from ipaddress import ip_network
from typing import cast

import pytest
from cryptography import x509

from tests.unit.client.test_forward import HEADER, REQUEST, Journey, cut_of, read_all, travel
from tests.unit.tls.wire import NAME, NOW, Visitor, Wire, visitor_context
from tunnel.acme.challenge import (
    ACME_IDENTIFIER_OID,
    ALPN,
    ANSWERS_TOLD,
    PendingAnswer,
    challenge_context,
)
from tunnel.client.challenges import Challenge, Challenges
from tunnel.client.forward import INTERNAL_ERROR_ALERT
from tunnel.errors import Code
from tunnel.protocol.messages import StreamKind
from tunnel.protocol.names import client_id

VALIDATION = replace(HEADER, kind=StreamKind.CHALLENGE, alpn=(ALPN.encode(),))
DIGEST = bytes(range(32))


def expecting(name: str = NAME) -> Challenges:
    challenges = Challenges()
    challenges.add(
        name, Challenge(PendingAnswer(challenge_context(name, DIGEST, NOW)), renewal=False)
    )
    return challenges


def authority(journey: Journey) -> Visitor:
    """Return an authority's TLS: it takes any certificate, and looks at it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols([ALPN])
    return Visitor(cast(Wire, journey.far), context)


async def validate(journey: Journey) -> tuple[str | None, bytes]:
    """Return the protocol agreed on, and what the certificate says of the key authorization."""
    visitor = authority(journey)
    await visitor.handshake()
    leaf = x509.load_der_x509_certificate(visitor.tls.getpeercert(binary_form=True) or b"")
    await visitor.close_notify()
    await journey.far.finish()
    await read_all(journey.far)
    found = leaf.extensions.get_extension_for_oid(ACME_IDENTIFIER_OID)
    return visitor.tls.selected_alpn_protocol(), found.value.public_bytes()


def test_an_expected_validation_is_answered() -> None:
    seen, service = travel(validate, with_tls=True, header=VALIDATION, challenges=expecting())
    assert seen == (ALPN, b"\x04\x20" + DIGEST)
    assert not service.was_called


def test_who_may_visit_and_what_a_service_is_told_are_no_matter_of_a_validation() -> None:
    seen, service = travel(
        validate,
        with_tls=True,
        header=VALIDATION,
        challenges=expecting(),
        deny=(ip_network("0.0.0.0/0"),),
        proxy_protocol="v2",
    )
    assert (seen[0], service.was_called) == (ALPN, False)


@pytest.mark.parametrize("challenges", [Challenges(), expecting("other.t.test")])
def test_one_that_nobody_expects_is_not_served(challenges: Challenges) -> None:
    async def script(journey: Journey) -> Code:
        return await cut_of(journey.far)

    code, _ = travel(script, with_tls=True, header=VALIDATION, challenges=challenges)
    assert code is Code.NOT_SERVING


def test_a_relay_gets_none_for_a_name_that_it_does_not_carry() -> None:
    async def script(journey: Journey) -> Code:
        return await cut_of(journey.far)

    elsewhere = f"{client_id(bytes(32), 128)}.elsewhere.test"
    header = replace(VALIDATION, name=elsewhere)
    code, _ = travel(script, with_tls=True, header=header, challenges=expecting(elsewhere))
    assert code is Code.NOT_SERVING


def test_visitors_are_served_as_ever_while_one_is_expected() -> None:
    async def script(journey: Journey) -> bytes:
        visitor = Visitor(cast(Wire, journey.far), visitor_context())
        await visitor.handshake()
        await visitor.write(REQUEST)
        await visitor.close_notify()
        await journey.far.finish()
        return await visitor.read_all()

    assert travel(script, with_tls=True, challenges=expecting())[0] == REQUEST


def test_a_visitor_who_is_refused_for_lack_of_a_certificate_gets_an_alert() -> None:
    async def script(journey: Journey) -> bytes:
        visitor = Visitor(cast(Wire, journey.far), visitor_context())
        with pytest.raises(ssl.SSLWantReadError):
            visitor.tls.do_handshake()
        await visitor.flush()
        await journey.far.finish()
        return await read_all(journey.far)

    answer, service = travel(script, with_tls=True, certificate="acme", before_certificate="refuse")
    assert (answer, service.was_called) == (INTERNAL_ERROR_ALERT, False)


def told(caplog: pytest.LogCaptureFixture, challenges: Challenges) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.INFO, "tunnel.client.forward"):
        travel(validate, with_tls=True, header=VALIDATION, challenges=challenges)
    return [record.message for record in caplog.records]


def test_answers_are_told_as_long_as_they_may_be_an_authoritys(
    caplog: pytest.LogCaptureFixture,
) -> None:
    challenges = expecting()
    first = told(caplog, challenges)
    challenge = challenges.get(NAME)
    assert challenge is not None
    assert challenge.answers == 1
    challenge.answers = ANSWERS_TOLD
    assert (first, told(caplog, challenges)) == (["answered a validation"], [])


def test_a_broken_one_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    async def script(journey: Journey) -> None:
        await journey.far.send(b"GET / HTTP/1.1\r\n\r\n")
        await journey.far.finish()
        await read_all(journey.far)

    with caplog.at_level(logging.INFO, "tunnel.client.forward"):
        travel(script, with_tls=True, header=VALIDATION, challenges=expecting())
    assert caplog.records == []
