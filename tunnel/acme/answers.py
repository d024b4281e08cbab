"""What an authority answers: JSON read field by field, problems in one line, waits in seconds.

Pure; anything that an answer lacks or says wrongly is an IssueFailed that names it.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

from tunnel.errors import IssueFailed

LINE_LIMIT = 500  # characters of any text that an authority chose
SUBPROBLEMS_MAX = 5  # shown of them
RETRY_AFTER_MAX = 7 * 86400.0  # seconds
ERROR_PREFIX = "urn:ietf:params:acme:error:"  # RFC 8555 §6.7


class Problem(IssueFailed):
    """The authority refused a request: `code` is the word of RFC 8555 §6.7, "" if it gave none."""

    def __init__(
        self, message: str, *, status: int, code: str = "", retry_after: float | None = None
    ) -> None:
        self.status = status  # of HTTP
        self.code = code
        super().__init__(message, retry_after)


@dataclass(frozen=True, slots=True)
class Document:
    """A JSON object from an authority; `source` says whose it is, in faults."""

    source: str
    fields: Mapping[str, Any]

    @classmethod
    def parsed(cls, source: str, content: bytes) -> "Document":
        """Raise IssueFailed for what is no JSON object."""
        try:
            fields = json.loads(content)
        except (ValueError, RecursionError):
            fields = None
        if not isinstance(fields, dict):
            raise IssueFailed(f"{source} answered what is no JSON object")
        return cls(source, fields)

    def text(self, name: str) -> str:
        """Return a field that must be a string."""
        value = self.fields.get(name)
        if not isinstance(value, str):
            raise self._fault(name, "a string")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a field that must be a list of strings; absent is empty."""
        return tuple(self._items(name, str, "a list of strings"))

    def document(self, name: str) -> "Document":
        """Return a field that must be an object; absent is empty."""
        value = self.fields.get(name) or {}
        if not isinstance(value, dict):
            raise self._fault(name, "an object")
        return Document(self.source, value)

    def documents(self, name: str) -> "tuple[Document, ...]":
        """Return a field that must be a list of objects; absent is empty."""
        items = self._items(name, dict, "a list of objects")
        return tuple(Document(self.source, item) for item in items)

    def _items(self, name: str, kind: type, expected: str) -> list[Any]:
        value = self.fields.get(name) or []
        if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
            raise self._fault(name, expected)
        return value

    def _fault(self, name: str, expected: str) -> IssueFailed:
        return IssueFailed(f"{self.source} answered without {expected} as {name!r}")


@dataclass(frozen=True, slots=True)
class Answer:
    """A response with a body that was read whole."""

    source: str  # the host that answered
    status: int
    content: bytes
    location: str | None = None
    retry_after: float | None = None  # seconds

    def document(self) -> Document:
        """Return the body as a JSON object; raises IssueFailed."""
        return Document.parsed(self.source, self.content)


def problem_of(answer: Answer) -> Problem:
    """Return what a response says that is no success, with a problem document (RFC 7807) or not."""
    try:
        document = answer.document()
    except IssueFailed:
        document = Document(answer.source, {})
    code, why = _code(document), said(document)
    verdict = f"refused: {why}" if why else f"answered {_phrase(answer.status)}"
    message = f"{answer.source} {verdict}"[:LINE_LIMIT]
    return Problem(message, status=answer.status, code=code, retry_after=answer.retry_after)


def said(problem: Document) -> str:
    """Return a problem document in one line of bounded length; "" if it says nothing."""
    kind, detail = _code(problem), problem.fields.get("detail")
    line = ": ".join(filter(None, (kind, one_line(detail) if isinstance(detail, str) else "")))
    return "; ".join([line, *_subproblems(problem)])[:LINE_LIMIT] if line else ""


def one_line(text: str) -> str:
    """Return at most `LINE_LIMIT` characters of a text, without what could break a line."""
    shown = (c if c.isprintable() else " " for c in text[: 2 * LINE_LIMIT])
    return " ".join("".join(shown).split())[:LINE_LIMIT]


def _subproblems(problem: Document) -> Iterator[str]:
    """Yield what is wrong with each name (RFC 8555 §6.7.1)."""
    listed = problem.fields.get("subproblems")
    entries = listed if isinstance(listed, list) else []
    for entry in entries[:SUBPROBLEMS_MAX]:
        if isinstance(entry, dict):
            each = Document(problem.source, entry)
            identifier = entry.get("identifier")
            name = identifier.get("value") if isinstance(identifier, dict) else None
            detail = entry.get("detail")
            parts = (name, _code(each), detail)
            yield ": ".join(one_line(part) for part in parts if isinstance(part, str) and part)
    if len(entries) > SUBPROBLEMS_MAX:
        yield f"and {len(entries) - SUBPROBLEMS_MAX} more"


def _code(problem: Document) -> str:
    kind = problem.fields.get("type")
    if not isinstance(kind, str) or kind == "about:blank":
        return ""
    return one_line(kind.removeprefix(ERROR_PREFIX))


def _phrase(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def seconds_of(retry_after: str | None, now: datetime) -> float | None:
    """Return how long a Retry-After header (RFC 9110 §10.2.3) asks to wait, 0 to 7 days.

    None if there is none, or none that can be understood.
    """
    if retry_after is None:
        return None
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        seconds = float(text[:12])  # more digits would only be cut below
    else:
        try:
            moment = parsedate_to_datetime(text)
        except (ValueError, OverflowError):
            return None
        if moment.tzinfo is None:  # "-0000": the zone is not known, and HTTP has only one
            moment = moment.replace(tzinfo=UTC)
        seconds = (moment - now).total_seconds()
    return min(max(seconds, 0.0), RETRY_AFTER_MAX)
