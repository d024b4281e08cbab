"""Where a verb finds the running program, and what it says where nobody answers."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

import tunnel
from tests.unit.cli.examined import unexamined
from tests.unit.settings.documents import RELAY, write
from tunnel.cli.command import run_client_command, run_relay_command
from tunnel.cli.running import Running, Unreachable

# Root may go everywhere; without these capabilities file modes hold for it too.
UNBOUND = "-dac_override,-dac_read_search"
BOUND_BY_MODES = ("setpriv", f"--bounding-set={UNBOUND}") if os.geteuid() == 0 else ()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run every test in an empty folder, which is also where state is kept."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    for name in ("STATE_DIRECTORY", "RUNTIME_DIRECTORY", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def unused(_settings: object, **_options: object) -> int:
    raise AssertionError("a verb served")


def run(*argv: str) -> int:
    return run_relay_command(argv, unused, unexamined)


@contextmanager
def answering(path: Path, answer: bytes, times: int = 1) -> Iterator[None]:
    """Say `answer` to whoever connects to `path`, so often."""
    path.parent.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listener, ThreadPoolExecutor(1) as pool:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            for _ in range(times):
                caller, _ = listener.accept()
                with caller:
                    caller.recv(65536)
                    caller.sendall(answer)

        served = pool.submit(serve)
        yield
        served.result(5)


def http(status: int, value: object) -> bytes:
    return f"HTTP/1.1 {status} Words\r\nContent-Type: x\r\n\r\n{json.dumps(value)}".encode()


DRAINING = http(202, {"draining": True})


@pytest.mark.parametrize(
    ("settings", "argv", "place"),
    [
        ("", ["--socket", "a.sock"], "a.sock"),
        ('[admin]\nsocket = "b.sock"', ["-c", "relay.toml"], "b.sock"),
        ("", ["-c", "relay.toml"], "tunnel-relay/admin.sock"),
        ('[relay]\nstate_dir = "state"', ["-c", "relay.toml"], "state/admin.sock"),
        ("", [], "tunnel-relay/admin.sock"),
    ],
)
def test_the_socket_is_found_where_the_program_makes_it(
    folder: Path,
    settings: str,
    argv: list[str],
    place: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(folder, "relay.toml", f"{settings}\n{RELAY}")
    with answering(folder / place, DRAINING):
        assert run("drain", "--json", *argv) == 0
    assert json.loads(capsys.readouterr().out) == {"draining": True}


@pytest.mark.parametrize("settings", ["", '[relay]\nstate_dir = "other"'])
def test_a_service_finds_its_own_by_its_environment(
    folder: Path,
    settings: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", f"{folder / 'run'}:/elsewhere")
    write(folder, "relay.toml", f"{settings}\n{RELAY}")
    with answering(folder / "run" / "admin.sock", DRAINING):
        assert run("drain", "-c", "relay.toml") == 0
    assert capsys.readouterr().err == ""


def test_other_settings_are_never_taken_for_those_of_the_service(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(folder, "relay.toml", f'[relay]\nstate_dir = "other"\n{RELAY}')
    with socket.socket(socket.AF_UNIX) as service:
        (folder / "tunnel-relay").mkdir()
        service.bind("tunnel-relay/admin.sock")
        assert run("status", "-c", "relay.toml") == 69
    assert "other/admin.sock: no such file or directory" in capsys.readouterr().err


def test_who_may_not_enter_its_directory_is_told_who_may_ask(folder: Path) -> None:
    (folder / "tunnel-relay").mkdir(mode=0)
    command = [*BOUND_BY_MODES, sys.executable, "-m", "tunnel.relay", "status", "--check"]
    environment = {**os.environ, "PYTHONPATH": str(Path(tunnel.__file__).parents[1])}
    asked = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=15
    )
    told = "permission denied (only the service's user, its group and root may ask)"
    assert (asked.returncode, asked.stderr) == (69, f"{folder}/tunnel-relay/admin.sock: {told}\n")


def test_a_path_in_settings_that_is_none_has_its_place(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(folder, "relay.toml", f"[admin]\nsocket = 7\n{RELAY}")
    assert run("status", "-c", "relay.toml") == 78
    assert capsys.readouterr().err == (
        "relay.toml:2: admin.socket: 7 is not a path (expected a path)\n"
    )


def test_faults_of_settings_that_are_not_in_force_yet_do_not_matter(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(
        folder, "relay.toml", f'[relay]\nstate_dir = "state"\nworkers = "x"\n{RELAY}\n[nonsense]\n'
    )
    with answering(folder / "state" / "admin.sock", DRAINING):
        assert run("drain", "-c", "relay.toml") == 0
    assert capsys.readouterr().out == "draining; it ends when that is done\n"


@pytest.mark.parametrize("argv", [["status"], ["status", "--check"], ["drain"], ["cert", "list"]])
def test_69_says_that_nobody_answers(
    folder: Path, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*argv, "--socket", "gone.sock") == 69
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("gone.sock: no such file or directory (not running, or its socket")


def test_69_says_that_it_was_killed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("left.sock")
    assert run("status", "--socket", "left.sock") == 69
    assert "left.sock: connection refused (not running" in capsys.readouterr().err


def test_69_says_that_something_else_answers(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(folder / "x.sock", b"220 smtp.example.org ESMTP\r\n"):
        assert run("status", "--socket", "x.sock") == 69
    assert capsys.readouterr().err == "x.sock: what answers there is no tunnel\n"


def drip(listener: socket.socket, seconds: float) -> None:
    """Answer a caller with one byte after the other, until he leaves or for so long."""
    caller, _ = listener.accept()
    end = time.monotonic() + seconds
    with caller, suppress(BrokenPipeError, ConnectionResetError):
        while time.monotonic() < end:
            caller.sendall(b"x")


def test_an_answer_that_drips_is_given_up_in_time(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, ThreadPoolExecutor(1) as pool:
        listener.bind("x.sock")
        listener.listen()
        dripping = pool.submit(drip, listener, 2.0)
        with pytest.raises(Unreachable, match=r"x\.sock: no answer within 0\.2 s"):
            Running(folder / "x.sock").exchange("GET", "/status", timeout=0.2)
        dripping.result(5)


@pytest.mark.parametrize("status", [200, 404])
@pytest.mark.parametrize("value", [[], "no", None])
def test_69_says_that_an_answer_is_no_object(
    folder: Path, status: int, value: object, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(folder / "x.sock", http(status, value)):
        assert run("drain", "--socket", "x.sock") == 69
    assert capsys.readouterr().err == "the answer is not a JSON object\n"


def test_a_path_too_long_for_a_socket_is_said_to_be(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("status", "--socket", "x" * 200) == 69
    assert "path too long" in capsys.readouterr().err


def test_a_missing_settings_file_is_said_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("status", "-c", "missing.toml") == 74
    assert capsys.readouterr().err == "missing.toml: cannot be read: No such file or directory\n"


def test_settings_that_are_no_toml_end_with_78(folder: Path) -> None:
    write(folder, "relay.toml", "[relay\n")
    assert run("status", "-c", "relay.toml") == 78


@pytest.mark.parametrize(
    ("status", "text", "code"), [(200, "ready\n", 0), (503, "draining: wait\n", 1)]
)
def test_check_says_in_one_line_whether_it_is_ready(
    folder: Path, status: int, text: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(folder / "x.sock", f"HTTP/1.1 {status} X\r\n\r\n{text}".encode()):
        assert run("status", "--check", "--socket", "x.sock") == code
    assert capsys.readouterr().out == text


def test_check_has_its_json_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with answering(folder / "x.sock", b"HTTP/1.1 503 X\r\n\r\ndraining\n"):
        assert run("status", "--check", "--json", "--socket", "x.sock") == 1
    assert json.loads(capsys.readouterr().out) == {"ready": False, "why": "draining"}


def test_what_the_program_declines_ends_with_1_and_its_words(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(folder / "x.sock", http(404, {"error": "there is no certificate for x"})):
        assert run("cert", "renew", "x", "--socket", "x.sock") == 1
    assert capsys.readouterr().err == "there is no certificate for x\n"


def test_a_client_looks_in_a_place_of_its_own(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(folder / "tunnel-client" / "admin.sock", DRAINING):
        assert run_client_command(["drain"], unused, unexamined) == 0
    assert os.listdir(folder) == ["tunnel-client"]
    assert capsys.readouterr().err == ""


# -- programs that end meanwhile, and readers that leave


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"", "x.sock: it has ended, or is ending, without an answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{", "it has ended in the middle of its"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "it has ended in the middle of its"),
    ],
)
def test_a_program_that_ends_in_the_middle_is_said_to(
    folder: Path, answer: bytes, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(folder / "x.sock", answer):
        assert run("status", "--socket", "x.sock") == 69
    assert told in capsys.readouterr().err


def test_an_answer_of_another_version_is_said_to_be(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(folder / "x.sock", http(200, {"version": "9.9", "program": "relay"})):
        assert run("status", "--socket", "x.sock") == 1
    assert "what version 9.9 answers cannot be shown by version" in capsys.readouterr().err


@pytest.mark.parametrize("words", ["completion bash", "status --json --socket x.sock"])
def test_a_reader_who_leaves_ends_a_verb_without_a_word(folder: Path, words: str) -> None:
    source, gone = os.pipe()
    os.close(source)
    command = [sys.executable, "-m", "tunnel.relay", *words.split()]
    environment = {**os.environ, "PYTHONPATH": str(Path(tunnel.__file__).parents[1])}
    with answering(folder / "x.sock", DRAINING, times=int("status" in words)):
        ended = subprocess.run(
            command, stdout=gone, stderr=subprocess.PIPE, env=environment, check=False, timeout=15
        )
    os.close(gone)
    assert (ended.returncode, ended.stderr) == (141, b"")


@pytest.mark.parametrize(
    "words",
    ["status", "status --check", "reload", "reload --dry-run", "drain", "cert list", "doctor"],
)
def test_a_verb_that_is_interrupted_ends_without_a_word(folder: Path, words: str) -> None:
    command = [sys.executable, "-m", "tunnel.relay", *words.split(), "--socket", "x.sock"]
    environment = {**os.environ, "PYTHONPATH": str(Path(tunnel.__file__).parents[1])}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "x.sock"))
        listener.listen()
        listener.settimeout(15)
        verb = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        )
        with verb, listener.accept()[0]:
            verb.send_signal(signal.SIGINT)
            output = verb.communicate(timeout=15)
    assert (verb.returncode, *output) == (130, b"", b"")


# -- one of several clients


@pytest.fixture
def services(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder in the place of /run and /var/lib, in which tunnel-client runs, too."""
    monkeypatch.setattr("tunnel.cli.running.SERVICES", (folder / "run",))
    (folder / "run" / "tunnel-client").mkdir(parents=True)
    (folder / "clients").mkdir()
    return folder / "run"


