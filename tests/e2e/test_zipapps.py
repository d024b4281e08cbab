"""The zipapps on a bare machine: nothing but a Python, wherever they may or may not write."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.pythons import ACME, ENGINES, pythons, supported
from tunnel import __version__

ROOT = Path(__file__).resolve().parents[2]
RELAY = ROOT / "dist" / "relay.pyz"
CLIENT = ROOT / "dist" / "client.pyz"
BUILD = (sys.executable, str(ROOT / "scripts" / "zipapps.py"))
# Root may write everywhere; without this capability file modes hold for it too.
BOUND_BY_MODES = ("setpriv", "--bounding-set=-dac_override") if os.geteuid() == 0 else ()

pytestmark = pytest.mark.timeout(300)  # whichever comes first may have to build


SUPPORTED = supported()
TOO_OLD = sorted(minor for minor in pythons() if minor < 11)


def run(
    archive: Path,
    environment: Mapping[str, str],
    python: str = sys.executable,
    prefix: Sequence[str] = (),
) -> subprocess.CompletedProcess[str]:
    """Ask a zipapp for its version with nothing but these variables, all through `prefix`."""
    return subprocess.run(
        [*prefix, python, "-I", str(archive), "--version"],
        env={"PATH": os.defpath, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=15,
    )


def copies(root: Path) -> list[Path]:
    """Return what has been unpacked in `root`."""
    return sorted(root.glob("quic-tunnel-*"))


def assert_answered(done: subprocess.CompletedProcess[str]) -> None:
    assert (done.returncode, done.stderr) == (0, "")
    assert __version__ in done.stdout


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    """Bring the zipapps up to date, which is quick when they are."""
    subprocess.run(BUILD, check=True, timeout=300)


@pytest.fixture(scope="module")
def cache_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache that the tests share which do not look at how it came about."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("minor", SUPPORTED)
@pytest.mark.parametrize("archive", [RELAY, CLIENT], ids=lambda path: path.stem)
def test_it_runs_with_only_a_python(archive: Path, minor: int, cache_root: Path) -> None:
    done = run(archive, {"SHIV_ROOT": str(cache_root)}, python=pythons()[minor])
    assert_answered(done)


@pytest.mark.parametrize("minor", SUPPORTED)
def test_every_engine_loads(minor: int, cache_root: Path) -> None:
    run(RELAY, {"SHIV_ROOT": str(cache_root)}, python=pythons()[minor])
    [copy] = copies(cache_root)
    code = f"import sys; sys.path.insert(0, {str(copy)!r}); import {ENGINES}, {ACME}"
    subprocess.run([pythons()[minor], "-I", "-c", code], check=True)


def test_what_orders_certificates_is_loaded_by_who_orders(cache_root: Path) -> None:
    """Loading it takes as long as all the rest of a start."""
    run(RELAY, {"SHIV_ROOT": str(cache_root)})
    [copy] = copies(cache_root)
    code = (
        f"import sys; sys.path.insert(0, {str(copy)!r}); "
        "import tunnel.relay.server, tunnel.client.client; "
        "print(*{'acme', 'josepy', 'requests', 'dns'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], check=True, capture_output=True)
    assert done.stdout.decode().split() == []


def test_an_old_python_is_refused_in_a_sentence(tmp_path: Path) -> None:
    """Where none is installed, tests/unit/test_boot.py still has the sentence, and its syntax."""
    for minor in TOO_OLD:
        done = run(RELAY, {"SHIV_ROOT": str(tmp_path)}, python=pythons()[minor])
        assert done.returncode == 1
        sentence = f"needs Python 3.11 or newer; this is Python 3.{minor}"
        assert done.stderr == f"{RELAY}: {sentence}\n"


def test_it_is_executable_by_itself(tmp_path: Path) -> None:
    newest = Path(pythons()[SUPPORTED[-1]]).parent
    environment = {"PATH": f"{newest}:{os.defpath}", "SHIV_ROOT": str(tmp_path)}
    done = subprocess.run([RELAY, "--version"], env=environment, check=True, capture_output=True)
    assert __version__ in done.stdout.decode()


def test_relay_and_client_share_one_copy(tmp_path: Path) -> None:
    for archive in (RELAY, CLIENT):
        assert_answered(run(archive, {"SHIV_ROOT": str(tmp_path)}))
    assert len(copies(tmp_path)) == 1


@pytest.mark.parametrize(
    ("variable", "below"),
    [
        ("SHIV_ROOT", ""),
        ("CACHE_DIRECTORY", ""),
        ("XDG_CACHE_HOME", ""),
        ("HOME", ".cache"),
    ],
)
def test_it_unpacks_where_it_is_told(variable: str, below: str, tmp_path: Path) -> None:
    assert_answered(run(RELAY, {variable: str(tmp_path)}))
    assert len(copies(tmp_path / below)) == 1


def test_it_runs_without_home() -> None:
    assert_answered(run(RELAY, {}))


@pytest.mark.parametrize("home", ["/nonexistent/home", "/proc/home", ""])
def test_it_runs_where_home_does_not_exist(home: str, tmp_path: Path) -> None:
    assert_answered(run(RELAY, {"HOME": home, "TMPDIR": str(tmp_path)}))
    assert (len(copies(tmp_path)), Path("/nonexistent").exists()) == (1, False)


@pytest.mark.parametrize("variable", ["SHIV_ROOT", "CACHE_DIRECTORY", "XDG_CACHE_HOME", "HOME"])
def test_it_runs_where_its_place_is_read_only(variable: str, tmp_path: Path) -> None:
    place, temporary = tmp_path / "place", tmp_path / "tmp"
    place.mkdir(0o555)
    temporary.mkdir()
    environment = {"HOME": "/nonexistent", "TMPDIR": str(temporary), variable: str(place)}
    assert_answered(run(RELAY, environment, prefix=BOUND_BY_MODES))
    assert (len(copies(temporary)), list(place.iterdir())) == (1, [])


def test_a_complete_copy_need_not_be_writable(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    environment = {"SHIV_ROOT": str(first), "TMPDIR": str(second)}
    assert_answered(run(RELAY, environment))
    for directory in (first, *(path for path in first.rglob("*") if path.is_dir())):
        directory.chmod(0o555)
    assert_answered(run(RELAY, environment, prefix=BOUND_BY_MODES))
    assert not second.exists()


def test_a_copy_that_others_may_write_is_not_trusted(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    environment = {"SHIV_ROOT": str(first), "CACHE_DIRECTORY": str(second)}
    assert_answered(run(RELAY, environment))
    [copy] = copies(first)
    copy.chmod(0o777)
    assert_answered(run(RELAY, environment))
    assert len(copies(second)) == 1


def test_the_second_of_two_starts_at_once_does_not_trip_over_the_first(tmp_path: Path) -> None:
    command = [sys.executable, "-I", str(RELAY), "--version"]
    environment = {"SHIV_ROOT": str(tmp_path)}
    starts = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) for _ in range(4)]
    outputs = [start.communicate(timeout=15)[0].decode() for start in starts]
    assert all(__version__ in output for output in outputs)
    assert {start.returncode for start in starts} == {0}


def test_a_damaged_copy_is_mended(tmp_path: Path) -> None:
    environment = {"SHIV_ROOT": str(tmp_path)}
    run(RELAY, environment)
    [copy] = copies(tmp_path)
    truncated, deleted = copy / "tunnel" / "__init__.py", copy / "cryptography"
    truncated.write_bytes(truncated.read_bytes()[:20])
    shutil.rmtree(deleted)
    assert_answered(run(RELAY, environment))
    with zipfile.ZipFile(RELAY) as archive:
        assert truncated.read_bytes() == archive.read("site-packages/tunnel/__init__.py")
    assert (deleted / "__init__.py").exists()


def test_an_interrupted_start_is_taken_up_again(tmp_path: Path) -> None:
    start = begin(tmp_path)
    start.kill()
    start.communicate()
    assert_answered(run(RELAY, {"SHIV_ROOT": str(tmp_path)}))


def test_a_hang_up_does_not_kill_before_python_has_begun(tmp_path: Path) -> None:
    python = tmp_path / "python3"
    python.write_text('#!/bin/sh\nkill -HUP $$\necho "$@"\n')
    python.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.defpath}"}
    command = [str(RELAY), "a b", "*"]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert done.stdout == f"-I {RELAY} a b *\n"


def test_a_hang_up_during_the_start_does_not_kill(tmp_path: Path) -> None:
    start = begin(tmp_path)
    start.send_signal(signal.SIGHUP)
    output, _ = start.communicate(timeout=15)
    assert (start.returncode, __version__ in output) == (0, True)


def begin(root: Path) -> subprocess.Popen[str]:
    """Return a start that has unpacked a part of itself into `root`."""
    start = subprocess.Popen(
        [sys.executable, "-I", str(RELAY), "--version"],
        env={"SHIV_ROOT": str(root)},
        stdout=subprocess.PIPE,
        text=True,
    )
    while not any(path.is_file() for copy in copies(root) for path in copy.rglob("*")):
        time.sleep(0.001)
    return start


def test_an_older_copy_goes_unless_a_process_holds_it(tmp_path: Path) -> None:
    unused, foreign = tmp_path / f"quic-tunnel-{0:016x}", tmp_path / "quic-tunnel-of-mine"
    unused.mkdir()
    foreign.mkdir()
    held = tmp_path / f"quic-tunnel-{1:016x}"
    held.mkdir()
    with subprocess.Popen(["flock", "--shared", held, "cat"], stdin=subprocess.PIPE) as holder:
        wait_until_locked(held)
        assert_answered(run(RELAY, {"SHIV_ROOT": str(tmp_path)}))
        holder.communicate(timeout=5)
    assert (unused.exists(), foreign.exists(), held.exists()) == (False, True, True)


def test_what_an_update_replaced_goes_once_it_has_ended(tmp_path: Path) -> None:
    """As when an update is checked, and so unpacked, while the version before still serves."""
    environment = {"SHIV_ROOT": str(tmp_path / "cache")}
    older = archive_with(tmp_path, "environment.json", build_id="0" * 64)
    with waiting(older, tmp_path):
        assert_answered(run(RELAY, environment))
        assert len(copies(tmp_path / "cache")) == 2
    assert_answered(run(RELAY, environment))
    [copy] = copies(tmp_path / "cache")
    assert copy.name != f"quic-tunnel-{0:016x}"


@contextmanager
def waiting(archive: Path, folder: Path) -> Iterator[None]:
    """Have `archive` run, from the cache in `folder`, for as long as the block lasts."""
    settings = folder / "relay.toml"
    os.mkfifo(settings)
    command = [sys.executable, "-I", str(archive), "--check", "-c", str(settings)]
    with subprocess.Popen(command, env={"SHIV_ROOT": str(folder / "cache")}) as running:
        with settings.open("w"):  # once it reads
            yield
        assert running.wait(15) == 78


def archive_with(folder: Path, name: str, **changes: object) -> Path:
    """Return the relay's archive with other values in one of its descriptions."""
    changed = folder / "changed.pyz"
    shutil.copyfile(RELAY, changed)
    with zipfile.ZipFile(changed, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the last of two entries of one name counts
        archive.writestr(name, json.dumps({**json.loads(archive.read(name)), **changes}))
    return changed


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"minors": [98, 99]}, "is built for CPython 3.98, CPython 3.99; this is CPython 3."),
        ({"machine": "pdp11"}, "is built for pdp11; this is "),
        ({"glibc": [2, 999]}, "needs glibc 2.999 or newer; this is glibc 2."),
    ],
)
def test_where_it_cannot_run_it_says_so(
    changes: dict[str, object], sentence: str, tmp_path: Path
) -> None:
    archive = archive_with(tmp_path, "bundle.json", **changes)
    done = run(archive, {"SHIV_ROOT": str(tmp_path / "cache")})
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith(f"{archive}: {sentence}")


