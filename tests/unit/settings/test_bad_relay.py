"""What a relay.toml must not say, and the exact words of each fault."""

from pathlib import Path

import pytest

from tests.unit.settings.documents import FINGERPRINT, OTHER_FINGERPRINT, RELAY, faults, write
from tunnel.settings.load import load_relay

CLIENT = f'[clients.shop]\nfingerprint = "{FINGERPRINT}"\n'
NO_ORDER = 'nothing orders a certificate (expected certificate.mode = "acme")'

# Each follows the seven lines of a good document; its own first line is the eighth.
APPENDED = [
    ("[relay]\nnme = 1", '9: relay.nme: unknown key (did you mean "name"?)'),
    ("[relais]", '8: relais: unknown table (did you mean "relay"?)'),
    ("[relay]\nzzz = 1", "9: relay.zzz: unknown key"),
    ("[[relay]]", "8: relay: an array of tables is not a table (expected [relay])"),
    ("[relay]\nname = 5", "9: relay.name: 5 is not a line of text (expected a word such as eu1)"),
    (
        "[relay.name]",
        "8: relay.name: a table is not a line of text (expected a word such as eu1)",
    ),
    ('[relay]\nname = ""', '9: relay.name: "" is not a line of text (expected a word such as eu1)'),
    (f'[relay]\nname = "{"n" * 65}"', f'9: relay.name: "{"n" * 65}" is longer than 64 characters'),
    ("[relay]\nworkers = 0", "9: relay.workers: 0 is out of range (expected 1 to 64)"),
    ("[relay]\nworkers = 65", "9: relay.workers: 65 is out of range (expected 1 to 64)"),
    ('[relay]\nworkers = "1"', '9: relay.workers: "1" is not a whole number (expected 1 to 64)'),
    (
        '[relay]\ndrain_timeout = "30"',
        '9: relay.drain_timeout: "30" is not a duration (expected seconds, "30s", "5m" or "24h")',
    ),
    (
        "[relay]\ndrain_timeout = nan",
        '9: relay.drain_timeout: nan is not a duration (expected seconds, "30s", "5m" or "24h")',
    ),
    (
        '[relay]\ndrain_timeout = "off"',
        '9: relay.drain_timeout: "off" is not a duration (expected seconds, "30s", "5m" or "24h")',
    ),
    (
        '[relay]\nstate_dir = "${HOMES}/x"',
        "9: relay.state_dir: the environment variable HOMES is not set",
    ),
    (
        '[relay]\nname = "${1x}"',
        '9: relay.name: "${1x}" has ${ without a variable\'s name (a literal is $${)',
    ),
    (
        "[timeouts]\nheartbeat = 0.5",
        "9: timeouts.heartbeat: 0.5s is out of range (expected 1s to 60s)",
    ),
    (
        '[timeouts]\nheartbeat = "2m"',
        "9: timeouts.heartbeat: 120s is out of range (expected 1s to 60s)",
    ),
    (
        "[timeouts]\nregister = true",
        '9: timeouts.register: true is not a duration (expected seconds, "30s", "5m" or "24h")',
    ),
    (
        '[limits]\nbuffer_total = "1GB"',
        '9: limits.buffer_total: "1GB" is not a size (expected bytes, "256KiB" or "8MiB")',
    ),
    (
        '[limits]\nbuffer_total = "32MiB"',
        "9: limits.buffer_total: limits.buffer_total (32MiB) is below flow.parked_max (64MiB)",
    ),
    (
        '[flow]\nstream_window = "8MiB"',
        "9: flow.stream_window: flow.stream_window_max (4MiB) is below flow.stream_window (8MiB)",
    ),
    (
        "[flow]\nstream_window = 1024",
        "9: flow.stream_window: 1KiB is out of range (expected 16KiB to 2147483647B)",
    ),
    (
        '[quic]\nengine = "rust"',
        '9: quic.engine: "rust" is not known here (expected one of "fast", "stock")',
    ),
    (
        '[quic]\ncongestion = "vegas"',
        '9: quic.congestion: "vegas" is not known here (expected one of "bbr", "cubic", "reno")',
    ),
    ('[acme]\nemail = "a@example.org"', f"8: acme: {NO_ORDER}"),
    (
        '[admin]\nmetrics = "localhost:9601"',
        '9: admin.metrics: "localhost:9601" has a host name (expected an IP address and port)',
    ),
    (
        f'[admin]\nsocket = "/{"x" * 107}"',
        f"9: admin.socket: /{'x' * 107} is 108 bytes long "
        "(expected at most 107, the limit of Unix sockets)",
    ),
    ('[certificate]\nmode = "acme"', '8: certificate.names: missing (mode = "acme" needs it)'),
    (
        '[certificate]\nmode = "acme"\nnames = []',
        "10: certificate.names: has 0 entries (expected 1 to 100)",
    ),
    (
        '[certificate]\nnames = ["relay.example.org"]',
        '9: certificate.names: belongs to mode = "acme", but the default is mode = "self-signed"',
    ),
    (
        '[certificate]\nmode = "self-signed"\nkeep_key = false',
        '10: certificate.keep_key: belongs to mode = "acme", '
        'but relay.toml:9 says mode = "self-signed"',
    ),
    (
        '[certificate]\nmode = "acme"\nchain_file = "relay.toml"\nnames = ["relay.example.org"]',
        '10: certificate.chain_file: belongs to mode = "files", '
        'but relay.toml:9 says mode = "acme"',
    ),
    (
        '[certificate]\nmode = "acme"\nnames = ["*.example.org"]',
        '10: certificate.names: "*.example.org" is a wildcard '
        "(expected exact names: TLS-ALPN-01, RFC 8737, proves no other to an authority)",
    ),
    (
        '[certificate]\nmode = "acme"\nnames = ["relay.local"]',
        '10: certificate.names: "relay.local" is no public name: letsencrypt issues nothing for it '
        "(expected a public one, or the URL of an own authority in acme.directory)",
    ),
    (
        f'[certificate]\nmode = "acme"\nnames = ["{"ab" * 8}.t.example.org"]',
        f'10: certificate.names: "{"ab" * 8}.t.example.org" has the shape of an id '
        "(a name of the relay must not)",
    ),
    (
        CLIENT + 'names = ["*.example.com", "relay.example.com"]\n'
        '[certificate]\nmode = "acme"\nnames = ["relay.example.com"]',
        '13: certificate.names: "relay.example.com" is granted to clients.shop',
    ),
    (
        '[certificate]\nmode = "files"\nchain_file = "relay.toml"',
        '8: certificate.key_file: missing (mode = "files" needs it)',
    ),
    (
        '[suffixes."u.example.org"]\ncertificates_per_week = 0',
        '9: suffixes."u.example.org".certificates_per_week: 0 is out of range '
        "(expected 1 to 1000000)",
    ),
    (
        '[suffixes."u.example.org"]\naccess = "closed"',
        '9: suffixes."u.example.org".access: "closed" is not known here '
        '(expected one of "listed", "open")',
    ),
    (
        '[suffixes."u.example.org"]\nid_bits = [96]',
        '9: suffixes."u.example.org".id_bits: 96 is not an id length (expected 64 or 128)',
    ),
    (
        '[suffixes."u.example.org"]\nid_bits = []',
        '9: suffixes."u.example.org".id_bits: has 0 entries (expected 1 to 1000)',
    ),
    (
        '[suffixes."u.example.org"]\nid_bits = [64, 64]',
        '9: suffixes."u.example.org".id_bits: 64 is listed twice',
    ),
    (
        '[suffixes."u.example.org"]\npublic_port = 65536',
        '9: suffixes."u.example.org".public_port: 65536 is out of range (expected 1 to 65535)',
    ),
    (
        '[suffixes.u.example.org]\naccess = "open"',
        '8: suffixes.u.example.org: unknown table (quote the name: [suffixes."u.example.org"])',
    ),
    (
        '[suffixes."U.example.org"]',
        '8: suffixes."U.example.org": the name "U.example.org" is not in lower case '
        '(expected "u.example.org")',
    ),
    (
        '[suffixes."-u"]',
        '8: suffixes.-u: the name "-u" is not a domain name '
        "(expected a name such as t.example.org)",
    ),
    (
        '[listeners.x]\nkind = "public"',
        "8: listeners.x.listen: missing (expected [host:port, …])",
    ),
    (
        '[listeners.x]\nkind = "public"\nlisten = ["8443x"]',
        '10: listeners.x.listen: "8443x" is not an address (expected host:port)',
    ),
    (
        '[listeners.x]\nkind = "public"\nlisten = "0.0.0.0:443"',
        '10: listeners.x.listen: "0.0.0.0:443" is not an array (expected [host:port, …])',
    ),
    (
        '[listeners.x]\nkind = "public"\nlisten = ["localhost:443"]',
        '10: listeners.x.listen: "localhost:443" has a host name (expected an IP address and port)',
    ),
    (
        '[listeners.x]\nkind = "public"\nlisten = ["0.0.0.0:65536"]',
        "10: listeners.x.listen: port 65536 is out of range (expected 0 to 65535)",
    ),
    (
        '[listeners.x]\nkind = "public"\nlisten = ["fd:0.0.0.0:0"]',
        "10: listeners.x.listen: port 0 is out of range (expected 1 to 65535)",
    ),
    (
        '[listeners.x]\nkind = "public"\nlisten = ["fd:443"]',
        '10: listeners.x.listen: "fd:443" is not an address (expected host:port)',
    ),
    (
        '[listeners.x]\nkind = "public"\nlisten = ["fd:localhost:443"]',
        '10: listeners.x.listen: "fd:localhost:443" has a host name '
        "(expected an IP address and port)",
    ),
    (
        '[listeners.x]\nkind = "public"\nlisten = ["fd:0.0.0.0:8443"]',
        '10: listeners.x.listen: "fd:0.0.0.0:8443" is taken by listeners.public ("127.0.0.1:8443")',
    ),
    (
        '[listeners.x]\nkind = "public"\nlisten = ["0.0.0.0:8443"]',
        '10: listeners.x.listen: "0.0.0.0:8443" is taken by listeners.public ("127.0.0.1:8443")',
    ),
    (
        '[listeners.x]\nkind = "agents"\nlisten = ["127.0.0.1:1"]\ntransports = ["direct"]',
        '11: listeners.x.transports: nobody registers by "direct" alone '
        '(expected "quic" or "h2" too)',
    ),
    (
        '[listeners.x]\nkind = "public"\nlisten = ["127.0.0.1:1"]\ntransports = ["h2"]',
        '11: listeners.x.transports: belongs to kind = "agents" or "shared", '
        'but relay.toml:9 says kind = "public"',
    ),
    (
        '[listeners.x]\nkind = "shared"\nlisten = ["127.0.0.1:1"]\n'
        'proxy_protocol_from = ["10.0.0.1/8"]',
        '11: listeners.x.proxy_protocol_from: "10.0.0.1/8" has bits beyond its mask '
        '(expected "10.0.0.0/8")',
    ),
    (
        "[clients.shop]",
        "8: clients.shop.fingerprint: missing (expected sha256: and 64 hexadecimal digits)",
    ),
    ("[clients]\nshop = 1", "9: clients.shop: 1 is not a table (expected [clients.NAME])"),
    (
        '[clients.shop]\nfingerprint = "sha256:ab"',
        '9: clients.shop.fingerprint: "sha256:ab" is not a fingerprint '
        "(expected sha256: and 64 hexadecimal digits)",
    ),
    (
        CLIENT + 'suffixes = ["t.exampel.org"]',
        '10: clients.shop.suffixes: "t.exampel.org" is not one of [suffixes.*] '
        '(did you mean "t.example.org"?)',
    ),
    (
        CLIENT + f'[clients.two]\nfingerprint = "{FINGERPRINT}"',
        "11: clients.two.fingerprint: is that of clients.shop already",
    ),
    (
        CLIENT + f'names = ["{"ab" * 16}.t.example.org"]',
        f'10: clients.shop.names: "{"ab" * 16}.t.example.org" has the shape of an id '
        "(a custom name must not)",
    ),
    (
        CLIENT + 'names = ["t.example.org"]',
        '10: clients.shop.names: "t.example.org" is a suffix (a custom name must not be one)',
    ),
    (
        CLIENT + 'names = ["*.*.example.org"]',
        '10: clients.shop.names: "*.*.example.org" is not a domain name '
        "(expected shop.example.com or *.shop.example.com)",
    ),
    (
        CLIENT + 'names = ["a.example.com"]\n'
        f'[clients.two]\nfingerprint = "{OTHER_FINGERPRINT}"\nnames = ["a.example.com"]',
        '13: clients.two.names: "a.example.com" is granted to clients.shop already',
    ),
    (
        CLIENT + "limits = { streams = 1001 }",
        "10: clients.shop.limits.streams: 1001 is out of range (expected 1 to 1000)",
    ),
    (
        CLIENT + 'limits = { rate = "20MiB" }',
        '10: clients.shop.limits.rate: "20MiB" is not a rate '
        '(expected bytes per second, or "20MiB/s")',
    ),
    (
        CLIENT + "[clients.shop.limit]\nstreams = 5",
        '10: clients.shop.limit: unknown table (did you mean "limits"?)',
    ),
]


