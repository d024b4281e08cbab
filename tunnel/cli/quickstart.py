"""Settings without a file, from the original's flags (docs/config.md, "Quick start")."""

from argparse import Namespace
from pathlib import Path

from tunnel.cli.flags import Setting, acme_settings, client_overrides, log_settings
from tunnel.settings.file_kinds import may_exist

LOOPBACK = "127.0.0.1"
EVERYWHERE = "0.0.0.0"  # noqa: S104 - what a relay with a suffix of its own is for
API_PORT, PUBLIC_PORT = 4433, 8443
OPEN_WARNING = "no settings given: suffix localhost, open to anyone on this machine, loopback only"


def is_bare(arguments: Namespace) -> bool:
    """Say whether a relay serves only this machine, under no name of its own, to any key."""
    named = arguments.domain_suffix or arguments.acme_domain or arguments.allow or arguments.open
    return not named and arguments.bind_addr in (None, LOOPBACK, "::1")


def relay_quick_start(arguments: Namespace) -> list[Setting]:
    """Return the settings of a relay that was started without a file."""
    suffixes = arguments.domain_suffix or ["localhost"]
    access = "open" if arguments.open or is_bare(arguments) else None
    settings = [*_listeners(arguments), *log_settings(arguments)]
    for suffix in suffixes:
        path = ("suffixes", suffix)
        flag = "--domain-suffix" if arguments.domain_suffix else ""
        settings += [
            Setting((*path, "enabled"), value=True, flag=flag),
            Setting((*path, "access"), access, "--open" if arguments.open else ""),
            Setting((*path, "public_port"), _public_port(arguments), "--pub-port"),
        ]
    for number, fingerprint in enumerate(arguments.allow or (), start=1):
        path = ("clients", f"allowed-{number}")
        settings += [
            Setting((*path, "fingerprint"), fingerprint, "--allow"),
            Setting((*path, "suffixes"), list(dict.fromkeys(suffixes)), "--allow"),
        ]
    return settings + _certificate(arguments)


def _public_port(arguments: Namespace) -> int:
    return PUBLIC_PORT if arguments.pub_port is None else int(arguments.pub_port)


def _listeners(arguments: Namespace) -> list[Setting]:
    has_name = arguments.domain_suffix or arguments.acme_domain
    host = arguments.bind_addr or (EVERYWHERE if has_name else LOOPBACK)
    api_port = API_PORT if arguments.api_port is None else arguments.api_port
    settings = _listener("agents", "agents", (host, api_port), "--api-port")
    settings += _listener("public", "public", (host, _public_port(arguments)), "--pub-port")
    if arguments.alpn_port not in (None, _public_port(arguments)):
        settings += _listener("challenge", "public", (host, arguments.alpn_port), "--alpn-port")
    return settings


def _listener(name: str, kind: str, address: tuple[str, int], flag: str) -> list[Setting]:
    host, port = address
    text = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    path = ("listeners", name)
    return [Setting((*path, "kind"), kind), Setting((*path, "listen"), [text], flag)]


def _certificate(arguments: Namespace) -> list[Setting]:
    if arguments.acme_domain is not None:
        return _ordered_for_relay(arguments)
    if arguments.tls_cert is None and arguments.tls_key is None:
        return []
    return [
        Setting(("certificate", "mode"), "files", "--tls-cert"),
        Setting(("certificate", "chain_file"), arguments.tls_cert, "--tls-cert"),
        Setting(("certificate", "key_file"), arguments.tls_key, "--tls-key"),
    ]


def _ordered_for_relay(arguments: Namespace) -> list[Setting]:
    names = list(dict.fromkeys(arguments.acme_domain))
    days = arguments.acme_renew_days
    return [
        Setting(("certificate", "mode"), "acme", "--acme-domain"),
        Setting(("certificate", "names"), names, "--acme-domain"),
        Setting(("acme", "renew_before"), days and f"{days}d", "--acme-renew-days"),
        *acme_settings(arguments),
    ]


def client_quick_start(arguments: Namespace) -> list[Setting]:
    """Return the settings of a client that was started without a file."""
    servers = list(dict.fromkeys(arguments.server or ()))
    settings = [*log_settings(arguments), *client_overrides(arguments, ())]
    for server in servers:
        path = ("servers", server)
        settings += [
            Setting((*path, "address"), server, "--server"),
            Setting((*path, "pin"), arguments.pin, "--pin"),
            Setting((*path, "ca"), arguments.ca, "--ca"),
            Setting((*path, "insecure"), arguments.insecure, "--insecure"),
        ]
    target = arguments.local or "127.0.0.1:3000"
    key = arguments.primary_key or "client.key"
    extension = arguments.primary_cert_extension_hex
    settings += _endpoint(arguments, "primary", {"file": key, "target": target, "hex": extension})
    if arguments.secondary_key is not None:
        second = {
            "file": arguments.secondary_key,
            "target": arguments.secondary_local or target,
            "hex": arguments.secondary_cert_extension_hex,
        }
        settings += _endpoint(arguments, "secondary", second)
    return settings + _ordered_for_client(arguments)


def _ordered_for_client(arguments: Namespace) -> list[Setting]:
    """Return what the first endpoint orders; a second one stays self-signed."""
    if arguments.acme_email is None:
        return []
    endpoint = ("endpoints", "primary")
    pem = arguments.cert_pem  # the original wrote it too, so that it may not be there yet
    seed = pem if pem is not None and may_exist(Path(pem)) else None
    return [
        Setting((*endpoint, "certificate"), "acme", "--acme-email"),
        Setting((*endpoint, "seed_file"), seed, "--cert-pem"),
        *acme_settings(arguments),
    ]


def _endpoint(arguments: Namespace, name: str, parts: dict[str, str | None]) -> list[Setting]:
    keypair, endpoint = ("keypairs", name), ("endpoints", name)
    local = "--local" if name == "primary" else "--secondary-local"
    return [
        Setting((*keypair, "file"), parts["file"], f"--{name}-key"),
        Setting((*keypair, "id_bits"), arguments.id_bits, "--id-bits"),
        Setting((*endpoint, "keypair"), name),
        Setting((*endpoint, "suffix"), arguments.domain_suffix or "localhost", "--domain-suffix"),
        Setting((*endpoint, "target"), parts["target"], local),
        Setting(
            (*endpoint, "certificate_extension_hex"),
            parts["hex"],
            f"--{name}-cert-extension-hex",
        ),
    ]
