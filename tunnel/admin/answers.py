"""What a page is asked and what it answers: values, without HTTP's framing."""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"

Members = Mapping[str, object]  # of a JSON object


@dataclass(frozen=True, slots=True)
class Request:
    """One request whose body is whole."""

    method: str
    path: str
    query: Mapping[str, str]
    body: bytes

    def members(self) -> Members:
        """Return the JSON object in the body; raises Problem for anything else."""
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise Problem(HTTPStatus.BAD_REQUEST, "the body is not a JSON object")
        return value


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent back; `allow` are the methods that would have done."""

    content: bytes
    status: HTTPStatus = HTTPStatus.OK
    media_type: str = JSON
    allow: tuple[str, ...] = ()


class Problem(Exception):  # noqa: N818 - an answer, not a fault of ours
    """A page cannot do what it was asked to; the message is for the one who asked."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        self.status = status
        super().__init__(message)


Handler = Callable[[Request], Awaitable[Answer]]
Pages = Mapping[str, Mapping[str, Handler]]
"""path → method → what answers it; a handler may raise Problem."""


def json_answer(value: object, status: HTTPStatus = HTTPStatus.OK) -> Answer:
    """Return a value as JSON; a datetime becomes ISO 8601 in UTC."""
    return Answer(f"{json.dumps(value, default=_plain)}\n".encode(), status)


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%dT%H:%M:%SZ}"
    raise TypeError(f"{type(value).__name__} is not for JSON")


def problem(status: HTTPStatus, message: str, allow: tuple[str, ...] = ()) -> Answer:
    """Return what is answered where there is nothing to show: a JSON object with `error`."""
    content = f"{json.dumps({'error': message})}\n".encode()
    return Answer(content, status, allow=allow)
