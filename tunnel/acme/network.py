"""Requests to an ACME server: signed, bounded in time and size, their faults in one clear line.

No exception of a library leaves this module, and nothing that is sent or received is logged.
"""

import logging
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from acme import errors
from acme.client import ClientNetwork
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from josepy.errors import Error as JoseError
from josepy.interfaces import JSONDeSerializable
from josepy.jwa import ES256
from josepy.jwk import JWKEC
from urllib3.exceptions import HTTPError
from urllib3.util.ssl_ import create_urllib3_context

from tunnel import __version__
from tunnel.acme.answers import Answer, Problem, one_line, problem_of, seconds_of
from tunnel.errors import IssueFailed, SettingsError, TunnelError
from tunnel.tls.contexts import Trust, root_file
from tunnel.tls.files import read_public

TIMEOUT = 30  # seconds, for the connection and for each silence
TIMEOUTS = 2  # of them in all, after which nothing more is read, however steadily it drips
SIZE_LIMIT = 1 << 20  # bytes of an answer's body
PART_BYTES = 1 << 16
REDIRECTS_MAX = 5
NONCE_ATTEMPTS = 32  # of one request: even a server that refuses half of all nonces is got past
USER_AGENT = f"tunnel/{__version__} acme"

# What they have to say is said once more, and better, by the errors raised here; and they would
# show at DEBUG what is sent.
for _library in ("acme", "josepy", "urllib3", "requests", "charset_normalizer"):
    logging.getLogger(_library).setLevel(logging.CRITICAL)


class _LateError(TimeoutError):
    """A request has taken too long in all."""


class _Session(requests.Session):
    """Follows no redirection, since it would read all of its body first."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:  # noqa: ARG002 - of the interface
        return None


class _Adapter(requests.adapters.HTTPAdapter):
    """Reads nothing more of any connection as soon as `is_late` says so.

    That goes for all which is read: a library waits for ever for a header that never ends.
    """

    def __init__(self, is_late: Callable[[], bool]) -> None:
        self._context = create_urllib3_context()
        self._context.sslsocket_class = _socket_class(is_late)
        super().__init__()

    def build_connection_pool_key_attributes(self, *args: Any, **kwargs: Any) -> Any:
        host, pool = super().build_connection_pool_key_attributes(*args, **kwargs)
        return host, {**pool, "ssl_context": self._context}


def _socket_class(is_late: Callable[[], bool]) -> type[ssl.SSLSocket]:
    class TimedSocket(ssl.SSLSocket):
        def recv_into(self, *args: Any, **kwargs: Any) -> int:
            if is_late():
                raise _LateError
            return super().recv_into(*args, **kwargs)

    return TimedSocket


class Body(JSONDeSerializable):
    """What a request says: a JSON object, as it is."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = fields

    def to_partial_json(self) -> Any:
        return dict(self._fields)

    @classmethod
    def from_json(cls, jobj: Any) -> "Body":
        return cls(jobj)


class Network(ClientNetwork):
    """Talks to one server, in the name of one account key; used by one thread at a time.

    `roots` is a PEM file of what is trusted; None: what the library brings.
    """

    def __init__(self, roots: str | None) -> None:
        super().__init__(alg=ES256, user_agent=USER_AGENT, timeout=TIMEOUT)
        self.nonce_url: str | None = None  # known once the directory is
        self._roots = roots
        self._deadline = 0.0  # of what is asked now, on the monotonic clock
        self.session.close()
        self.session = _Session()
        del self.session.adapters["http://"]  # not even where a redirection leads there
        self.session.mount("https://", _Adapter(lambda: time.monotonic() > self._deadline))

    def identify(self, key: ec.EllipticCurvePrivateKey, account_url: str | None) -> None:
        """Sign with a P-256 key from now on, in the name of its account if that is known."""
        self.key = self.jwk = JWKEC(key=key)
        self.account = None if account_url is None else {"uri": account_url}  # type: ignore[assignment] # the one field that is read

    def fetch(self, url: str) -> Answer:
        """Return what an unsigned GET brings; raises Problem, IssueFailed."""
        with self._asking(url):
            return _answer(url, self.get(url, content_type=""))

    def send(self, url: str, body: Mapping[str, Any] | None = None) -> Answer:
        """Return what a signed POST brings; without a body it is a POST-as-GET (RFC 8555 §6.3).

        Raises Problem, IssueFailed.
        """
        message = None if body is None else Body(body)
        with self._asking(url):
            return _answer(url, self.post(url, message, new_nonce_url=self.nonce_url))

    @contextmanager
    def _asking(self, url: str) -> Iterator[None]:
        """Bound all that is asked inside in time, and raise what goes wrong as IssueFailed."""
        self._deadline = time.monotonic() + TIMEOUTS * TIMEOUT
        with _translated(url):
            yield

    # -- what the library asks of itself

    def post(self, *args: Any, **kwargs: Any) -> requests.Response:
        """Try again with another nonce as long as that is what is wrong (RFC 8555 §6.5)."""
        for _ in range(NONCE_ATTEMPTS - 1):
            try:
                return self._post_once(*args, **kwargs)
            except Problem as problem:
                if problem.code != "badNonce":
                    raise
        return self._post_once(*args, **kwargs)

    def _send_request(
        self,
        method: str,
        url: str,
        *_args: object,
        **kwargs: Any,
    ) -> requests.Response:
        response = self._answered(method, url, **kwargs)
        if method == "GET":  # a signature is for one URL only
            return self._followed(response, **kwargs)
        if method == "POST":
            self._add_nonce(response)
        return response

    def _followed(self, response: requests.Response, **kwargs: Any) -> requests.Response:
        """Return what redirections lead to; raises IssueFailed if they do not end."""
        for _ in range(REDIRECTS_MAX):
            if not response.is_redirect:
                return response
            url = urljoin(str(response.url), response.headers["Location"])
            response = self._answered("GET", url, **kwargs)
        if response.is_redirect:
            host = host_of(str(response.url))
            raise IssueFailed(f"{host} redirected more than {REDIRECTS_MAX} times")
        return response

    def _answered(self, method: str, url: str, **kwargs: Any) -> requests.Response:
        """Return one answer, its body read."""
        headers = {"User-Agent": self.user_agent, "Accept-Encoding": "identity"}
        response = self.session.request(
            method,
            url,
            data=kwargs.get("data"),
            headers=headers | kwargs.get("headers", {}),
            verify=self._roots or True,
            timeout=TIMEOUT,
            stream=True,
        )
        response.raw = BytesIO(_bounded_body(response))
        return response

    def _add_nonce(self, response: requests.Response) -> None:
        """Take a nonce from refusals, too; only a request for one fails if it brings none."""
        if self.REPLAY_NONCE_HEADER in response.headers or response.request.method == "HEAD":
            super()._add_nonce(response)

    @classmethod
    def _check_response(
        cls,
        response: requests.Response,
        content_type: str | None = None,  # noqa: ARG003 - a body is judged by what it holds
    ) -> requests.Response:
        if not 200 <= response.status_code < 300:
            raise problem_of(_answer(str(response.url), response))
        return response


