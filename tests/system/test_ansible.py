"""The Ansible collection on two Debian 12 under systemd: converged, changed, updated, revoked."""

import json
import re
import shlex
import shutil
import subprocess
import tarfile
import threading
import tomllib
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.system.container import Container
from tests.system.fleet import (
    COLLECTION,
    INSTALLED,
    PAGE,
    PLAY_TIMEOUT,
    RELAY_SETTINGS,
    ROOT,
    Fleet,
    changed,
    fetch,
    new_fleet,
    tools,
)

pytestmark = [pytest.mark.system, pytest.mark.timeout(1500)]  # the first makes root, tools, fleet

RELAY = "tunnel-relay.service"
WEB = "tunnel-client@web.service"
HOSTS = ["eu", "eu-shop", "us", "us-shop"]
NOBODY = dict.fromkeys(HOSTS, 0)
SAME_STATE = "/var/lib/private/tunnel-relay"  # by the name that systemd has for it, too
SECRET = "it's a $ecret"  # noqa: S105 - what must not be shown
VISIT_INTERVAL = 0.1  # seconds


@dataclass
class Converged:
    """A fleet that was set up, and what Ansible said: before it, of it, and of doing it again."""

    fleet: Fleet
    foretold: str
    files_foretold: str
    said: str
    again: str


@pytest.fixture(scope="module")
def converged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Converged]:
    with new_fleet(tmp_path_factory.mktemp("fleet")) as fleet:
        fleet.client["client_environments"] = {"web": {"WEB_TARGET": "127.0.0.1:3000"}}
        fleet.client["client_environments"]["other"] = {"PASSWORD": SECRET}
        for instances in fleet.instances.values():
            instances[0]["settings"]["endpoints"]["page"]["target"] = "${WEB_TARGET}"
        foretold = fleet.play("site", "--check", "--diff")
        files = fleet.eu.run("sh", "-c", "ls -d /etc/tunnel /usr/local/bin/*.pyz; true").stdout
        said = fleet.play("site")
        yield Converged(fleet, foretold, files, said, fleet.play("site"))


@pytest.fixture
def fleet(converged: Converged) -> Iterator[Fleet]:
    """Have the fleet's inventory as it was before a test, from the next command on."""
    fleet = converged.fleet
    before = deepcopy((fleet.relay, fleet.client, fleet.instances))
    yield fleet
    fleet.relay, fleet.client, fleet.instances = before


def process(box: Container, unit: str = RELAY) -> str:
    return box.shown(unit, "MainPID")


def with_settings(fleet: Fleet, **tables: object) -> None:
    """Have other settings of relays in the inventory."""
    fleet.relay["relay_settings"] = {**RELAY_SETTINGS, **tables}


def test_ansible_lint_finds_no_fault_by_its_strictest_profile(converged: Converged) -> None:
    config = COLLECTION / ".ansible-lint"
    said = converged.fleet.run(f"ansible-lint -c {config} --nocolor {INSTALLED}")
    assert "0 failure(s), 0 warning(s)" in said
    assert "Profile 'production' was required, and it passed" in said


