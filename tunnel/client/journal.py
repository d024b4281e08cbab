"""What happens between one keypair and one relay, told to the log and to the program around us.

A refusal is told once until the relay has accepted us again; a failure the first and every Nth
time.
"""

from tunnel.client import events
from tunnel.client.ending import Ending
from tunnel.client.refusals import advice
from tunnel.errors import Code
from tunnel.log import clipped, get_log

EVERY = 10  # failures in a row, from one line in the log to the next

log = get_log(__name__)


class Journal:
    """Counts and compares, so that nothing is told twice."""

    def __init__(self, server: str, keypair: str, stanza: str, emit: events.Sink) -> None:
        self._server = server
        self._keypair = keypair
        self._stanza = stanza  # what the relay's operator would have to add
        self._emit = emit
        self._log = log.bind(server=server, keypair=keypair)
        self._told: set[tuple[str | None, Code]] = set()
        self._failures = 0
        self._transport: str | None = None
        self.last_error: str | None = None

    def connected(self, transport: str, observed: str, relay: str) -> None:
        """A relay has welcomed a connection."""
        self._failures = 0
        self.last_error = None
        self._told = {(name, code) for name, code in self._told if name is not None}
        shown = clipped(relay)
        self._log.info("connected", relay=shown, transport=transport, observed=observed)
        self._emit(events.Connected(self._server, self._keypair, transport, observed, relay))

    def disconnected(self, transport: str, ending: Ending) -> None:
        """A connection that was welcomed is gone."""
        self._log.info("disconnected", transport=transport, cause=clipped(str(ending)))
        event = events.Disconnected(self._server, self._keypair, transport, str(ending))
        self._emit(event)

    def carried_by(self, transport: str | None, reason: str) -> None:
        """Tell which transport carries the session, if that has changed."""
        if transport == self._transport:
            return
        self._transport = transport
        self._log.info("transport changed", transport=transport, reason=reason)
        event = events.TransportChanged(self._server, self._keypair, transport, reason)
        self._emit(event)

    def ended(self, transport: str, ending: Ending, retry_in: float | None) -> None:
        """An attempt or a connection has ended against our will."""
        self.last_error = str(ending)
        if ending.is_policy and ending.code not in (None, Code.DRAINING):
            self.refused(ending.code, ending.message, None)
            return
        self._failures += 1
        if self._failures % EVERY == 1:
            tell = self._log.warning if ending.code is Code.PROTOCOL else self._log.info
            fields = {"transport": transport, "failures": self._failures, "retry_in": retry_in}
            tell("not connected", cause=clipped(str(ending)), **fields)
        self._emit(events.Failed(self._server, self._keypair, str(ending), retry_in))

    def refused(self, code: Code, message: str, name: str | None) -> None:
        """The relay has refused the key, or one name of it."""
        if (name, code) in self._told:
            return
        self._told.add((name, code))
        todo = advice(code, self._stanza)
        subject = {} if name is None else {"name": name}
        shown = clipped(message)
        self._log.warning(
            "refused by the relay", code=code.word, cause=shown, advice=todo, **subject
        )
        event = events.Refused(self._server, self._keypair, code, message, todo, name)
        self._emit(event)

    def serving(self, event: events.Serving) -> None:
        """The relay has begun to send visitors of a name."""
        self._told = {(name, code) for name, code in self._told if name != event.name}
        self._log.info("serving", name=event.name, url=event.url)
        self._emit(event)

    def not_serving(self, name: str) -> None:
        """No connection to this relay gets visitors of the name any more."""
        self._log.info("not serving", name=name)
