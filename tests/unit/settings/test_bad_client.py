"""What a client.toml must not say, and the exact words of each fault."""

from pathlib import Path

import pytest

from tests.unit.settings.documents import CLIENT, FINGERPRINT, faults, write
from tunnel.settings.load import load_client

NO_ORDER = 'nothing orders a certificate (expected endpoints.NAME.certificate = "acme")'
SECOND = (
    '[keypairs.two]\nfile = "two.key"\n'
    '[endpoints.two]\nkeypair = "{}"\nsuffix = "t.example.org"\ntarget = 3001'
)

# Each follows the eight lines of a good document, in the table [endpoints.web].
APPENDED = [
    ("targte = 1", '9: endpoints.web.targte: unknown key (did you mean "target"?)'),
    (
        'certificate = "ACME"',
        '9: endpoints.web.certificate: "ACME" is not known here '
        '(expected one of "self-signed", "files", "acme", "passthrough")',
    ),
    (
        'before_certificate = "refuse"',
        '9: endpoints.web.before_certificate: belongs to certificate = "acme", '
        'but the default is certificate = "self-signed"',
    ),
    (
        'certificate = "files"\nchain_file = "client.toml"\nkey_file = "secret.key"\n'
        'seed_file = "secret.key"',
        '12: endpoints.web.seed_file: belongs to certificate = "acme", '
        'but client.toml:9 says certificate = "files"',
    ),
    (
        'certificate = "acme"\nbefore_certificate = "wait"',
        '10: endpoints.web.before_certificate: "wait" is not known here '
        '(expected one of "self-signed", "refuse")',
    ),
    (
        'certificate = "acme"\nseed_file = "acme_cert.pem"',
        "10: endpoints.web.seed_file: acme_cert.pem does not exist",
    ),
    (
        'certificate = "acme"\nseed_file = "client.toml"',
        "10: endpoints.web.seed_file: client.toml is open to others (mode 0644): "
        "run chmod 600 client.toml",
    ),
    (
        'certificate = "acme"\nchain_file = "client.toml"',
        '10: endpoints.web.chain_file: belongs to certificate = "files", '
        'but client.toml:9 says certificate = "acme"',
    ),
    (
        'certificate = "acme"\nnames = ["*.example.com"]',
        '10: endpoints.web.names: "*.example.com" is a wildcard '
        "(expected exact names: TLS-ALPN-01, RFC 8737, proves no other to an authority)",
    ),
    (
        'certificate = "acme"\nnames = ["shop.internal"]',
        '10: endpoints.web.names: "shop.internal" is no public name: letsencrypt issues nothing '
        "for it (expected a public one, or the URL of an own authority in acme.directory)",
    ),
    ('[acme]\nemail = "ops@example.org"', f"9: acme: {NO_ORDER}"),
    ('[acme]\neab = { kid = "k", key_file = "secret.key" }', f"9: acme: {NO_ORDER}"),
    (
        'certificate = "files"\nchain_file = "client.toml"',
        '5: endpoints.web.key_file: missing (certificate = "files" needs it)',
    ),
    (
        'chain_file = "client.toml"',
        '9: endpoints.web.chain_file: belongs to certificate = "files", '
        'but the default is certificate = "self-signed"',
    ),
    (
        'certificate = "passthrough"\nalpn = ["h2"]',
        '10: endpoints.web.alpn: belongs to certificate = "self-signed" or "files" or "acme", '
        'but client.toml:9 says certificate = "passthrough"',
    ),
    (
        'alpn = ["acme-tls/1"]',
        '9: endpoints.web.alpn: "acme-tls/1" belongs to certificate authorities (RFC 8737)',
    ),
    ('visitor_ca = "people.pem"', "9: endpoints.web.visitor_ca: people.pem does not exist"),
    (
        'certificate_extension_hex = "abc"',
        '9: endpoints.web.certificate_extension_hex: "abc" is not hexadecimal '
        "(expected pairs of digits, such as deadbeef)",
    ),
    (
        f'certificate_extension_hex = "{"00" * 4097}"',
        "9: endpoints.web.certificate_extension_hex: is longer than 4096 bytes",
    ),
    (
        'proxy_protocol = "v3"',
        '9: endpoints.web.proxy_protocol: "v3" is not known here (expected one of "v1", "v2")',
    ),
    (
        'allow = ["everyone"]',
        '9: endpoints.web.allow: "everyone" is not a network '
        "(expected 192.0.2.0/24 or 2001:db8::/32)",
    ),
    (
        'servers = ["us"]',
        '9: endpoints.web.servers: "us" is not one of [servers.*]',
    ),
    (
        'names = ["shop"]',
        '9: endpoints.web.names: "shop" is not a domain name '
        "(expected a name such as shop.example.com)",
    ),
    (
        f'names = ["{"0" * 16}.t.example.org"]',
        f'9: endpoints.web.names: "{"0" * 16}.t.example.org" has the shape of an id '
        "(a custom name must not)",
    ),
    (
        SECOND.format("tow"),
        '12: endpoints.two.keypair: "tow" is not one of [keypairs.*] (did you mean "two"?)',
    ),
    (
        '[endpoints.two]\nkeypair = "primary"\nsuffix = "t.example.org"\ntarget = 3001',
        "9: endpoints.two: has the same name as endpoints.web",
    ),
    ('[keypairs.two]\nfile = "two.key"', "9: keypairs.two: no endpoint refers to it"),
    (
        f'names = ["a.example.com"]\n{SECOND.format("two")}\nnames = ["a.example.com"]',
        '16: endpoints.two.names: "a.example.com" is a name of endpoints.web already',
    ),
    (
        'certificate_extension_hex = "aa"\n[endpoints.two]\nkeypair = "primary"\n'
        'suffix = "u.example.org"\ntarget = 1\ncertificate_extension_hex = "bb"',
        "14: endpoints.two.certificate_extension_hex: differs from that of endpoints.web, "
        "which has the same keypair",
    ),
    (
        '[keypairs.two]\nfile = "two.key"\nid_bits = 96\n[endpoints.two]\nkeypair = "two"\n'
        'suffix = "t.example.org"\ntarget = 3001',
        "11: keypairs.two.id_bits: 96 is not an id length (expected 64 or 128)",
    ),
    (
        '[keypairs.two]\nfile = """-----BEGIN PRIVATE KEY-----\nMIG"""\n'
        '[endpoints.two]\nkeypair = "two"\nsuffix = "t.example.org"\ntarget = 3001',
        "10: keypairs.two.file: holds a key or certificate itself (expected the path of its file)",
    ),
    (
        '[client]\ndirect = "yes"',
        '10: client.direct: "yes" is not known here (expected one of "auto", "on", "off")',
    ),
    (
        '[client]\ntransport = "tcp"',
        '10: client.transport: "tcp" is not known here (expected one of "auto", "quic", "h2")',
    ),
    (
        '[client]\ntransport = "quic"\npool_size = 2',
        '11: client.pool_size: belongs to transport = "auto" or transport = "h2", '
        'but "quic" is in force',
    ),
    (
        '[client]\ntransport = "h2"\nprobe_interval = 2',
        '11: client.probe_interval: belongs to transport = "auto", but "h2" is in force',
    ),
    (
        '[servers.us]\naddress = "us"\ntransport = "quic"\npool_size = 2',
        '12: servers.us.pool_size: belongs to transport = "auto" or transport = "h2", '
        'but "quic" is in force',
    ),
    (
        '[servers.us]\naddress = "us"\npool_size = 2\n[client]\ntransport = "quic"',
        '11: servers.us.pool_size: belongs to transport = "auto" or transport = "h2", '
        'but "quic" is in force',
    ),
    (
        '[client]\nprobe_interval = "1h"',
        "10: client.probe_interval: 3600s is out of range (expected 1s to 900s)",
    ),
    ("[client]\npool_size = 0", "10: client.pool_size: 0 is out of range (expected 1 to 64)"),
    (
        '[servers.us]\naddress = "us.example.org:0"',
        "10: servers.us.address: port 0 is out of range (expected 1 to 65535)",
    ),
    (
        '[servers.us]\naddress = "https://us.example.org"',
        '10: servers.us.address: "https://us.example.org" is not an address '
        "(expected host or host:port)",
    ),
    (
        f'[servers.us]\naddress = "us"\npin = "{FINGERPRINT}"\ninsecure = true',
        "12: servers.us.insecure: excludes pin (expected one of ca, pin, insecure)",
    ),
    (
        '[servers.us]\naddress = "us"\nproxy = "ftp://proxy:21"',
        '11: servers.us.proxy: "ftp" is not a scheme of a proxy (expected http or socks5)',
    ),
    (
        '[servers.us]\naddress = "us"\nproxy = "http://proxy"',
        "11: servers.us.proxy: is not a proxy (expected http://host:port or socks5://host:port)",
    ),
    (
        '[servers.us]\naddress = "us"\nproxy = "http://me:secret@proxy:3128"',
        "11: servers.us.proxy: a password never stands in a file "
        "(expected ${VARIABLE} in its place)",
    ),
    (
        '[servers.us]\naddress = "us"\ntransport = "quic"\nproxy = "http://proxy:3128"',
        '12: servers.us.proxy: carries no UDP, but transport is "quic"',
    ),
    ("[timeouts]\nclient_hello = 5", "10: timeouts.client_hello: unknown key"),
]