@pytest.mark.parametrize(("text", "fault"), APPENDED, ids=[fault for _, fault in APPENDED])
def test_a_fault_is_told_with_its_place(tmp_path: Path, text: str, fault: str) -> None:
    path = write(tmp_path, "relay.toml", f"{RELAY}{text}\n")
    assert faults(load_relay, path) == [f"relay.toml:{fault}"]


WHOLE = [
    ("[relay", "relay.toml:1: Expected ']' at the end of a table declaration (column 7)"),
    ("a = 1\na = 2", "relay.toml:2: Cannot overwrite a value (column 6)"),
    (f"a = {'[' * 500}", "relay.toml: is nested too deeply"),
    (f"\na = {'[' * 40}{']' * 40}", "relay.toml:2: is nested too deeply"),
    (f"\n[a{'.a' * 40}]", "relay.toml:2: is nested too deeply"),
    (f"a = {'9' * 5000}", "relay.toml: holds a number that is too long"),
    (
        RELAY.replace("[listeners.agents]", "[listeners.agents]\nenabled = false"),
        'relay.toml:1: listeners: none for clients (expected one with kind = "agents" or "shared")',
    ),
    (
        RELAY.replace("[listeners.public]", "[listeners.public]\nenabled = false"),
        "relay.toml:1: listeners: none for visitors "
        '(expected one with kind = "public" or "shared")',
    ),
]


