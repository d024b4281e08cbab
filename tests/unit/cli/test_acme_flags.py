"""The flags that order certificates, as the original has them."""

from pathlib import Path

import pytest

from tests.unit.cli.test_arguments import (
    addresses,
    run_client,
    run_relay,
    serve_client,
    serve_relay,
)
from tests.unit.settings.documents import CLIENT, RELAY, write
from tunnel.settings.values import AcmeSettings, ClientSettings, RelayCertificate

DIRECTORY = "https://localhost:14000/dir"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run every test in an empty folder, with the certificate of an authority of our own."""
    monkeypatch.chdir(tmp_path)
    for name in ("STATE_DIRECTORY", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    return write(tmp_path, "ca.pem", "").parent


def order(*flags: str) -> ClientSettings:
    return serve_client("--server", "r", "--domain-suffix", "t.example.org", *flags)


def test_a_relay_orders_for_its_domains(folder: Path) -> None:
    domains = "--acme-domain a.example.org --acme-domain b.example.org --acme-domain a.example.org"
    rest = "--acme-email ops@example.org --acme-creds-path creds.json --acme-renew-days 30"
    settings = serve_relay(*domains.split(), *rest.split(), "--acme-staging")
    names = ("a.example.org", "b.example.org")
    assert settings.certificate == RelayCertificate("acme", names=names)
    assert settings.acme == AcmeSettings(
        "letsencrypt-staging",
        "ops@example.org",
        account_file=folder / "creds.json",
        renew_before=30 * 86400.0,
    )


def test_a_relay_orders_from_an_authority_of_its_own(folder: Path) -> None:
    flags = f"--acme-domain relay.test --acme-directory {DIRECTORY} --acme-ca ca.pem"
    assert serve_relay(*flags.split()).acme == AcmeSettings(DIRECTORY, ca=folder / "ca.pem")


def test_a_relay_that_has_a_domain_is_there_for_others(capsys: pytest.CaptureFixture[str]) -> None:
    settings = serve_relay("--acme-domain", "relay.example.org")
    assert addresses(settings) == {"agents": ["0.0.0.0:4433"], "public": ["0.0.0.0:8443"]}
    assert settings.suffixes["localhost"].access == "listed"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("flags", ["--alpn-port 8443", "--pub-port 443 --alpn-port 443"])
def test_a_port_for_validations_that_visitors_have_already_is_bound_once(flags: str) -> None:
    assert set(serve_relay(*flags.split()).listeners) == {"agents", "public"}


def test_a_client_with_an_address_orders_for_its_first_endpoint(folder: Path) -> None:
    flags = "--acme-email ops@example.org --acme-creds-path creds.json --acme-staging"
    settings = order(*flags.split(), "--secondary-key", "two.key")
    assert {name: one.certificate for name, one in settings.endpoints.items()} == {
        "primary": "acme",
        "secondary": "self-signed",
    }
    assert settings.acme == AcmeSettings(
        "letsencrypt-staging", "ops@example.org", account_file=folder / "creds.json"
    )


def test_a_client_orders_from_an_authority_of_its_own(folder: Path) -> None:
    flags = f"--server r --acme-email a@example.org --acme-directory {DIRECTORY} --acme-ca ca.pem"
    acme = serve_client(*flags.split()).acme
    assert acme == AcmeSettings(DIRECTORY, "a@example.org", ca=folder / "ca.pem")


def test_a_client_without_an_address_orders_nothing() -> None:
    assert order().endpoints["primary"].certificate == "self-signed"


def test_a_pem_that_is_there_is_the_seed(folder: Path) -> None:
    flags = ("--acme-email", "ops@example.org", "--cert-pem", "acme_cert.pem")
    assert order(*flags).endpoints["primary"].seed_file is None
    write(folder, "acme_cert.pem", "").chmod(0o600)
    assert order(*flags).endpoints["primary"].seed_file == folder / "acme_cert.pem"


def test_what_the_original_left_open_to_others_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(folder, "acme_cert.pem", "").chmod(0o644)
    flags = "--server r --domain-suffix t.example.org --acme-email a@example.org --cert-pem"
    assert run_client(*flags.split(), "acme_cert.pem") == (2, None)
    assert "run chmod 600" in capsys.readouterr().err


DOMAIN = "--acme-domain relay.example.org"
EMAIL = "--server r --domain-suffix t.example.org --acme-email ops@example.org"
USAGE = [
    *(
        ("relay", f"{flag}", f"{flag.split()[0]} needs --acme-domain")
        for flag in (
            "--acme-email ops@example.org",
            "--acme-creds-path x",
            "--acme-staging",
            f"--acme-directory {DIRECTORY}",
            "--acme-ca ca.pem",
            "--acme-renew-days 30",
        )
    ),
    *(
        ("client", f"--server r {flag}", f"{flag.split()[0]} needs --acme-email")
        for flag in (
            "--acme-creds-path x",
            "--acme-staging",
            f"--acme-directory {DIRECTORY}",
            "--acme-ca ca.pem",
            "--cert-pem x",
        )
    ),
    *(
        (program, f"{start} --acme-staging {flag} x", f"{flag} does not go with --acme-staging")
        for program, start in (("relay", DOMAIN), ("client", EMAIL))
        for flag in ("--acme-directory", "--acme-ca")
    ),
    ("relay", f"{DOMAIN} --tls-cert c.pem", "--tls-cert does not go with --acme-domain"),
    ("relay", f"{DOMAIN} --tls-key k.pem", "--tls-key does not go with --acme-domain"),
    ("relay", f"{DOMAIN} --acme-renew-days 0", "'0' is out of range (expected 1 to 365)"),
    ("relay", f"{DOMAIN} --acme-renew-days 366", "'366' is out of range (expected 1 to 365)"),
    ("relay", f"{DOMAIN} --acme-renew-days 30d", "'30d' is out of range (expected 1 to 365)"),
    ("relay", f"{DOMAIN} --acme-directory le", '--acme-directory: acme.directory: "le" is not an'),
    ("relay", "--acme-domain x", '--acme-domain: certificate.names: "x" is not a domain name'),
    ("relay", "--acme-domain *.example.org", '"*.example.org" is a wildcard'),
    ("relay", "--acme-domain relay.test", '"relay.test" is no public name'),
    ("client", "--server r --acme-email ops", '--acme-email: acme.email: "ops" is not an e-mail'),
    ("client", "--server r --acme-email a@example.org", '"localhost" is no public name'),
    *(
        (program, f"-c {program}.toml {flag}", f"{flag.split()[0]} does not go with -c")
        for program, flags in (
            ("relay", (DOMAIN, "--acme-renew-days 1")),
            ("client", ("--cert-pem x",)),
        )
        for flag in (
            *flags,
            "--acme-email ops@example.org",
            "--acme-creds-path x",
            "--acme-staging",
            f"--acme-directory {DIRECTORY}",
            "--acme-ca ca.pem",
        )
    ),
]


@pytest.mark.parametrize(("program", "line", "told"), USAGE)
def test_bad_usage_ends_with_2_and_says_why(
    folder: Path, program: str, line: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(folder, "relay.toml", RELAY)
    write(folder, "client.toml", CLIENT)
    status = run_relay(*line.split())[0] if program == "relay" else run_client(*line.split())[0]
    output = capsys.readouterr()
    assert (status, output.out) == (2, "")
    assert told in output.err
