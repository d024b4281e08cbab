"""What running programs say of themselves, as text for people."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from tunnel.cli.tables import format_table, printable

Members = Mapping[str, Any]
Columns = Mapping[str, Callable[[Any], object]]

NONE = "-"
KEY_DIGITS = 12  # of a fingerprint, in a table
UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_FIGURES = {  # columns of figures, as wide as these become, so that nothing jumps when they change
    "STREAMS": 7,
    "VISITORS": 8,
    "CONNECTIONS": 11,
    "TARGET FAILURES": 15,
    "RTT": 9,
    "RECEIVED": 9,
    "SENT": 9,
}


def status_report(status: Members, *, coloured: bool) -> str:
    """Return all that `status` shows."""
    parts = (
        _relay(status, coloured=coloured)
        if status["program"] == "relay"
        else _client(status, coloured=coloured)
    )
    return "\n".join([_headline(status), *parts])


def _headline(status: Members) -> str:
    named = f"{status['program']} {status['name']}" if status.get("name") else status["program"]
    age = f", up {duration(status['uptime'])}" if "uptime" in status else ""
    process = f", process {status['pid']}" if "pid" in status else ""
    why = f" ({status['why']})" if status["why"] else ""
    ready = "ready" if status["ready"] else "not ready"
    words = f"{named}, version {status['version']}{process}{age}: {status['state']}, {ready}{why}"
    return f"{printable(words)}\n"


def _relay(status: Members, *, coloured: bool) -> Iterator[str]:
    if "listeners" not in status:
        return
    yield _table(status["listeners"], _LISTENERS, coloured=coloured)
    clients = sorted(status["clients"], key=lambda each: (each["names"], each["fingerprint"]))
    yield _table(clients, _CLIENTS, coloured=coloured) if clients else "no client is registered\n"
    if status["clients_left_out"]:
        yield f"and {status['clients_left_out']} more clients\n"
    yield _visitors(status["visitors"])
    yield certificates_report({"certificates": [status["certificate"]]}, coloured=coloured)
    if status["budget"]:
        yield _table(status["budget"], _BUDGET, coloured=coloured)
    if status["budgets_left_out"]:
        yield f"and {status['budgets_left_out']} more budgets, which are no fuller\n"
    if status["refused"]:
        yield _table(status["refused"][::-1], _REFUSED, coloured=coloured)


def _visitors(visitors: Members) -> str:
    reasons = ", ".join(f"{word} {count}" for word, count in visitors["turned_away"].items())
    direct = visitors["direct"]
    return (
        f"visitors: {visitors['open']} now, {visitors['total']} in all, "
        f"{size(visitors['received'])} received, {size(visitors['sent'])} sent, "
        f"{size(visitors['parked'])} held for slow readers\n"
        f"direct connections: {direct['open']} now, {direct['total']} in all, "
        f"{direct['spares']} waiting\n"
        f"turned away: {reasons or 'nobody'}\n"
    )


def _client(status: Members, *, coloured: bool) -> Iterator[str]:
    endpoints = status["endpoints"]
    yield _table(endpoints, _ENDPOINTS, coloured=coloured)
    ways = [
        {"endpoint": each["endpoint"], "of": len(each["names"]), **way}
        for each in endpoints
        for way in each["servers"]
    ]
    yield _table(ways, _WAYS, coloured=coloured)
    certificates = [row for each in endpoints for row in each["certificates"]]
    yield certificates_report({"certificates": certificates}, coloured=coloured)


def certificates_report(answer: Members, *, coloured: bool) -> str:
    """Return the table of certificates."""
    rows = answer["certificates"]
    return _table(rows, _CERTIFICATES, coloured=coloured) if rows else "there are no certificates\n"


def explanation_report(explanation: Members, *, coloured: bool) -> str:
    """Return how a visitor would be routed, and what was looked at."""
    rows = explanation["reasons"]
    head = f"{explanation['name']}: {explanation['outcome']}: {explanation['because']}"
    return f"{printable(head)}\n\n{_table(rows, _REASONS, coloured=coloured)}"


def reload_report(outcome: Members, *, is_dry: bool) -> str:
    """Return in one line what a reload changed, or would; why not is for standard error."""
    if outcome["plan"] is None or not (outcome["applied"] or is_dry):
        return ""
    from tunnel.settings.reload import said_of  # noqa: PLC0415 - slow to import for other reports

    done = "reloaded" if outcome["applied"] else "to be changed"
    return f"{done}: {printable(said_of(outcome['plan']))}\n"


def _table(rows: Sequence[Members], columns: Columns, *, coloured: bool) -> str:
    cells = [[_cell(column(row)) for column in columns.values()] for row in rows]
    headings = [heading.upper() for heading in columns]
    return format_table(headings, cells, coloured=coloured, figures=_FIGURES)


def _shortened(texts: Sequence[str]) -> str:
    """Return the first text, and how many others there are."""
    return f"{texts[0]} +{len(texts) - 1}" if len(texts) > 1 else "".join(texts)


def _counted(words: Iterable[str]) -> str:
    """Return each word once, with how often it occurs."""
    return ", ".join(f"{word} x{n}" if n > 1 else word for word, n in Counter(words).items())


def _transports(client: Members) -> str:
    return _counted(link["transport"] for link in client["connections"])


def _states(client: Members) -> str:
    return ", ".join(dict.fromkeys(link["state"] for link in client["connections"]))


def _round_trip(client: Members) -> str | None:
    known = [link["round_trip"] for link in client["connections"]]
    return _milliseconds(min((each for each in known if each is not None), default=None))


def _next_try(way: Members) -> str | None:
    """Return when a relay is dialled again, or the preferred transport where another is used."""
    due = way["retry_in"] if way["retry_in"] is not None else way["probe_in"]
    return None if due is None else f"in {duration(due + 1)}"


def _cell(value: object) -> str:
    if value is None or value in ("", []):
        return NONE
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)


def duration(seconds: float) -> str:
    """Return a length of time in its two greatest units, such as `3d 4h`."""
    whole = int(seconds)
    parts = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "m")]
    shown = [f"{count}{unit}" for count, unit in [*parts, (whole % 60, "s")]]
    first = next((i for i, (count, _) in enumerate(parts) if count), len(parts))
    return " ".join(shown[first : first + 2])


def size(count: int) -> str:
    """Return a number of bytes with three digits or four, such as `1.46 GiB`."""
    amount, unit = float(count), UNITS[0]
    for unit in UNITS:
        if amount < 1024 or unit == UNITS[-1]:
            break
        amount /= 1024
    return f"{amount:.4g} {unit}" if unit != "B" else f"{count} B"


def _milliseconds(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds * 1000:.1f} ms"


def _key(fingerprint: str | None) -> str | None:
    return fingerprint and fingerprint.removeprefix("sha256:")[:KEY_DIGITS]


_LISTENERS: Columns = {
    "listener": lambda row: row["name"],
    "kind": lambda row: row["kind"],
    "address": lambda row: row["address"],
    "protocol": lambda row: row["protocol"],
}
_CLIENTS: Columns = {
    "client": lambda row: _key(row["fingerprint"]),
    "names": lambda row: _shortened(row["names"]),
    "transport": _transports,
    "observed": lambda row: _shortened([link["observed"] for link in row["connections"]]),
    "state": _states,
    "since": lambda row: min(link["since"] for link in row["connections"]),
    "streams": lambda row: row["streams"],
    "rtt": _round_trip,
    "received": lambda row: size(row["received"]),
    "sent": lambda row: size(row["sent"]),
}
_BUDGET: Columns = {
    "domain": lambda row: row["domain"],
    "certificates in 7 days": lambda row: f"{row['orders']} of {row['limit']}",
}
_REFUSED: Columns = {
    "refused": lambda row: row["at"],
    "from": lambda row: row["peer"],
    "client": lambda row: _key(row["fingerprint"]),
    "code": lambda row: row["code"],
    "why": lambda row: row["message"],
}
_ENDPOINTS: Columns = {
    "endpoint": lambda row: row["endpoint"],
    "id": lambda row: row["id"],
    "target": lambda row: row["target"],
    "streams": lambda row: row["streams"],
    "visitors": lambda row: row["visitors"],
    "received": lambda row: size(row["received"]),
    "sent": lambda row: size(row["sent"]),
    "target failures": lambda row: row["target_failures"],
    "urls": lambda row: row["urls"],
}
_WAYS: Columns = {
    "endpoint": lambda row: row["endpoint"],
    "server": lambda row: row["server"],
    "transport": lambda row: row["transport"],
    "connections": lambda row: row["connections"],
    "names": lambda row: f"{len(row['names'])} of {row['of']}",
    "rtt": lambda row: _milliseconds(row["round_trip"]),
    "next try": _next_try,
    "why": lambda row: row["reason"],
    "direct": lambda row: f"{row['direct']['state']}: {row['direct']['reason']}",
    "last error": lambda row: row["last_error"],
}
_CERTIFICATES: Columns = {
    "certificate": lambda row: row["name"],
    "from": lambda row: row["source"],
    "state": lambda row: row["state"],
    "until": lambda row: row["not_after"],
    "renewal": lambda row: row["renew_at"],
    "next try": lambda row: row["retry_at"],
    "last error": lambda row: row["last_error"],
}
_REASONS: Columns = {
    "asked": lambda row: row["question"],
    "found": lambda row: row["found"],
}
