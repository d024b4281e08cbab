"""Judging who answers as the relay: certificate, pin and clock. No I/O.

A certificate that is not accepted and a clock that is wrong look alike to TLS. What tells them
apart is the relay's own clock.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta

from tunnel.client.doctor.sights import Knock, Meeting, Sight
from tunnel.runtime.findings import Check, Finding
from tunnel.settings.tree import header
from tunnel.settings.values import ServerSettings

CLOSE = timedelta(minutes=1)  # as near as clocks need to be
APART = timedelta(hours=1)  # beyond it, fresh certificates seem not to be valid yet

_UNMET = "no relay has answered"


def is_trusted(server: ServerSettings, meeting: Meeting) -> bool:
    """Say whether the client would accept this relay."""
    if server.pin is not None:
        return meeting.leaf.pin == server.pin
    return server.insecure or not meeting.distrust


def trusted_knock(server: ServerSettings, sight: Sight) -> Knock | None:
    """Return an attempt that the client would have gone on with, by the preferred transport."""
    trusted = [knock for knock, met in sight.meetings if is_trusted(server, met)]
    return min(trusted, key=lambda knock: sight.lanes.index(knock.lane), default=None)


def judge_trust(server: ServerSettings, sight: Sight) -> Iterator[Finding]:
    """Yield what is to be said of the relay's certificate and of the clocks."""
    meetings = [met for _, met in sight.meetings]
    # If one address differs from the others, it is the one to be told of.
    meetings.sort(key=lambda met: is_trusted(server, met))
    met = meetings[0] if meetings else None
    yield judge_certificate(server, met)
    yield judge_pin(server, met)
    yield judge_clock(server, met)


def judge_certificate(server: ServerSettings, met: Meeting | None) -> Finding:
    """Judge chain and name, where they are what the relay is known by."""
    check = Check("certificate", server.name)
    if met is None:
        return check.skipped(_UNMET)
    if server.pin is not None:
        return check.ok(f"{met.leaf}; the pin is what counts")
    if server.insecure:
        return check.warning(f"{met.leaf}; nobody verifies it", "set pin or ca, not insecure")
    if not met.distrust:
        return check.ok(str(met.leaf))
    if _is_for_the_clock(met):
        return check.skipped(f"{met.leaf}; valid by the relay's clock, but not by this one")
    return check.failed(met.distrust, _mend(server, met))


def _mend(server: ServerSettings, met: Meeting) -> str:
    """Return what to do about a certificate that is not accepted."""
    if met.ours > met.leaf.not_after:
        return "have the relay's certificate renewed: it has expired"
    if met.ours < met.leaf.not_before:
        return "have the relay's certificate replaced, or wait: it is not valid yet"
    table = header(("servers", server.name))
    return f"set server_name, ca or pin in {table}; the relay prints its pin at each start"


def judge_pin(server: ServerSettings, met: Meeting | None) -> Finding:
    """Judge the relay's key, where that is what it is known by."""
    check = Check("pin", server.name)
    if server.pin is None:
        return check.skipped("none is set: the certificate is what counts")
    if met is None:
        return check.skipped(_UNMET)
    seen = f"the relay has sha256:{met.leaf.pin.hex()}"
    if met.leaf.pin == server.pin:
        return check.ok(seen)
    return check.failed(
        f"{seen}, not sha256:{server.pin.hex()}",
        "if its operator confirms that key (it prints it at each start), "
        f"set it as pin in {header(('servers', server.name))}; else somebody stands in between",
    )


def judge_clock(server: ServerSettings, met: Meeting | None) -> Finding:
    """Judge this machine's clock by the relay's."""
    check = Check("clock", server.name)
    if met is None:
        return check.skipped(f"{_UNMET}, to compare with")
    if met.theirs is None:
        return check.skipped("this relay is of a version that does not tell the time")
    apart = abs(met.ours - met.theirs)
    here, there = _shown(met.ours), _shown(met.theirs)
    if apart <= CLOSE:
        return check.ok(f"{here}, as at the relay")
    seen = f"it is {here} here and {there} at the relay"
    if apart <= APART:
        return check.warning(seen, "have both clocks set by NTP: see `timedatectl`")
    if not is_trusted(server, met) and not _is_for_the_clock(met):
        return check.warning(seen, "which is right cannot be told before the relay is trusted")
    return check.failed(seen, "set the one that is wrong, by NTP: see `timedatectl`")


def _is_for_the_clock(met: Meeting) -> bool:
    """Say whether a certificate is out of date by this clock only, and so may be accepted yet."""
    if met.theirs is None or met.leaf.is_valid_at(met.ours):
        return False
    return abs(met.ours - met.theirs) > APART and met.leaf.is_valid_at(met.theirs)


def _shown(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S} UTC"
