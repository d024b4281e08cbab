"""JSON objects as the protocol reads them: stricter than the json module (RFC 8259, RFC 7493).

Nothing here knows any message.
"""

import json
import math
import re
from collections.abc import Mapping

from tunnel.errors import RemoteProtocolError

NESTING_LIMIT = 8  # objects and arrays, the outermost included

# Possessive, and content with an unterminated string: linear in time whatever is sent.
_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[{\]}]', re.DOTALL)


def parse_object(payload: bytes) -> dict[str, object]:
    """Return the JSON object that `payload` is, in UTF-8.

    Raises RemoteProtocolError for anything else, and for duplicate keys, NaN, infinities (also as
    overflowing numbers), lone surrogates and nesting over NESTING_LIMIT.
    """
    try:
        text = payload.decode("utf-8")
        _check_nesting(text)  # before parsing: the json module recurses
        value = _DECODER.decode(text)
        if "\\u" in text:  # only an escape can smuggle in a lone surrogate
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except ValueError as error:  # UnicodeError and JSONDecodeError among them
        raise RemoteProtocolError(f"not an acceptable JSON text: {_brief(error)}") from error
    if not isinstance(value, dict):
        raise RemoteProtocolError("not a JSON object")
    return value


def render_object(value: Mapping[str, object]) -> bytes:
    """Return the object as UTF-8, without white space."""
    return _ENCODER.encode(value).encode("utf-8")


def _check_nesting(text: str) -> None:
    if text.count("{") + text.count("[") <= NESTING_LIMIT:
        return
    depth = 0
    for token in _TOKEN.finditer(text):
        match text[token.start()]:
            case "[" | "{":
                depth += 1
                if depth > NESTING_LIMIT:
                    raise ValueError(f"nested deeper than {NESTING_LIMIT}")
            case "]" | "}":
                depth -= 1


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("duplicate key")
    return members


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("number out of range")
    return number


# Made once: `json.dumps` and `json.loads` make one for each call with arguments like these.
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite
)


def _brief(error: ValueError) -> str:
    """Return why, without the peer's text: a UnicodeError's own words quote it."""
    return (
        error.reason if isinstance(error, UnicodeError) and hasattr(error, "reason") else str(error)
    )