@pytest.mark.parametrize("verb", [["status", "--check"], ["drain"], ["reload"], ["cert", "list"]])
def test_settings_of_an_instance_lead_to_its_own_service(
    folder: Path, services: Path, verb: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write(folder / "clients", "shop.toml", "")
    with (
        socket.socket(socket.AF_UNIX) as other,
        answering(services / "tunnel-client-shop" / "admin.sock", http(503, {"error": "it is me"})),
    ):
        other.bind("run/tunnel-client/admin.sock")
        run_client_command([*verb, "-c", "clients/shop.toml"], unused, unexamined)
    output = capsys.readouterr()
    assert "it is me" in output.out + output.err


def test_an_instance_that_does_not_run_is_not_taken_for_the_client_beside_it(
    folder: Path, services: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(folder / "clients", "shop.toml", "")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind("run/tunnel-client/admin.sock")
        assert run_client_command(["drain", "-c", "clients/shop.toml"], unused, unexamined) == 69
    assert f"{services}/tunnel-client-shop/admin.sock: no such file" in capsys.readouterr().err


# -- a socket that a reload is to move


@pytest.mark.parametrize("written", ['[admin]\nsocket = "new.sock"\n', ""])
def test_a_reload_asks_where_the_socket_still_is(folder: Path, written: str) -> None:
    write(folder, "relay.toml", f'{written}[relay]\nstate_dir = "state"\n')
    write(folder / "state", "control-socket", str(folder / "old.sock"))
    outcome = http(200, {"applied": True, "plan": None, "faults": []})
    with answering(folder / "old.sock", outcome):
        assert run("reload", "-c", "relay.toml") == 0


def test_no_other_verb_follows_a_note(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder, "relay.toml", '[admin]\nsocket = "new.sock"\n[relay]\nstate_dir = "state"\n')
    write(folder / "state", "control-socket", str(folder / "old.sock"))
    with socket.socket(socket.AF_UNIX) as old:
        old.bind("old.sock")
        assert run("drain", "-c", "relay.toml") == 69
    assert "new.sock: no such file or directory" in capsys.readouterr().err


@pytest.mark.parametrize("note", [b"", b"\0", b"/gone.sock", b"x" * 10_000])
def test_a_note_that_leads_nowhere_is_passed_over(
    folder: Path, note: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    write(folder, "relay.toml", '[relay]\nstate_dir = "state"\n')
    (folder / "state").mkdir()
    (folder / "state" / "control-socket").write_bytes(note)
    assert run("reload", "-c", "relay.toml") == 69
    assert "state/admin.sock: no such file or directory" in capsys.readouterr().err


# -- what came of a reload

REFUSED = {
    "applied": False,
    "faults": ["relay.toml:3: relay.workers: needs a restart"],
    "plan": {"tables": {}, "keys": {"relay": ["workers"]}, "restart_required": ["relay.workers"]},
}
STAYS = "not reloaded: the settings from before stay in force\n"


@pytest.mark.parametrize(
    ("words", "out", "last"),
    [("reload", "", STAYS), ("reload --dry-run", "to be changed: relay.workers\n", "")],
)
def test_a_refused_reload_does_not_look_like_one_that_is_to_come(
    folder: Path, words: str, out: str, last: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(folder / "x.sock", http(200, REFUSED)):
        assert run(*words.split(), "--socket", "x.sock") == 78
    told = f"relay.toml:3: relay.workers: needs a restart\n{last}"
    assert capsys.readouterr() == (out, told)
