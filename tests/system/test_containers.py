"""The images of config/docker: built from this tree, and run as a container platform runs them."""

import os
import re
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from config.docker.entrypoint import VARIABLES
from tests.e2e.visitors import get, tls
from tests.e2e.world import OPEN, ROOT, Client, Relay, World
from tests.ports import free_port
from tests.system.images import USER, Contained, Container, Store, compose, new_store, read_yaml

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]  # a first run makes the base

PROGRAMS = {"server": "relay", "client": "client"}  # of each target
SUFFIX = "t.test"
SLOW_BYTES = 300_000  # three seconds of what is slow
TMP = "/tmp"  # noqa: S108 - that of a container, which nobody shares
OTHER_USER = 12345  # as a platform may choose one


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    """Have both images: one built from the tree alone, one from the programs in dist/."""
    with new_store() as made:
        made.make_base()
        made.build("server")
        made.build("client", "--build-context", f"zipapps={ROOT / 'dist'}")
        yield made


@dataclass
class Scene:
    """Where containers meet: ports of the relay, and a folder of data for each of the two."""

    store: Store
    folder: Path
    api_port: int
    pub_port: int

    def container(self, target: str) -> Container:
        """Return a container with an empty /data."""
        data = self.folder / target
        data.mkdir()
        os.chown(data, USER, 0)
        data.chmod(0o770)
        return self.store.container(target, data)

    def replaced(self, container: Container, target: str) -> Container:
        """Return a new container with the /data of an old one."""
        return self.store.new(target, container.data)

    def ports(self) -> dict[str, str]:
        """Return the relay's variables about ports."""
        return {"API_PORT": str(self.api_port), "PUB_PORT": str(self.pub_port)}

    def served_by(self, process: Contained) -> Relay:
        """Return a relay that listens, for visitors."""
        process.wait_for(OPEN)
        world = World(self.folder)
        return Relay(world, "relay", self.folder, self.api_port, self.pub_port, process)

    def dialling(self, pin: str, target: str) -> dict[str, str]:
        """Return a client's variables."""
        server = f"127.0.0.1:{self.api_port}"
        known = {"SERVER_ADDR": server, "PIN": pin, "LOCAL_ADDR": target}
        return {**known, "DOMAIN_SUFFIX": SUFFIX}

    def shown_by(self, process: Contained) -> Client:
        """Return a client as visitors know it."""
        data = self.folder / "client"
        return Client(World(self.folder), "client", data, data, process)


@pytest.fixture
def scene(store: Store, tmp_path: Path) -> Iterator[Scene]:
    """Have free ports and empty folders; nothing of a test outlives it."""
    yield Scene(store, tmp_path, free_port(), free_port())
    store.end()


def test_an_image_says_how_it_is_run(scene: Scene) -> None:
    for target, program in PROGRAMS.items():
        container = scene.container(target)
        config = container.config
        assert (config["User"], config["StopSignal"]) == (f"{USER}:0", "SIGTERM")
        assert (config["WorkingDir"], list(config["Volumes"])) == ("/data", ["/data"])
        assert config["Healthcheck"]["Test"] == ["CMD", f"{program}.pyz", "status", "--check"]
        assert config["Entrypoint"] == ["entrypoint", program]
        assert container.run("id", "-u").stdout == f"{USER}\n"
        assert container.ask("--version").stdout.startswith(f"{program}.pyz ")


def test_a_page_comes_through_two_containers_and_through_those_that_replace_them(
    scene: Scene, target: str
) -> None:
    server, client = scene.container("server"), scene.container("client")
    told = client.ask("id", "--domain-suffix", SUFFIX).stdout
    fingerprint = re.search(r"sha256:[0-9a-f]{64}", told)
    assert fingerprint, told
    environment = {
        "DOMAIN_SUFFIX": f"u.test, {SUFFIX}",
        "ALLOW": fingerprint[0],
        **scene.ports(),
    }
    first = _visited(scene, server, client, environment, target)
    server, client = scene.replaced(server, "server"), scene.replaced(client, "client")
    assert _visited(scene, server, client, environment, target) == first
    assert (scene.folder / "client" / "client.key").stat().st_mode & 0o777 == 0o600