@pytest.mark.parametrize(("text", "fault"), APPENDED, ids=[fault for _, fault in APPENDED])
def test_a_fault_is_told_with_its_place(tmp_path: Path, text: str, fault: str) -> None:
    write(tmp_path, "secret.key", "").chmod(0o600)
    path = write(tmp_path, "client.toml", f"{CLIENT}{text}\n")
    assert faults(load_client, path) == [f"client.toml:{fault}"]


NOT_PUBLIC = ["localhost", "relays", "t.localhost", "t.test", "t.example"]


@pytest.mark.parametrize("suffix", NOT_PUBLIC)
@pytest.mark.parametrize("directory", ["letsencrypt", "letsencrypt-staging"])
def test_a_named_authority_issues_nothing_under_a_suffix_that_is_not_public(
    tmp_path: Path, suffix: str, directory: str
) -> None:
    text = CLIENT.replace("t.example.org", suffix)
    more = f'certificate = "acme"\n[acme]\ndirectory = "{directory}"\n'
    assert faults(load_client, write(tmp_path, "client.toml", text + more)) == [
        f'client.toml:7: endpoints.web.suffix: "{suffix}" is no public name: {directory} issues '
        "nothing for it (expected a public one, or the URL of an own authority in acme.directory)"
    ]


@pytest.mark.parametrize("suffix", NOT_PUBLIC)
def test_an_own_authority_may_issue_under_any_suffix(tmp_path: Path, suffix: str) -> None:
    text = CLIENT.replace("t.example.org", suffix)
    more = 'certificate = "acme"\n[acme]\ndirectory = "https://localhost:14000/dir"\n'
    assert faults(load_client, write(tmp_path, "client.toml", text + more)) == []