@pytest.mark.parametrize(("text", "fault"), WHOLE, ids=[fault for _, fault in WHOLE])
def test_a_document_is_refused_as_a_whole(tmp_path: Path, text: str, fault: str) -> None:
    assert faults(load_relay, write(tmp_path, "relay.toml", text)) == [fault]


def test_an_empty_document_lacks_both_listeners(tmp_path: Path) -> None:
    assert faults(load_relay, write(tmp_path, "relay.toml", "")) == [
        'relay.toml: listeners: none for clients (expected one with kind = "agents" or "shared")',
        'relay.toml: listeners: none for visitors (expected one with kind = "public" or "shared")',
    ]


def test_bytes_that_are_not_utf8_are_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "relay.toml"
    path.write_bytes(b"[relay]\nname = '\xff'\n")
    assert faults(load_relay, path) == ["relay.toml:2: is not UTF-8"]


def test_every_fault_is_told_at_once_in_the_order_of_lines(tmp_path: Path) -> None:
    text = f'{RELAY}[relay]\nworkers = 0\nnme = 1\n[log]\nlevel = "loud"\n[acme]\ndirectori = 1\n'
    assert faults(load_relay, write(tmp_path, "relay.toml", text)) == [
        "relay.toml:9: relay.workers: 0 is out of range (expected 1 to 64)",
        'relay.toml:10: relay.nme: unknown key (did you mean "name"?)',
        'relay.toml:12: log.level: "loud" is not known here '
        '(expected one of "debug", "info", "warning", "error")',
        f"relay.toml:13: acme: {NO_ORDER}",
        'relay.toml:14: acme.directori: unknown key (did you mean "directory"?)',
    ]


def test_several_unquoted_names_are_each_told(tmp_path: Path) -> None:
    told = "unknown table (quote the name: [suffixes.{}])"
    quoted = ('"u.example.org"', '"u.example.net"')
    text = f"{RELAY}[suffixes.u.example.org]\n[suffixes.u.example.net]\n"
    assert faults(load_relay, write(tmp_path, "relay.toml", text)) == [
        f"relay.toml:8: suffixes.u.example.org: {told.format(quoted[0])}",
        f"relay.toml:9: suffixes.u.example.net: {told.format(quoted[1])}",
    ]