def _visited(
    scene: Scene, server: Container, client: Container, environment: dict[str, str], target: str
) -> tuple[str, str, list[str]]:
    """Return pin, host and certificates, once the health checks have been right, and the end."""
    serving = server.start(**environment)
    relay = scene.served_by(serving)
    assert server.health() == 0
    dialling = client.start(**scene.dialling("sha256:" + "0" * 64, target))
    dialling.wait_for("not connected")
    assert client.health() == 1
    assert dialling.stop() == 0
    dialled = scene.shown_by(client.start(**scene.dialling(relay.pin, target)))
    assert get(relay, dialled).status == 200
    assert client.health() == 0
    examined = client.ask("doctor", **scene.dialling(relay.pin, target))
    assert examined.returncode == 0, examined.stdout
    assert dialled.host.endswith(f".{SUFFIX}")
    seen = (relay.pin, dialled.host, dialled.certificates())
    assert (dialled.process.stop(), serving.stop()) == (0, 0)
    return seen


@pytest.mark.parametrize(
    ("target", "variables", "faults"),
    [
        (
            "server",
            {"DOMAIN_SUFFIX": "t_.test", "ALLOW": "sha256:1", "TLS_KEY_PATH": "/x", "OPEN": ""},
            ["TLS_CERT_PATH: not set (expected beside TLS_KEY_PATH)"],
        ),
        (
            "server",
            {"DOMAIN_SUFFIX": "t_.test", "ALLOW": "sha256:1", "ACME_EMAIL": "nobody"},
            ["ACME_EMAIL needs ACME_DOMAIN"],
        ),
        (
            "server",
            {"DOMAIN_SUFFIX": "t.test,t_.test", "ALLOW": "sha256:1", "PUB_PORT": "443"},
            [
                'ALLOW: clients.allowed-1.fingerprint: "sha256:1" is not a fingerprint '
                "(expected sha256: and 64 hexadecimal digits)",
                'DOMAIN_SUFFIX: suffixes."t_.test": the name "t_.test" is not a domain name '
                "(expected a name such as t.example.org)",
            ],
        ),
        (
            "client",
            {"POOL_SIZE": "65", "FORCE_HTTP2": "h2", "DOMAIN_SUFFIX": "t.test"},
            [
                "SERVER_ADDR: not set (expected a value, or settings in /data/client.toml)",
                'FORCE_HTTP2: "h2" is not true or false '
                "(expected true, yes, on, 1, false, no, off, 0)",
                'POOL_SIZE: "65" is not a number (expected 1 to 64)',
            ],
        ),
        (
            "client",
            {
                "SERVER_ADDR": "r.test",
                "DOMAIN_SUFFIX": "t.test",
                "LOCAL_ADDR": "web",
                "CA": "/data/missing.pem",
                "SECONDARY_KEY": "/etc/passwd",
                "SECONDARY_CERT_EXTENSION_HEX": "xyz",
            },
            [
                'CA: servers."r.test".ca: /data/missing.pem does not exist',
                'LOCAL_ADDR: endpoints.primary.target: "web" is not a target '
                "(expected 3000, host:port or unix:/run/app.sock)",
            ],
        ),
    ],
)
def test_a_wrong_variable_is_named(
    target: str, variables: dict[str, str], faults: list[str], scene: Scene
) -> None:
    asked = scene.container(target).ask(**variables)
    assert asked.returncode == 78
    said = asked.stderr.splitlines()
    assert [fault for fault in faults if fault not in said] == []


def test_a_settings_file_stands_alone(scene: Scene) -> None:
    server = scene.container("server")
    file = scene.folder / "server" / "relay.toml"
    ports = f'listen = ["127.0.0.1:{scene.api_port}"]', f'listen = ["127.0.0.1:{scene.pub_port}"]'
    file.write_text(
        f'[listeners.agents]\nkind = "agents"\n{ports[0]}\n'
        f'[listeners.public]\nkind = "public"\n{ports[1]}\n'
        f'[suffixes."{SUFFIX}"]\naccess = "open"\n'
    )
    mixed = server.ask(DOMAIN_SUFFIX=SUFFIX)
    assert mixed.returncode == 78
    assert "DOMAIN_SUFFIX: does not go with /data/relay.toml: unset it" in mixed.stderr
    assert server.ask("--check").stdout == "/data/relay.toml: no faults\n"
    process = server.start(LOG_LEVEL="warning")
    scene.served_by(process)
    assert " INFO " not in process.logged()
    assert server.health() == 0
    assert process.stop() == 0