ACCEPTED = [
    '[client]\ntransport = "quic"\npool_size = 2\n[servers.us]\naddress = "us"\ntransport = "h2"',
    '[client]\ntransport = "h2"\nprobe_interval = 2\n[servers.us]\naddress = "us"\n'
    'transport = "auto"',
    '[keypairs.two]\nfile = "two.key"\n[endpoints.two]\nenabled = false\nkeypair = "two"',
    '[keypairs.two]\nfile = "two.key"\n[endpoints.two]\nenabled = false\nkeypair = "${TWO}"',
    '[keypairs.two]\nenabled = false\nfile = "two.key"',
    '[endpoints.two]\nenabled = false\ncertificate = "acme"\n[acme]\nemail = "a@example.org"',
    '[acme]\ndirectory = "letsencrypt"\npreflight = "auto"',
    'certificate = "acme"\ncertificate_extension_hex = "aa"\nalpn = ["h2"]',
]


@pytest.mark.parametrize("text", ACCEPTED)
def test_what_something_gives_a_meaning_is_no_fault(tmp_path: Path, text: str) -> None:
    assert faults(load_client, write(tmp_path, "client.toml", f"{CLIENT}{text}\n")) == []


TARGETS = [
    ("70000", "port 70000 is out of range (expected 1 to 65535)"),
    ('"unix:app.sock"', '"unix:app.sock" is not absolute (expected unix:/run/app.sock)'),
    ('"web"', '"web" is not a target (expected 3000, host:port or unix:/run/app.sock)'),
    ("true", "true is not a target (expected 3000, host:port or unix:/run/app.sock)"),
]


@pytest.mark.parametrize(("target", "fault"), TARGETS)
def test_a_target_is_a_port_an_address_or_a_socket(tmp_path: Path, target: str, fault: str) -> None:
    path = write(tmp_path, "client.toml", CLIENT.replace("3000", target))
    assert faults(load_client, path) == [f"client.toml:8: endpoints.web.target: {fault}"]


def test_an_empty_document_has_nothing_to_do(tmp_path: Path) -> None:
    assert faults(load_client, write(tmp_path, "client.toml", "")) == [
        "client.toml: endpoints: none to serve (expected a table such as [endpoints.NAME])",
        "client.toml: servers: none to connect to (expected a table such as [servers.NAME])",
    ]


def test_what_came_from_the_environment_is_not_repeated(tmp_path: Path) -> None:
    text = CLIENT.replace('"eu.example.org"', '"${HOST}"')
    path = write(tmp_path, "client.toml", text)
    assert faults(load_client, path, HOST="two words") == [
        'client.toml:2: servers.eu.address: "${HOST}" is not an address '
        "(expected host or host:port)"
    ]


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "client.toml", CLIENT)
    write(tmp_path, "client.key", "secret").chmod(0o644)
    assert faults(load_client, path) == [
        "client.toml:4: keypairs.primary.file: client.key is open to others (mode 0644): "
        "run chmod 600 client.key"
    ]