def as_toml(settings: object) -> subprocess.CompletedProcess[str]:
    """Have the collection's filter write settings, by Ansible's own Python."""
    code = "import json, sys; from toml import toml; print(toml(json.load(sys.stdin)))"
    environment = {"PYTHONPATH": str(COLLECTION / "plugins" / "filter"), "LC_ALL": "C.UTF-8"}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    return subprocess.run(
        [tools() / "python", "-c", code],
        input=json.dumps(settings),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_settings_come_out_of_toml_as_they_went_in() -> None:
    settings = {
        "level": "debug",
        "texts": ['"', "\\", "\n\x00\x7f", "ü€😀", "${HOME}", "{{ x }}", ""],
        "numbers": [0, -1, 1.5, True, False],
        "suffixes": {"t.example.org": {}, 'odd "name"': {"deep": {"er": {"a b": [[1], []]}}}},
        "clients": {"shop": {"limits": {"streams": 9}, "names": []}},
        "inline": [{"a": 1, "b c": {}}],
        "empty": {},
    }
    assert tomllib.loads(as_toml(settings).stdout) == settings


def test_what_toml_cannot_say_is_refused_by_its_path() -> None:
    refused = as_toml({"suffixes": {"t.test": {"access": None}}})
    assert "suffixes.t.test.access: nothing (null) is no value" in refused.stderr
    assert refused.returncode != 0


def test_the_collection_is_built_with_its_playbooks_and_without_the_example(
    converged: Converged,
) -> None:
    fleet = converged.fleet
    fleet.run("ansible-galaxy collection build ./config/ansible --output-path built")
    [built] = (fleet.folder / "built").iterdir()
    with tarfile.open(built) as archive:
        names = archive.getnames()
    assert "playbooks/site.yml" in names
    assert not [name for name in names if "inventory.example" in name]


def test_check_mode_shows_what_a_first_run_would_write_and_writes_nothing(
    converged: Converged,
) -> None:
    assert converged.files_foretold == ""
    for line in ("+[listeners.agents]", '+certificate = "self-signed"', "+net.core.rmem_max ="):
        assert line in converged.foretold
    assert all(changed(converged.foretold).values())


def test_every_client_is_served_through_every_relay(converged: Converged) -> None:
    fleet = converged.fleet
    for box, name in ((fleet.eu, "web"), (fleet.eu, "other"), (fleet.us, "web")):
        for relay in ("eu", "us"):
            assert fleet.page(relay, fleet.host(box, name)).strip() == PAGE


def test_a_second_run_changes_nothing(converged: Converged) -> None:
    assert changed(converged.again) == NOBODY


def test_the_kernel_is_asked_for_quics_buffers(converged: Converged) -> None:
    limits = converged.fleet.eu.read("/etc/sysctl.d/60-tunnel.conf")
    assert re.findall(r"net\.core\.([rw]mem_max) = (\d+)", limits)
    assert all(int(value) >= 4 << 20 for value in re.findall(r"= (\d+)", limits))


def test_a_key_stays_where_it_was_made_and_only_root_reads_it(converged: Converged) -> None:
    fleet = converged.fleet
    shown = fleet.eu.run("stat", "-c", "%a %U", "/etc/tunnel/keys/web/client.key").stdout
    assert shown == "600 root\n"
    key = fleet.eu.read("/etc/tunnel/keys/web/client.key").splitlines()[1]
    assert key not in converged.said
    assert "client.key" not in fleet.us.run("ls", "-R", "/etc/tunnel/relay.toml.d").stdout


def test_variables_reach_the_client_and_nobody_else_is_shown_them(converged: Converged) -> None:
    fleet = converged.fleet
    environment = fleet.eu.run("cat", f"/proc/{process(fleet.eu, OTHER)}/environ").stdout
    assert f"PASSWORD={SECRET}" in environment.split("\0")
    assert fleet.eu.run("stat", "-c", "%a", "/etc/tunnel/clients/other.env").stdout == "600\n"
    assert "$ecret" not in converged.foretold + converged.said


OTHER = "tunnel-client@other.service"


def test_a_change_is_shown_in_check_mode_and_then_reloaded_by_the_same_process(
    fleet: Fleet,
) -> None:
    before = process(fleet.eu), process(fleet.us)
    moved = "/run/tunnel-relay/moved.sock"  # by which the program has to be asked from then on
    with_settings(fleet, log={"level": "debug"}, admin={"socket": moved})
    foretold = fleet.play("update_relays", "--limit=eu", "--check", "--diff")
    assert '+level = "debug"' in foretold
    assert "would be reloaded" in foretold
    assert "debug" not in fleet.eu.read("/etc/tunnel/relay.toml")
    fleet.play("update_relays")
    assert (process(fleet.eu), process(fleet.us)) == before
    assert 'reloaded changed="admin.socket, log.level"' in fleet.eu.journal(RELAY)


def test_a_client_is_reloaded_too(fleet: Fleet) -> None:
    before = process(fleet.eu, WEB), process(fleet.us, WEB)
    fleet.instances["eu-shop"][0]["settings"]["log"] = {"level": "debug"}
    fleet.play("update_clients")
    assert (process(fleet.eu, WEB), process(fleet.us, WEB)) == before
    assert "reloaded changed=log.level" in fleet.eu.journal(WEB)


def test_faulty_settings_are_refused_at_the_first_relay_before_its_file_changes(
    fleet: Fleet,
) -> None:
    before = process(fleet.eu), fleet.eu.read("/etc/tunnel/relay.toml")
    with_settings(fleet, log={"level": 7})
    for options in ((), ("--check",)):
        said = fleet.play("update_relays", *options, status=2)
        assert re.search(r"/etc/tunnel/relay\.toml:\d+: log\.level: 7 is not known", said)
        assert list(changed(said)) == ["eu"]
    assert (process(fleet.eu), fleet.eu.read("/etc/tunnel/relay.toml")) == before


def test_a_new_program_restarts_the_relay_also_after_a_run_that_failed_half_way(
    fleet: Fleet,
) -> None:
    before = process(fleet.eu)
    other = fleet.folder / "relay.pyz"
    shutil.copy(ROOT / "dist" / "relay.pyz", other)
    with zipfile.ZipFile(other, "a") as archive:
        archive.comment = b"another build"
    fleet.relay["relay_program"] = str(other)
    with_settings(fleet, log={"level": 7})
    fleet.play("update_relays", "--limit=eu", status=2)
    assert process(fleet.eu) == before
    with_settings(fleet)
    said = fleet.play("update_relays", "--limit=eu")
    assert "Install the program, if it runs here] *********\nok: [eu]" in said
    assert process(fleet.eu) != before


@dataclass
class Visits:
    """Who served each visitor, and why nobody did."""

    served: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


@contextmanager
def visitors(fleet: Fleet, host: str) -> Iterator[Visits]:
    """Have visitors who take the other relay, at once, if they are turned away by one."""
    visits, over = Visits(), threading.Event()

    def visit() -> None:
        faults = []
        for relay in ("eu", "us"):
            try:
                assert fleet.page(relay, host).strip() == PAGE
            except OSError as error:
                faults.append(f"{relay}: {error!r}")
            else:
                visits.served.append(relay)
                return
        visits.failed.append(", ".join(faults))

    def come() -> None:
        while not over.wait(VISIT_INTERVAL):
            visit()

    with ThreadPoolExecutor() as pool:
        coming = pool.submit(come)
        try:
            yield visits
        finally:
            over.set()
            coming.result()


def test_relays_restart_in_turn_for_a_setting_that_takes_it_and_no_visitor_notices(
    fleet: Fleet,
) -> None:
    before = process(fleet.eu), process(fleet.us)
    with_settings(fleet, relay={"drain_timeout": "10s", "state_dir": SAME_STATE})
    for when in ("before_stop", "after_ready"):
        tasks = fleet.folder / f"{when}.yml"
        tasks.write_text(f"- ansible.builtin.command: touch /run/{when}\n")
        fleet.relay[f"relay_{when}"] = str(tasks)
    host = fleet.host(fleet.eu, "web")
    with (
        ThreadPoolExecutor() as pool,
        visitors(fleet, host) as visits,
        fleet.visiting("eu", host) as stays,
    ):
        update = pool.submit(fleet.play, "update_relays")
        fleet.eu.wait_until(RELAY, "ActiveState", "deactivating", PLAY_TIMEOUT)
        assert process(fleet.us) == before[1]
        assert fetch(stays, host).strip() == PAGE  # who is there while it drains
        update.result()
    assert visits.failed == []
    assert set(visits.served) == {"eu", "us"}
    assert process(fleet.eu) != before[0]
    assert process(fleet.us) != before[1]
    fleet.us.run("test", "/run/before_stop", "-ot", "/run/after_ready")


def test_a_program_that_is_missing_is_said_to_be(fleet: Fleet) -> None:
    fleet.relay["relay_program"] = "/nowhere/relay.pyz"
    said = fleet.play("update_relays", "--limit=eu", status=2)
    assert "there is no /nowhere/relay.pyz on the controller: make it by scripts/build" in said


def test_a_variable_of_another_type_is_refused_by_its_name(fleet: Fleet) -> None:
    fleet.relay["relay_settings"] = "relay.toml"
    said = fleet.play("update_relays", "--limit=eu", status=2)
    assert "argument 'relay_settings' is of type" in said


def test_a_revoked_client_and_one_that_is_gone_lose_their_sessions_and_no_other_does(
    fleet: Fleet,
) -> None:
    keys = [fleet.fingerprint(fleet.eu, name) for name in ("web", "other")]
    gone = fleet.fingerprint(fleet.us, "web")
    before = fleet.sessions(fleet.us)
    assert set(before) == {*keys, gone}
    fleet.instances["eu-shop"][1]["enabled"] = False
    fleet.instances["us-shop"] = []
    fleet.play("revoke")
    assert fleet.sessions(fleet.us) == {keys[0]: before[keys[0]]}
    assert "enabled = false" in fleet.us.read("/etc/tunnel/relay.toml.d/50-eu-shop-other.toml")
    for box, unit in ((fleet.eu, OTHER), (fleet.us, WEB)):
        assert box.shown(unit, "ActiveState") == "inactive"
        assert box.shown(unit, "UnitFileState") == "disabled"
    assert changed(fleet.play("revoke")) == NOBODY


def shown_commands() -> list[str]:
    """Return the commands of the section on fleets."""
    text = (ROOT / "docs" / "operations.md").read_text()
    section = text.split("\n## Fleets (Ansible)\n")[1].split("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    lines = [line.partition(" #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def test_every_command_of_the_documentation_does_what_it_is_shown_for(
    fleet: Fleet, tmp_path: Path
) -> None:
    build, _, copy, *plays = commands = shown_commands()
    subprocess.run(shlex.split(build), cwd=ROOT, check=True)
    (tmp_path / "config").symlink_to(ROOT / "config")
    subprocess.run(shlex.split(copy), cwd=tmp_path, check=True)
    graph = fleet.run(f"ansible-inventory -i {tmp_path}/inventory --graph --vars")
    assert "relay_settings" in graph
    assert len(plays) == len(list(COLLECTION.glob("playbooks/*.yml"))) + 1
    for command in {*commands} - {build, copy, *fleet.ran}:
        fleet.run(command)
