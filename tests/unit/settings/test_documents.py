"""Drop-ins, merging, masking, stand-ins."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.settings.documents import CLIENT, FINGERPRINT, RELAY, faults, write
from tunnel.errors import SettingsError
from tunnel.settings.documents import SIZE_LIMIT, Sources, read_documents
from tunnel.settings.load import load_client, load_relay, read_relay
from tunnel.settings.reader import Circumstances
from tunnel.settings.values import ClientGrant


def drop_in(folder: Path, name: str, text: str, main: str = "relay.toml") -> Path:
    return write(folder / f"{main}.d", name, text)


def test_drop_ins_are_read_by_name_after_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "relay.toml", f'{RELAY}[relay]\nname = "main"\n')
    drop_in(tmp_path, "20-b.toml", '[relay]\nname = "b"\n')
    drop_in(tmp_path, "10-a.toml", '[relay]\nname = "a"\nstate_dir = "/a"\n')
    settings = load_relay(path, {})
    assert (settings.name, settings.state_dir) == ("b", Path("/a"))


@pytest.mark.parametrize(
    "name", [".a.toml", "a.toml~", "a.dpkg-old.toml", "a.toml.dpkg-new", "a.toml.bak", "a.txt"]
)
def test_what_editors_and_packages_leave_behind_is_ignored(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, "relay.toml", RELAY)
    drop_in(tmp_path, name, "not TOML")
    assert load_relay(path, {}).workers == 1


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["fifo", "directory"])
def test_a_drop_in_that_is_no_file_is_a_fault(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = write(tmp_path, "relay.toml", RELAY)
    folder = drop_in(tmp_path, "a.toml", "[relay]\nx =\n").parent
    make(folder / "b.toml")
    assert faults(load_relay, path)[1:] == [
        "relay.toml.d/b.toml: is not a regular file (nor is it ignored, by its name)"
    ]


def test_a_drop_in_that_leads_nowhere_cannot_be_read(tmp_path: Path) -> None:
    path = write(tmp_path, "relay.toml", RELAY)
    link = drop_in(tmp_path, "a.toml", "").with_name("b.toml")
    link.symlink_to("gone.toml")
    with pytest.raises(FileNotFoundError) as caught:
        load_relay(path, {})
    assert caught.value.filename == str(link)


def test_a_stand_in_may_be_a_pipe(tmp_path: Path) -> None:
    main = write(tmp_path, "relay.toml", RELAY)
    reader, writer = os.pipe()
    with os.fdopen(reader), os.fdopen(writer, "w") as pipe:
        pipe.write('[relay]\nname = "piped"\n')
        pipe.close()
        sources = Sources(main, Path(f"/dev/fd/{reader}"), tmp_path / "relay.toml.d" / "20.toml")
        assert read_relay(read_documents(sources), Circumstances({})).name == "piped"


def test_tables_merge_deeply_and_arrays_replace(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "relay.toml",
        f'{RELAY}[clients.shop]\nfingerprint = "{FINGERPRINT}"\n'
        'names = ["a.example.com", "b.example.com"]\nlimits = { streams = 5, connections = 2 }\n',
    )
    drop_in(tmp_path, "a.toml", '[clients.shop]\nnames = ["c.example.com"]\nlimits.streams = 6\n')
    shop = load_relay(path, {}).clients["shop"]
    assert (shop.names, shop.limits.streams, shop.limits.connections) == (("c.example.com",), 6, 2)


def test_a_fault_names_the_drop_in_and_files_come_in_their_order(tmp_path: Path) -> None:
    path = write(tmp_path, "relay.toml", f"{RELAY}[relay]\nx = 1\n")
    drop_in(tmp_path, "a.toml", "\n[relay]\ny = 1\n")
    assert faults(load_relay, path) == [
        "relay.toml:9: relay.x: unknown key",
        "relay.toml.d/a.toml:3: relay.y: unknown key",
    ]


def test_syntax_faults_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, "relay.toml", "=\n")
    drop_in(tmp_path, "a.toml", "\n=\n")
    assert [fault.split(": ")[0] for fault in faults(load_relay, path)] == [
        "relay.toml:1",
        "relay.toml.d/a.toml:2",
    ]


def test_leftovers_of_another_mode_name_both_files(tmp_path: Path) -> None:
    chain = 'mode = "files"\nchain_file = "relay.toml"\nkey_file = "key.pem"\n'
    path = write(tmp_path, "relay.toml", f"{RELAY}[certificate]\n{chain}")
    write(tmp_path, "key.pem", "").chmod(0o600)
    drop_in(tmp_path, "a.toml", '[certificate]\nmode = "self-signed"\n')
    place = 'belongs to mode = "files", but relay.toml.d/a.toml:2 says mode = "self-signed"'
    assert faults(load_relay, path) == [
        f"relay.toml:10: certificate.chain_file: {place}",
        f"relay.toml:11: certificate.key_file: {place}",
    ]


def test_a_masked_table_is_checked_for_syntax_only(tmp_path: Path) -> None:
    masked = '[listeners.old]\nenabled = false\nkind = "gone"\nnonsense = "${UNSET}"\n'
    path = write(tmp_path, "relay.toml", RELAY + masked)
    assert set(load_relay(path, {}).listeners) == {"agents", "public"}


def test_a_reference_to_a_masked_table_is_a_fault(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "relay.toml",
        f'{RELAY}[clients.shop]\nfingerprint = "{FINGERPRINT}"\nsuffixes = ["t.example.org"]\n',
    )
    drop_in(tmp_path, "a.toml", '[suffixes."t.example.org"]\nenabled = false\n')
    assert faults(load_relay, path) == [
        'relay.toml:10: clients.shop.suffixes: "t.example.org" is masked at relay.toml.d/a.toml:2'
    ]


def test_a_masked_client_stays_as_a_revoked_key(tmp_path: Path) -> None:
    text = f'{RELAY}[clients.shop]\nenabled = false\nfingerprint = "{FINGERPRINT}"\nrubbish = 1\n'
    settings = load_relay(write(tmp_path, "relay.toml", text), {})
    assert settings.clients == {"shop": ClientGrant("shop", b"\xab" * 32, enabled=False)}


def test_a_revoked_key_that_cannot_be_read_is_a_fault(tmp_path: Path) -> None:
    text = f'{RELAY}[clients.shop]\nenabled = false\nfingerprint = "sha256:"\n'
    assert faults(load_relay, write(tmp_path, "relay.toml", text)) == [
        'relay.toml:10: clients.shop.fingerprint: "sha256:" is not a fingerprint '
        "(expected sha256: and 64 hexadecimal digits)"
    ]


def test_paths_are_relative_to_the_file_that_names_them(tmp_path: Path) -> None:
    path = write(tmp_path, "client.toml", CLIENT)
    drop_in(tmp_path, "a.toml", '[client]\nstate_dir = "state"\n', main="client.toml")
    settings = load_client(path, {})
    assert settings.keypairs["primary"].file == tmp_path / "client.key"
    assert settings.state_dir == tmp_path / "client.toml.d" / "state"


def test_variables_are_filled_in_and_two_dollars_are_one(tmp_path: Path) -> None:
    path = write(tmp_path, "relay.toml", f'{RELAY}[relay]\nname = "${{A}}-$${{A}}"\n')
    assert load_relay(path, {"A": "eu"}).name == "eu-${A}"


@pytest.mark.parametrize(
    "proxy", ["${PROXY}", "http://me:${PASSWORD}@proxy:3128", "socks5://proxy:1080"]
)
def test_a_proxys_password_may_come_from_the_environment(tmp_path: Path, proxy: str) -> None:
    text = CLIENT.replace("[keypairs.primary]", f"proxy = {json.dumps(proxy)}\n[keypairs.primary]")
    environment = {"PROXY": "http://me:secret@proxy:3128", "PASSWORD": "secret"}
    settings = load_client(write(tmp_path, "client.toml", text), environment)
    assert settings.servers["eu"].proxy in (environment["PROXY"], "socks5://proxy:1080")


def test_a_file_can_stand_in_for_the_main_file(tmp_path: Path) -> None:
    real = tmp_path / "etc" / "relay.toml"
    write(tmp_path, "tmp", f'{RELAY}[relay]\nstate_dir = "state"\n')
    tree = read_documents(Sources(real, tmp_path / "tmp", real))
    settings = read_relay(tree, Circumstances({}))
    assert settings.state_dir == tmp_path / "etc" / "state"


def test_a_file_can_stand_in_for_a_drop_in_among_the_others(tmp_path: Path) -> None:
    main = write(tmp_path, "relay.toml", RELAY)
    drop_in(tmp_path, "10.toml", '[relay]\nname = "ten"\nstate_dir = "/ten"\n')
    drop_in(tmp_path, "30.toml", '[relay]\nname = "thirty"\n')
    content = write(tmp_path, "tmp", '[relay]\nname = "twenty"\nstate_dir = "/twenty"\n')
    tree = read_documents(Sources(main, content, tmp_path / "relay.toml.d" / "20.toml"))
    settings = read_relay(tree, Circumstances({}))
    assert (settings.name, settings.state_dir) == ("thirty", Path("/twenty"))


def test_a_file_that_is_no_settings_file_is_not_read_whole(tmp_path: Path) -> None:
    path = write(tmp_path, "relay.toml", "#" * (SIZE_LIMIT + 1))
    with pytest.raises(SettingsError, match="larger than 4 MiB"):
        load_relay(path, {})


def test_a_missing_file_is_not_a_fault_of_settings(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_relay(tmp_path / "relay.toml", {})