def roots_for(url: str, ca: Path | None) -> str | None:
    """Return the PEM file of roots to trust; None if this system has none where they usually are.

    Raises SettingsError if `ca` cannot be used.
    """
    if ca is not None:
        try:
            x509.load_pem_x509_certificates(read_public(ca))
        except FileNotFoundError as error:
            raise SettingsError([f"{ca}: cannot be read: {error.strerror}"]) from error
        except ValueError as error:
            raise SettingsError([f"{ca}: holds no usable PEM certificate"]) from error
    try:
        found = root_file(Trust(host_of(url), ca))
    except SettingsError:
        return None
    return found.path if found else None


def host_of(url: str) -> str:
    """Return how a server is called in messages: its host, and its port if it is a special one."""
    try:
        return one_line(urlsplit(url).netloc.rpartition("@")[2]) or one_line(repr(url))
    except ValueError:
        return one_line(repr(url))


def _answer(url: str, response: requests.Response) -> Answer:
    return Answer(
        host_of(url),
        response.status_code,
        response.content,
        response.headers.get("Location"),
        seconds_of(response.headers.get("Retry-After"), datetime.now(UTC)),
    )


def _bounded_body(response: requests.Response) -> bytes:
    """Read a body that may be endless; raises IssueFailed."""
    with ExitStack() as stack:
        stack.callback(response.close)
        body = b"".join(_parts(response))
        stack.pop_all()  # a connection that was read to the end is used again
    return body


def _parts(response: requests.Response) -> Iterator[bytes]:
    size = 0
    while part := response.raw.read1(PART_BYTES):
        size += len(part)
        if size > SIZE_LIMIT:
            raise IssueFailed(f"{host_of(response.url)} answered more than {SIZE_LIMIT} bytes")
        yield part


@contextmanager
def _translated(url: str) -> Iterator[None]:
    """Raise what goes wrong in the libraries as IssueFailed."""
    host = host_of(url)
    try:
        yield
    except TunnelError:
        raise
    except errors.Error as error:
        raise IssueFailed(f"{host} answered without a usable nonce") from error
    except (HTTPError, JoseError, OSError, ValueError) as error:  # requests' own are OSErrors
        raise IssueFailed(_fault(host, error)) from error


def _fault(host: str, error: BaseException) -> str:
    """Return in one line why no answer came from `host`."""
    causes = tuple(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            why = one_line(cause.verify_message)
            return f"certificate of {host} is not trusted: {why}: set acme.ca"
    if any(isinstance(cause, _LateError) for cause in causes):
        return f"{host} took more than {TIMEOUTS * TIMEOUT} s to answer"
    if any(isinstance(cause, requests.Timeout | TimeoutError) for cause in causes):
        return f"cannot reach {host}: no answer within {TIMEOUT} s"
    for cause in reversed(causes):
        if isinstance(cause, OSError) and cause.strerror:
            return f"cannot reach {host}: {one_line(cause.strerror)}"
    return f"cannot reach {host}: {one_line(str(causes[-1]) or type(causes[-1]).__name__)}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what is wrapped in it, the innermost last; libraries hide it variously."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        inner = (getattr(current, "reason", None), *reversed(current.args), current.__cause__)
        current = next((each for each in inner if isinstance(each, BaseException)), None)