def test_a_read_only_root_and_any_user_will_do(scene: Scene, target: str) -> None:
    relaying = {"DOMAIN_SUFFIX": SUFFIX, "OPEN": "true", **scene.ports()}
    with scene.container("server").confined(USER, relaying) as serving:
        relay = scene.served_by(serving)
        dialling = scene.dialling(relay.pin, target)
        container = scene.container("client")
        os.chown(scene.folder / "client", 0, 0)  # what a new volume has, and group 0 may write
        with container.confined(OTHER_USER, dialling) as process:
            client = scene.shown_by(process)
            assert get(relay, client).status == 200
            assert (scene.folder / "client" / "client.key").stat().st_uid == OTHER_USER
            assert "ro" in process.mounted("/")
            assert "noexec" in process.mounted(TMP)
            assert int(process.status("CapBnd"), 16) == 0
            assert process.stop() == 0
        assert serving.stop() == 0


def test_as_process_1_a_relay_reloads_and_drains(scene: Scene, target: str) -> None:
    relaying = {"DOMAIN_SUFFIX": SUFFIX, "OPEN": "true", **scene.ports()}
    with scene.container("server").confined(USER, relaying) as serving:
        relay = scene.served_by(serving)
        container = scene.container("client")
        client = scene.shown_by(container.start(**scene.dialling(relay.pin, target)))
        assert serving.status("NSpid").split()[-1] == "1"
        serving.signal(signal.SIGHUP)
        serving.wait_for("reloaded")
        with tls(relay, client) as visitor:
            path = f"/slow/{SLOW_BYTES}"
            visitor.sendall(f"GET {path} HTTP/1.1\r\nHost: {client.host}\r\n\r\n".encode())
            ended = threading.Thread(target=serving.stop)
            answer = visitor.recv(4096)
            ended.start()
            while piece := visitor.recv(65536):
                answer += piece
                if len(answer.partition(b"\r\n\r\n")[2]) == SLOW_BYTES:
                    break
        ended.join()
        assert len(answer.partition(b"\r\n\r\n")[2]) == SLOW_BYTES
        assert serving.wait() == 0
        assert client.process.stop() == 0


def test_the_compose_file_runs_both_as_the_images_say(scene: Scene) -> None:
    services = read_yaml((ROOT / "config/docker/compose.yaml").read_text())["services"]
    assert services.keys() == PROGRAMS.keys()
    for target, program in PROGRAMS.items():
        service, image = services[target], scene.container(target).config
        assert service["environment"] == [variable.name for variable in VARIABLES[program]]
        assert service["volumes"] == [f"{target}:/data"]
        check = service["healthcheck"]
        assert check.pop("test") == image["Healthcheck"]["Test"]
        spelt = {"interval": "Interval", "timeout": "Timeout", "start_period": "StartPeriod"}
        seconds = {key: image["Healthcheck"][name] // 10**9 for key, name in spelt.items()}
        assert check == {key: f"{value}s" for key, value in seconds.items()}
        assert service["build"]["target"] == target
        assert (ROOT / "config/docker" / service["build"]["context"]).resolve() == ROOT
        assert (service["read_only"], service["tmpfs"]) == (True, [TMP])


def test_compose_takes_the_file_and_what_the_environment_says() -> None:
    told = {"DOMAIN_SUFFIX": "a.test,b.test", "PUB_PORT": "443", "PIN": "sha256:1"}
    services = read_yaml(compose("config", **told))["services"]
    ports = {
        (str(port["published"]), int(port["target"]), port["protocol"])
        for port in services["server"]["ports"]
    }
    assert ports == {("4433", 4433, "udp"), ("4433", 4433, "tcp"), ("443", 443, "tcp")}
    assert services["server"]["environment"]["DOMAIN_SUFFIX"] == "a.test,b.test"
    assert services["server"]["environment"]["PUB_PORT"] == "443"
    assert services["client"]["environment"]["PIN"] == "sha256:1"
