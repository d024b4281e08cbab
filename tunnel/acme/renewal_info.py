"""ACME renewal information (RFC 9773): when an authority wants a certificate renewed.

Pure: what is asked and answered; who asks is `tunnel.acme.authority`.
"""

from base64 import urlsafe_b64encode
from contextlib import suppress
from datetime import UTC, datetime

from cryptography import x509

from tunnel.acme.answers import Answer
from tunnel.acme.schedule import RenewalWindow
from tunnel.errors import IssueFailed

ASK_DEFAULT = 6 * 3600.0  # seconds, RFC 9773 §4.3.3
ASK_MIN, ASK_MAX = 60.0, 86400.0  # seconds, §4.3.2


def certificate_id(leaf: x509.Certificate) -> str:
    """Return what an authority knows a certificate by (§4.1); raises ValueError if it has none."""
    try:
        found = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    except x509.ExtensionNotFound:
        raise ValueError("the certificate does not say by which key it was issued") from None
    if found.value.key_identifier is None:
        raise ValueError("the certificate does not say by which key it was issued")
    serial = leaf.serial_number
    # As in DER: two's complement, so that a first bit that is set takes a zero byte before it.
    octets = serial.to_bytes(serial.bit_length() // 8 + 1, "big", signed=True)
    return f"{_base64url(found.value.key_identifier)}.{_base64url(octets)}"


def window_of(answer: Answer) -> tuple[RenewalWindow, float]:
    """Return the suggested window and the seconds until to ask again; raises IssueFailed."""
    suggested = answer.document().document("suggestedWindow")
    start, end = (_moment(suggested.text(name), answer.source) for name in ("start", "end"))
    if not start < end:  # §4.2: such a window is to be ignored
        raise IssueFailed(f"{answer.source} suggested to renew in a window that ends at its start")
    return RenewalWindow(start, end), ask_again(answer.retry_after)


def ask_again(retry_after: float | None) -> float:
    """Return the seconds until to ask again, given those of the Retry-After header."""
    return ASK_DEFAULT if retry_after is None else min(max(retry_after, ASK_MIN), ASK_MAX)


def _moment(text: str, source: str) -> datetime:
    with suppress(ValueError, OverflowError):
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is not None:
            return moment.astimezone(UTC)
    raise IssueFailed(f"{source} suggested to renew at {text[:40]!r}, which is no moment")


def _base64url(octets: bytes) -> str:
    return urlsafe_b64encode(octets).rstrip(b"=").decode()