def wait_until_locked(path: Path) -> None:
    """Return once somebody else holds a lock on `path`."""
    while not subprocess.run(["flock", "--nonblock", path, "true"], check=False).returncode:
        time.sleep(0.001)


def test_where_nothing_can_be_written_it_says_where_it_tried(tmp_path: Path) -> None:
    environment = {"SHIV_ROOT": str(tmp_path), "HOME": str(tmp_path / "home")}
    done = run(RELAY, environment, prefix=("prlimit", "--fsize=1000"))
    assert done.returncode == 73
    assert f"cannot unpack itself ({tmp_path}: File too large; " in done.stderr
    assert (done.stderr.count("\n"), copies(tmp_path)) == (1, [])


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    damaged = tmp_path / "relay.pyz"
    content = bytearray(RELAY.read_bytes())
    with zipfile.ZipFile(RELAY) as archive:
        offset = archive.getinfo("site-packages/certifi/cacert.pem").header_offset
    content[offset + 1000 : offset + 1100] = bytes(100)
    damaged.write_bytes(content)
    done = run(damaged, {"SHIV_ROOT": str(tmp_path)})
    assert done.returncode == 74
    assert done.stderr.startswith(f"{damaged}: is damaged: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.alone
def test_a_warm_start_is_quick(tmp_path: Path) -> None:
    def seconds() -> float:
        before = time.perf_counter()
        assert_answered(run(RELAY, {"SHIV_ROOT": str(tmp_path)}))
        return time.perf_counter() - before

    run(RELAY, {"SHIV_ROOT": str(tmp_path)})
    assert min(seconds() for _ in range(5)) <= 0.2
